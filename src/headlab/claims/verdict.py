"""From findings to a verdict: the one rule that decides; nothing else in headlab says "upheld"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, runtime_checkable
from typing import Protocol as Protocol_

from pydantic import field_validator

from headlab.stats import Estimate, Rank

from .statement import ClaimError, Frozen, Outcome, Prediction

REFUTES_AT = 0.025
"""The one-sided level of a 95 % interval: how often one prediction that holds just so is refuted, and all of a claim's
together."""


class Control(Frozen):
    """A control that was run.  ``negative`` must show nothing, ``positive`` must show something."""

    name: str
    kind: Literal["negative", "positive"]
    passed: bool
    words: str
    value: float | None = None

    @field_validator("passed", "value", mode="before")
    @classmethod
    def _of_numpy(cls, value: Any) -> Any:
        """numpy's booleans and numbers are booleans and numbers."""
        return value.item() if hasattr(value, "item") else value


def judged(name: str, kind: Literal["negative", "positive"], passed: bool, value: float | None, words: str) -> Control:
    """A control in a line: its fields in order, the words last."""
    return Control(name=name, kind=kind, passed=passed, words=words, value=value)


class Ruling(Frozen):
    """One prediction's outcome."""

    prediction: Prediction
    outcome: Outcome
    shown: str
    value: float | None
    low: float | None
    high: float | None


class Verdict(Frozen):
    """The outcome of a claim with its reasons."""

    outcome: Outcome
    sentence: str
    rulings: tuple[Ruling, ...]
    controls: tuple[Control, ...]
    would_change: str
    refutes_at: float | None = None
    """The chance, at most, that any of the predictions is refuted when each holds just so (Holm over all of them)."""

    @property
    def failed(self) -> list[Control]:
        """The controls that did not pass."""
        return [c for c in self.controls if not c.passed]

    @property
    def ruled(self) -> bool:
        """Whether its predictions are ruled; what was measured of a void or untestable claim says nothing."""
        return self.outcome not in {"void", "untestable"}

    @property
    def controls_words(self) -> str:
        """How the controls stand, in a few words."""
        n, failed = len(self.controls), [c.name for c in self.failed]
        if not n:
            return "no control ran"
        if failed:
            return f"{len(failed)} of {n} controls failed: {', '.join(failed)}"
        return f"{n} of {n} controls passed"


def _shown(finding: Estimate | Rank) -> str:
    """A statistic as sentences say it: with interval, n and unit; its method stands beside it in the report."""
    if isinstance(finding, Rank):
        return str(finding)
    if not finding.defined:
        return str(finding)
    return f"{str(finding).split(' (')[0]}, n = {finding.n} {finding.unit}"


def rule(prediction: Prediction, finding: Estimate | Rank | None) -> Ruling:
    """One prediction against one statistic."""
    if finding is None:
        return Ruling(
            prediction=prediction, outcome="untestable", shown="not measured", value=None, low=None, high=None
        )
    if isinstance(finding, Rank):
        if prediction.op != "rank<":
            raise ClaimError(
                f"{prediction.statistic} is a rank; its prediction must use 'rank<', not {prediction.op!r}"
            )
        outcome: Outcome = finding.against(prediction.limit)
        few = f"; the least p that so many can give is {finding.smallest_attainable:.2g}"
        return Ruling(
            prediction=prediction,
            outcome=outcome,
            shown=_shown(finding) + (few if outcome == "untestable" else ""),
            value=finding.p,
            low=finding.low,
            high=finding.high,
        )
    if prediction.op == "rank<" and finding.defined:  # an undefined number has no rank
        raise ClaimError(f"{prediction.statistic} is an estimate; 'rank<' needs a rank in a null")
    answer = _answer(prediction, finding)
    outcomes: dict[str, Outcome] = {"yes": "upheld", "no": "refuted", "unsure": "undecided", "undefined": "untestable"}
    return Ruling(
        prediction=prediction,
        outcome=outcomes[answer],
        shown=_shown(finding),
        value=finding.value,
        low=finding.low,
        high=finding.high,
    )


def _answer(prediction: Prediction, finding: Estimate) -> str:
    """yes, no, unsure or undefined."""
    if not finding.defined:
        return "undefined"
    if isinstance(prediction.threshold, tuple):
        above, below = finding.above(prediction.threshold[0]), finding.below(prediction.threshold[1])
        if "undefined" in {above, below}:
            return "undefined"
        return "yes" if above == below == "yes" else "no" if "no" in {above, below} else "unsure"
    return (finding.above if prediction.op == ">" else finding.below)(prediction.threshold)


@runtime_checkable
class Decidable(Protocol_):
    """What is decided: a claim or a document."""

    @property
    def predictions(self) -> tuple[Prediction, ...]: ...

    @property
    def controls(self) -> tuple[str, ...]: ...


class Ruled(Frozen):
    """What is decided, where it is neither: predictions, and the names of the controls that bind."""

    predictions: tuple[Prediction, ...] = ()
    controls: tuple[str, ...] = ()


def decide(
    claim: Decidable,
    findings: Mapping[str, Estimate | Rank],
    controls: Sequence[Control],
    *,
    ineligible: str = "",
    impossible: str = "",
    idle: str = "",
    withheld: str = "",
) -> Verdict:
    """The verdict of a claim.  Pure: same findings, same verdict.

    ``untestable`` when the measurement cannot be made at all (``impossible`` says why; nothing was run, so no control
    was); ``void`` when a control that the claim names failed or is missing (others are shown and bind nothing);
    ``untestable`` when the model is not eligible (``ineligible`` says why) or a prediction cannot be decided by it, and
    when nothing could have shown that something matters (``idle`` says what can be cut at no cost), unless refuted;
    ``upheld`` when every prediction is (``undecided`` where ``withheld`` says why that would show nothing);
    ``refuted`` when any is, at a level that Holm's rule adjusts for their number, so
    that all together refute falsely no oftener than one alone would (:data:`REFUTES_AT`); else ``undecided``.
    """
    rulings = _refuted_together([(p, findings.get(p.statistic)) for p in claim.predictions])
    by_name = {c.name: c for c in controls}
    missing = [name for name in claim.controls if name not in by_name]
    failed = [c for c in controls if not c.passed and c.name in claim.controls]
    outcome: Outcome
    if impossible:
        outcome, reason = "untestable", impossible
        change = "A model on which the measurement is defined."
    elif missing or failed:
        outcome = "void"
        reasons = [f"control {n!r} was not run" for n in missing] + [
            f"control {c.name!r} failed: {c.words}" for c in failed
        ]
        reason = "; ".join(reasons)
        change = "Nothing can be said until every control passes."
    elif ineligible:
        outcome, reason = "untestable", ineligible
        change = _what_was_short(ineligible)
    else:
        outcome, reason = _weigh(rulings)
        change = _would_change(rulings, outcome)
        if idle and outcome != "refuted":
            outcome, reason = "untestable", idle
            change = "A model in which cutting everything that the claim is about costs something."
        elif withheld and outcome == "upheld":
            outcome, reason = "undecided", withheld
            change = "A reference in which the same is as rare as its level says."
    return Verdict(
        outcome=outcome,
        sentence=f"{outcome.capitalize()}: {reason}.",
        rulings=rulings,
        controls=tuple(controls),
        would_change=change,
        refutes_at=REFUTES_AT,
    )


def _refuted_together(asked: Sequence[tuple[Prediction, Estimate | Rank | None]]) -> tuple[Ruling, ...]:
    """The ruling of each prediction; one that is refuted alone, and not among so many (Holm), is undecided."""
    rulings = [rule(p, finding) for p, finding in asked]
    alone = [i for i, r in enumerate(rulings) if r.outcome == "refuted"]
    left, tail = set(alone), REFUTES_AT
    while left:
        tail = REFUTES_AT / (len(asked) - len(alone) + len(left))
        fell = {i for i in left if _refuted_at(*asked[i], tail)}
        if not fell:
            break
        left -= fell
    for i in left:
        why = f"{rulings[i].shown}; refuted alone, not at {tail:.2g} for {len(asked)} predictions"
        rulings[i] = rulings[i].model_copy(update={"outcome": "undecided", "shown": why})
    return tuple(rulings)


def _refuted_at(prediction: Prediction, finding: Estimate | Rank | None, tail: float) -> bool:
    """Whether a prediction that is refuted at its interval's own level is refuted at a chance of ``tail`` too."""
    if isinstance(finding, Rank):
        return finding.against(prediction.limit, 1 - 2 * tail) == "refuted"
    assert finding is not None
    return _answer(prediction, finding.widened(1 - 2 * tail)) == "no"


def _says(r: Ruling) -> str:
    return f"{r.prediction.words or r.prediction.statistic} ({r.shown})"


def _weigh(rulings: Sequence[Ruling]) -> tuple[Outcome, str]:
    def those(outcome: str) -> list[Ruling]:
        return [r for r in rulings if r.outcome == outcome]

    if against := those("refuted"):
        return "refuted", "it is not so that " + "; nor that ".join(map(_says, against))
    if len(those("upheld")) == len(rulings):
        return "upheld", "; ".join(map(_says, rulings))
    if cannot := those("untestable"):
        return "untestable", "what was measured cannot decide whether " + "; ".join(map(_says, cannot))
    return "undecided", "the interval straddles the threshold: " + "; ".join(map(_says, those("undecided")))


def _what_was_short(ineligible: str) -> str:
    """What would make a model eligible: more pairs, where they were short; another model, where the behaviour was."""
    model = "A model that shows the behaviour to be explained (clean prompts answered, corrupted ones missed)."
    short = re.search(r"at least (\d+ [\w ]+), given \d+", ineligible)
    if short is None:
        return model
    more = f"At least {short[1]} (pairs: or --pairs, or a task with as many)."
    return more if ";" not in ineligible else f"{more} And: {model[0].lower()}{model[1:]}"


def _would_change(rulings: Sequence[Ruling], outcome: Outcome) -> str:
    """Which numbers would have to come out otherwise, and where they are now."""
    sides = {
        ">": ("above", "below"),
        "<": ("below", "above"),
        "rank<": ("below", "above"),
        "within": ("within", "outside"),
    }
    parts = []
    for r in rulings:
        for_it, against = sides[r.prediction.op]
        if outcome == "upheld" or r.outcome != "upheld":
            side, bound = against if outcome == "upheld" else for_it, r.prediction.threshold
            text = f"[{bound[0]:g}, {bound[1]:g}]" if isinstance(bound, tuple) else f"{bound:g}"
            parts.append(f"{r.prediction.statistic} wholly {side} {text} (now {r.shown})")
    if outcome == "upheld":
        return "Any one of these would refute it: " + "; ".join(parts) + "."
    return "It would take " + " and ".join(parts) + "."
