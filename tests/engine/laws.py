"""What the tests of the laws share: a law is a function that asserts, ``red`` demands that it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import tiny
import torch

from headlab.engine import plan as planning
from headlab.engine.attention import Tape
from headlab.engine.captures import source_for
from headlab.engine.edits import Rows
from headlab.engine.model import ABILITIES, Lab
from headlab.engine.passes import forward
from headlab.engine.resume import edits_of
from headlab.engine.run import sweep
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair


def red(law: Callable[[], None]) -> None:
    """The law fails (and is not merely undefined)."""
    failed = False
    try:
        law()
    except AssertionError:
        failed = True
    assert failed, "the law still holds although the implementation was broken on purpose"


def close(lab: Lab, a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """Equal within ``tolerance`` of the largest logit (float32)."""
    with torch.no_grad():
        size = forward(lab, torch.tensor(tiny.prompts(1, 7), device=lab.device)).logits.abs().max().item()
    gap = np.abs(np.asarray(a) - np.asarray(b)).max()
    assert gap <= tolerance * size, f"{gap:.2e} of {size:.2f}"


def worlds_for(lab: Lab) -> list[World]:
    """Many shapes: sites, writes, layers, amounts, roles; some rows resume, some do not."""
    a, b = tiny.softmax_layer(lab, 0), tiny.softmax_layer(lab, 1)
    one = lambda name, *interventions: World(name, interventions)  # noqa: E731
    return [
        World("baseline"),
        one("z", tiny.edit(lab, b, "z")),
        one("z half", tiny.edit(lab, b, "z", (1, 2), amount=0.5)),
        one("z role", tiny.edit(lab, a, "z", (1, 4), roles=("b",))),
        one("z zero", tiny.edit(lab, b, "z", (2,), write="zero")),
        one("noise", tiny.edit(lab, b, "z", write="noise", seed=3)),
        one("resample", tiny.edit(lab, a, "z", write="resample", seed=1)),
        one("mean", tiny.edit(lab, b, "z", write="mean")),
        one("v", tiny.edit(lab, b, "v", (0,))),
        one("pattern", tiny.edit(lab, b, "pattern")),
        one("out", tiny.edit(lab, a, "out_block")),
        one("two", tiny.edit(lab, a, "z", (0,)), tiny.edit(lab, b, "q", (1,), amount=0.3)),
        one("resid", tiny.edit(lab, b, "resid", amount=0.2)),
    ]


def table(lab: Lab, pairs: list[EncodedPair], worlds: list[World], **options: Any) -> pd.Series:
    return sweep(lab, pairs, worlds, **options).set_index(["pair_id", "world"])["edited"].sort_index()


def tape_of(lab: Lab, pairs: list[EncodedPair], one: Intervention) -> tuple[Tape, dict[tuple[int, str], int]]:
    """A tape that edits one row of each pair in a full pass, and how often it must fire."""
    rows = Rows.of([one] * len(pairs), range(len(pairs)), lab.grid, lab.device)
    edits, planned = edits_of(lab, [one], [rows], [source_for(lab, pairs, one)])
    return Tape(edits=edits), planned


NAMES = {"baseline", "z", "z half", "z zero", "v", "two", "resid", "noise"}


def precision(lab: Lab) -> dict[int, float]:
    """By law, the largest difference of a logit difference between two ways to one number, relative to the largest
    logit.

    1: rows that resume, in odd batches, against full passes; 2: every site written back against the unedited run;
    7: prompts of several lengths together against one by one.
    """
    pairs, worlds = tiny.mixed_pairs(), [w for w in worlds_for(lab) if w.name in NAMES]
    with torch.no_grad():
        size = forward(lab, torch.tensor(tiny.prompts(1, 7), device=lab.device)).logits.abs().max().item()
    many, planning.MANY = planning.MANY, 1  # every step that saves work, prepared deltas among them
    try:
        saved = sweep(lab, pairs, worlds, tokens=90)["edited"].to_numpy()
    finally:
        planning.MANY = many
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


def whole(lab: Lab, pairs: list[EncodedPair], worlds: list[World]) -> Any:
    """The same table by full passes, one row a batch."""
    before = {f: getattr(lab, f) for f in ABILITIES}
    try:
        for f in ABILITIES:
            setattr(lab, f, False)
        return sweep(lab, pairs, worlds, tokens=1)["edited"].to_numpy()
    finally:
        for f in ABILITIES:
            setattr(lab, f, before[f])
