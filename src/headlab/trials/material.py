"""What a document's writes draw on beside the test prompts: populations of prompts, directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from headlab.engine.directions import Contrast, contrast
from headlab.heads import Heads
from headlab.heads import layer as whole_layer
from headlab.material import Direction, Material
from headlab.prompts import EncodedPair, PromptSet, encode
from headlab.tasks import TASKS
from headlab.trials.document import Document
from headlab.trials.fields import Donors, Write, needs_layer
from headlab.trials.prompts import beside
from headlab.trials.subject import Language, oriented
from headlab.trials.worlds import direction_name, populations

DONORS_APART = 1_000_003
"""Between the seed of a document's prompts and that of donors from a task of their own."""


def material(subject: Any, folder: Path) -> Material | None:
    """Populations by name (``selection``, or a file) and directions by name; None where nothing is drawn on."""
    doc: Document = subject.doc
    donors = populations(doc)
    if subject_needs_mean(doc):
        donors = {"selection": Donors(), **donors}
    found = {name: population(subject, donors[name], folder) for name in sorted(donors)}
    directions = {direction_name(w): _direction(subject, w, folder) for w in _adding(doc)}
    return Material(populations=found, directions=directions) if found or directions else None


def population(subject: Any, donors: Donors, folder: Path) -> list[EncodedPair]:
    """The prompts that lend: selection prompts, those of a file, or as many as selected of a task of its own."""
    doc: Document = subject.doc
    if donors.over == "selection":
        found = list(subject.chosen)
    else:
        if isinstance(donors.over, str):
            read = PromptSet.from_file(beside(folder, donors.over))
        else:
            options = {k: v for k, v in donors.over.items() if k != "name"}
            task, seed = TASKS[donors.over["name"]], doc.seed + DONORS_APART
            read = task.pairs(doc.selection_pairs, seed=seed, tokenizer=subject.lab.tokenizer, **options)
            tested = {c for p in subject.encoded if (c := p.pair.cluster)}
            read = read.subset(p for p in read if p.cluster not in tested)
        found = oriented([encode(p, subject.lab.tokenizer) for p in read], doc)
    if donors.run == "edited":
        return found
    return [replace(p, clean=p.corrupted, corrupted=p.clean) for p in found]


def subject_needs_mean(doc: Document) -> bool:
    """Whether a layer is chosen by ablation: its means come from selection prompts too."""
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
    return contrast_of(subject, write).direction()


def contrast_of(subject: Language, write: Write) -> Contrast:
    """What every head holds on selection prompts at the role of a direction, in both runs."""
    role = write.direction["role"] if isinstance(write.direction, dict) else "read"
    heads = Heads(h for slot in subject.lab.slots for h in whole_layer(subject.grid, slot.layer))
    return contrast(subject.lab, subject.chosen, heads, site=write.site, role=role, runs=True)  # type: ignore[arg-type]
