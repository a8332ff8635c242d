"""The docket as users name it: every experiment by slug, and the two scorecards over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headlab.experiments import scorecard, thought_scorecard
from headlab.experiments.fitting import THINKING, unread
from headlab.experiments.known import builtin_claims
from headlab.experiments.trial import _BESIDE, EXPERIMENTS, experiment, trial
from headlab.store import Result
from headlab.thoughts.loading import Thinker
from headlab.trials.loading import ModelLike


def catalogue() -> list[dict[str, str]]:
    """Every experiment: slug, question, its built-in claim and source; the scorecards last."""
    claims = builtin_claims()
    rows = [
        {"slug": s, "question": e.question, "claim": claims[s].words, "source": claims[s].source}
        for s, e in EXPERIMENTS.items()
    ]
    of_decimals = {"claim": "every claim above about the decimals", "source": "the sources above"}
    of_thoughts = {"claim": "every claim above about thoughts", "source": "the sources above"}
    return [
        *rows,
        {"slug": "scorecard", "question": scorecard.QUESTION, **of_decimals},
        {"slug": thought_scorecard.SLUG, "question": thought_scorecard.QUESTION, **of_thoughts},
    ]


def slugs() -> list[str]:
    """Whatever :func:`run` takes."""
    return [*(row["slug"] for row in catalogue()), *_BESIDE]


def run(slug: str, model: ModelLike | Thinker, *, full: bool = False, **options: object) -> Result:
    """Run an experiment of the docket with its built-in claim, ``scorecard`` or ``thought-scorecard``; options as for
    :func:`trial`.

    ``full``: publication sizes (500 pairs, 9,999 matched sets; thinking models 1,319 problems, 499 matched sets) where no
    others are given.

    Raises ClaimError for an unknown experiment, and what :func:`trial` raises.
    """
    given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    if slug == "scorecard":
        return scorecard.scorecard(model, full=full, **given)
    if slug == thought_scorecard.SLUG:
        return thought_scorecard.thought_scorecard(model, full=full, **given)
    experiment(slug)
    return trial(builtin_claims()[slug], model, **(sized(slug, given) if full else given))


def sized(slug: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """These options of an experiment, with publication sizes where none are given."""
    own = builtin_claims()[slug]
    sizes = thought_scorecard.FULL if own.task.name == THINKING else scorecard.FULL
    return {**{k: v for k, v in sizes.items() if not unread([k], own)}, **given}
