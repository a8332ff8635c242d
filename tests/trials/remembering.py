"""Many trials of one model on the same prompts: what one of them measured, the next ones read.

Worlds are named by what they write, so a world that is measured already gives the same numbers; everything else (choices,
references, bootstraps, controls, verdict) is made anew for each document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headlab.engine.model import Lab
from headlab.heads import Heads
from headlab.interventions import World
from headlab.store import Run, Store
from headlab.trials import prompts
from headlab.trials.document import Document
from headlab.trials.findings import Findings
from headlab.trials.loading import load
from headlab.trials.material import material
from headlab.trials.measured import Measured
from headlab.trials.run import Trial
from headlab.trials.subject import UNEDITED, Language, oriented


def document(
    named: Heads,
    *,
    n: int,
    seed: int = 0,
    pairs: int = 100,
    predicted: list[dict[str, Any]],
    match: Sequence[str] = ("layer", "sharing"),
    fields: Mapping[str, Any] | None = None,
    **sets: Any,
) -> dict[str, Any]:
    """A claim that patching these heads recovers the answer; ``fields`` beside, and further ``sets`` with a world each."""
    worlds = {name: {"heads": name, "write": "patch"} for name in ("named", *sets)}
    return {
        "id": "calibration",
        "words": "These heads carry the format.",
        "source": "drawn at random, or planted",
        "chosen_on": "other",
        "task": {"name": "decimals"},
        "edit": "corrupted",
        "pairs": pairs,
        "eligible": {"pairs": pairs},
        "seed": seed,
        "sets": {"named": str(named), **sets},
        "worlds": worlds,
        "reference": {"redraw": "named", "match": list(match), "n": n},
        "predictions": predicted,
        **(fields or {}),
    }


@dataclass
class Remembering(Language):
    """A subject whose measurements are looked up in ``known``, by split, before they are made."""

    known: dict[Any, Measured] = field(default_factory=dict)

    def measure(
        self, worlds: Sequence[World], readouts: Mapping[str, Mapping[str, Any]], what: str, *, selection: bool = False
    ) -> Measured:
        pairs = self.chosen if selection else self.encoded
        key = (selection, tuple(p.pair.id for p in pairs), tuple(sorted(readouts)))
        have = self.known.get(key)
        asked = list(worlds) or [World(UNEDITED)]
        fresh = asked if have is None else [w for w in asked if any(w.name not in have.place[r] for r in readouts)]
        if fresh:
            seen = super().measure(fresh, readouts, what, selection=selection)
            have = seen if have is None else have.joined(seen)
            self.known[key] = have
        assert have is not None
        return Measured(have.base, have.other, have.edited, have.place, have.clusters, have.unit, have.tokens)


@dataclass
class Bench:
    """One model before its prompts; :meth:`tried` runs documents that differ in sets, predictions and references."""

    lab: Lab
    run: Run
    known: dict[str, dict[Any, Measured]] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def key(data: Mapping[str, Any]) -> str:
        """Documents of one key are tried on the same prompts."""
        return repr([data.get(k) for k in ("task", "edit", "pairs", "selection_pairs", "seed")])

    def tried(self, data: Mapping[str, Any]) -> Findings:
        """What is found of a document."""
        doc = Document.from_data(dict(data), name=str(data["id"]))
        key = self.key(data)
        if key not in self.split:
            sets = prompts.split(doc, self.lab.tokenizer, None, Path("."))
            self.split[key] = (*sets, *(oriented(prompts.encoded(s, self.lab.tokenizer), doc) for s in sets))
        test, selection, tests, chosen = self.split[key]
        subject = Remembering(
            self.lab, doc, test, selection, list(tests), chosen, self.run, known=self.known.setdefault(key, {})
        )
        subject.material = material(subject, Path("."))
        return Trial(doc, subject).findings()


@contextmanager
def bench(model: Any, store: Path) -> Iterator[Bench]:
    """A bench whose work lies in ``store``."""
    with Store(store).open(kind="trial", slug="many", title="many trials", inputs={}, draft={}) as run:
        yield Bench(load(model), run)


def rulings(findings: Findings) -> dict[str, Any]:
    """The outcome of each prediction of the binding reading."""
    return {r.prediction.statistic: r for r in findings.readings[0].verdict.rulings}
