"""Laws 1, 2 and 7 in every precision: what the tolerance of each dtype is measured on."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tiny
import torch
from laws import worlds_for

from headlab.engine import plan as planning
from headlab.engine.model import Lab
from headlab.engine.passes import forward
from headlab.engine.run import sweep
from headlab.engine.selfcheck import TOLERANCE
from headlab.interventions import World

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAMES = {"baseline", "z", "z half", "z zero", "v", "two", "resid", "noise"}


@cache
def measured(family: str, dtype: torch.dtype) -> dict[int, float]:
    """By law, the largest difference of a logit difference between two ways to one number, relative to the largest
    logit.

    1: rows that resume, in odd batches, against full passes; 2: every site written back against the unedited run;
    7: prompts of several lengths together against one by one.
    """
    lab = tiny.proved(tiny.hf_model(family).to(dtype))
    pairs, worlds = tiny.mixed_pairs(), [w for w in worlds_for(lab) if w.name in NAMES]
    with torch.no_grad():
        size = forward(lab, torch.tensor(tiny.prompts(1, 7))).logits.abs().max().item()
    with pytest.MonkeyPatch.context() as m:
        m.setattr(planning, "MANY", 1)  # every step that saves work, prepared deltas among them
        saved = sweep(lab, pairs, worlds, tokens=90)["edited"].to_numpy()
    alone = np.concatenate([sweep(lab, [p], worlds)["edited"].to_numpy() for p in pairs])
    together = sweep(lab, pairs, worlds)["edited"].to_numpy()
    layer = tiny.softmax_layer(lab)
    nothing = [
        World(site, (tiny.edit(lab, layer, site, write="noop"),)) for site in ("z", "q", "k", "v", "pattern", "resid")
    ]
    kept = sweep(lab, pairs, nothing)
    return {
        1: float(np.abs(saved - whole(lab, pairs, worlds)).max()) / size,
        2: float((kept["edited"] - kept["corrupted"]).abs().max()) / size,
        7: float(np.abs(together - alone).max()) / size,
    }


def whole(lab: Lab, pairs: list, worlds: list[World]) -> np.ndarray:
    """The same table by full passes, one row a batch."""
    flags = ("can_skip", "can_resume", "can_reuse", "can_add", "can_narrow")
    before = {f: getattr(lab, f) for f in flags}
    try:
        for f in flags:
            setattr(lab, f, False)
        return sweep(lab, pairs, worlds, tokens=1)["edited"].to_numpy()
    finally:
        for f in flags:
            setattr(lab, f, before[f])


DAILY = ("llama", "gemma2")
ALL = [f if f in DAILY else pytest.param(f, marks=pytest.mark.accept) for f in tiny.FAMILIES]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("family", ALL)
def test_the_tolerance_of_a_dtype_holds(family: str, dtype: torch.dtype) -> None:
    found = measured(family, dtype)
    assert max(found.values()) <= TOLERANCE[dtype], found
    if dtype is not torch.float32:
        assert max(found.values()) > 1e-6, "a 16-bit model that rounds nothing was not run in 16 bits"
