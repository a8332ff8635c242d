"""From what is prepared to a stored record: the draft, the run that may be taken up again, the end of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from headlab.effects import Progress, quiet
from headlab.engine.identity import identity
from headlab.engine.model import Lab
from headlab.engine.recall import recalling
from headlab.engine.scale import Choice
from headlab.prompts import PromptSet
from headlab.store import Record, Result, Run, Store, content_hash
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.loading import Thinker
from headlab.trials import patterns
from headlab.trials.attainable import said_before
from headlab.trials.findings import Findings
from headlab.trials.ledger import looked_words
from headlab.trials.record import model_facts, plain_loading, versions
from headlab.trials.results import handed_on

Items = PromptSet | ProblemSet


@dataclass(frozen=True)
class How:
    """How a trial is run, apart from what is tried: where it is stored, its bound of memory, the engine of its sweeps, what
    it is called (``kind``), the line that repeats it where another function was called for it, how the model was loaded;
    ``decide``: how ranks are decided, whatever the claim says (a record from before it could is repeated so)."""

    where: Choice
    store: Store | Path | str | None = None
    memory: int | None = None
    progress: Progress = quiet
    kind: str = "trial"
    call: Mapping[str, str] | None = None
    loading: Mapping[str, object] = field(default_factory=dict)
    workers: int | None = None
    address: str | None = None
    decide: str | None = None
    dead_end: Callable[[str], object] | None = None
    """Told before anything runs that the trial can only end untestable or undecided, and why; None: it is logged."""
    looked: Mapping[str, Any] | None = None
    """How often heads were looked at before they were claimed (:func:`headlab.trials.ledger.looked_words`)."""

    @property
    def told(self) -> dict[str, object]:
        """What stands in the line that repeats a trial beside the claim and the model."""
        engine = self.where.settings.get("engine")
        return {
            **self.loading,
            "memory": self.memory,
            "engine": engine,
            "workers": self.workers,
            "address": self.address,
        }

    def before(self, why: str, call: Mapping[str, str]) -> Mapping[str, str]:
        """Say why no outcome could decide the trial, if that is so; the call that repeats it, which then needs no answer."""
        if not why:
            return call
        (self.dead_end or (lambda said: said_before([said])))(why)
        command = call.get("command", "")
        return (
            {**call, "command": f"{command} --anyway"}
            if command.startswith(("headlab trial ", "headlab run "))
            else call
        )

    @property
    def given(self) -> dict[str, Any]:
        """What loading was told, without what was left to its default."""
        return {k: v for k, v in self.loading.items() if v is not None}


@dataclass(frozen=True)
class Prepared:
    """What is tried: the claim as data, the model, the prompts.  ``kept``: the record holds the prompts themselves."""

    slug: str
    name: str
    claim: Mapping[str, Any]
    seed: int
    model: Lab | Thinker
    test: Items
    selection: Items
    kept: bool

    @property
    def lab(self) -> Lab:
        return self.model.lab if isinstance(self.model, Thinker) else self.model

    @property
    def identity(self) -> dict[str, Any]:
        """Everything of the model that its numbers depend on."""
        if isinstance(self.model, Lab):
            return identity(self.model)
        return {**identity(self.model.lab, self.model.model), "thoughts": content_hash(asdict(self.model.spec))}

    @property
    def prompts(self) -> dict[str, Any]:
        """What the record says of the prompts."""
        each = {"test": self.test, "selection": self.selection}
        said: dict[str, Any] = {k: {"n": len(s), "hash": s.content_hash()} for k, s in each.items()}
        pairs = {"pairs": (self.test.plain(), self.selection.plain())} if self.kept else {}
        return {"name": self.test.name, **said, **pairs, "first": first_of(self.test)}


def first_of(items: Items, n: int = 2) -> list[dict[str, Any]]:
    """The first ``n`` prompts as a page shows them: sides with texts and spans (role, start, end), right and wrong answers."""
    if isinstance(items, ProblemSet):
        return [
            {"id": p.id, "right": [p.answer], "wrong": [], "sides": {"question": {"text": p.question, "spans": []}}}
            for p in items.problems[:n]
        ]
    out = []
    for p in items.pairs[:n]:
        sides = {"clean": p.clean, "corrupted": p.corrupted} if p.partner else {"prompt": p.clean}
        told = {
            k: {"text": s.text, "spans": [[x.role, x.start, x.end] for x in s.spans]}
            for k, s in sides.items()
            if s.text
        }
        right, wrong = ([a for a in some if a] for some in (p.answers, (p.wrong, *p.more_wrongs)))
        out.append({"id": p.id, "right": right, "wrong": wrong, "sides": told})
    return out


def recorded(
    tried: Prepared,
    how: How,
    call: Mapping[str, str],
    find: Callable[[Run], Findings],
    *,
    facts: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Result:
    """Run ``find`` in a run of the store, or hand on what the same inputs gave before.

    ``facts``: what the settings say beside how it is run; ``inputs``: what else makes it another run.
    """
    home = how.store if isinstance(how.store, Store) else Store(how.store)
    who, threads = tried.identity, torch.get_num_threads()
    settings = {
        "memory_bytes": how.memory,
        "threads": threads,
        "loading": plain_loading(how.loading),
        "seed": tried.seed,
    }
    draft = {
        "claim": tried.claim,
        "model": {**model_facts(tried.lab), "identity": who},
        "prompts": tried.prompts,
        "settings": {
            **settings,
            **how.where.settings,
            **(facts or {}),
            **({"looked": how.looked} if how.looked else {}),
        },
        "versions": versions(),
        "call": dict(how.call) if how.call else dict(call),
    }
    known = {
        "claim": tried.claim,
        "model": who,
        "prompts": [tried.test.content_hash(), tried.selection.content_hash()],
        # sums are taken in another order: shards of two counts are not mixed (where they are made is no matter)
        "threads": how.where.threads or threads,
        **(inputs or {}),
    }
    title = f"{tried.name} on {tried.lab.name}"
    with home.open(kind=how.kind, slug=tried.slug, title=title, inputs=known, draft=draft) as run, how.where:  # type: ignore[arg-type]
        if run.finished is not None:
            return handed_on(home, run.finished)
        with recalling(tried.lab, wide=False, memory=how.memory):  # no unedited prompt twice
            found = find(run)
            _looked_on(tried, found)
        if how.looked:
            found.notes = [looked_words(how.looked), *found.notes]
        record = finished(run, found, draft["settings"])
    return handed_on(home, record, found.tables)


def _looked_on(tried: Prepared, found: Findings) -> None:
    """Keep what the claim's heads attend to, or why that is not kept."""
    if not (heads := patterns.named(tried.claim, found)):
        return
    made, why = None, "a thinking model's thoughts are no tokens"
    if isinstance(tried.model, Lab) and isinstance(tried.test, PromptSet):
        made, why = patterns.kept(tried.model, tried.test, heads)
    if made is None:
        found.notes = [*found.notes, f"What {heads} attend to is not kept: {why}."]
    else:
        found.tables.setdefault("attended", made)


def finished(run: Run, found: Findings, settings: Mapping[str, Any]) -> Record:
    """Store the tables, and end the run."""
    for name, frame in found.tables.items():
        run.table(name, frame)
    return run.finish(
        readings=found.readings,
        figures=[f.plain() for f in found.figures],
        sections=found.sections,
        notes=found.notes,
        eligibility=found.eligibility,
        settings={**settings, **found.settings},
    )
