"""Scores of what heads make of single tokens, against the model's own modules and small cases by hand.

``copying`` of every head of an organism is computed again from hidden states, weights and the model's own norm and head.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from headlab.experiments import load
from headlab.prompts import encode
from headlab.tasks import TASKS
from headlab.trials import token_scores


@pytest.fixture(scope="module")
def subject() -> Any:
    lab = load("induction")
    pairs = TASKS["induction"].pairs(30, seed=0, tokenizer=lab.tokenizer, kind="words", length=6)
    return SimpleNamespace(lab=lab, grid=lab.grid, chosen=[encode(p, lab.tokenizer) for p in pairs])


def test_copying_is_what_the_models_own_modules_say(subject: Any) -> None:
    found = token_scores.copying(subject)
    lab, model = subject.lab, subject.lab.model
    counts: dict[int, int] = {}
    for pair in subject.chosen:
        for t in set(pair.corrupted.ids[1:]):
            counts[t] = counts.get(t, 0) + 1
    tokens = sorted(sorted(counts, key=lambda t: (-counts[t], t))[: token_scores.MOST])
    start = [lab.tokenizer.bos_token_id] if lab.tokenizer.bos_token_id is not None else []
    d = lab.head_dim
    with torch.no_grad():
        states = [model(torch.tensor([[*start, t]]), output_hidden_states=True).hidden_states for t in tokens]
        for layer, block in enumerate(model.model.layers):
            x = torch.stack([s[layer][0, -1] for s in states])
            v = block.self_attn.v_proj(block.input_layernorm(x))
            for h in range(lab.grid.n_heads):
                part = slice(h * d, (h + 1) * d)
                out = v[:, part] @ block.self_attn.o_proj.weight[:, part].T
                best = model.lm_head(model.model.norm(out))[:, tokens].argmax(1)
                share = float((best == torch.arange(len(tokens))).float().mean())
                assert found[token_scores.Head(layer, h)] == pytest.approx(share, abs=1.5 / len(tokens))
    upper = [v for k, v in found.items() if k.layer == 1]
    assert min(upper) > 0.3 > max(v for k, v in found.items() if k.layer == 0), "induction heads copy"


def test_a_probe_leaves_each_pair_out() -> None:
    """Far apart: all told; the same points on both sides: chance; two and one, by hand: none."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3))
    assert token_scores._told_apart(x, x + 100) == 1.0
    own, other = np.array([[0.0], [0.0], [10.0]]), np.array([[10.0], [10.0], [0.0]])
    # pair 0 out: means 5 and 5 (neither is nearer); so pair 1; pair 2 out: means 0 and 10, both of its rows are wrong
    assert token_scores._told_apart(own, other) == 0.0
    assert token_scores._told_apart(x[:2], x[:2]) == 0.5


def test_successors_need_an_order_that_the_vocabulary_has(subject: Any) -> None:
    with pytest.raises(token_scores.ClaimError, match="one token each"):
        token_scores.successor(subject)
