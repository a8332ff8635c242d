"""The least arithmetic by which an exact method can answer: what the floor of a job is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.jobs import Job, PromptPair


def _sizes(config: Mapping[str, Any]) -> tuple[int, int, int, int, int]:
    """Layers, hidden, heads · d, KV heads · d, weights of one MLP; from a plain config.json."""
    if config["model_type"] == "gpt2":
        hidden = config["n_embd"]
        return config["n_layer"], hidden, hidden, hidden, 2 * hidden * (config.get("n_inner") or 4 * hidden)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    d = config.get("head_dim") or hidden // heads
    mlp = 3 * hidden * config["intermediate_size"]
    return config["num_hidden_layers"], hidden, heads * d, config["num_key_value_heads"] * d, mlp


def flops_of(job: Job, pair: PromptPair, config: Mapping[str, Any]) -> float:
    """Floating point operations of one intervention on a pair: 2 × the multiply-adds of

    the MLP of the edited layer and every later layer, at the positions from the first changed one on; of the last
    layer keys and values there, and everything else at the last position; attention over the keys that are seen; two
    rows of the vocabulary.  The edited layer's output projection is left out: z enters it linearly, so what a head
    adds can be computed once for all interventions.
    """
    layers, hidden, q, kv, mlp = _sizes(config)
    length = len(pair.corrupted)
    positions = range(pair.first, length)
    n, seen = len(positions), sum(p + 1 for p in positions)
    last = 2 * q * hidden + mlp
    if job.layer == layers - 1:
        return 2.0 * (mlp + 2 * hidden)
    middle = n * (2 * q * hidden + 2 * kv * hidden + mlp) + 2 * q * seen
    final = n * 2 * kv * hidden + last + 2 * q * length
    return 2.0 * (n * mlp + (layers - 2 - job.layer) * middle + final + 2 * hidden)


def floor_flops(job: Job, config: Mapping[str, Any]) -> float:
    """Mean over the job's pairs."""
    return sum(flops_of(job, p, config) for p in job.pairs) / len(job.pairs)


def products_of(job: Job, config: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """The matrix products of :func:`floor_flops` for one batch of the job's rows, as (rows, inner, outer): each with
    its own weights, as in a model.  Attention is left to the rate of the others.
    """
    layers, hidden, q, kv, mlp = _sizes(config)
    matrices = 2 if config["model_type"] == "gpt2" else 3
    wide = mlp // (matrices * hidden)
    pair = job.pairs[0]
    some, one = job.rows * (len(pair.corrupted) - pair.first), job.rows

    def block(rows: int) -> list[tuple[int, int, int]]:
        return [(rows, hidden, wide)] * (matrices - 1) + [(rows, wide, hidden)]

    if job.layer == layers - 1:
        return block(one)
    middle = [(some, hidden, q), (some, hidden, kv), (some, hidden, kv), (some, q, hidden), *block(some)]
    last = [(some, hidden, kv), (some, hidden, kv), (one, hidden, q), (one, q, hidden), *block(one)]
    return block(some) + middle * (layers - 2 - job.layer) + last
