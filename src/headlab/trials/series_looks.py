"""Looking at every checkpoint of every series once, and keeping what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from headlab.engine.identity import identity
from headlab.engine.model import Lab
from headlab.engine.plan import pair_hash
from headlab.measures.checkpoints import behaviour_rows, weight_rows
from headlab.organisms.checkpoint_series import Checkpoint, Series, one_at_a_time, open_checkpoint
from headlab.prompts import EncodedPair, encode
from headlab.store import content_hash
from headlab.tasks.decimals import CATEGORIES, decimals
from headlab.trials.case import Bench

AGAIN = "the first checkpoint again"
"""The name under which the first checkpoint's second measurement stands in the table."""
Pairs = Mapping[str, Sequence[EncodedPair]]
_COLUMNS = ["series", "step", "quantity", "layer", "value", "low", "high", "n", "unit", "method", "note"]


def prompts_of(case: Bench, elsewhere: int) -> Pairs:
    """Pairs by category, the claim's own first, ``elsewhere`` of each other one."""
    task, tokenizer = case.claim.task, case.lab.tokenizer
    if task.name == "file":
        return {"given": case.encoded}

    def drawn(category: Any) -> list[EncodedPair]:
        formats: dict[str, Any] = {"clean": task.clean, "corrupted": task.corrupted, "wording": task.wording}
        told = {**formats, "category": category, "split": task.split, "seed": case.seed, "tokenizer": tokenizer}
        return [encode(p, tokenizer) for p in decimals(elsewhere, **told)]

    return {task.category: case.encoded, **{c: drawn(c) for c in CATEGORIES if c != task.category}}


def looks_of(
    case: Bench, series: Sequence[Series], own: set[str], prompts: Pairs, *, draws: int, pairs_elsewhere: int
) -> tuple[Any, dict[str, dict[int, int]]]:
    """Every checkpoint measured, weights and prompts for the series in ``own``, repairs alone for the others; a row for
    each series × step × quantity × layer; ``attrs["fingerprints"]`` names the weights of each.  The first checkpoint is
    measured twice.  What is stored of the same weights and prompts is not run again.

    With the table: by series, the steps that were left out because their weights are those of an earlier look (its step).
    """
    reference: tuple[Lab | None, Pairs] = (None, {})
    every = list(one_at_a_time(series))
    mine = {c.key for s in series if s.name in own for c in s.checkpoints}
    found: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for n, one in enumerate(every):
        case.progress("checkpoints", n, len(every))
        if one.key not in mine and reference[0] is None:
            reference = _reference(one, pairs_elsewhere, case.seed)
        proven, asked = (case.lab, prompts) if one.key in mine else reference
        found[one.key], seen[one.key] = _look(case, "look", one, proven, asked, draws if one.key in mine else None)
    case.progress("checkpoints", len(every), len(every))
    again, _ = _look(case, "again", every[0], case.lab, prompts, draws)
    dropped: dict[str, dict[int, int]] = {s.name: _repeated(s, seen) for s in series}
    kept = [(s, c) for s in series for c in s.checkpoints if c.step not in dropped[s.name]]
    parts = [found[c.key].assign(series=s.name, step=c.step) for s, c in kept]
    table = pd.concat([*parts, again.assign(series=AGAIN, step=every[0].step)], ignore_index=True)[_COLUMNS]
    table.attrs["fingerprints"] = seen
    return table, {name: steps for name, steps in dropped.items() if steps}


def _repeated(one: Series, seen: Mapping[str, str]) -> dict[int, int]:
    """Steps of a series whose weights are those of an earlier look, with that look's step: they are no further looks.
    ``seen``: the fingerprint of each checkpoint, by key."""
    first: dict[str, int] = {}
    return {c.step: step for c in one.checkpoints if (step := first.setdefault(seen[c.key], c.step)) != c.step}


def _reference(one: Checkpoint, n: int, seed: int) -> tuple[Lab, Pairs]:
    """A proven Lab of the shipped run and pairs for it: its tokenizer may be another than the model's."""
    lab = open_checkpoint(one)
    drawn = decimals(n, clean="simple", corrupted="qa", seed=seed, tokenizer=lab.tokenizer)
    return lab, {"conflict": [encode(p, lab.tokenizer) for p in drawn]}


def _look(
    case: Bench, what: str, one: Checkpoint, proven: Lab | None, prompts: Pairs, draws: int | None
) -> tuple[Any, str]:
    """One checkpoint's rows (weights where ``draws`` of their null are asked for) and fingerprint.  It is opened though its
    rows may be stored: a folder or a branch can hold other weights than it did.  The model is let go afterwards."""
    dtype = str(case.lab.dtype).removeprefix("torch.")
    lab = open_checkpoint(one, proven=proven, prompts=bool(prompts), device=str(case.lab.device), dtype=dtype)

    def measured() -> Any:
        rows = [] if draws is None else weight_rows(lab, draws=draws, seed=case.seed)
        asked = behaviour_rows(lab, prompts, seed=case.seed, memory=case.memory) if prompts else []
        return pd.DataFrame([*rows, *asked])

    asked = {name: [pair_hash(p) for p in pairs] for name, pairs in prompts.items()}
    key = content_hash([identity(lab), asked, draws, case.seed])[:16]
    return case.run.shard(f"{what} {one.key} {key}", measured), lab.fingerprint
