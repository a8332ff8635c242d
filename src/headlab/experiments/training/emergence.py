"""The timeline of any list of checkpoints: the training-dynamics claim on them, as one run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headlab.effects import Progress, quiet
from headlab.organisms.checkpoint_series import Series, listed
from headlab.store import Result, Store

SLUG = "training-dynamics"


def emergence(
    models: Sequence[str] | str,
    *,
    revisions: Sequence[str] = (),
    weights_only: bool = False,
    pairs: int | None = None,
    seed: int | None = None,
    store: Store | Path | str | None = None,
    progress: Progress = quiet,
    **loading: Any,
) -> Result:
    """Measure and test every checkpoint of one or more training runs; every run is a line on one time axis.

    ``models``: organisms that have checkpoints; hub ids, each at the same ``revisions`` ("step0", "step1000", …); folders
    that hold checkpoint folders; or checkpoint folders, which make one run together.  Steps are the last number of each
    name.  ``weights_only``: no prompts, so no task that the model could do is needed.  ``loading`` (device, dtype, memory)
    as in :func:`headlab.trial`.  Checkpoints are loaded one at a time and an interrupted call goes on where it stopped.

    Raises SeriesError for a list that makes no series, and what :func:`headlab.trial` raises.
    """
    from headlab.experiments.known import adjusted, builtin_claims
    from headlab.experiments.trial import trial

    given = [models] if isinstance(models, str) else list(models)
    runs = listed(given, list(revisions))
    claim = builtin_claims()[SLUG]
    options = {**claim.options, "series": [r.plain() for r in runs], "behaviour": not weights_only}
    claim = adjusted(claim, options=options, pairs=pairs, seed=seed)
    model, revision = _last(runs[0])
    return trial(
        claim,
        model,
        revision=revision,
        store=store,
        progress=progress,
        call=_call(given, revisions, weights_only, {"pairs": pairs, "seed": seed}),
        **loading,
    )


def _last(run: Series) -> tuple[str, str | None]:
    """The model of the trial itself: the last step of the first run."""
    if isinstance(run.plain(), str):
        return run.name, None
    return run.last.model, run.last.revision


def _call(models: Sequence[str], revisions: Sequence[str], weights_only: bool, given: dict[str, Any]) -> dict[str, str]:
    told = {k: v for k, v in given.items() if v is not None}
    words = ["headlab", "emergence", *models]
    if revisions:
        words += ["--revisions", ",".join(revisions)]
    words += ["--weights-only"] * weights_only
    for key, value in told.items():
        words += [f"--{key}", str(value)]
    python = "".join(
        f", {k}={v!r}"
        for k, v in {"revisions": list(revisions) or None, "weights_only": weights_only or None, **told}.items()
        if v is not None
    )
    return {"command": shlex.join(words), "python": f"emergence({list(models)!r}{python})"}
