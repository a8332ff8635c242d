"""Claims by file and by name: entries of the docket, documents, and the library of published claims.

Light: reading a claim loads no model and none of the heavy rooms.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from headlab.claims import Claim, read_file, read_text
from headlab.reading import Lines
from headlab.trials.document import Document


def from_data(data: Any, name: str, lines: Lines) -> Claim | Document:
    """A claim of the docket (``experiment``) or a document (``worlds``).  Raises ClaimError."""
    if isinstance(data, Mapping) and ("worlds" in data or "language" in data or "experiment" not in data):
        return Document.from_data(data, name=name, lines=lines)
    return Claim.from_data(data, name, lines)


def from_file(path: str | Path) -> Claim | Document:
    """From a YAML or TOML file.  Raises ClaimError with file and line."""
    data, lines, name = read_file(path)
    return from_data(data, name, lines)


def from_text(text: str) -> Claim | Document:
    """From YAML.  Raises ClaimError with the line."""
    data, lines = read_text(text, ".yaml", "claim")
    return from_data(data, "claim", lines)


@cache
def library() -> dict[str, Document]:
    """The published claims that ship with headlab as documents, by id."""
    folder = resources.files("headlab.trials") / "library"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            data, lines = read_text(file.read_text("utf-8"), ".yaml", file.name)
            doc = Document.from_data(data, name=file.name, lines=lines)
            found[doc.id] = doc
    return found
