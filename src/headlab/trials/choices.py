"""What is chosen on selection prompts and never on test prompts: the layer of pools, scores of heads, sets made of them.

A reference redraws one set and makes everything that follows from it anew: :meth:`Choices.resolve` is given the redrawn
set, and measures on selection prompts whatever sets by score then need, for all redrawn documents in few sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headlab.claims import ClaimError
from headlab.heads import Head, Heads
from headlab.heads import layer as whole_layer
from headlab.interventions import Intervention, World
from headlab.trials import expressions, score_files, scores, sets
from headlab.trials.document import Document
from headlab.trials.fields import needs_layer
from headlab.trials.measured import Measured, name_of
from headlab.trials.sets import Family, Resolved, Scene, SetSpec
from headlab.trials.statistics import Statistics, cells
from headlab.trials.worlds import Arm, arms


class _Need(Exception):
    """Worlds that must be measured on selection prompts before a set can be resolved."""

    def __init__(self, worlds: Sequence[Any]) -> None:
        super().__init__(f"{len(worlds)} worlds")
        self.worlds = worlds


@dataclass
class Choices:
    """The choices of one trial."""

    doc: Document
    subject: Any
    folder: Path = Path(".")
    layers: tuple[int, ...] = ()
    scan: list[dict[str, Any]] = field(default_factory=list)
    measured: Measured | None = None
    fixed: dict[str, Mapping[Head, float]] = field(default_factory=dict)
    rounds: int = 0

    def choose_layers(self) -> None:
        """The layers of pools: those the document names, or by its rule, on selection prompts."""
        doc, grid = self.doc, self.subject.grid
        attending = [s.layer for s in self.subject.lab.slots]
        if doc.layer != "auto":
            given = doc.layer if isinstance(doc.layer, tuple) else (doc.layer,)
            self.layers = tuple(grid.check_layer(int(at)) for at in given)
        elif not needs_layer(doc) or doc.layer_rule == "every":
            self.layers = tuple(attending)
        else:
            patches = doc.edit == "corrupted"
            write: dict[str, Any] = {} if patches else {"write": "mean", "over": "selection"}
            worlds = [
                World(f"L{at}", (Intervention(whole_layer(grid, at), align=doc.align, **write),)) for at in attending
            ]
            name = name_of(doc, "")
            kind = dict(doc.readouts[name])
            if kind["kind"] == "text":  # the layer is chosen by the margin: as many pairs in a fraction of the passes
                name, kind = "margin", {"kind": "margin"}
            seen = self.subject.measure(worlds, {name: kind}, "choosing a layer", selection=True)
            edited = seen.edited[name]
            if patches:
                share = [float((edited[i] > 0).mean()) for i in range(len(attending))]
            else:
                sign = -1 if kind["kind"] in {"loss", "kl", "place"} else 1
                share = [float(sign * (seen.base[name] - edited[i]).mean()) for i in range(len(attending))]
            label = "repaired" if patches else "drop"
            self.scan = [{"layer": at, label: s, "pairs": seen.n} for at, s in zip(attending, share, strict=True)]
            best = max(range(len(attending)), key=lambda i: (share[i], -attending[i]))
            self.layers = (attending[best],)

    def resolve(self, redraws: Sequence[Mapping[str, Heads]]) -> list[dict[str, Resolved]]:
        """All declared sets, for each redrawn document (``{}``: the document as it stands).

        Raises SetError for a set that holds no head, ClaimError for a score that has no one number for each head.
        """
        done: dict[int, dict[str, Resolved]] = {}
        while len(done) < len(redraws):
            wanted: dict[str, Any] = {}
            for i, redraw in enumerate(redraws):
                if i in done:
                    continue
                try:
                    done[i] = self._one(redraw)
                except _Need as need:
                    wanted |= {w.name: w for w in need.worlds}
            if wanted:
                self._measure(list(wanted.values()))
        return [done[i] for i in range(len(redraws))]

    def find(self, resolved: Mapping[str, Resolved], redraw: Mapping[str, Heads] | None = None) -> Any:
        """What resolves a set that is written inside a world."""
        scene = self._scene(dict(resolved), redraw or {})
        return lambda spec: sets.resolve(spec, scene, "a set in a world")

    def score(self, name: str) -> Mapping[Head, float]:
        """A score of the document as it stands."""
        resolved = self.resolve([{}])[0]
        return self._score(name, resolved, {})

    def _scene(self, resolved: dict[str, Resolved], redraw: Mapping[str, Heads]) -> Scene:
        every = {"all": sets.everything(self.subject.grid)}
        return Scene(
            self.subject.grid,
            self.layers,
            {**every, **resolved},
            lambda n: self._score(n, resolved, redraw),
            self.doc.seed,
            self.folder,
        )

    def _one(self, redraw: Mapping[str, Heads]) -> dict[str, Resolved]:
        specs = self.doc.set_specs()
        resolved: dict[str, Resolved] = dict(redraw)

        def need(spec: SetSpec) -> None:
            for name in sorted(spec.names):
                make(name)
            for name in sorted(spec.scores):
                for inner in self._below(name):
                    make(inner)

        def make(name: str) -> None:
            if name in resolved or name == "all":
                return
            need(specs[name])
            resolved[name] = sets.resolve(specs[name], self._scene(resolved, redraw), f"set {name!r}")

        for name in specs:
            make(name)
        return resolved

    def _below(self, score: str) -> list[str]:
        """The declared sets in the worlds of a score that is an expression."""
        spec = self.doc.scores.get(score)
        if not (isinstance(spec, str) and ":" in spec):
            return []
        worlds = {t.world for t in expressions.parse(spec).terms}
        return sorted(
            {n for w in worlds for write in self.doc.world_axes()[w] for n in write.spec.names if n in self.doc.sets}
        )

    def _score(self, name: str, resolved: dict[str, Resolved], redraw: Mapping[str, Heads]) -> Mapping[Head, float]:
        spec = self.doc.scores.get(name, name)
        if isinstance(spec, str) and ":" in spec:
            return self._expressed(name, spec, resolved, redraw)
        if name not in self.fixed:
            if isinstance(spec, Mapping) and "file" in spec:
                self.fixed[name] = score_files.scores(self.folder / spec["file"])
            elif isinstance(spec, Mapping):
                self.fixed[name] = scores.attention(self.subject, *spec["attention"])
            else:
                self.fixed[name] = scores.builtin(self.subject, str(spec))
        return self.fixed[name]

    def _expressed(
        self, name: str, text: str, resolved: dict[str, Resolved], redraw: Mapping[str, Heads]
    ) -> Mapping[Head, float]:
        """A score measured in worlds over single heads, on selection prompts."""
        doc = self.doc
        found = cells(doc, expressions.parse(text))
        if len(found) != 1:
            raise ClaimError(f"score {name!r} is read in {len(found)} cells; pin one, such as drop:one/mean")
        read = found[0]
        find = self.find(resolved, redraw)
        made = {w: arms(doc, self.subject, w, resolved, find) for w in {t.world for t in read.terms}}
        asked = {name_of(doc, t.readout) for t in read.terms}
        needed = _used(read, made)
        missing = [a for a in needed if not all(self.measured and self.measured.has(a, r) for r in asked)]
        if missing:
            raise _Need([w for a in missing for w in a.draws])
        assert self.measured is not None
        values = Statistics(doc, self.measured).each(read, made)
        heads = self._members(name, read, resolved)
        return dict(zip(heads, map(float, values), strict=True))

    def _members(self, name: str, read: expressions.Expression, resolved: Mapping[str, Resolved]) -> list[Head]:
        for term in read.terms:
            for write in self.doc.world_axes()[term.world]:
                for inner in write.spec.walk():
                    family = resolved.get(inner.name) if inner.kind == "name" else None
                    if isinstance(family, Family) and all(len(m) == 1 for m in family.members):
                        return [next(iter(m)) for m in family.members]
        raise ClaimError(f"score {name!r} needs a world over a declared set {{singles: …}}: one number for each head")

    def _measure(self, worlds: list[Any]) -> None:
        self.rounds += 1
        seen = self.subject.measure(worlds, self.doc.readouts, f"selection {self.rounds}", selection=True)
        self.measured = seen if self.measured is None else self.measured.joined(seen)


def _used(read: expressions.Expression, made: Mapping[str, Sequence[Arm]]) -> list[Arm]:
    """The arms that an expression reads."""
    out = []
    for term in read.terms:
        out += [a for a in made[term.world] if not term.cell or tuple(a.values) == term.cell]
    return out
