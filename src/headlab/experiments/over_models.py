"""Documents over models or revisions: each cell a trial of its own, one model in memory at a time, and the record of all.

An interrupted call goes on with the cells that it had not finished.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from headlab.claims import ClaimError
from headlab.effects import as_part
from headlab.engine.passes import EngineError
from headlab.experiments import documents
from headlab.interventions import InterventionError
from headlab.prompts import PromptError, PromptSet
from headlab.store import Record, Result, Store
from headlab.tasks.word_problems import ProblemSet
from headlab.trials.cells import Cell, cells, is_over, lacking, one_cell, plain, shared
from headlab.trials.document import Document
from headlab.trials.over_cells import Over, Tried
from headlab.trials.record import BY_RECORD, again, plain_loading, versions
from headlab.trials.recorded import How
from headlab.trials.results import handed_on

CANNOT = (PromptError, InterventionError, EngineError)
"""What makes a cell one that cannot decide, and not the end of the others."""


def trial(
    doc: Document,
    given: Any,
    model: Any,
    how: How,
    *,
    changes: Mapping[str, Any],
    own: Any = None,
    folder: Path | None = None,
) -> Result:
    """Try a document, over its models or revisions where it says so; of those ``model`` and a revision name which are tried.
    Of one alone the record is that of an ordinary trial.

    Raises ClaimError for a model that is not there or cannot be in this claim, before any is loaded.
    """
    changed, amended = documents.adjusted(doc, changes)
    folder = folder or documents.folder_of(given)
    if not is_over(changed):
        return documents.trial(doc, given, model, how, changes=changes, own=own, folder=folder)
    some = chosen(changed, model, how.loading, folder)
    lacking(changed, some, folder)
    if len(some) == 1:
        return documents.trial(
            doc, given, some[0].model, _of_cell(how, some[0]), changes=changes, own=own, folder=folder
        )
    how = replace(how, dead_end=None)  # said of each, asked of none
    home = how.store if isinstance(how.store, Store) else Store(how.store)
    drawn = own if own is not None else shared(one_cell(changed), some, folder)
    told = {k: v for k, v in how.told.items() if isinstance(v, str | int)}
    call = dict(how.call) if how.call else _call(how, given, model, own, changes)
    draft = _draft(changed, some, how, amended, call)
    inputs = {"claim": changed.plain(), "cells": plain(some), "options": told, "own": _hash(own), "decide": how.decide}
    title = f"{doc.id} over {len(some)} {is_over(changed)}"
    with home.open(kind=how.kind, slug=doc.id, title=title, inputs=inputs, draft=draft) as run:  # type: ignore[arg-type]
        if run.finished is not None:
            return handed_on(home, run.finished)
        tried = partial(documents.trial, doc, given, changes=changes, own=drawn, folder=folder)
        made = _each(doc, some, replace(how, store=home, call=None), tried)
        found = Over(changed, made)
        tables = {name: run.table(name, frame) for name, frame in found.tables().items()}
        children = [t.record for t in made if t.record]
        record = run.finish(
            readings=[found.reading()],
            figures=[f.plain() for f in found.figures()],
            notes=[*found.notes(), *documents.amended_words(amended)],
            children=[r.id for r in children],
            settings={
                **draft["settings"],
                "fingerprints": {t.cell.name: t.record.model["fingerprint"] for t in made if t.record},
            },
        )
    return handed_on(home, record, tables, children)


def chosen(doc: Document, model: Any, loading: Mapping[str, Any], folder: Path) -> list[Cell]:
    """The cells that are tried.  Raises ClaimError where the model or the revision given is none of them."""
    if model is not None and not isinstance(model, str | Path):
        raise ClaimError(f"{doc.id} is tried over {is_over(doc)}: name the model, each is loaded in its turn")
    some, revision = cells(doc, None if model is None else str(model), folder), loading.get("revision")
    if revision is None:
        return some
    if model is None:
        raise ClaimError(f"{doc.id} is tried over models; write a revision beside its model, NAME@{revision}")
    kept = [c for c in some if c.revision == revision]
    if not kept:
        raise ClaimError(f"{doc.id}: no cell of revision {revision!r}; it has {', '.join(c.name for c in some)}")
    return kept


def _draft(
    doc: Document, some: Sequence[Cell], how: How, amended: Mapping[str, Any], call: dict[str, str]
) -> dict[str, Any]:
    """What the record says before the first cell."""
    settings = {
        "over": is_over(doc),
        "cells": plain(some),
        "seed": doc.seed,
        "amended": amended,
        "decide": how.decide or doc.decide,
        "memory_bytes": how.memory,
        "loading": plain_loading(how.loading),
    }
    return {"claim": doc.plain(), "versions": versions(), "settings": settings, "call": call}


def _each(doc: Document, some: Sequence[Cell], how: How, tried: Callable[[str, How], Result]) -> list[Tried]:
    """Every cell in its turn, one model in memory at a time."""
    made: list[Tried] = []
    for n, cell in enumerate(some):
        one = replace(_of_cell(how, cell), progress=as_part(how.progress, "cells", n, len(some)))
        made.append(_cell(cell, partial(tried, cell.model, one)))
        free()
        _refuse_again(doc, made)
    return made


def _of_cell(how: How, cell: Cell) -> How:
    return replace(how, loading={**how.loading, "revision": cell.revision})


def _cell(cell: Cell, tried: Callable[[], Result]) -> Tried:
    """A cell's trial; its model is let go of with all that it held."""
    try:
        return Tried(cell, tried().record)
    except CANNOT as error:
        return Tried(cell, None, " ".join(str(error).split()))


def free() -> None:
    """What the last model held goes before the next is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _refuse_again(doc: Document, made: Sequence[Tried]) -> None:
    """Raises ClaimError where the last cell has the weights of an earlier one under another name."""
    *before, last = made
    for t in before:
        if t.record and last.record and t.record.model["fingerprint"] == last.record.model["fingerprint"]:
            raise ClaimError(
                f"{doc.id}: {last.cell.name} has the weights of {t.cell.name}; one model counts once, leave one out"
            )


def _hash(own: Any) -> Any:
    """Prompts that were given, as inputs of a run."""
    if isinstance(own, tuple):
        return [s.content_hash() for s in own]
    return own.content_hash() if isinstance(own, PromptSet) else None if own is None else str(own)


def _call(how: How, given: Any, model: Any, own: Any, changes: Mapping[str, Any]) -> dict[str, str]:
    """The command and the line of Python that repeat the trial over all cells."""
    file = isinstance(own, str | Path)
    if not isinstance(given, str | Path) or (own is not None and not file):
        return dict(BY_RECORD)
    flags, amend = {k: v for k, v in changes.items() if k != "amend"}, changes.get("amend") or {}
    name = None if model is None else str(model)
    return again(how.kind, str(given), name, {**flags, **how.told}, ("prompts", own if file else None), amend)


def repeat(record: Record, how: How) -> Result:
    """Try a record's document again over the same cells, on the prompts that its trials hold where they hold them."""
    assert record.claim is not None and isinstance(how.store, Store)
    doc = Document.from_data(record.claim, name=record.id)
    kept = [how.store.record(child).prompts for child in record.children]
    pairs = [p["pairs"] for p in kept if "pairs" in p]
    alike = len(pairs) == len(kept) and len({p["test"]["hash"] for p in kept}) == 1
    items = ProblemSet if doc.thinking else PromptSet
    own = tuple(items.from_plain(p) for p in pairs[0]) if alike and pairs else None
    made, axis = record.settings["cells"], is_over(doc)
    given = doc.model_copy(update={"over": {axis: [c["name"] for c in made]}})  # those that were tried
    model = made[0]["model"] if axis == "revisions" else None
    return trial(given, given, model, how, changes={}, own=own, folder=documents.folder_of_record(record))
