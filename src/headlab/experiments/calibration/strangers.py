"""A document on any model: sets of the same shape, drawn at random, stand in for the one that it names.

Every world of its predictions is run for every drawn set, in one sweep; each set is then decided as the named one is, ranked
among all the others (:mod:`headlab.trials.stand_ins`): at a fixed number, whose error a sequential trial shares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headlab.claims import ClaimError
from headlab.effects import Progress, quiet
from headlab.engine import scale
from headlab.experiments import documents
from headlab.store import Result, Store
from headlab.trials.document import Document
from headlab.trials.recorded import How


def calibrate_document(
    doc: Document,
    given: Any,
    model: Any,
    *,
    trials: int | None = None,
    seed: int | None = None,
    store: Store | Path | str | None = None,
    progress: Progress = quiet,
    call: str = "",
) -> Result:
    """The trial of a document, with the outcome of every drawn set in its place (``settings["stand_ins"]``).

    ``trials``: sets that are drawn (200 where the reference asks for fewer).  Raises ClaimError where nothing says which sets
    could stand in.
    """
    if doc.reference is None or doc.reference.labels:
        raise ClaimError(
            f"{doc.id} redraws no set, so nothing says which sets could stand in for the named one; give it one, such as "
            "reference: {redraw: NAME, match: [layer, sharing], n: 199}"
        )
    n = trials or max(200, doc.reference.n)
    how = How(scale.pick("here", None, None), store, None, progress, "run", {"command": call, "python": ""})
    changes = {"matched_sets": n, "seed": seed, "decide": "fixed"}
    result = documents.trial(doc, given, model, how, changes=changes, stand_ins=None)
    if "stand_ins" not in result.record.settings:
        eligible = result.record.eligibility.get("reason") or "a control failed, or too few sets match"
        raise ClaimError(f"{doc.id} cannot be calibrated on {result.record.model['name']}: {eligible}")
    return result
