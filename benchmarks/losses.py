"""Loss and divergence over windows beside hook loops: ``python -m benchmarks.losses MODEL_FOLDER [--docs]``.

One job: zero sets of three heads of a small pretrained Llama and read, at every token of windows of 128, the loss and
KL(unedited ‖ edited).  A hook on each output projection does it for one window at a time, or for several at once; headlab
does all sets.  In every round each method runs once, in an order drawn anew; ratios are taken inside a round.  The loops
run a sample of the sets drawn anew in each round, whose numbers headlab's must equal.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.envs import ROOT
from benchmarks.results import commit, machine, spread
from benchmarks.timing import timed

PAGE = ROOT / "docs" / "benchmarks-losses.md"
SAMPLE, BATCHES, LENGTH, HEADS = 4, (1, 2, 4, 8, 16), 128, 3
OWN = "the model's own modules"
Set = tuple[int, tuple[int, ...]]


def windows(lab: Any, n: int) -> list[Any]:
    """Windows of what the model itself says from seeded first tokens."""
    from headlab.prompts import Pair, Prompt, encode

    torch.manual_seed(0)
    start = torch.randint(3, lab.model.config.vocab_size, (n, 4)).to(lab.device)
    ids = lab.model.generate(start, do_sample=True, max_length=LENGTH, min_length=LENGTH, pad_token_id=0)
    prompts = [Prompt(f"window {i}", ids=tuple(row)) for i, row in enumerate(ids.tolist())]
    return [encode(Pair(f"w{i}", p, p, "", "", partner=False), lab.tokenizer) for i, p in enumerate(prompts)]


def hooked(model: Any, ids: Tensor, heads: Set | None) -> tuple[Tensor, Tensor]:
    """Loss [row] in nats a token and log-probabilities of windows, with the heads' slices set to zero by a hook."""
    handle = None
    if heads is not None:
        layer, some = heads
        width = model.config.hidden_size // model.config.num_attention_heads

        def zero(_module: Any, args: Any) -> Any:
            z = args[0].clone()
            for h in some:
                z[..., h * width : (h + 1) * width] = 0
            return (z, *args[1:])

        handle = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(zero)
    try:
        logits = model(ids, use_cache=False).logits[:, :-1]
    finally:
        if handle is not None:
            handle.remove()
    told = torch.log_softmax(logits, -1)
    return -told.gather(2, ids[:, 1:, None])[..., 0].mean(1), told


def loop(model: Any, ids: Tensor, base: Tensor, sets: list[Set], rows: int) -> Tensor:
    """Loss and divergence [set × window, 2] by hooks, ``rows`` windows at a time."""
    out = []
    for heads in sets:
        for first in range(0, len(ids), rows):
            own = base[first : first + rows]
            loss, told = hooked(model, ids[first : first + rows], heads)
            out.append(torch.stack([loss, (own.exp() * (own - told)).sum(-1).mean(1)], 1))
    return torch.cat(out)


def modules(lab: Any, sets: list[Set], windows: int, rows: int = 32) -> None:
    """What of a Llama must run of each window under each set, on any numbers."""
    inner, x = lab.model.model, torch.randn(rows, LENGTH, lab.d_model)
    turned = inner.rotary_emb(x, torch.arange(LENGTH)[None])
    for first in {at for at, _ in sets}:
        for _ in range(-(-sum(at == first for at, _ in sets) * windows // rows)):
            edited = inner.layers[first]
            y = x + edited.mlp(edited.post_attention_layernorm(x))
            for layer in inner.layers[first + 1 :]:
                y = layer(y, position_embeddings=turned, attention_mask=None)
            lab.model.lm_head(inner.norm(y))


def measure(
    lab: Any,
    model: Any,
    n_windows: int,
    n_sets: int,
    rounds: int,
    *,
    batches: Sequence[int] = BATCHES,
    own: bool = True,
    wall: bool = False,
) -> tuple[dict[str, list[float]], float]:
    """Seconds of one window under one set, for each method and round; the largest relative difference found.

    ``lab`` and ``model``: the same Llama twice, the second one plain.  ``own``: also what must run of it at least.
    Seconds are of the processor; with a device of its own, or ``wall``, by the clock on the wall.
    """
    from headlab.engine.run import sweep
    from headlab.heads import Heads
    from headlab.interventions import Intervention, World
    from headlab.readouts import Readout

    rng, device = random.Random(0), lab.device.type
    every = [(at, heads) for at in range(lab.grid.n_layers) for heads in combinations(range(lab.grid.n_heads), HEADS)]
    sets: list[Set] = rng.sample(every, n_sets)
    worlds = [World(f"s{n}", (Intervention(Heads.of(*s), "z", "zero"),)) for n, s in enumerate(sets)]
    pairs, readouts = windows(lab, n_windows), (Readout("loss"), Readout("kl"))
    ids = torch.tensor([p.corrupted.ids for p in pairs], device=lab.device)
    hooks = {f"hooks, {b} at a time": b for b in batches}
    times: dict[str, list[float]] = {"headlab": [], **({OWN: []} if own else {}), **{name: [] for name in hooks}}
    base, largest = hooked(model, ids, None)[1], 0.0
    wanted: Any = None
    table: Any = None
    for _ in range(rounds):
        some = rng.sample(range(n_sets), min(SAMPLE, n_sets))
        for method in rng.sample(list(times), len(times)):
            n = len(some) if method in hooks else n_sets
            if method == "headlab":
                table, *took = timed(lambda: sweep(lab, pairs, worlds, readouts=readouts), device)
            elif method == OWN:
                _, *took = timed(partial(modules, lab, sets, len(pairs)), device)
            else:
                wanted, *took = timed(partial(loop, model, ids, base, [sets[k] for k in some], hooks[method]), device)
            times[method].append(took[wall or device != "cpu"] / (n * len(pairs)))
        got = table.set_index(["world", "pair"]).loc[[f"s{k}" for k in some], ["edited", "edited@kl"]].to_numpy()
        apart = abs(got - wanted.double().cpu().numpy()).max(0) / abs(got).max(0)
        largest = max(largest, float(apart.max()))
    return times, largest


def table(times: dict[str, list[float]], largest: float, told: str, unit: str) -> list[str]:
    lines = [told, "", f"| method | {unit} a window and set | headlab is faster by |", "|---|---|---|"]
    for method, some in times.items():
        s = spread([a / b for a, b in zip(some, times["headlab"], strict=True)])
        ratio = f"{s['median']:.2f} [{s['low']:.2f}, {s['high']:.2f}] ({s['min']:.2f}–{s['max']:.2f})"
        lines.append(
            f"| {method} | {1000 * sorted(some)[len(some) // 2]:.2f} | {'' if method == 'headlab' else ratio} |"
        )
    return [*lines, "", f"Largest relative difference between headlab and the loops: {largest:.1e}.", ""]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.losses", description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a Llama")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--docs", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    from transformers import AutoModelForCausalLM

    from headlab import load

    torch.set_grad_enabled(False)
    lab, model = load(given.model), AutoModelForCausalLM.from_pretrained(given.model).eval()
    where = machine(1, None)
    lines = [
        "# Benchmarks: loss and divergence over windows", "",
        "Sets of three heads set to zero; loss and KL(unedited ‖ edited) at every token of windows of 128 tokens.  Hook loops",
        f"ran {SAMPLE} of the sets in each round, drawn anew; headlab ran all (no two alike).  By `python -m benchmarks.losses`.",
        "Ratios are the median over rounds, with their 95 % bootstrap interval and range.", "",
        f"{where['cpu']}, {where['cores']} cores, load {where['load_at_start']:.1f} at the start; torch {torch.__version__}; "
        f"{given.rounds} rounds; commit {commit(ROOT)}.", "",
        f"{given.model.name}: {given.windows} windows × {given.sets} sets.", "",
    ]  # fmt: skip
    for threads in sorted({1, where["cores"]}):
        torch.set_num_threads(threads)
        found = measure(lab, model, given.windows, given.sets, given.rounds, wall=threads > 1)
        told = "One thread, time of the processor:" if threads == 1 else f"{threads} threads, by the clock on the wall:"
        lines += table(*found, told, "ms CPU" if threads == 1 else "ms")
    text = "\n".join(lines)
    print(text)
    if given.docs:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
