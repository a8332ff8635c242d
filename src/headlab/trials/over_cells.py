"""The verdict over cells that are trials of their own: every prediction in each, pooled ones over all, and the share of cells
in which the claim is upheld (rule 25).

Models are the unit of what is pooled: revisions and settings of one model are no further models, and of several models each
stands with the mean of its cells.  Over named settings alone it is their own mean, of this one model.  A cell that cannot decide
is counted and never dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from headlab.claims import Control, Prediction, Ruled, Verdict, decide
from headlab.stats import Estimate, Rank, clopper_pearson
from headlab.stats.heterogeneity import heterogeneity
from headlab.store import NamedEstimate, Reading, Record
from headlab.trials import words
from headlab.trials.cells import Cell, in_words, is_over, one_cell
from headlab.trials.document import Document
from headlab.trials.kept import Asked, asked
from headlab.trials.over import UPHELD, within

Found = Estimate | Rank
UNIT, LEAST = "models", 2
"""Models from which something is pooled: with one there is no interval."""


@dataclass(frozen=True)
class Tried:
    """A cell, and the record of its trial; ``reason``: why there is none."""

    cell: Cell
    record: Record | None
    reason: str = ""

    @property
    def outcome(self) -> str:
        """The outcome of the cell's own trial."""
        return str(self.record.outcome) if self.record else "untestable"

    @property
    def short(self) -> str:
        """Why the cell cannot decide anything: its model does not show the behaviour, or it could not be tried."""
        return str(self.record.eligibility.get("reason", "")) if self.record else self.reason

    def found(self, statistic: str) -> Found:
        """A statistic of this cell; undefined, with the reason, where the cell cannot decide."""
        if self.record is None or self.short:
            return Estimate.undefined("pairs", 0, self.short)
        if statistic in (ranks := self.record.settings.get("ranks", {})):
            return Rank(**ranks[statistic])
        read = {e.name: e.estimate for e in self.record.readings[0].estimates}
        return Estimate.from_dict(read[statistic])


@dataclass(frozen=True)
class Over:
    """A document over all its cells, each tried."""

    doc: Document
    tried: Sequence[Tried]

    @cached_property
    def each(self) -> list[Asked]:
        """What is predicted in every cell; nothing where the share of upheld cells is predicted instead."""
        if any(p.statistic == UPHELD for p in self.doc.predictions):
            return []
        return self._asked(pooled=False)

    @cached_property
    def pooled(self) -> list[Asked]:
        return self._asked(pooled=True)

    def _asked(self, *, pooled: bool) -> list[Asked]:
        kept = [
            p for p in self.doc.predictions if p.statistic.startswith("pooled:") == pooled and p.statistic != UPHELD
        ]
        plain = [p.model_copy(update={"statistic": p.statistic.removeprefix("pooled:")}) for p in kept]
        return asked(self.doc.model_copy(update={"predictions": tuple(plain)}))

    @property
    def unit(self) -> str:
        """What is pooled."""
        return "settings" if self.of_settings else UNIT

    # -- numbers ----------------------------------------------------------------------------------------------

    @cached_property
    def models(self) -> dict[str, list[Tried]]:
        """The cells of each model."""
        out: dict[str, list[Tried]] = {}
        for t in self.tried:
            out.setdefault(t.cell.model, []).append(t)
        return out

    @cached_property
    def of_settings(self) -> bool:
        """Whether the cells are named settings of one model: all that there are, and no sample of any."""
        return set(self.doc.over) == {"settings"}

    @cached_property
    def alone(self) -> str:
        """Why nothing is pooled over these cells; empty where something can be."""
        n = len(self.models)
        if n >= LEAST or self.of_settings:
            return ""
        return f"{n} model: revisions of one model are no further models; at least {LEAST} models are needed"

    def over_models(self, statistic: str) -> tuple[Estimate, Estimate]:
        """The middle of the models, and the share of variance that is between them; over settings alone their mean.  Undefined
        for fewer than two models, and where a cell cannot decide."""
        notes = [(t.cell.name, estimate(t.found(statistic))) for t in self.tried]
        lacks = next((f"{name}: {e.note}" for name, e in notes if not e.defined), "")
        if why := self.alone or lacks:
            nothing = Estimate.undefined(UNIT, len(self.models), why, method="random effects")
            return nothing, nothing
        each = [_mean([estimate(t.found(statistic)) for t in some]) for some in self.models.values()]
        if self.of_settings:
            return each[0], Estimate.undefined(UNIT, 1, "settings of one model")
        spread = heterogeneity(each, unit=UNIT)
        return spread.pooled, spread.i_squared

    @cached_property
    def share(self) -> Estimate:
        """The share of models in all of whose cells all else is upheld (over settings alone: of settings, with no interval, since
        they are no sample); those that cannot decide widen the interval to both sides."""
        if self.alone:
            return Estimate.undefined(UNIT, len(self.models), self.alone)
        units = [[t] for t in self.tried] if self.of_settings else list(self.models.values())
        n, ended = len(units), [_together([t.outcome for t in some]) for some in units]
        k, open_ = ended.count("upheld"), ended.count("untestable")
        note = f"{open_} could not decide: counted as not upheld below, as upheld above" if open_ else ""
        if self.of_settings:
            return Estimate(k / n, k / n, (k + open_) / n, n, "settings", "every setting that is named", note=note)
        low, high = clopper_pearson(k, n, unit=UNIT), clopper_pearson(k + open_, n, unit=UNIT)
        return replace(low, high=high.high, note=note)

    def findings(self) -> Iterator[tuple[Prediction, str, Found]]:
        """Every prediction that is ruled, what it is called in words, and what was found."""
        for a in self.each:
            for t in self.tried:
                p, said = a.prediction, a.prediction.words or words.said(a.read)
                name = within(p.statistic, t.cell.name)
                label = f"{said} [{t.cell.name}]"
                yield (
                    p.model_copy(update={"statistic": name, "words": label if p.words else ""}),
                    label,
                    t.found(p.statistic),
                )
        for a in self.pooled:
            p, said = a.prediction, a.prediction.words or words.said(a.read)
            label = f"{said}, pooled over {self.unit}"
            yield (
                p.model_copy(update={"statistic": f"pooled:{p.statistic}", "words": label if p.words else ""}),
                label,
                self.over_models(p.statistic)[0],
            )
        for p in self.doc.predictions:
            if p.statistic == UPHELD:
                yield p, p.words or f"share of {self.unit} in which the claim is upheld", self.share

    # -- the verdict ------------------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Void where any cell is, refuted where any prediction is (Holm over all cells), upheld where every one is in every
        cell; never more than the cells' own verdicts allow."""
        found = list(self.findings())
        checks = [c for t in self.tried for c in _controls(t)]
        binding = tuple(c.name for t in self.tried for c in _controls(t) if c.passed or t.outcome == "void")
        case = Ruled(predictions=tuple(p for p, _, _ in found), controls=binding)
        verdict = decide(case, {p.statistic: e for p, _, e in found}, checks)
        outcome, sentence = verdict.outcome, verdict.sentence.split(": ", 1)[1]
        if not self.of_settings:
            sentence = sentence.replace("this model cannot decide", "these models cannot decide")
        if outcome == "untestable" and (short := [f"{t.cell.name}: {t.short}" for t in self.tried if t.short]):
            sentence = f"not every cell can decide: {'; '.join(short)}."
        capped = [t for t in self.tried if t.outcome == "undecided"] if self.each else []
        if outcome == "upheld" and (capped or self.doc.chosen_on == "these"):
            why = capped[0].record.readings[0].verdict.sentence if capped and capped[0].record else ""
            outcome = "undecided"
            sentence = (
                f"exploratory, or undecided in a cell of its own{f' ({capped[0].cell.name}: {why})' if why else ''}."
            )
        return verdict.model_copy(
            update={"outcome": outcome, "sentence": f"{outcome.capitalize()} {self.counts}: {sentence}"}
        )

    @property
    def counts(self) -> str:
        """How the cells' own trials ended, in words."""
        ended = [t.outcome for t in self.tried]
        said = ", ".join(f"{ended.count(o)} {o}" for o in dict.fromkeys(ended))
        return f"over {len(ended)} {is_over(self.doc)} (each by itself: {said})"

    # -- what is shown ----------------------------------------------------------------------------------------

    def reading(self) -> Reading:
        """The binding reading."""
        estimates = [
            NamedEstimate(name=p.statistic, label=s, estimate=estimate(e).to_dict()) for p, s, e in self.findings()
        ]
        for a in () if self.of_settings else self.pooled:
            name = f"between:{a.prediction.statistic}"
            label = f"share of the variance of {words.said(a.read)} that is between models"
            estimates.append(
                NamedEstimate(name=name, label=label, estimate=self.over_models(a.prediction.statistic)[1].to_dict())
            )
        return Reading(
            protocol="standard",
            verdict=self.verdict(),
            estimates=tuple(estimates),
            words=f"{words.method(one_cell(self.doc))} Over {len(self.tried)} {is_over(self.doc)}, each a trial of its own.",
        )

    def notes(self) -> list[str]:
        """Whether all cells read the same prompts, and which cells could not decide."""
        records = [t.record for t in self.tried if t.record]
        hashes = {r.prompts["test"]["hash"] for r in records}
        marks: list[set[str]] = [set(r.settings.get("test_clusters", ())) for r in records]
        if len(hashes) <= 1:
            said = "All cells read the same prompts."
        else:
            alike = len(set.intersection(*marks)) if marks else 0
            said = (
                f"The cells read {len(hashes)} different lists of prompts, since their "
                f"{'settings draw or' if 'settings' in self.doc.over else ''} tokenizers take different ones; "
                f"{alike} clusters are in all of them (of {min(map(len, marks))} to {max(map(len, marks))})."
            )
        told = [f"Settings: {'; '.join(in_words(self.doc, t.cell) for t in self.tried)}."]
        return [
            *told * ("settings" in self.doc.over),
            said,
            *(f"{t.cell.name}: {t.short}" for t in self.tried if t.short),
        ]


def _mean(some: Sequence[Estimate]) -> Estimate:
    """The mean of defined estimates from the same prompts: its interval as wide as theirs are on average, which is never too
    narrow, however they go together."""
    if len(some) == 1:
        return some[0]
    value, low, high = (sum(getattr(e, k) for e in some) / len(some) for k in ("value", "low", "high"))
    return Estimate(
        value, low, high, min(e.n for e in some), some[0].unit, "mean of its cells, their intervals averaged"
    )


def _together(outcomes: Sequence[str]) -> str:
    """What the cells of one model say: upheld where all are, untestable where one cannot decide and none speaks against it."""
    if {"refuted", "undecided"} & set(outcomes):
        return "not upheld"
    return "upheld" if set(outcomes) == {"upheld"} else "untestable"


def _controls(t: Tried) -> list[Control]:
    """A cell's controls under its name."""
    seen = t.record.readings[0].verdict.controls if t.record else ()
    return [c.model_copy(update={"name": within(c.name, t.cell.name)}) for c in seen]


def estimate(e: Found) -> Estimate:
    """A number as an estimate, a rank by its p."""
    return e.estimate if isinstance(e, Rank) else e


__all__ = ["Over", "Tried", "estimate"]
