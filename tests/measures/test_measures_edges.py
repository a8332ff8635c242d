"""Gradient × pattern: against central differences of passes in which one weight of one pattern is another number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
import worked
from torch import Tensor
from torch.overrides import TorchFunctionMode

from headlab.engine.attention import Tape
from headlab.engine.model import Lab
from headlab.engine.passes import EngineError, forward
from headlab.measures import gradient_edges


class Wide(TorchFunctionMode):
    """Model code that goes through float32 (norms, softmax) stays in float64, so that differences can be trusted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        swap = lambda x: torch.float64 if x is torch.float32 else x  # noqa: E731
        if func is Tensor.float:
            return args[0].double()
        return func(*map(swap, args), **{k: swap(v) for k, v in (kwargs or {}).items()})


def double(family: str) -> Lab:
    with Wide():
        return tiny.open_model(tiny.hf_model(family).double(), tokenizer=tiny.words())


def difference(lab: Lab, ids: Any, layer: int, where: tuple[int, int, int], by: float) -> float:
    """logit(1) − logit(2) when α[head, query, key] of a layer is larger by ``by``."""

    def edit(pattern: Tensor) -> Tensor:
        out = pattern.clone()
        out[0, where[0], where[1], where[2]] += by
        return out

    with torch.no_grad(), lab.tape(Tape(edits={(layer, "pattern"): [edit]})):
        logits = forward(lab, torch.tensor([ids])).logits[0, -1]
    return (logits[1] - logits[2]).item()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_are_the_slopes_of_edited_patterns(family: str) -> None:
    """Every head of every layer, at edges of all kinds: strong ones, the weakest, the diagonal, the last query."""
    lab, encoded = double(family), worked.prompts()[:2]
    with Wide():
        table = gradient_edges(lab, encoded, top=None)
        assert len(table) == 3 * lab.grid.n_heads * sum(len(e.ids) * (len(e.ids) + 1) // 2 for e in encoded)
        checked, largest = 0, table.gradient.abs().max()
        last = table["query"] == [len(encoded[p].ids) - 1 for p in table["prompt"]]
        chosen = table[(table["rank"].isin([0, 5, 27])) | (last & (table["key"] == 2))]
        for one in chosen.itertuples():
            where, ids = (one.head, one.query, one.key), encoded[one.prompt].ids
            up, down = (difference(lab, ids, one.layer, where, by) for by in (1e-4, -1e-4))
            assert one.gradient == pytest.approx((up - down) / 2e-4, abs=1e-6 * largest)
            checked += 1
    assert checked >= 2 * 3 * lab.grid.n_heads * 3
    assert largest > 1e-2


def test_columns_and_order() -> None:
    lab, encoded = tiny.lab("gemma2"), worked.prompts()
    whole, table = gradient_edges(lab, encoded, top=None), gradient_edges(lab, encoded, [0, 2], top=3)
    assert list(table.columns) == [
        "prompt", "layer", "head", "rank", "query", "key", "pattern", "gradient", "attribution", "centred"
    ]  # fmt: skip
    assert len(table) == 7 * 2 * 10 * 3
    assert (table["key"] <= table["query"]).all()
    np.testing.assert_allclose(table.attribution, table.pattern * table.gradient, rtol=1e-12)
    best = whole[(whole["rank"] < 3) & (whole["layer"] != 1)].reset_index(drop=True)
    np.testing.assert_allclose(table.attribution, best.attribution, rtol=1e-4, atol=1e-6)
    falls = whole.assign(size=whole.attribution.abs()).groupby(["prompt", "layer", "head"])["size"]
    assert falls.is_monotonic_decreasing.all()
    # what softmax can do: a row's centred attributions cancel
    sums = whole.groupby(["prompt", "layer", "head", "query"]).centred.sum()
    assert sums.abs().max() < 1e-5
    single = gradient_edges(lab, encoded, [0, 2], top=3, tokens=1)
    np.testing.assert_allclose(single.attribution, table.attribution, rtol=1e-3, atol=1e-5)


def test_centred_is_the_slope_of_cutting_an_edge_and_rescaling_its_row() -> None:
    """A small part e of an edge's weight is cut and the row brought back to sum one: LD changes by −e · centred."""
    lab, (e, *_) = double("gpt2"), worked.prompts()
    with Wide():
        table = gradient_edges(lab, [e], [1], top=None)
        for one in table[(table["query"] == 6) & (table["key"] == 3)].itertuples():
            rows = table[(table["head"] == one.head) & (table["query"] == 6)].sort_values("key")
            alpha = torch.tensor(rows.pattern.to_numpy())

            def cut(share: float, head: int = one.head, alpha: Tensor = alpha) -> float:
                moved = alpha.clone()
                moved[3] = (1 - share) * alpha[3]
                moved = moved / moved.sum()

                def edit(pattern: Tensor) -> Tensor:
                    out = pattern.clone()
                    out[0, head, 6] = moved
                    return out

                with torch.no_grad(), lab.tape(Tape(edits={(1, "pattern"): [edit]})):
                    logits = forward(lab, torch.tensor([e.ids])).logits[0, -1]
                return (logits[1] - logits[2]).item()

            slope = (cut(1e-4) - cut(-1e-4)) / 2e-4
            assert slope == pytest.approx(-one.centred, abs=1e-6)


def test_errors_and_sixteen_bits() -> None:
    lab = tiny.lab("gpt2")
    with pytest.raises(EngineError, match="0 prompts"):
        gradient_edges(lab, [])
    with pytest.raises(ValueError, match="at least 1 edge"):
        gradient_edges(lab, worked.prompts(), top=0)
    half = tiny.proved(tiny.hf_model("llama").to(torch.bfloat16))
    table = gradient_edges(half, worked.prompts()[:2], [1])
    assert np.isfinite(table[["pattern", "gradient", "attribution", "centred"]].to_numpy()).all()
