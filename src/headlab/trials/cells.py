"""The cells of a document over models or revisions (rule 25): which they are, and what is refused before any is loaded.

``over: {models: [a, b]}`` names organisms, folders (beside the claim or from here) and hub ids, each with ``@REVISION`` where
one is meant; ``over: {revisions: [step0, step1000]}`` names revisions of the one model that the trial is given.  Each cell is a
trial of the document without ``over``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headlab import organisms
from headlab.claims import ClaimError
from headlab.engine import hub
from headlab.engine.loading import thinks
from headlab.engine.model import ModelError
from headlab.heads import Grid
from headlab.prompts import PromptSet
from headlab.reading import meant
from headlab.trials import prompts
from headlab.trials.document import Document
from headlab.trials.explain import grid_of, misfit
from headlab.trials.lending import tokenizer_of
from headlab.trials.loading import revised
from headlab.trials.over import CELLS, own_predictions


@dataclass(frozen=True)
class Cell:
    """One cell: what the document calls it, the model that is loaded for it, and its revision."""

    name: str
    model: str
    revision: str | None = None

    @property
    def where(self) -> str:
        """The folder or hub id that holds it."""
        found = revised(self.model, self.revision)
        return self.model if found is None else found.model


def is_over(doc: Document) -> str:
    """``models`` or ``revisions`` where a document is tried over them, else empty."""
    return next((k for k in doc.over if k in CELLS), "")


def one_cell(doc: Document) -> Document:
    """The document that is tried in each cell: without ``over``, what is pooled predicted of the cell alone."""
    if not is_over(doc):
        return doc
    plain = {k: v for k, v in doc.plain().items() if k != "over"}
    plain["predictions"] = [p.model_dump(mode="json") for p in own_predictions(doc)]
    return Document.from_data(plain, name=doc.id)


def cells(doc: Document, model: str | None, folder: Path) -> list[Cell]:
    """Every cell in the order of the document.  Raises ClaimError: no model whose revisions these are, a model given that is
    none of those named."""
    named = [str(n) for n in doc.over[is_over(doc)]]
    if is_over(doc) == "revisions":
        if not model:
            raise ClaimError(f"{doc.id} is tried over revisions of one model; name it: --model")
        return [Cell(n, model, n) for n in named]
    found = [_cell(n, folder) for n in named]
    if model is None:
        return found
    kept = [c for c in found if model in (c.name, c.model)]
    if not kept:
        raise ClaimError(
            f"{doc.id} is tried over models of its own ({', '.join(named)}), and {model} is none of them; --model narrows it to "
            f"one of those, --amend over.models='[{model}]' tries another"
        )
    return kept


def _cell(name: str, folder: Path) -> Cell:
    for place in (folder / name, Path(name).expanduser()):
        if place.is_dir() and name not in organisms.names():
            return Cell(name, str(place))
    model, _, revision = name.partition("@")
    return Cell(name, model, revision or None)


def grids(doc: Document, some: Sequence[Cell]) -> dict[str, Grid]:
    """Layers and heads of every cell's model, from its config.  Raises ClaimError for the first cell that cannot be tried: a
    model that is not there, a revision that it does not have, a thinking model in a claim about language models or the other
    way round, the same model under two names."""
    out: dict[str, Grid] = {}
    seen: dict[str, str] = {}
    for cell in some:
        if why := _not_there(cell) or _of_other_kind(doc, cell):
            raise ClaimError(f"{doc.id}, over {cell.name}: {why}")
        place = str(Path(cell.where).resolve()) if hub.is_local(cell.where) else f"{cell.where}@{cell.revision}"
        if place in seen:
            raise ClaimError(f"{doc.id}: over names one model twice, as {seen[place]} and as {cell.name}; name it once")
        seen[place] = cell.name
        out[cell.name] = grid_of(cell.where, None if hub.is_local(cell.where) else cell.revision)
    return out


def _not_there(cell: Cell) -> str:
    """Why there is no such model or revision; a hub that answers says the rest when it is asked."""
    shipped = {*organisms.names(), *organisms.names("thoughts")}
    try:
        place = cell.where
    except ModelError as error:
        return str(error)
    if cell.model in shipped:
        return ""
    if hub.is_local(place):
        folder = Path(place).expanduser()
        return "" if (folder / "config.json").is_file() else f"no model at {place}: expected a folder with config.json"
    near = "" if "/" in place else meant(place, organisms.names())
    return "" if hub.within_reach(place) else f"{hub.no_way_to(place)}{near}"


def unasked(cell: Cell) -> bool:
    """Whether a cell is a model of the hub's that cannot be asked for now."""
    return "/" in cell.model and not hub.is_local(cell.model) and not hub.within_reach(cell.model)


def _of_other_kind(doc: Document, cell: Cell) -> str:
    """Why a model cannot be in this claim: it thinks in vectors, or it does not."""
    shipped = cell.model in organisms.names("thoughts")
    thinking = shipped or (hub.is_local(cell.where) and thinks(Path(cell.where).expanduser()))
    if thinking and not doc.thinking:
        return "a model that thinks in vectors; this claim is about language models, and both kinds do not stand in one"
    if doc.thinking and not thinking and (cell.model in organisms.names() or hub.is_local(cell.where)):
        return (
            "a language model without thoughts; this claim is about thinking models, and both kinds do not stand in one"
        )
    return ""


def lacking(doc: Document, some: Sequence[Cell], folder: Path) -> dict[str, Grid]:
    """:func:`grids`, where every model has the heads and layers that the document names.  Raises ClaimError for the first that
    has not."""
    found = grids(doc, some)
    for name, grid in found.items():
        if why := misfit(one_cell(doc), grid, folder):
            raise ClaimError(f"{doc.id}, over {name}: {why}")
    return found


def shared(doc: Document, some: Sequence[Cell], folder: Path) -> tuple[PromptSet, PromptSet] | None:
    """Test and selection prompts that every cell's tokenizer can read alike, where the tokenizers differ and there are enough;
    None where each cell draws its own: because they are the same then, or because they cannot be.

    A task gives each tokenizer the prompts that it can align.  Those of all are the ones given to each; the split is by
    cluster, so that no cell's test holds a cluster on which another cell chose.
    """
    if doc.thinking or "file" in doc.task or "corpus" in doc.task:
        return None  # of a file every cell reads the same; windows are counted in a model's own tokens
    known: dict[str, Any] = {}
    for cell in some:
        tokenizer = tokenizer_of(cell.where, None if hub.is_local(cell.where) else cell.revision)
        if tokenizer is not None:
            known.setdefault(str(sorted(tokenizer.get_vocab().items())), tokenizer)
    if len(known) < 2:
        return None
    return prompts.split_for_all(doc, list(known.values()), folder)


def plain(some: Sequence[Cell]) -> list[Mapping[str, str | None]]:
    """The cells as a record keeps them."""
    return [{"name": c.name, "model": c.model, "revision": c.revision} for c in some]


__all__ = ["Cell", "cells", "grids", "is_over", "lacking", "one_cell", "plain", "shared", "unasked"]
