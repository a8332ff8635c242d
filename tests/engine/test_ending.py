"""The model's norm and head alone, in place of a pass with every layer left out."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from headlab.engine.passes import logits_of
from headlab.engine.selfcheck import prove


def both(lab: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of what leaves the last layer: as they are taken, and by a pass."""
    ids, hidden = torch.tensor([[3, 5, 4]]), torch.randn(1, 3, lab.d_model, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got, able = logits_of(lab, hidden, ids, 0), lab.can_end
        lab.can_end = False
        try:
            return got, logits_of(lab, hidden, ids, 0)
        finally:
            lab.can_end = able


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_they_give_the_logits_of_a_pass(family: str) -> None:
    lab = tiny.lab(family)
    assert lab.can_end == (family != "gemma2"), "a soft-cap stands behind the head of gemma2"
    got, wanted = both(lab)
    assert torch.allclose(got, wanted, atol=1e-6, rtol=1e-6)
    assert len(lab.end) == 2 or not lab.can_end


@pytest.mark.parametrize("where", ["model", "body", "end", "forward"])
def test_code_of_others_runs(where: str) -> None:
    """A hook on the model, on what holds the norm, on the norm, and another forward: each runs as in a pass."""
    lab = tiny.proved(tiny.hf_model("llama"))
    ran: list[int] = []
    at = {"model": lab.model, "body": lab.model.model, "end": lab.model.model.norm, "forward": lab.model}[where]
    if where == "forward":
        before = at.forward
        at.forward = lambda *args, **named: ran.append(1) or before(*args, **named)
    else:
        at.register_forward_hook(lambda *_: ran.append(1))
    got, wanted = both(lab)
    assert ran == [1, 1] and torch.equal(got, wanted)


def test_what_stands_behind_the_head_is_seen() -> None:
    lab = tiny.proved(tiny.hf_model("llama"))
    own = lab.model.forward

    def twice(*args: Any, **named: Any) -> Any:
        out = own(*args, **named)
        out.logits = out.logits * 2
        return out

    lab.model.forward = twice
    prove(lab)
    assert not lab.can_end
