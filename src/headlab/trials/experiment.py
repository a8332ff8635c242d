"""An entry of the docket: what it asks, what a claim may predict of it, and what runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from headlab.claims import Claim, ClaimError
from headlab.interventions import World
from headlab.reading import brief, some
from headlab.trials.findings import Findings

CONTROLS = ("no-op", "patch-all")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of the docket: its name, its question, and what a claim may say about it.

    ``statistics`` and ``controls`` are what a claim may predict and ask for (a trailing ``*`` stands for the rest of a
    name).  ``options`` are the settings of its own that a claim may give, with their defaults.  ``needs``: "numbers" where
    every prompt must name the two numbers that it compares by their roles.  ``least``: with fewer pairs that differ (problems)
    no model is eligible; 0 where any number will do.
    """

    slug: str
    question: str
    statistics: tuple[str, ...]
    controls: tuple[str, ...] = CONTROLS
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    least: int = 0

    def needed(self, claim: Claim) -> int:
        """``least``, or what every experiment of its kind needs, for the first of the claim's readings, which binds."""
        return self.least

    def tried(self, case: Any) -> Findings:
        """What the claim of a case comes to."""
        raise NotImplementedError

    def worlds(self, case: Any, layer: int) -> list[World]:
        """The worlds that run, for ``--dry-run``; empty where none are counted."""
        return []

    def check(self, claim: Claim) -> None:
        """Refuse a claim that predicts what nobody measures, before anything runs.  Raises ClaimError."""
        for p in claim.predictions:
            if not any(fnmatchcase(p.statistic, known) for known in self.statistics):
                raise ClaimError(
                    f"{self.slug} measures no {brief(p.statistic)}; expected one of {some(self.statistics, 12)}"
                )
            if (p.op == "rank<") != p.statistic.startswith("rank:"):
                raise ClaimError(
                    f"{brief(p.statistic)} with {p.op!r}: ranks, and only ranks, are predicted with 'rank<'"
                )
        if unknown := [c for c in claim.controls if c not in self.controls]:
            raise ClaimError(f"no control {brief(unknown[0])}; expected {', '.join(self.controls)}")
        for key, value in claim.options.items():
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise ClaimError(f"{self.slug} has no option {brief(key)}; it has {known}")
            default = self.options[key]
            if isinstance(default, bool) != isinstance(value, bool) or not isinstance(value, _like(default)):
                raise ClaimError(
                    f"option {key!r} of {self.slug}: given {brief(value)}, expected something like {default!r}"
                )


def _like(default: Any) -> tuple[type, ...]:
    """Types that may stand for a default."""
    return (
        (int, float)
        if isinstance(default, float)
        else (list, tuple)
        if isinstance(default, list | tuple)
        else (type(default),)
    )


@dataclass(frozen=True, kw_only=True)
class Program(Entry):
    """An entry that runs as a program of its own."""

    run: Callable[[Any], Findings]

    def tried(self, case: Any) -> Findings:
        return self.run(case)
