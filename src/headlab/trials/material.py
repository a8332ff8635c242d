"""What a document's writes draw on beside the test prompts: populations of prompts, directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headlab.prompts import PromptSet, encode
from headlab.trials.document import Document
from headlab.trials.prompts import beside
from headlab.trials.subject import oriented
from headlab.trials.worlds import populations


def material(subject: Any, folder: Path) -> Any:
    """Populations by name (``selection``, or a file) and directions by name; None where nothing is drawn on."""
    doc: Document = subject.doc
    names = populations(doc)
    if not names:
        return None
    found = {}
    for name in sorted(names):
        if name == "selection":
            found[name] = subject.chosen
        else:
            read = PromptSet.from_file(beside(folder, name))
            found[name] = oriented([encode(p, subject.lab.tokenizer) for p in read], doc)
    return found
