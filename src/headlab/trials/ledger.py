"""The ledger of looks: how many other designs on this model have seen these test prompts, in this store; and how often heads
were looked at on selection prompts before they were claimed.

Every design that is tried on the same prompts is another chance to be lucky; the number stands beside the verdict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from headlab.prompts import PromptSet
from headlab.store import Store
from headlab.tasks.word_problems import Problem, ProblemSet


def marks(test: PromptSet | ProblemSet) -> list[str]:
    """The clusters of the test prompts, each by its content, so that they are known again whatever they are called."""
    by: dict[str, list[str]] = {}
    for p in test:
        text = p.question if isinstance(p, Problem) else p.clean.text
        by.setdefault(p.cluster or p.id, []).append(f"{text}|{p.answer}")
    return sorted({hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:10] for texts in by.values()})


def looks(store: Store, fingerprint: str, test: PromptSet | ProblemSet, design: str) -> dict[str, int]:
    """``designs``: earlier ones on this model that touched these test clusters, the settings of one document being one by its
    ``document``, every other by its ``design_hash``; ``clusters``: how many were seen."""
    own = set(marks(test))
    designs: set[str] = set()
    touched: set[str] = set()
    for record in store.records()[0]:
        seen = own & set(record.settings.get("test_clusters", ()))
        other = record.settings.get("document") or record.settings.get("design_hash")
        if seen and other != design and record.model.get("fingerprint") == fingerprint and record.readings:
            designs.add(str(other))
            touched |= seen
    return {"designs": len(designs), "clusters": len(touched), "of": len(own)}


def looked_words(looked: Mapping[str, Any]) -> str:
    """What stands in the record of looks on selection prompts, before the claim was registered."""
    grids = ", ".join(f"{name} × {n}" if n > 1 else name for name, n in looked["grids"].items())
    counts = [f"{looked['edits']} edit(s) tried", f"{looked['patterns']} pattern(s) opened"]
    n = looked.get("tried", 0)
    sealed = (
        f"{n} claim(s) had been tried on these test prompts before"
        if n
        else "the test prompts were sealed until the claim was registered"
    )
    return (
        f"Looked before: {looked['heads']} heads looked at on {looked['pairs']} pairs ("
        f"{'; '.join([*([f'grids: {grids}'] if grids else []), *counts])}), all of them selection prompts; {sealed}."
    )


def words(found: dict[str, Any]) -> list[str]:
    """A line for the report; none where nobody looked before."""
    n, seen, of = found["designs"], found["clusters"], found["of"]
    return [f"Ledger: {n} earlier design(s) in this store looked at {seen} of these {of} clusters."] if n else []
