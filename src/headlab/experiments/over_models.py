"""Documents over models, revisions or settings: each cell a trial of its own, one model in memory at a time, and the record of all.

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
from headlab.trials.cells import Cell, cells, chosen, is_over, lacking, loading, plain, read_by
from headlab.trials.document import Document
from headlab.trials.over import CELLS
from headlab.trials.over_cells import Over, Tried
from headlab.trials.over_shown import figures_of, tables_of
from headlab.trials.record import BY_RECORD, again, content_of, plain_loading, versions
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
    read: Mapping[str, Any] | None = None,
) -> Result:
    """Try a document, over its models, revisions or settings where it says so; ``model`` and a revision narrow them.  Of one cell
    alone the record is that of an ordinary trial.  ``read``: the prompts of each setting, where a record holds them.

    Raises ClaimError for a model that is not there or cannot be in this claim, before any is loaded.
    """
    changed, amended = documents.adjusted(doc, changes)
    folder = folder or documents.folder_of(given)
    if not is_over(changed):
        return documents.trial(doc, given, model, how, changes=changes, own=own, folder=folder)
    some = chosen(changed, model, how.loading, folder)
    lacking(changed, some, folder)
    drawn = read if read is not None else read_by(changed, some, own, folder)
    tried = partial(_of_cell, doc, given, changed, changes=changes, own=drawn, folder=folder)
    if len(some) == 1:
        return tried(some[0], how)
    how = replace(how, dead_end=None)  # said of each, asked of none
    home = how.store if isinstance(how.store, Store) else Store(how.store)
    told = {k: v for k, v in how.told.items() if isinstance(v, str | int)}
    call = dict(how.call) if how.call else _call(how, given, model, own, changes)
    draft = _draft(changed, some, how, amended, call)
    inputs = {
        "claim": changed.plain(),
        "cells": plain(some),
        "options": told,
        "own": content_of(drawn),
        "decide": how.decide,
    }
    title = f"{doc.id} over {len(some)} {is_over(changed)}"
    with home.open(kind=how.kind, slug=doc.id, title=title, inputs=inputs, draft=draft) as run:  # type: ignore[arg-type]
        if run.finished is not None:
            return handed_on(home, run.finished)
        made = _each(doc, some, replace(how, store=home, call=None), tried)
        found = Over(changed, made)
        tables = {name: run.table(name, frame) for name, frame in tables_of(found).items()}
        children = [t.record for t in made if t.record]
        record = run.finish(
            readings=[found.reading()],
            figures=[f.plain() for f in figures_of(found)],
            notes=[*found.notes(), *documents.amended_words(amended)],
            children=[r.id for r in children],
            settings={
                **draft["settings"],
                "fingerprints": {t.cell.name: t.record.model["fingerprint"] for t in made if t.record},
            },
        )
    return handed_on(home, record, tables, children)


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


def _each(doc: Document, some: Sequence[Cell], how: How, tried: Callable[[Cell, How], Result]) -> list[Tried]:
    """Every cell in its turn, one model in memory at a time."""
    made: list[Tried] = []
    for n, cell in enumerate(some):
        one = replace(how, progress=as_part(how.progress, "cells", n, len(some)))
        made.append(_cell(cell, partial(tried, cell, one)))
        free()
        _refuse_again(doc, made)
    return made


def _of_cell(doc: Document, given: Any, changed: Document, cell: Cell, how: How, *, own: Any, **more: Any) -> Result:
    """The trial of one cell."""
    how = replace(how, loading={**how.loading, **loading(changed, cell)})
    return documents.trial(doc, given, cell.model, how, own=own[cell.setting], setting=cell.setting, **more)


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
    """Raises ClaimError where the last cell has the weights of an earlier one under another name, or is its very trial."""
    *before, last = made
    for t in before:
        if not (t.record and last.record):
            continue
        same = t.record.model["fingerprint"] == last.record.model["fingerprint"]
        if same and t.cell.setting == last.cell.setting:
            raise ClaimError(
                f"{doc.id}: {last.cell.name} has the weights of {t.cell.name}; one model counts once, leave one out"
            )
        if t.record.id == last.record.id:
            raise ClaimError(f"{doc.id}: {last.cell.name} is what {t.cell.name} is; a cell counts once, leave one out")


def _call(how: How, given: Any, model: Any, own: Any, changes: Mapping[str, Any]) -> dict[str, str]:
    """The command and the line of Python that repeat the trial over all cells."""
    file = isinstance(own, str | Path)
    if not isinstance(given, str | Path) or (own is not None and not file):
        return dict(BY_RECORD)
    flags, amend = {k: v for k, v in changes.items() if k != "amend"}, changes.get("amend") or {}
    name = None if model is None else str(model)
    return again(str(given), name, {**flags, **how.told}, ("prompts", own if file else None), amend)


def repeat(record: Record, how: How) -> Result:
    """Try a record's document again over the same cells, on the prompts that its trials hold where they hold them."""
    assert record.claim is not None and isinstance(how.store, Store)
    doc, folder = Document.from_data(record.claim, name=record.id), documents.folder_of_record(record)
    rows, items = record.settings["cells"], ProblemSet if doc.thinking else PromptSet
    names, model = {c["name"] for c in rows}, None if "models" in doc.over else rows[0]["model"]
    made = [c for c in cells(doc, model, folder, rows[0]["revision"]) if c.name in names]
    tried = dict(zip(record.settings["fingerprints"], record.children, strict=True))
    read: dict[str, Any] = {}
    for setting in dict.fromkeys(c.setting for c in made):
        some = [c.name for c in made if c.setting == setting]
        kept = [how.store.record(tried[n]).prompts for n in some if n in tried]
        alike = len({p["test"]["hash"] for p in kept}) == 1 and all("pairs" in p for p in kept)
        read[setting] = tuple(items.from_plain(p) for p in kept[0]["pairs"]) if alike else None
    of = {k: {c.of[k] for c in made} for k in CELLS if k in doc.over}
    over: dict[str, object] = {k: [v for v in doc.over[k] if v in kept] for k, kept in of.items() if k != "settings"}
    over |= {k: {n: v for n, v in doc.over[k].items() if n in kept} for k, kept in of.items() if k == "settings"}
    given = doc.model_copy(update={"over": over})  # those that were tried
    if "models" in over:
        how = replace(how, loading={k: v for k, v in how.loading.items() if k != "revision"})  # each has its own
    return trial(given, given, model, how, changes={}, folder=folder, read=read)
