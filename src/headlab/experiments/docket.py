"""The docket as users name it: every experiment by slug, and the scorecard over all of them."""

from __future__ import annotations

from typing import Any

from headlab.experiments import scorecard
from headlab.experiments.base import Result
from headlab.experiments.trial import EXPERIMENTS, builtin_claims, experiment, trial


def catalogue() -> list[dict[str, str]]:
    """Every experiment: slug, question, its built-in claim and source; the scorecard last."""
    claims = builtin_claims()
    rows = [
        {"slug": s, "question": e.question, "claim": claims[s].words, "source": claims[s].source}
        for s, e in EXPERIMENTS.items()
    ]
    everything = {"claim": "every claim above", "source": "the sources above"}
    return [*rows, {"slug": "scorecard", "question": scorecard.QUESTION, **everything}]


def run(slug: str, model: Any, *, full: bool = False, **options: Any) -> Result:
    """Run an experiment of the docket with its built-in claim, or ``scorecard``; options as for :func:`trial`.

    ``full``: publication sizes (500 pairs, 9,999 matched sets) where no others are given.

    Raises ClaimError for an unknown experiment, and what :func:`trial` raises.
    """
    if slug == "scorecard":
        return scorecard.scorecard(model, full=full, **options)
    experiment(slug)
    sizes = scorecard.FULL if full else {}
    given = {**sizes, **{k: v for k, v in options.items() if v is not None}}
    return trial(builtin_claims()[slug], model, kind="run", **given)
