"""Correlations between heads: against numpy on concatenated entries, and under what must not change them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import worked

from headlab.engine.captures import capture
from headlab.measures import Moments, moments, similarity


def entries(lab: Any, encoded: Any, kind: str, queries: str, sink: str = "in") -> list[np.ndarray]:
    """[head, entry] of each prompt, by plain loops; layer 1, which sees every earlier key in the families used."""
    site = "pattern" if kind == "pattern" else "z"
    out = []
    for e, x in zip(encoded, capture(lab, encoded, [(1, site)])[1, site], strict=True):
        heads = []
        for head in range(lab.grid.n_heads):
            row: list[float] = []
            for q in worked.asked(e, queries):
                if kind == "pattern":
                    row += x[q, head, (sink == "out") : q + 1].tolist()
                else:
                    row += (x[q, head] @ lab.weight("o", 1)[head] if kind == "output" else x[q, head]).tolist()
            heads.append(row)
        out.append(np.array(heads))
    return out


@pytest.mark.parametrize(
    ("family", "kind", "queries"),
    [
        *product(["llama"], ["pattern", "z", "output"], ["last", "all", "decision"]),
        *product(["gpt2", "gemma2"], ["pattern", "output"], ["all"]),
    ],
)
def test_similarity_is_the_correlation_of_all_entries_in_one_row(family: str, kind: Any, queries: Any) -> None:
    lab, encoded = tiny.lab(family), worked.prompts()
    parts = entries(lab, encoded, kind, queries)
    found = similarity(lab, encoded, 1, kind=kind, queries=queries)
    np.testing.assert_allclose(found, np.corrcoef(np.concatenate(parts, 1)), atol=1e-5)
    assert (np.diag(found) == 1).all()
    np.testing.assert_array_equal(found, found.T)


def test_without_the_sink_and_prompt_by_prompt() -> None:
    lab, encoded = tiny.lab("gpt_neox"), worked.prompts()
    parts = entries(lab, encoded, "pattern", "all", "out")
    sums = moments(lab, encoded, 1, queries="all", sink="out")
    assert sums.count.tolist() == [p.shape[1] for p in parts]
    np.testing.assert_allclose(sums.correlation(), np.corrcoef(np.concatenate(parts, 1)), atol=1e-5)
    np.testing.assert_allclose(sums.each(), [np.corrcoef(p) for p in parts], atol=1e-4)
    drawn = [3, 3, 0, 6, 3]
    wanted = np.corrcoef(np.concatenate([parts[i] for i in drawn], 1))
    np.testing.assert_allclose(sums.correlation(drawn), wanted, atol=1e-5)
    single = moments(lab, encoded, 1, queries="all", sink="out", tokens=1)
    np.testing.assert_allclose(single.product, sums.product, rtol=1e-4)


def test_constant_heads_and_no_prompts_are_undefined() -> None:
    x = np.array([[0.2, 0.2, 0.2], [0.1, 0.5, 0.4], [0.1, 0.5, 0.4], [0.4, 0.0, 0.1]])
    made = Moments(np.array([3.0]), x.sum(1)[None], (x @ x.T)[None]).correlation()
    assert np.isnan(made[0]).all()
    assert np.isnan(made[:, 0]).all()
    assert made[1, 2] == pytest.approx(1)
    assert made[1, 3] == pytest.approx(np.corrcoef(x[1], x[3])[0, 1])
    with pytest.raises(ValueError, match="0 prompts"):
        Moments(np.array([3.0]), x.sum(1)[None], (x @ x.T)[None]).correlation([])


def test_a_rotation_inside_a_group_changes_z_and_not_the_output() -> None:
    """The function of a head does not depend on how its channels are numbered; only ``output`` knows that."""
    before, model = tiny.lab("llama"), tiny.hf_model("llama")
    after = tiny.open_model(model, tokenizer=tiny.words())
    turn = torch.linalg.qr(torch.randn(14, 14, generator=torch.Generator().manual_seed(0)))[0]
    v, o = after.geometry.v, after.geometry.o
    assert v is not None
    assert o is not None
    values, out = (after.attention_of(1).get_submodule(p.path).weight.data for p in (v, o))
    values[list(v.channels[0])] = turn.T @ values[list(v.channels[0])]
    for head in range(5):
        out[:, list(o.channels[head])] = out[:, list(o.channels[head])] @ turn
    encoded = worked.prompts()
    a, b = (similarity(lab, encoded, 1, kind="output", queries="all") for lab in (before, after))
    np.testing.assert_allclose(a, b, atol=1e-4)
    a, b = (similarity(lab, encoded, 1, kind="z", queries="all") for lab in (before, after))
    assert np.abs(a - b)[:5, 5:].max() > 0.05
    with pytest.raises(worked.REFUSED, match="kind"):
        similarity(before, encoded, 1, kind="q")  # type: ignore[arg-type]


def test_uniform_patterns_differ_only_by_nothing() -> None:
    """Over the queries of a prompt, uniform heads have the same entries: correlation 1, in sixteen bits too."""
    lab = worked.uniform("gpt2")
    np.testing.assert_allclose(similarity(lab, worked.prompts(), 1, queries="all"), 1, atol=1e-6)
    half = tiny.proved(tiny.hf_model("gpt2").to(torch.bfloat16))
    full = similarity(tiny.lab("gpt2"), worked.prompts(), 0, queries="all")
    np.testing.assert_allclose(similarity(half, worked.prompts(), 0, queries="all"), full, atol=0.02)
