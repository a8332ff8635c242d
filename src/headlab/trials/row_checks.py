"""Controls of trials on attention among thoughts: rows that must sum to one, patterns that must be read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from headlab.claims import Control, judged
from headlab.stats import clopper_pearson
from headlab.stats.figures import percent, rounded
from headlab.thoughts.attention import SLACK, ThoughtAttention
from headlab.thoughts.forcing import EXACT, SHARE, on_hub, on_last
from headlab.thoughts.hubs import Hubs, corrected, find_hubs
from headlab.trials.sweeps import Scope, Seen
from headlab.trials.thought_rows import clusters_of, few, forced, read, rows_of

Array = np.ndarray
UNIFORM = 1e-4
"""How near to one every ratio of a uniform pattern must come: rounding of 32-bit weights."""


def rows_sum(seen: Seen) -> Control:
    return judged_rows(seen.of_trial(rows_of), seen.case.lab.dtype)


def judged_rows(found: ThoughtAttention, dtype: torch.dtype) -> Control:
    """Every row sums to one."""
    gap, rows = found.gap(), f"{found.question.size:,}"
    words = (
        f"question, bot, thoughts and what follows make up every row: the sum of {rows} rows is one within {gap:.1g}"
    )
    return judged("rows-sum", "negative", gap <= SLACK[dtype], gap, words)


def batches(seen: Seen) -> Control:
    """One problem at a time gives the rows of a batch."""
    return seen.of_trial(_batches)


def _batches(scope: Scope) -> Control:
    problems = few(scope.case, 16)
    one, many = (read(scope.case, f"batch {size}", problems=problems, batch=size) for size in (1, 64))
    gap = float(np.nanmax(np.abs(one.thoughts - many.thoughts)))
    words = f"read one by one or 64 at a time, the rows of {len(problems)} problems differ by at most {gap:.1g}"
    return judged("batch", "negative", gap <= SLACK[scope.lab.dtype], gap, words)


def uniform(seen: Seen) -> Control:
    """With every head forced to be uniform among thoughts, the corrected ratio is one everywhere and nothing is a hub."""
    return seen.of_trial(_uniform)


def _uniform(scope: Scope) -> Control:
    problems = few(scope.case)
    rows = forced(scope.case, problems, "uniform")
    return judged_uniform(rows, find_hubs(rows, clusters_of(problems), seed=scope.seed))


def judged_uniform(rows: Array, found: Hubs) -> Control:
    gap, hubs = float(np.nanmax(np.abs(corrected(rows) - 1))), int((found.hub >= 0).sum())
    words = (
        f"attention forced to be uniform among thoughts has a corrected ratio of one within {gap:.1g}, and {hubs} of "
    )
    passed = gap <= UNIFORM and hubs == 0
    return judged("uniform", "negative", passed, gap, f"{words}{len(found.hub)} heads have a hub")


def planted(seen: Seen) -> Control:
    """A hub forced at thought j in every head is found at j in every head, for every j."""
    return seen.of_trial(_planted)


def _planted(scope: Scope) -> Control:
    case, problems = scope.case, few(scope.case)
    clusters = clusters_of(problems)
    rows = {j: forced(case, problems, "hub", j) for j in range(case.n_thoughts)}
    return judged_planted({j: find_hubs(x, clusters, seed=case.seed).hub for j, x in rows.items()})


def judged_planted(found: Mapping[int, Any]) -> Control:
    right = {j: float((np.asarray(hub) == j).mean()) for j, hub in found.items()}
    worst = min(right.values())
    said = ", ".join(f"{j}: {percent(share)}" for j, share in right.items())
    words = (
        f"four fifths of the attention among thoughts forced onto one thought makes it the hub of every head ({said})"
    )
    return judged("planted-hub", "positive", worst == 1, worst, words)


def judged_untrained(found: Sequence[Hubs]) -> Control:
    """Random weights have no hubs: at most one head in twenty, in all untrained models together."""
    total, hubs = sum(len(h.hub) for h in found), sum(int((h.hub >= 0).sum()) for h in found)
    share = clopper_pearson(hubs, total, unit="heads")
    words = f"{hubs} of {total} heads of {len(found)} untrained models of the same config have a hub (at most 5 % may)"
    return judged("untrained", "negative", share.defined and share.above(0.05) != "yes", share.value, words)


def judged_hold(rows: Array, hub: int) -> Control:
    """A forced hub must be read back: its share of the mass on thoughts."""
    share = on_hub(rows, hub)
    words = (
        f"with four fifths forced onto thought {hub}, {rounded(share)} of the attention among thoughts is read there"
    )
    return judged("takes-hold", "positive", abs(share - SHARE) <= EXACT, share, words)


def judged_chain(rows: Array) -> Control:
    """A pattern forced onto the thought before must be read as such."""
    share = on_last(rows)
    words = f"four fifths forced onto the thought before are read as {rounded(share)} of the attention among thoughts"
    return judged("planted-chain", "positive", abs(share - SHARE) <= EXACT, share, words)
