"""Nothing waits for an accelerator inside the loop of batches.

Here on the meta device, where everything up to the kernels runs and no number can be read, and under a watch that knows
what else waits (:class:`benchmarks.card.waits.Watch`); on a card by ``bash benchmarks/gpu.sh``.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import tiny
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.card.shape import on_meta
from benchmarks.card.waits import Waits, Watch, batches
from laws import worlds_for

from headlab.engine import passes, resume, work
from headlab.engine.model import Lab
from headlab.interventions import Intervention, World
from headlab.readouts import Readout

SIZES = {
    "llama": {**tiny._SIZES, **tiny._GQA_PLAIN},
    "gpt2": {**tiny._SIZES, **tiny._GPT2, "n_head": 5, "num_attention_heads": 5, "hidden_size": 70},
}
READOUTS = {
    "margin": (Readout("margin"),),
    "read": (Readout("margin"), Readout("logprob"), Readout("place"), Readout("probability")),
    "tokens": (Readout("loss"), Readout("kl")),
}


@cache
def meta(family: str = "llama") -> Lab:
    return on_meta(family, SIZES[family], tokenizer=tiny.words())


def of(lab: Lab, *names: str, without: str = "z role") -> list[World]:
    """Worlds by name (none: all but one); a path's receiver besides."""
    sender = tiny.edit(lab, 0, "z", (1,), write="zero")
    path = World("path", (Intervention(tiny.some(lab, 2, "q", (0, 2)), "q", computed_in=(sender,)),))
    return [w for w in (*worlds_for(lab), path) if (w.name in names if names else w.name != without)]


def test_no_batch_of_any_site_and_write_waits() -> None:
    """Of the kind: noise drawn here, the places of a path's receivers, whether rows are packed (asked by transformers in
    each pass), all met here; a mask or a list as an index, a number read off a tensor, looked for in the same loop."""
    assert batches(meta(), tiny.equal_pairs(2), of(meta()), tokens=30) > 10


@pytest.mark.parametrize("flag", ["can_reuse", "can_add", "can_resume"])
def test_no_batch_waits_where_a_step_is_left_out(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta(), flag, False)
    assert batches(meta(), tiny.equal_pairs(2), of(meta(), "z", "path", "two"), tokens=30) > 1


@pytest.mark.accept
@pytest.mark.parametrize("family", SIZES)
def test_no_batch_of_prompts_of_several_lengths_waits(family: str) -> None:
    """Patterns apart: which keys have a partner is read once for each pair, before the loop."""
    lab = meta(family)
    worlds = of(lab, without="pattern")
    assert batches(lab, tiny.mixed_pairs(), worlds, tokens=60) > 20


@pytest.mark.parametrize("kind", READOUTS)
def test_no_readout_waits(kind: str) -> None:
    for tokens in (11, 400):  # rows of one prompt, and rows of several
        assert batches(meta(), tiny.equal_pairs(2), of(meta(), "z"), READOUTS[kind], tokens=tokens)


@pytest.mark.parametrize("broken", ["packed", "blocking", "scalar"])
def test_a_batch_that_waits_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: transformers' question in each pass; an upload that waits; and a number read off a tensor."""
    if broken == "packed":
        monkeypatch.setattr(passes.masking_utils, "find_packed_sequence_indices", passes._packed)
    elif broken == "blocking":
        monkeypatch.setattr(work, "upload", lambda numbers, device: torch.as_tensor(numbers).to(device))
    else:
        real = passes.forward
        monkeypatch.setattr(resume, "forward", lambda *a, **k: _read(real(*a, **k)))
    with pytest.raises((Waits, RuntimeError), match=r"waits|meta tensors|read by|made a tensor"):
        batches(meta(), tiny.equal_pairs(2), of(meta(), "z"), tokens=30)


def _read(out):
    assert float(out.logits.sum()) == 0.0
    return out


def test_the_watch_knows_what_waits() -> None:
    """Each by hand, and beside it what does not wait."""
    x, here = torch.zeros(3, 4, device="meta"), torch.zeros(3, 4)
    waiting = [
        lambda: here.sum().item(), lambda: bool(here.any()), lambda: here.nonzero(), lambda: here[here > 0],
        lambda: x[torch.tensor([0, 2])], lambda: x[[0, 2]], lambda: here.to("meta"), lambda: x.copy_(here),
        lambda: torch.tensor([1.0], device="meta"), lambda: here.long().flatten().repeat_interleave(here.long().flatten()),
    ]  # fmt: skip
    for n, act in enumerate(waiting):
        with pytest.raises(Waits), Watch():
            act()
            raise AssertionError(f"number {n} passed")
        with pytest.raises(Waits), Watch(), torch.inference_mode():
            act()
            raise AssertionError(f"number {n} passed")
    with Watch():
        index = here.new_zeros(2, dtype=torch.long).to("meta", non_blocking=True)
        assert (x[index] + x[:2].sum(0)).shape == (2, 4) and torch.arange(3, device="meta").shape == (3,)


def test_transformers_is_asked_as_ever_outside_our_passes() -> None:
    """Rows that others pack keep their mask; inside our passes, nested and after an exception, the flag is ours alone."""
    packed = torch.tensor([[0, 1, 2, 0, 1]])
    ask = passes.masking_utils.find_packed_sequence_indices
    assert ask(packed).tolist() == [[0, 0, 0, 1, 1]] and ask(torch.arange(4)[None]) is None
    with pytest.raises(KeyError), passes.consecutive(), passes.consecutive():
        assert ask(packed) is None
        raise KeyError
    assert ask(packed).tolist() == [[0, 0, 0, 1, 1]]
