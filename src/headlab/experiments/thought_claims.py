"""What was claimed about thoughts, with the thresholds that were written down for it: thought_claims.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from headlab.claims import Claim, Prediction, TaskSpec
from headlab.reading import read_document

Phase = Literal["causal", "redundant", "in between", "undecided", "void", "untestable"]
CAUSAL, REDUNDANT = 0.10, 0.02
"""The decision after phase 1: above, heads are causal; below, redundant."""


@dataclass(frozen=True)
class Asked:
    """A claim with thresholds.  ``views``: how it can be read, (name, protocol of the trial's reading, predictions)."""

    key: str
    place: str
    words: str
    published: str
    experiment: str
    views: tuple[tuple[str, str, tuple[Prediction, ...]], ...]

    def claims(self) -> list[tuple[str, str, Claim]]:
        """(view, protocol, claim to be decided); its controls are those of the trial."""
        return [
            (
                view,
                protocol,
                Claim(
                    id=f"{self.key}: {view}",
                    words=self.words,
                    source=self.place,
                    published=self.published,
                    experiment=self.experiment,
                    task=TaskSpec(name="word-problems"),
                    predictions=predictions,
                    controls=("as in its trial",),  # type: ignore[call-arg]
                ),
            )
            for view, protocol, predictions in self.views
        ]

    def plain(self) -> dict[str, list[str]]:
        return {view: [f"{p.statistic} {p.op} {p.threshold:g}" for p in asked] for view, _, asked in self.views}


def _prediction(text: str) -> Prediction:
    statistic, op, threshold = text.split()
    return Prediction.model_validate({"statistic": statistic, "op": op, "threshold": float(threshold)})


def _read() -> tuple[Asked, ...]:
    name = f"{Path(__file__).stem}.yaml"
    data, _ = read_document((resources.files("headlab.experiments") / name).read_text("utf-8"), "yaml", name=name)
    return tuple(
        Asked(
            *(one[k] for k in ("key", "place", "words", "published", "experiment")),
            views=tuple(
                (view, "published" if view == "published measure" else "standard", tuple(map(_prediction, said)))
                for view, said in one["read as"].items()
            ),
        )
        for one in data
    )


ASKED: tuple[Asked, ...] = _read()
