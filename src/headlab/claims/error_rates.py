"""How often the rule of a shipped claim is wrong, as measured by ``headlab calibrate``; read from the file that ships.

Each claim has rows, one for each null that was used.  A claim without rows says why there are none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from headlab.stats import Estimate, clopper_pearson
from headlab.stats.figures import interval

FILE = "calibration.json"
GENERATOR = "numbers drawn"
"""How the null of rows begins whose numbers no model gave."""
MANY = 200
"""Trials that could be decided from which on a rate on models is worth showing."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counted(_Row):
    """``hits`` of ``of`` trials."""

    hits: int = Field(ge=0)
    of: int = Field(ge=0)

    def share(self, unit: str = "trials") -> Estimate:
        """With Clopper and Pearson's interval; undefined of no trial."""
        return clopper_pearson(self.hits, self.of, unit=unit)

    def within(self, allowed: float) -> bool | None:
        """Whether so many are explained by this rate: no more than it and two standard errors; None of no trial."""
        n = self.of
        return self.hits <= allowed * n + 2 * (allowed * (1 - allowed) * n) ** 0.5 if n else None

    def __str__(self) -> str:
        found = self.share()
        if found.value is None or found.low is None or found.high is None:
            return "–"
        return f"{interval(100 * found.value, 100 * found.low, 100 * found.high)} %"


class Rates(_Row):
    """One null of one claim: ``upheld`` of the trials that could be decided (neither void nor untestable) though the claim
    is false in them, ``refuted`` of those in which it is just so true, ``power`` by how many times the threshold the
    effect is.  ``undecided`` of the false ones; ``trials`` counts all of those, void and untestable ones too."""

    null: str
    trials: int
    upheld: Counted
    undecided: Counted
    refuted: Counted | None = None
    power: dict[str, Counted] = Field(default_factory=dict)
    effect: str = ""
    allowed: float = 0.05
    date: str = ""
    commit: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the rule errs no oftener than it may; None where no trial was decided."""
        return self.upheld.within(self.allowed)


class OfClaim(_Row):
    """The rows of one claim (``hash``: as it was when they were measured), or ``why`` it has none."""

    hash: str
    rows: tuple[Rates, ...] = ()
    why: str = ""

    @property
    def best(self) -> Rates | None:
        """The row to show: on models where enough trials were decided, else the generator's."""
        on_models = [r for r in self.rows if not r.null.startswith(GENERATOR) and r.upheld.of >= MANY]
        return next(iter([*on_models, *self.rows]), None)


class Calibration(_Row):
    """The whole file: claims by id, and whole scorecards."""

    claims: dict[str, OfClaim] = Field(default_factory=dict)
    scorecards: tuple[dict[str, Any], ...] = ()


@cache
def shipped() -> Calibration:
    """What was measured of the claims that ship."""
    text = (resources.files("headlab.claims") / FILE).read_text("utf-8")
    return Calibration.model_validate(json.loads(text))


def words(claim: Mapping[str, Any] | None, claim_hash: str | None, settings: Mapping[str, Any]) -> str:
    """One line beside a verdict: how often this rule is wrong, or that nobody knows and why.  Empty without a claim.

    What the trial itself measured (``settings["stand_ins"]``) goes before what ships.
    """
    if claim is None:
        return ""
    if own := settings.get("stand_ins"):
        return str(own["words"])
    name = str(claim.get("id", ""))
    known = shipped().claims.get(name)
    if known is None:
        return f"How often this rule is wrong is not known: `headlab calibrate` has not been run for {name or 'it'}."
    row = known.best
    if row is None:
        return f"This rule is not calibrated, because {known.why}."
    return sentence(
        row, "" if claim_hash == known.hash else "; measured for the claim as it ships, not at these settings"
    )


def sentence(row: Rates, more: str = "") -> str:
    """A row in one line."""
    if not row.upheld.of:
        return (
            f"This rule is not calibrated, because none of {row.trials:,} trials could be decided ({row.null}){more}."
        )
    power = next(iter(row.power.items()), None)
    found = f"; power {power[1]} at {power[0]} × the threshold" if power and power[1].of else ""
    past = "" if row.holds else " (more than it may)"
    return f"This rule is wrong in {row.upheld} of {row.upheld.of:,} trials of false claims{past}{found} ({row.null}){more}."
