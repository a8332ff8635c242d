"""What is tried: a model before its prompts, oriented so that the run a document edits is the one the engine edits.

:class:`Subject` is what the flow knows; :class:`Language` is an ordinary language model on prompt pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from headlab.claims import ClaimError
from headlab.effects import Progress, quiet
from headlab.engine.decode import generate
from headlab.engine.model import Lab
from headlab.engine.run import Engine, sweep
from headlab.engine.selfcheck import TOLERANCE
from headlab.heads import Grid
from headlab.interventions import World
from headlab.prompts import EncodedPair, Pair, PromptSet
from headlab.readouts import PER_TOKEN, Readout
from headlab.store import Run
from headlab.tasks.grading import Grader, grade
from headlab.trials.document import Document
from headlab.trials.measured import Array, Measured

UNEDITED = "unedited"


@runtime_checkable
class Subject(Protocol):
    """A model with test and selection prompts, and how worlds are measured on them."""

    lab: Lab
    unit: str

    @property
    def grid(self) -> Grid: ...

    @property
    def tolerance(self) -> float: ...

    def measure(
        self, worlds: Sequence[World], readouts: Mapping[str, Mapping[str, Any]], what: str, *, selection: bool = False
    ) -> Measured: ...


@dataclass
class Language:
    """A language model on prompt pairs (or single prompts, or windows of a corpus)."""

    lab: Lab
    doc: Document
    test: PromptSet
    selection: PromptSet
    encoded: list[EncodedPair]
    chosen: list[EncodedPair]
    run: Run
    progress: Progress = quiet
    memory: int | None = None
    engine: Engine | None = None
    material: Any = None
    unit: str = "pairs"
    label: str = ""
    """Before the names of what is stored: where one record holds two readings."""

    @property
    def grid(self) -> Grid:
        return self.lab.grid

    @property
    def items(self) -> list[Pair]:
        """The test pairs that are kept, with ids and clusters."""
        return [p.pair for p in self.encoded]

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.lab.dtype]

    def measure(
        self, worlds: Sequence[World], readouts: Mapping[str, Mapping[str, Any]], what: str, *, selection: bool = False
    ) -> Measured:
        """Every world under every readout, with the two unedited runs.  Shards are stored in the run."""
        pairs, what = self.chosen if selection else self.encoded, f"{self.label}{what}"
        worlds = list({w.name: w for w in worlds}.values()) or [World(UNEDITED)]
        clusters = [p.pair.cluster or p.pair.id for p in pairs]
        out = Measured({}, {}, {}, {}, clusters, self.unit)
        silent = {n: r for n, r in readouts.items() if r["kind"] != "text"}
        if silent:
            out = out.joined(self._swept(pairs, worlds, silent, what))
        for name, spec in readouts.items():
            if spec["kind"] == "text":
                out = out.joined(self._spoken(pairs, worlds, name, spec, what))
        return out

    def _swept(
        self, pairs: list[EncodedPair], worlds: list[World], readouts: Mapping[str, Mapping[str, Any]], what: str
    ) -> Measured:
        asked = tuple(Readout(s["kind"], name, *s.get("span", ())) for name, s in readouts.items())
        table = sweep(
            self.lab,
            pairs,
            worlds,
            readouts=asked,
            **self._drawn_on,
            keep=self.run,
            engine=self.engine,
            progress=self.progress,
            what=what,
            memory=self.memory,
        )
        shape = (len(pairs), len(worlds))
        names = list(readouts)

        def column(which: str, name: str) -> Array:
            label = which if name == names[0] else f"{which}@{name}"
            return table[label].to_numpy(float).reshape(shape)

        return Measured(
            {n: column("corrupted", n)[:, 0] for n in names},
            {n: column("clean", n)[:, 0] for n in names},
            {n: np.ascontiguousarray(column("edited", n).T) for n in names},
            {n: {w.name: i for i, w in enumerate(worlds)} for n in names},
            table["cluster"].to_numpy().reshape(shape)[:, 0].tolist(),
            self.unit,
            {}
            if "tokens" not in table
            else {
                r.name: np.array([float(r.scores(len(p.corrupted.ids), p.corrupted.scored)) for p in pairs])
                for r in asked
                if r.kind == "loss" or (r.kind in PER_TOKEN and not pairs[0].corrupted.answer_ids)
            },
        )

    def _spoken(
        self, pairs: list[EncodedPair], worlds: list[World], name: str, spec: Mapping[str, Any], what: str
    ) -> Measured:
        """Greedy text graded: 1 right, 0 not."""
        edited = self._graded(pairs, worlds, spec, f"text {name} {what}")
        base = self._graded(pairs, [World(UNEDITED)], spec, f"text {name} {what}, unedited")[0]
        swapped = [replace(p, corrupted=p.clean) for p in pairs]
        other = self._graded(swapped, [World(UNEDITED)], spec, f"text {name} {what}, the other run")[0]
        clusters = [p.pair.cluster or p.pair.id for p in pairs]
        return Measured(
            {name: base},
            {name: other},
            {name: edited},
            {name: {w.name: i for i, w in enumerate(worlds)}},
            clusters,
            self.unit,
        )

    def _graded(self, pairs: list[EncodedPair], worlds: list[World], spec: Mapping[str, Any], what: str) -> Array:
        start = spec.get("decode_from", "shared start")
        most = int(spec.get("tokens", 8 if start == "shared start" else 20))
        grader = grader_of(spec) or self.test.grader

        def compute() -> Any:
            made = generate(
                self.lab,
                pairs,
                worlds,
                start=start,
                max_new_tokens=most,
                memory=self.memory,
                engine=self.engine,
                progress=self.progress,
                what=what,
                **self._drawn_on,
            )
            marks = [grade(t, pairs[i].pair, grader) for i, t in zip(made["pair"], made["text"], strict=True)]
            made["parsed"], made["right"] = [m.parsed is not None for m in marks], [m.right for m in marks]
            return made

        table = self.run.shard(what, compute)
        self.spoken[what] = table
        order = {w.name: i for i, w in enumerate(worlds)}
        out = np.full((len(worlds), len(pairs)), np.nan)
        out[[order[w] for w in table["world"]], table["pair"].to_numpy()] = table["right"].to_numpy(float)
        return out

    @property
    def _drawn_on(self) -> dict[str, Any]:
        """Populations and directions, where the document names any."""
        return {} if self.material is None else {"material": self.material}

    def __post_init__(self) -> None:
        self.spoken: dict[str, Any] = {}


def grader_of(spec: Mapping[str, Any]) -> Grader | str | None:
    """How a readout of text is graded, where the document says it."""
    given = spec.get("grader")
    return Grader.from_plain(given) if isinstance(given, Mapping) else given


def check_answers(doc: Document, prompts: PromptSet) -> None:
    """Raises ClaimError where a choice of words leaves out the answers that would be right."""
    for name, spec in doc.readouts.items():
        grader = grader_of(spec)
        if isinstance(grader, Grader) and grader.kind == "choice":
            lost = [p for p in prompts if not any(grader.grade(a, p).right for a in p.answers)]
            if lost:
                raise ClaimError(
                    f"{doc.id}: the words of readout {name!r} ({', '.join(grader.words)}) hold no right answer of "
                    f"{len(lost)} of {len(prompts)} prompts, such as {lost[0].answer.strip()!r}; name every answer"
                )


def oriented(pairs: Sequence[EncodedPair], doc: Document) -> list[EncodedPair]:
    """The run that the document edits in the place of the engine's edited run; answers never swap."""
    if doc.edit == "corrupted":
        return list(pairs)
    return [replace(p, clean=p.corrupted, corrupted=p.clean) for p in pairs]


def unknown(doc: Document, name: str) -> ClaimError:
    return ClaimError(f"{doc.id}: no {name}")
