"""The cells of a document over models, revisions or settings (rule 25): which they are, and what is refused before any is
loaded.

``over: {models: [a, b]}`` names organisms, folders (beside the claim or from here) and hub ids, each with ``@REVISION`` where
one is meant; ``over: {revisions: [step0, step1000]}`` names revisions of the one model that the trial is given, or beside
``models`` of each; ``over: {settings: {plain: {}, other_draw: {seed: 1}}}`` names settings, each with the fields that it changes.
Each cell is a trial of the document without ``over``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from headlab import organisms
from headlab.claims import ClaimError
from headlab.engine import hub
from headlab.engine.loading import pick_device, thinks
from headlab.engine.model import ModelError
from headlab.heads import Grid
from headlab.prompts import PromptError, PromptSet
from headlab.reading import meant
from headlab.trials import prompts
from headlab.trials.document import Document
from headlab.trials.explain import grid_of, misfit
from headlab.trials.lending import tokenizer_of
from headlab.trials.loading import revised
from headlab.trials.over import CELLS, LOADED


@dataclass(frozen=True)
class Cell:
    """One cell: what the document calls it, the model that is loaded for it, its revision and its setting; ``of``: what each
    axis calls it."""

    name: str
    model: str
    revision: str | None = None
    setting: str = ""
    of: Mapping[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The folder or hub id that holds it."""
        found = revised(self.model, self.revision)
        return self.model if found is None else found.model


def is_over(doc: Document) -> str:
    """``models``, ``revisions``, ``settings`` (or several, joined by ×) where a document is tried over them, else empty."""
    return " × ".join(k for k in CELLS if k in doc.over)


def one_cell(doc: Document, setting: str = "") -> Document:
    """The document that is tried in each cell of a setting: without ``over``, what is pooled predicted of the cell alone.

    Raises ClaimError where what the setting changes makes no document.
    """
    return doc.alone(setting) if is_over(doc) else doc


def _settings(doc: Document) -> Mapping[str, Mapping[str, object]]:
    return doc.over.get("settings", {"": {}})


def loading(doc: Document, cell: Cell) -> dict[str, object]:
    """How a cell's model is loaded, beside what the trial is told."""
    told = {k: v for k, v in _settings(doc)[cell.setting].items() if k in LOADED}
    return {"revision": cell.revision, **told}


def in_words(doc: Document, cell: Cell) -> str:
    """A cell, and what its setting changes."""
    changes = ", ".join(f"{k} = {v}" for k, v in _settings(doc)[cell.setting].items())
    return f"{cell.name} ({changes or 'as written'})" if cell.setting else cell.name


def cells(doc: Document, model: str | None, folder: Path, revision: str | None = None) -> list[Cell]:
    """Every cell in the order of the document; ``revision``: of the model given, where the document names none.

    Raises ClaimError: no model whose revisions or settings these are, a model given that is none of those named.
    """
    if "models" not in doc.over:
        if not model:
            raise ClaimError(f"{doc.id} is tried over {is_over(doc)} of one model; name it: --model")
        return list(_product(doc, Cell("", model, None if "revisions" in doc.over else revision)))
    named = [str(n) for n in doc.over["models"]]
    found = [c for n in named for c in _product(doc, _cell(n, folder))]
    if model is None:
        return found
    kept = [c for c in found if model in (c.of["models"], c.model)]
    if not kept:
        raise ClaimError(
            f"{doc.id} is tried over models of its own ({', '.join(named)}), and {model} is none of them; --model narrows it to "
            f"one of those, --amend over.models='[{model}]' tries another"
        )
    return kept


def chosen(doc: Document, model: object, told: Mapping[str, object], folder: Path) -> list[Cell]:
    """The cells that are tried.  Raises ClaimError where the model or the revision given is none of them."""
    if model is not None and not isinstance(model, str | Path):
        raise ClaimError(f"{doc.id} is tried over {is_over(doc)}: name the model, each is loaded in its turn")
    revision = None if (given := told.get("revision")) is None else str(given)
    some = cells(doc, None if model is None else str(model), folder, revision)
    if revision is None:
        return some
    if model is None:
        raise ClaimError(f"{doc.id} is tried over models; write a revision beside its model, NAME@{revision}")
    kept = [c for c in some if c.revision == revision]
    if not kept:
        raise ClaimError(f"{doc.id}: no cell of revision {revision!r}; it has {', '.join(c.name for c in some)}")
    return kept


def _product(doc: Document, one: Cell) -> Iterator[Cell]:
    """The cells of one model: at each revision, in each setting."""
    for revision, setting in product(map(str, doc.over.get("revisions", [""])), _settings(doc)):
        if revision and one.revision:
            raise ClaimError(f"{doc.id}: {one.name} names a revision, and so does over.revisions; name it once")
        at = f"{one.name}@{revision}" if revision and one.name else one.name or revision
        of = {k: v for k, v in zip(CELLS, (one.name, revision, setting), strict=True) if v}
        yield Cell(" ".join(filter(None, (at, setting))), one.model, revision or one.revision, setting, of)


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
        place = f"{place} {cell.setting}"
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
    for cell in some:
        if device := loading(doc, cell).get("device"):
            pick_device(str(device))
        if why := misfit(one_cell(doc, cell.setting), found[cell.name], folder):
            raise ClaimError(f"{doc.id}, over {cell.name}: {why}")
    return found


def read_by(doc: Document, some: Sequence[Cell], own: object, folder: Path) -> dict[str, Any]:
    """What the cells of each setting read: ``own`` prompts where they are given, else :func:`shared`.

    Raises ClaimError for a setting with a task of its own, which nobody would read beside prompts that are given, and for one
    whose prompts no cell can be given.
    """
    for cell in some:
        for path in _settings(doc)[cell.setting]:
            if own is not None and path.split(".")[0] == "task":
                raise ClaimError(f"{doc.id}, over {cell.name}: prompts are given, so that its {path} would not be read")
    out: dict[str, Any] = {}
    for s in dict.fromkeys(c.setting for c in some):
        one, here = one_cell(doc, s), [c for c in some if c.setting == s]
        out[s] = own if own is not None else shared(one, here, folder)
        drawn = {path.split(".")[0] for path in _settings(doc)[s]} & {"task", "pairs", "selection_pairs", "seed"}
        if out[s] is None and drawn and all(whys := [_unread(one, c, folder) for c in here]):
            raise ClaimError(f"{doc.id}, over {here[0].name}: {whys[0]}")
    return out


def _unread(doc: Document, cell: Cell, folder: Path) -> str:
    """Why a cell's tokenizer gets no prompts for a document; empty where it does, or where that cannot be asked."""
    tokenizer = None if doc.thinking else _tokenizer(cell)
    try:
        if tokenizer is not None:
            prompts.split(doc, tokenizer, None, folder)
    except PromptError as error:
        return str(error)
    return ""


def _tokenizer(cell: Cell) -> Any:
    return tokenizer_of(cell.where, None if hub.is_local(cell.where) else cell.revision)


def shared(doc: Document, some: Sequence[Cell], folder: Path) -> tuple[PromptSet, PromptSet] | None:
    """Test and selection prompts that every cell's tokenizer can read alike, where the tokenizers differ and there are enough;
    None where each cell draws its own: because they are the same then, or because they cannot be.

    A task gives each tokenizer the prompts that it can align.  Those of all are the ones given to each; the split is by
    cluster, so that no cell's test holds a cluster on which another cell chose.
    """
    if len(some) < 2 or doc.thinking or "file" in doc.task or "corpus" in doc.task:
        return None  # of a file every cell reads the same; windows are counted in a model's own tokens
    known: dict[str, Any] = {}
    for cell in some:
        if (tokenizer := _tokenizer(cell)) is not None:
            known.setdefault(str(sorted(tokenizer.get_vocab().items())), tokenizer)
    if len(known) < 2:
        return None
    return prompts.split_for_all(doc, list(known.values()), folder)


def plain(some: Sequence[Cell]) -> list[Mapping[str, str | None]]:
    """The cells as a record keeps them."""
    return [
        {"name": c.name, "model": c.model, "revision": c.revision, **({"setting": c.setting} if c.setting else {})}
        for c in some
    ]
