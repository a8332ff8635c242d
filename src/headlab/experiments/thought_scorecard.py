"""Every claim about thoughts on one model, by the thresholds that were written down for it.

1. Each thought experiment runs with its built-in claim as a trial of its own, with its own record, controls and report.
2. From those trials' numbers each published claim is decided by its own threshold: the whole interval beyond it, in
   percentage points and relative to the accuracy where "per cent" could mean either, in the corrected and in the
   published measure where attention is meant.  A trial whose control failed decides nothing.
3. The decision after phase 1: heads are causal (more than 10 % lost without the top three), redundant (less than 2 %), or
   in between; and whether random heads of the same layers would have done the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headlab.claims import Claim, Verdict, decide
from headlab.effects import Progress, quiet
from headlab.engine.identity import identity
from headlab.experiments import scorecard
from headlab.experiments.scorecard import Added
from headlab.experiments.thought_claims import ASKED, CAUSAL, REDUNDANT, Asked, Phase
from headlab.experiments.trial import load_thinker
from headlab.stats import Estimate
from headlab.store import Reading, Record, Result, Store

SLUG = "thought-scorecard"
QUESTION = "Which claims about thoughts stand on this model, by their own thresholds?"
FULL = {"pairs": 1319, "matched_sets": 499}
"""Publication sizes (``--full``): as many problems as GSM8K's test set has."""


def thought_scorecard(
    model: Any,
    *,
    experiments: Sequence[str] | None = None,
    full: bool = False,
    store: Store | Path | str | None = None,
    progress: Progress = quiet,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    dead_end: Callable[[str], object] | None = None,
    **options: Any,
) -> Result:
    """Run the thought docket (or these ``experiments``) on a thinking model; as :func:`headlab.experiments.scorecard.scorecard`.

    Tables: ``scorecard`` (a row for each experiment) and ``thresholds`` (a row for each published claim and way to read
    it: threshold, outcome, effect with interval, the trial it stands on).

    Raises ThoughtError or ModelError when the model cannot be loaded, ClaimError for an unknown experiment.
    """
    loading = {k: v for k, v in {"revision": revision, "device": device, "dtype": dtype}.items() if v is not None}
    thinker = load_thinker(model, **loading)
    chosen = scorecard.slugs(thinking=True) if experiments is None else list(experiments)
    given = {**(FULL if full else {}), **{k: v for k, v in options.items() if v is not None}}
    shown = {k: v for k, v in {**given, **loading}.items() if not full or FULL.get(k) != v}
    asked = {f"{a.key}, {view}": "; ".join(said) for a in ASKED for view, said in a.plain().items()}
    asked["phase 1"] = f"causal above {CAUSAL:g}, redundant below {REDUNDANT:g}"
    who = identity(thinker.lab, thinker.model)
    return scorecard.tried(
        SLUG,
        thinker,
        who,
        chosen,
        store,
        progress,
        given,
        shown,
        full=full,
        asked=asked,
        added=decided,
        dead_end=dead_end,
    )


def decided(children: Mapping[str, Record]) -> Added:
    """The published claims and the phase, from the records of the trials by slug."""
    import pandas as pd

    rows = [row for asked in ASKED for row in _rows(asked, children.get(asked.experiment))]
    phases, said = _phases(children.get("head-ablation"))
    return Added({"thresholds": pd.DataFrame([*rows, *phases])}, [said], _SECTIONS)


def _rows(asked: Asked, record: Record | None) -> list[dict[str, Any]]:
    rows = []
    for view, protocol, claim in asked.claims():
        verdict = ruled(claim, protocol, record)
        rows.append(
            {
                "key": asked.key,
                "claim": asked.words,
                "source": asked.place,
                "published": asked.published,
                "view": view,
                "asked": "; ".join(asked.plain()[view]),
                "outcome": verdict.outcome,
                "found": _found(verdict),
                "experiment": asked.experiment,
                "id": record.id if record else "",
            }
        )
    return rows


def ruled(claim: Claim, protocol: str, record: Record | None) -> Verdict:
    """A published claim decided from a trial's record: its numbers, its controls, its eligibility."""
    if record is None:
        return decide(claim, {}, [], impossible=f"{claim.experiment} could not run on this model")
    reading = next((r for r in record.readings if r.protocol == protocol), None)
    if reading is None or not reading.verdict.controls:
        why = (
            reading.verdict.sentence.removeprefix("Untestable: ").rstrip(".")
            if reading
            else f"{record.id} has no {protocol} reading"
        )
        return decide(claim, {}, [], impossible=why)
    controls = reading.verdict.controls
    own = claim.model_copy(update={"controls": tuple(c.name for c in controls)})
    told = record.eligibility
    return decide(
        own, numbers(reading), controls, ineligible="" if told.get("ok", True) else str(told.get("reason", ""))
    )


def numbers(reading: Reading) -> dict[str, Estimate]:
    """A reading's estimates by name."""
    return {e.name: Estimate.from_dict(e.estimate) for e in reading.estimates}


def _found(verdict: Verdict) -> str:
    """The numbers; the reason where there are none or they may not be used."""
    if verdict.outcome == "void" or all(r.shown == "not measured" for r in verdict.rulings):
        return verdict.sentence.split(": ", 1)[1]
    shown = "; ".join(dict.fromkeys(f"{r.prediction.statistic}: {r.shown}" for r in verdict.rulings))
    reason = verdict.sentence.split(": ", 1)[1]
    if not any(r.value is not None for r in verdict.rulings):
        return reason
    return f"{shown}; but {reason}" if "not eligible" in reason else shown


# -- the decision after phase 1 -----------------------------------------------------------------------------


def phase(lost: Estimate | None) -> Phase:
    """Causal above 10 %, redundant below 2 %, in between; undecided where the interval holds a threshold."""
    if lost is None or not lost.defined:
        return "untestable"
    if lost.above(CAUSAL) == "yes":
        return "causal"
    if lost.below(REDUNDANT) == "yes":
        return "redundant"
    if lost.above(REDUNDANT) == "yes" and lost.below(CAUSAL) == "yes":
        return "in between"
    return "undecided"


PHASE_ASKS = "Are the top three heads causal, redundant or in between (phase 1)?"
NEXT = {
    "causal": "go on to phase 2 (cross-model understanding)",
    "redundant": "turn to a distributed analysis",
    "in between": "neither rule applies",
    "undecided": "the interval holds a threshold; more problems are needed",
    "void": "a control failed; nothing can be said",
    "untestable": "it was not measured",
}


def _phases(record: Record | None) -> tuple[list[dict[str, Any]], str]:
    """The decision in points and relative, as rows, and in a sentence."""
    reading = record.readings[0] if record and record.readings else None
    found = numbers(reading) if reading else {}
    stuck: Phase | None = None
    why = ""
    if reading is None or not reading.verdict.controls:
        stuck = "untestable"
    elif any(not c.passed for c in reading.verdict.controls):
        stuck = "void"
    elif record and not record.eligibility.get("ok", True):
        stuck, why = "untestable", str(record.eligibility.get("reason", ""))
    rows: list[dict[str, Any]] = []
    said: list[str] = []
    for view, name in (("percentage points", "drop:top3"), ("share of the accuracy", "relative:top3")):
        lost = found.get(name)
        one = stuck or phase(lost)
        shown = str(lost) if lost else "not measured"
        said.append(one)
        rows.append(
            {
                "key": "phase 1",
                "claim": "After phase 1: are the critical heads causal, redundant, or in between?",
                "source": "follow-up experiments, decision point",
                "published": "over 10 % causal, under 2 % redundant",
                "view": view,
                "asked": f"{name} > {CAUSAL:g}, or < {REDUNDANT:g}",
                "outcome": one,
                "found": f"{shown}; {why or NEXT[one]}",
                "experiment": "head-ablation",
                "id": record.id if record else "",
            }
        )
    alike = (
        f"{said[0]}, in points and as a share" if len(set(said)) == 1 else f"{said[0]} in points, {said[1]} as a share"
    )
    return (rows, f"{PHASE_ASKS} {alike.capitalize()} of the accuracy{_against_random(None if stuck else reading)}.")


def _against_random(reading: Reading | None) -> str:
    """What the seeds' rule leaves out: whether random heads of the same layers cost as much."""
    rulings = reading.verdict.rulings if reading else ()
    placed = next((r for r in rulings if r.prediction.statistic == "rank:top3"), None)
    if placed is None or placed.value is None:
        return ""
    how = {
        "upheld": "and random heads of the same layers cost less",
        "refuted": "but random heads of the same layers cost as much",
        "undecided": "and whether random heads of the same layers cost less is not settled",
        "untestable": "and this model has too few heads to compare them with random ones",
    }[placed.outcome]
    return f", {how} ({placed.shown})"


_SECTIONS: list[dict[str, str]] = [
    {
        "heading": "The published thresholds",
        "text": (
            "The first table asks each published claim by the threshold that was written down for it, with the numbers of the "
            "trials below. A threshold in per cent is read twice, in percentage points and as a share of the accuracy, where "
            "the source does not say which it means; they part when the accuracy is far from 100 %. What is about attention "
            "is read in the corrected measure (exposure taken out, six thoughts, right keys) and in the published one. A "
            "threshold alone has no reference: where more than 10 % are lost, random heads may cost as much. The experiments' own "
            "claims, in "
            "the second table, ask for that too."
        ),
    }
]
