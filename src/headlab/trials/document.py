"""A claim about heads as a document: what is edited, where, with what; what is read; against what; what is predicted.

The models here say what may be written; :func:`Document.from_data` refuses the rest with file and line, before any
model is loaded.  ``docs/claims.md`` is the reference.  A document is data: it never runs code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headlab.claims import ClaimError, read_file, read_text
from headlab.reading import Lines, dotted, nearest, problems
from headlab.trials import amending, over
from headlab.trials.consistency import NUMERIC, axes_of, faults
from headlab.trials.fields import Fields, parsed


class Document(Fields):
    """A claim that names its own heads, edits, readouts and references.  Read by :meth:`from_file` or
    :meth:`from_data`; ``docs/claims.md`` says what each field means."""

    @classmethod
    def from_file(cls, path: str | Path) -> Document:
        """From ``.yaml``, ``.yml`` or ``.toml``.  Raises ClaimError with file and line."""
        data, lines, name = read_file(path)
        return cls.from_data(data, name=name, lines=lines)

    @classmethod
    def from_text(cls, text: str, suffix: str = ".yaml", name: str = "claim") -> Document:
        """From YAML or TOML text; ``name`` is what error messages call it."""
        data, lines = read_text(text, suffix, name)
        return cls.from_data(data, name=name, lines=lines)

    @classmethod
    def from_data(cls, data: Any, *, name: str = "claim", lines: Lines | None = None) -> Document:
        """From a mapping.  Raises ClaimError that says what was given and what was expected, with the line."""
        lines = lines or {}
        if isinstance(data, Mapping):
            _refuse_strangers(data, name, lines)
        try:
            found = cls.model_validate(data)
        except ValidationError as error:
            raise ClaimError(f"{name} is not a claim: {problems(error, lines, cls)}") from error
        for place, message in faults(found):
            known = nearest(lines, place)
            where = f"line {known}: " if known else ""
            raise ClaimError(f"{name} is not a claim: {where}{dotted(place)}: {message}")
        if found.as_published is not None:
            found.published_as(name)
        if "settings" in found.over:
            found._check_settings(name, lines)
        return found

    def alone(self, setting: str = "") -> Document:
        """What is tried in a cell that is a trial of its own: without ``over``, as the setting changes it, what is pooled
        predicted of the cell alone.  Raises ClaimError for changes that make no document."""
        plain = {k: v for k, v in self.plain().items() if k != "over"}
        plain["predictions"] = [p.model_dump(mode="json") for p in over.own_predictions(self)]
        changes = self.over["settings"][setting] if setting else {}
        changes = {k: v for k, v in changes.items() if k not in over.LOADED}
        return type(self).from_data(amending.changed(plain, changes, self.id), name=self.id)

    def _check_settings(self, name: str, lines: Lines) -> None:
        """Raises ClaimError for a setting that makes no document, one of other cells, or one that is another once more."""
        seen: dict[str, str] = {}
        worlds = {t.world for p in over.own_predictions(self) for t in parsed(p).terms}
        for setting, changes in self.over["settings"].items():
            place = ("over", "settings", setting)
            why = ""
            try:
                one = self.alone(setting)
                if other := [w for w in self.worlds if w in worlds and _nominal(one, w) != _nominal(self, w)]:
                    why = f"world {other[0]} has other cells than predictions name; keep its axes ({{each: [...]}}) as they are"
                how = f"{one.content_hash()} {[(k, changes[k]) for k in over.LOADED if k in changes]}"
                if (same := seen.setdefault(how, setting)) != setting:
                    why = f"says the same as {same}; a cell counts once"
            except ClaimError as error:
                why = str(error).split(" is not a claim: ", 1)[-1]
            if why:
                known = nearest(lines, place)
                raise ClaimError(f"{name} is not a claim: {f'line {known}: ' if known else ''}{dotted(place)}: {why}")

    def published_as(self, name: str = "") -> Document:
        """The document with the overrides of ``as_published``: what was done there, read beside and never binding.

        Raises ClaimError for overrides that mean nothing, or that ask for other prompts.
        """
        changes, name = self.as_published or {}, f"{name or self.id}, as_published"
        if other := [k for k in changes if k.split(".")[0] in {"task", "pairs", "selection_pairs", "seed", "id"}]:
            raise ClaimError(f"{name}: {other[0]} stays as it is; both readings are of the same prompts")
        plain = {k: v for k, v in self.plain().items() if k != "as_published"}
        return type(self).from_data(amending.changed(plain, changes, name), name=name)


def _nominal(doc: Fields, world: str) -> dict[str, tuple[object, ...]]:
    return {k: v for k, v in axes_of(doc, world).items() if k not in NUMERIC}


_ELSEWHERE = {
    "pool": "sets: {name: {pool: even}}",
    "matched_sets": "reference: {redraw: name, n: 999}",
    "subsets_per_size": "sets: {name: {draw: 4, from: name, n: 50}}",
    "options": "the fields of worlds, sets and reference",
    "readings": "as_published: {…}",
    "alpha": "the threshold of each rank prediction",
    "null": "reference: {redraw: name}",
    "experiment": "either worlds (a document) or experiment (an entry of the docket), not both",
}


def _refuse_strangers(data: Mapping[str, Any], name: str, lines: Lines) -> None:
    """Fields of docket claims beside ``worlds``: each has one place in a document."""
    for key, instead in _ELSEWHERE.items():
        if key in data:
            where = f"line {lines[(key,)]}: " if (key,) in lines else ""
            raise ClaimError(f"{name} is not a claim: {where}{key!r} has no place beside worlds; write {instead}")
