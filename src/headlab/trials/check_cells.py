"""What `headlab check` says of a document, for each model that it is tried on: no weight is read, nothing runs."""

from __future__ import annotations

from pathlib import Path

from headlab.stats import clopper_pearson
from headlab.trials.cells import Cell, cells, is_over, lacking, one_cell, read_by, unasked
from headlab.trials.document import Document
from headlab.trials.explain import Explained, explain, grid_of
from headlab.trials.lending import tokenizer_of
from headlab.trials.over import UPHELD
from headlab.trials.words import prediction_words


def explained(doc: Document, model: str | None, folder: Path) -> Explained:
    """Everything that can be said of a document, for ``model`` or, where it is tried over models, revisions or settings, for
    each of them.  Raises ClaimError as :func:`headlab.trials.cells.lacking`."""
    axis = is_over(doc)
    if not axis:
        grid, tokenizer = (grid_of(model), tokenizer_of(model)) if model else (None, None)
        return explain(doc, grid, folder, tokenizer)
    if "models" not in doc.over and model is None:
        got = explain(one_cell(doc), None, folder, None)
        got.lines["predictions"] = [prediction_words(p) for p in doc.predictions]
        named = [f"{k} {', '.join(map(str, doc.over[k]))}" for k in axis.split(" × ")]
        got.lines["over"] = [f"{', '.join(named)} of the model that it will be given", *_settings(doc)]
        for setting in doc.over.get("settings", ()):
            one = explain(one_cell(doc, setting), None, folder, None)
            got.faults.extend(f"over {setting}: {why}" for why in one.faults if why not in got.faults)
        return got
    some = cells(doc, model, folder)
    away = {c.name for c in some if unasked(c)}
    asked = [c for c in some if c.name not in away]
    grids = lacking(doc, asked, folder)
    got = explain(one_cell(doc), None, folder, None)
    got.lines["predictions"] = [prediction_words(p) for p in doc.predictions]
    got.lines["over"] = list(_said(doc, some, asked, folder))
    if away:
        got.lines["over"].append(f"not asked, since the hub is out of reach: {', '.join(sorted(away))}")
    for cell in asked:
        one = explain(one_cell(doc, cell.setting), grids[cell.name], folder, tokenizer_of(cell.where))
        got.lines[f"on {cell.name}"] = one.lines.get("model") or ["as said above"]
        got.faults.extend(f"over {cell.name}: {why}" for why in one.faults if why not in got.faults)
    got.faults.extend(_undefined(doc, some))
    return got


def _said(doc: Document, some: list[Cell], asked: list[Cell], folder: Path) -> list[str]:
    """How many trials will run, on which, and what their tokenizers mean for the prompts."""
    out = [f"{len(some)} trials, one model in memory at a time: {', '.join(c.name for c in some)}", *_settings(doc)]
    if "models" in doc.over and len({c.of["models"] for c in some}) < (n := len(doc.over["models"])):
        out.append(f"narrowed from {n} models: it says nothing of the others")
    if any(read_by(doc, asked, None, folder).values()):
        out.append("their tokenizers differ: all read the prompts that each of them can take")
    return out


def _settings(doc: Document) -> list[str]:
    """What each setting changes."""
    of = doc.over.get("settings", {}).items()
    named = [f"{n}: {', '.join(f'{k} = {v}' for k, v in c.items()) or 'as written'}" for n, c in of]
    return [f"settings: {'; '.join(named)}"] if named else []


def _undefined(doc: Document, some: list[Cell]) -> list[str]:
    """What so few models can never decide."""
    n, out = len({c.model for c in some}), []
    if set(doc.over) == {"settings"}:
        return out  # of named settings all are tried: a share and a mean of them are defined
    for p in doc.predictions:
        over_all = p.statistic == UPHELD or p.statistic.startswith("pooled:")
        if over_all and n < 2:
            out.append(f"{p.statistic}: {len(some)} cells of 1 model; models are the unit, and at least 2 are needed")
        elif p.statistic == UPHELD and p.op != "within" and not isinstance(p.threshold, tuple):
            best = clopper_pearson(n if p.op == ">" else 0, n, unit="models")
            bound = (best.low if p.op == ">" else best.high) or 0.0
            if bound <= p.limit if p.op == ">" else bound >= p.limit:
                out.append(f"{p.statistic} {p.brief}: {n} models at best give a bound of {bound:.3g}; name more")
    return out
