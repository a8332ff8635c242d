"""What a document's writes draw on beside the test prompts: populations of prompts, directions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headlab.engine.directions import contrast
from headlab.heads import Heads
from headlab.heads import layer as whole_layer
from headlab.material import Direction, Material
from headlab.prompts import PromptSet, encode
from headlab.trials.document import Document, Write
from headlab.trials.prompts import beside
from headlab.trials.subject import oriented
from headlab.trials.worlds import direction_name, populations


def material(subject: Any, folder: Path) -> Material | None:
    """Populations by name (``selection``, or a file) and directions by name; None where nothing is drawn on."""
    doc: Document = subject.doc
    names = populations(doc)
    if subject_needs_mean(doc):
        names = names | {"selection"}
    found = {}
    for name in sorted(names):
        if name == "selection":
            found[name] = subject.chosen
        else:
            read = PromptSet.from_file(beside(folder, name))
            found[name] = oriented([encode(p, subject.lab.tokenizer) for p in read], doc)
    directions = {direction_name(w): _direction(subject, w, folder) for w in _adding(doc)}
    return Material(populations=found, directions=directions) if found or directions else None


def subject_needs_mean(doc: Document) -> bool:
    """Whether a layer is chosen by ablation: its means come from selection prompts too."""
    from headlab.trials.choices import needs_layer

    return doc.edit == "clean" and doc.layer == "auto" and doc.layer_rule == "most" and needs_layer(doc)


def _adding(doc: Document) -> Iterator[Write]:
    """Every write that adds a direction."""
    for writes in doc.world_axes().values():
        for write in writes:
            yield from (one for one in map(write.at, write.cells()) if one.write == "add")


def _direction(subject: Any, write: Write, folder: Path) -> Direction:
    """The other run minus the edited one, averaged over selection prompts at one role; or a file's."""
    if isinstance(write.direction, dict) and "file" in write.direction:
        return Direction.from_file(beside(folder, write.direction["file"]))
    role = write.direction["role"] if isinstance(write.direction, dict) else "read"
    heads = Heads(h for slot in subject.lab.slots for h in whole_layer(subject.grid, slot.layer))
    made = contrast(subject.lab, subject.chosen, heads, site=write.site, role=role, runs=True)  # type: ignore[arg-type]
    return made.direction()
