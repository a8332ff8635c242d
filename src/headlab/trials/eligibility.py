"""Whether the model shows what a document is about, in the document's own default readout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headlab.stats import Estimate, clustered_rate
from headlab.stats.figures import exact_percent, percent
from headlab.trials.document import Document
from headlab.trials.fields import PER_TOKEN
from headlab.trials.measured import Measured, kind_of, name_of, right
from headlab.trials.sources import partnerless

CLEAN_AT_LEAST, CORRUPTED_AT_MOST, PAIRS_AT_LEAST, PROBLEMS_AT_LEAST = 0.9, 0.5, 100, 100
CHANCE = 0.5
COUNTED = frozenset({"margin", "accuracy", "text"})
"""Readouts in which a pair is right or wrong."""


@dataclass(frozen=True)
class Eligibility:
    """``reason``: why the model is not eligible, or empty.  ``keep`` [pair]: the pairs the trial is about; ``both``
    [pair]: right from the clean prompt and wrong from the corrupted one."""

    reason: str
    clean: Estimate | None
    corrupted: Estimate | None
    keep: NDArray[np.bool_]
    both: NDArray[np.bool_] | None
    rule: str

    @property
    def ok(self) -> bool:
        return not self.reason

    def plain(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "reason": self.reason,
            **({"clean": self.clean.to_dict()} if self.clean else {}),
            **({"corrupted": self.corrupted.to_dict()} if self.corrupted else {}),
            "eligible_pairs": int(self.keep.sum()),
            "rule": self.rule,
        }


def gate(doc: Document) -> str:
    """The readout in which eligibility is counted: the default one, or the margin beside one that counts no answers;
    empty where nothing can be counted (loss, kl)."""
    kind = kind_of(doc, "")
    return name_of(doc, "") if kind in COUNTED else "" if kind in PER_TOKEN else "margin"


def pairs_needed(doc: Document, test: Iterable[Any]) -> int:
    """With fewer pairs (problems) than this no model is eligible; 0 where any number will do, or eligibility is waived."""
    if "eligible" in doc.waive:
        return 0
    asked = doc.eligible.pairs
    if doc.thinking:
        return PROBLEMS_AT_LEAST if asked is None else asked
    name = gate(doc)
    if not name or (name not in doc.readouts and not all(p.wrong for p in test)):
        return 0
    corrupted = doc.edit == "corrupted" and not partnerless(doc) and all(p.partner for p in test)
    return asked or (PAIRS_AT_LEAST if corrupted and asked is None else 0)


def eligibility(doc: Document, seen: Measured, *, paired: bool) -> Eligibility:
    """``seen``: both unedited runs of the test pairs; ``paired``: whether pairs have two prompts."""
    every = np.ones(seen.n, dtype=bool)
    name = gate(doc)
    if not name or name not in seen.base:
        return Eligibility("", None, None, every, None, "none: the readout counts no answers")
    known = name if name in doc.readouts else ""
    graded = right(doc, known, seen.base[name]) if known else (seen.base[name] > 0).astype(float)
    own = graded > 0.5
    told: dict[str, Any] = {"clusters": seen.clusters, "unit": seen.unit}
    if not paired:
        return _clean(doc, own, None, told, every)
    others = right(doc, known, seen.other[name]) if known else (seen.other[name] > 0).astype(float)
    if doc.edit == "clean":
        return _clean(doc, own, others > 0.5, told, every)
    return _corrupted(doc, others > 0.5, own, told)


def _clean(
    doc: Document,
    own: NDArray[np.bool_],
    other: NDArray[np.bool_] | None,
    told: dict[str, Any],
    every: NDArray[np.bool_],
) -> Eligibility:
    asked, found = doc.eligible, clustered_rate(own, **told)
    problems = []
    if asked.pairs is not None and len(own) < asked.pairs:
        problems.append(f"eligibility needs at least {asked.pairs} {told['unit']}, given {len(own)}")
    if asked.clean is not None and own.mean() < asked.clean:
        right, needed = percent(own.mean(), asked.clean), exact_percent(asked.clean)
        problems.append(f"it answers only {right} of the clean prompts (at least {needed} needed)")
    if asked.clean is None and found.above(CHANCE) != "yes":
        problems.append(f"it does not answer the clean prompts above chance ({found}; chance is {CHANCE:.0%})")
    rule = f"clean accuracy {'above chance' if asked.clean is None else f'≥ {exact_percent(asked.clean)}'}"
    both = None if other is None else own & ~other
    keep = own if asked.keep == "right" and own.sum() >= 2 else every
    return Eligibility(
        _reason(problems), found, None if other is None else clustered_rate(other, **told), keep, both, rule
    )


def _corrupted(doc: Document, clean: NDArray[np.bool_], own: NDArray[np.bool_], told: dict[str, Any]) -> Eligibility:
    asked = doc.eligible
    least = CLEAN_AT_LEAST if asked.clean is None else asked.clean
    most = CORRUPTED_AT_MOST if asked.corrupted is None else asked.corrupted
    pairs = PAIRS_AT_LEAST if asked.pairs is None else asked.pairs
    problems = []
    if len(own) < pairs:
        problems.append(f"eligibility needs at least {pairs} pairs, given {len(own)}")
    if clean.mean() < least:
        problems.append(
            f"it answers only {percent(clean.mean(), least)} of the clean prompts (at least {exact_percent(least)} needed)"
        )
    if own.mean() > most:
        problems.append(
            f"it has no bug to repair: {percent(own.mean(), most)} of the corrupted prompts are answered rightly"
        )
    both = clean & ~own
    keep = np.ones(len(own), dtype=bool) if asked.keep == "all" or both.sum() < 2 else both
    rule = f"clean accuracy ≥ {exact_percent(least)}, corrupted ≤ {exact_percent(most)}, on ≥ {pairs} pairs"
    return Eligibility(_reason(problems), clustered_rate(clean, **told), clustered_rate(own, **told), keep, both, rule)


def _reason(problems: list[str]) -> str:
    return "the model is not eligible: " + "; ".join(problems) if problems else ""
