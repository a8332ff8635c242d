"""What a trial of a document would take, on one model or over several: worlds and passes counted, nothing of it run.

Sets by score, layers and norms are chosen when it runs; here as many heads stand in their place, which changes no count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from headlab.claims import ClaimError
from headlab.engine.run import dry_run
from headlab.experiments import documents, over_models
from headlab.heads import Head
from headlab.readouts import Readout
from headlab.thoughts.loading import Thinker
from headlab.trials import controls, sets
from headlab.trials.alternatives import plan_of
from headlab.trials.cells import chosen, is_over, lacking, loading, one_cell, read_by
from headlab.trials.choices import Choices
from headlab.trials.document import Document
from headlab.trials.fields import needs_selection
from headlab.trials.material import material
from headlab.trials.recorded import How
from headlab.trials.run import Trial
from headlab.trials.subject import Language, oriented

_SUMS = ("worlds", "passes", "rows", "tokens", "shards", "seconds")


@dataclass
class _Guessed(Choices):
    """Choices that nothing was measured for: the middle layer, and heads in their order where a score decides."""

    def choose_layers(self) -> None:
        if self.doc.layer == "auto" and self.doc.layer_rule == "most":
            attending = [s.layer for s in self.subject.lab.slots]
            self.layers = (attending[len(attending) // 2],)
        else:
            super().choose_layers()

    def _score(self, name: str, resolved: Any, redraw: Any) -> Mapping[Head, float]:
        return {h: -float(n) for n, h in enumerate(sets.everything(self.subject.grid))}


class _Dry(Trial):
    @cached_property
    def choices(self) -> Choices:
        made = _Guessed(self.doc, self.subject, self.folder)
        made.choose_layers()
        return made

    def counted(self) -> list[Any]:
        """Every world that would run on test prompts: named, controls, and all alternatives that could be drawn."""
        own = self.compiled(self.sets, self.worlds_run(), {})
        flat = [a for found in own.values() for a in found]
        arms = [
            *flat,
            *(w.arm for w in controls.wholes(self.doc, self.subject, flat)),
            *(a for _, a in self._mirrored(flat)),
        ]
        worlds = [w for a in arms for w in a.draws] + controls.no_ops(self.subject.grid, flat)
        if self.matched is not None and any(a.read.rank for a in self.asked):
            most = plan_of(self.doc, len(self.matched.sets), self.matched.enumerated).at[-1]
            for arms_ in self.redrawn(self.matched.sets[:most]):
                worlds += [w for each in arms_.values() for a in each for w in a.draws]
        return list({w.name: w for w in worlds}.values())


def plan(
    doc: Document, given: Any, model: Any, how: How, *, changes: Mapping[str, Any], own: Any = None
) -> dict[str, Any]:
    """Passes, rows, memory, seconds (from one timed batch) at most; over models, revisions or settings of each cell, and in all.

    Raises ClaimError for a thinking model, whose latent loop is not counted.
    """
    changed, folder = documents.adjusted(doc, changes)[0], documents.folder_of(given)
    if changed.thinking:
        raise ClaimError(f"{doc.id} runs the latent loop, whose passes --dry-run does not count")
    if not is_over(changed):
        return _one(changed, model, how, own, folder)
    some = chosen(changed, model, how.loading, folder)
    lacking(changed, some, folder)
    read, each = read_by(changed, some, own, folder), []
    for cell in some:
        one = replace(how, loading={**how.loading, **loading(changed, cell)})
        each.append(_one(one_cell(changed, cell.setting), cell.model, one, read[cell.setting], folder))
        over_models.free()
    found = zip((c.name for c in some), each, strict=True)
    lines = [f"{name}: {p['worlds']:,} worlds, {p['passes']:,} passes, {p['seconds']:,.1f} s" for name, p in found]
    whole = {k: sum(p[k] for p in each) for k in _SUMS}
    most = {"memory_bytes": max(p["memory_bytes"] for p in each)}
    beside = {k: each[0][k] for k in ("not counted",) if k in each[0]}
    return {"claim": doc.id, "cells": len(some), "pairs": each[0]["pairs"], **whole, **most, "cell": lines, **beside}


def _one(doc: Document, model: object, how: How, own: object, folder: Path) -> dict[str, Any]:
    """What one model would take; it is let go of at the end."""
    loaded, test, selection = documents.prepared(doc, model, own, how.loading, folder)
    assert not isinstance(loaded, Thinker)
    if doc.reference is not None:
        match = tuple(m for m in doc.reference.match if m != "norm")
        doc = doc.model_copy(update={"reference": doc.reference.model_copy(update={"match": match})})
    tests, chosen = (oriented(documents.prompts_encoded(s, loaded), doc) for s in (test, selection))
    subject = Language(loaded, doc, test, selection, tests, chosen, run=None)  # type: ignore[arg-type]
    subject.material = material(subject, folder)
    worlds = _Dry(doc, subject, folder).counted()
    read = tuple(Readout(s["kind"], n, *s.get("span", ())) for n, s in doc.readouts.items() if s["kind"] != "text")
    told = {"material": subject.material, **({"readouts": read} if read else {})}
    left = ["what is measured on selection prompts to choose layers, sets and scores"] * needs_selection(doc)
    left += ["greedy text, generated in every world that is read by it"] * (len(read) < len(doc.readouts))
    return {
        "claim": doc.id,
        "model": loaded.name,
        "pairs": len(test),
        "worlds": len(worlds),
        **dry_run(loaded, tests, worlds, memory=how.memory, **told),
        **({"not counted": left} if left else {}),
    }
