"""The flow of an experiment of the docket, once, whatever it measures.

layer → for each protocol that the claim is read by: eligibility → what runs → numbers → controls → verdict → tables and
figures.  An experiment declares these as plain functions; nothing here knows which claim is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from headlab.claims import PROTOCOLS, Claim, Control, Protocol, decide
from headlab.effects import Figure, Table, pivot
from headlab.heads import Grid, Heads
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.prompts import EncodedPair, encode
from headlab.stats import Estimate, Rank
from headlab.stats.sequential import Looks, Walk, rank_at, walk
from headlab.store import NamedEstimate, Reading
from headlab.trials.alternatives import levels, plan_of, remark
from headlab.trials.case import Bench
from headlab.trials.experiment import Entry
from headlab.trials.findings import Findings
from headlab.trials.pairs import choose_layer, eligibility, no_op_world, protocol_patch, with_texts
from headlab.trials.ranks import drawn_by_pair

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Found = Estimate | Rank
NO_ANSWERS = {
    "ok": True,
    "reason": "",
    "rule": "none: what heads attend to is measured, not whether answers are right",
}
"""What the record says of eligibility where only attention is read."""


@dataclass(frozen=True)
class Scope:
    """Where one protocol reads the claim: the model, the layer, the pairs it is about, the experiment's own settings."""

    case: Any
    protocol: Protocol
    layer: int
    options: Mapping[str, Any]
    able: Any = None

    @property
    def claim(self) -> Claim:
        return self.case.claim

    @property
    def lab(self) -> Any:
        return self.case.lab

    @property
    def grid(self) -> Grid:
        return self.case.lab.grid

    @property
    def seed(self) -> int:
        return self.case.seed

    @property
    def pairs(self) -> list[EncodedPair]:
        """Eligible pairs; every pair where there are too few to say anything."""
        return self.case.encoded if self.able is None else self.able.usable(self.case)

    @property
    def whole(self) -> Heads:
        """Every head of the layer."""
        return all_heads(self.grid, self.layer)

    def edit(self, name: str, heads: Heads, *, site: str = "", **fields: Any) -> World:
        """A world that patches ``heads`` from the clean run as the protocol says."""
        return protocol_patch(self.protocol, name, heads, site=site or None, **fields)

    def idle(self, site: str = "") -> tuple[World, World]:
        """What must change nothing: a patch by amount 0, and every head's own activation written back."""
        return self.edit("baseline", self.whole, site=site, amount=0.0), self.noop(site)

    def noop(self, site: str = "", heads: Heads | None = None) -> World:
        return no_op_world(self.protocol, self.whole if heads is None else heads, site or None)


@dataclass(frozen=True)
class Placed:
    """A set that is ranked among alternatives: ``shown(seen, n)`` gives its numbers and those of the first n [1 + n, pair]."""

    shown: Callable[[Seen, int], Table]
    unit: str
    tail: Literal["greater", "less"] = "greater"


@dataclass(frozen=True)
class Alternatives:
    """What nobody named, run look by look until every rank that the claim predicts is settled.

    ``worlds``: of each alternative those that it needs, in the order of the walk; ``every``: it passes all that match, the
    named one first; ``placed``: what is ranked among them, by its statistic; ``whole``: statistics that are made of all that
    were planned: none is left out where the claim predicts one.  ``own``: the named set's worlds, where they run with these;
    ``first``: they run before the sweep's.
    """

    worlds: Sequence[Sequence[World]]
    placed: Mapping[str, Placed]
    every: bool = False
    whole: Sequence[str] = ()
    own: Sequence[World] = ()
    first: bool = False

    def plan(self, claim: Claim) -> Looks:
        """When the walk is looked at."""
        all_needed = any(p.statistic in self.whole for p in claim.predictions)
        return plan_of(claim, len(self.worlds), self.every, () if all_needed else self.placed)

    def between(self, a: int, b: int) -> list[World]:
        """The worlds of some alternatives (and of the named set, at the beginning): the first of each, then the second."""
        some = [*(() if a else [self.own]), *self.worlds[a:b]]
        return [w for slot in zip_longest(*some) for w in slot if w is not None]


@dataclass(frozen=True)
class Sweep:
    """Worlds that run together.  ``texts``: greedy text is graded beside the logit difference; ``labels``: further columns of
    their rows; ``pairs``: others than those that the reading is about; ``kept``: its rows stand in the table of effects;
    ``among``: alternatives that run after them."""

    worlds: Sequence[World]
    texts: bool = False
    arm: str = "z"
    labels: Mapping[str, str] = field(default_factory=dict)
    pairs: Sequence[EncodedPair] | None = None
    kept: bool = True
    among: Alternatives | None = None

    @property
    def every(self) -> list[World]:
        """All worlds that may run."""
        return list(self.worlds) if self.among is None else self.part(self.among, 0, len(self.among.worlds))

    def part(self, among: Alternatives, a: int, b: int) -> list[World]:
        """Its own worlds, at the beginning, and those of some alternatives, each once."""
        own, others = [] if a else list(self.worlds), among.between(a, b)
        return list({w.name: w for w in ((*others, *own) if among.first else (*own, *others))}.values())


@dataclass(frozen=True)
class Told:
    """A number with its name and label.  ``shown`` only: it stands in the reading and no prediction is ruled by it."""

    name: str
    label: str
    found: Found
    arm: str = "z"
    shown: bool = False

    @property
    def plain(self) -> Estimate:
        """A rank as the estimate of its p."""
        return self.found.estimate if isinstance(self.found, Rank) else self.found

    def estimate(self) -> NamedEstimate:
        return NamedEstimate(name=self.name, label=self.label, arm=self.arm, estimate=self.plain.to_dict())


@dataclass
class Seen:
    """What ran: a table of effects for each sweep by its name, and what was made of them."""

    scope: Scope
    tables: dict[str, Any]
    told: list[Told] = field(default_factory=list)
    shared: dict[Any, Any] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    """The sweeps whose rows stand in the table of effects."""
    walks: dict[str, Walk] = field(default_factory=dict)
    """The walk through the alternatives of a sweep."""
    places: dict[str, Rank] = field(default_factory=dict)
    """Where what is ranked among them stands, by its statistic."""
    _made: dict[Any, Any] = field(default_factory=dict)

    @property
    def case(self) -> Any:
        return self.scope.case

    def __getitem__(self, name: str) -> Any:
        return self.tables[name]

    def once(self, make: Callable[[Seen], T]) -> T:
        """What ``make`` gives, made once."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    def of_case(self, make: Callable[[Any], T]) -> T:
        """What ``make`` gives of the case, made once for all readings of a trial."""
        if make not in self.shared:
            self.shared[make] = make(self.case)
        return self.shared[make]

    def of_trial(self, make: Callable[[Scope], T]) -> T:
        """What ``make`` gives of the scope, made once for all readings of a trial: nothing that their protocols tell apart."""
        if make not in self.shared:
            self.shared[make] = make(self.scope)
        return self.shared[make]

    def pairs(self, name: str) -> Any:
        """A row for each pair of a sweep: clean, corrupted, cluster."""
        return self[name].drop_duplicates("pair").sort_values("pair")

    def clusters(self, name: str) -> Any:
        return self.pairs(name)["cluster"].to_numpy()

    def values(self, name: str, worlds: Sequence[str | World], column: str = "edited") -> Any:
        """[world, pair]."""
        names = [w if isinstance(w, str) else w.name for w in worlds]
        return pivot(self[name].astype({column: float}), names, column)

    def estimate(self, name: str) -> Estimate:
        """A number told before, by its name (the first of that name)."""
        found = next(t.found for t in self.told if t.name == name)
        return found.estimate if isinstance(found, Rank) else found

    def rank(self, name: str) -> Rank:
        found = next(t.found for t in self.told if t.name == name)
        assert isinstance(found, Rank)
        return found


class Undefined(Exception):
    """What a reading is made of is not defined on this model; says why.

    A number or a control that raises it makes the reading untestable.
    """


def everything(claim: Claim, found: Mapping[str, Found]) -> Claim:
    """Every prediction is ruled."""
    return claim


def without_ranks(claim: Claim, found: Mapping[str, Found]) -> Claim:
    """A procedure without a reference rules no rank."""
    kept = tuple(p for p in claim.predictions if p.op != "rank<")
    return claim.model_copy(update={"predictions": kept or claim.predictions})


def what_is_measured(claim: Claim, found: Mapping[str, Found]) -> Claim:
    """A procedure that measures less rules only what it measures."""
    kept = tuple(p for p in claim.predictions if p.statistic in found)
    return claim.model_copy(update={"predictions": kept or claim.predictions})


def possible(scope: Scope) -> str:
    """Nothing stands in the way."""
    return ""


def unsliced(scope: Scope) -> str:
    """Why a protocol that overwrites slices cannot run on this model; empty where it can."""
    width, n = scope.lab.d_model, scope.grid.n_heads
    return "" if width % n == 0 else f"it cannot run: {width} residual channels do not divide into {n} slices"


@dataclass(frozen=True)
class Method:
    """How one protocol reads the claim.

    ``sweeps``: what runs, by name.  ``numbers``: functions from what ran to numbers; later ones may read earlier ones.
    ``controls``, ``figures``, ``tables``, ``notes``, ``settings`` (what else the record keeps) and ``sections`` (which come
    before the experiment's own): functions from what ran.  ``impossible``: why it cannot run here, or empty; ``ineligible``
    and ``undefined``: why what was seen is too little to rule on, or says nothing of the claim; ``idle``: why nothing could
    have mattered; ``withheld``: why it upholds nothing.  ``asks``: the predictions it rules.  ``also``: further readings of
    the same measurement.  ``binds``: the controls that bind it, the claim's where None.
    """

    words: str | Callable[[Seen], str]
    sweeps: Callable[[Scope], Mapping[str, Sweep]] = lambda scope: {}
    numbers: Sequence[Callable[[Seen], Iterable[Told]]] = ()
    controls: Sequence[Callable[[Seen], Control | Sequence[Control]]] = ()
    figures: Sequence[Callable[[Seen], Figure | Sequence[Figure]]] = ()
    tables: Mapping[str, Callable[[Seen], Any]] = field(default_factory=dict)
    notes: Callable[[Seen], Sequence[str]] = lambda seen: ()
    settings: Callable[[Seen], Mapping[str, Any]] = lambda seen: {}
    sections: Callable[[Seen], Mapping[str, str]] = lambda seen: {}
    impossible: Callable[[Scope], str] = possible
    ineligible: Callable[[Seen], str] = lambda seen: ""
    undefined: Callable[[Seen], str] = lambda seen: ""
    idle: Callable[[Seen], str] = lambda seen: ""
    withheld: str = ""
    asks: Callable[[Claim, Mapping[str, Found]], Claim] = everything
    also: Sequence[Callable[[Seen, Sequence[Control]], Reading]] = ()
    binds: tuple[str, ...] | None = None


def never(why: str) -> Method:
    """A reading that cannot be rebuilt, and why."""
    return Method("not run", impossible=lambda scope: why)


def layer_of(case: Bench) -> tuple[int, list[dict[str, Any]]]:
    """The claim's layer, or the one chosen on selection pairs; and the scan that chose it."""
    auto = case.claim.layer == "auto"
    return choose_layer(case, [encode(p, case.lab.tokenizer) for p in case.selection] if auto else [])


def swept(scope: Scope, name: str, one: Sweep, worlds: Sequence[World], mark: str = "") -> Table:
    """The effects of worlds of a sweep, with the protocol and the arm in front of every row."""
    pairs = scope.pairs if one.pairs is None else one.pairs
    what = f"{scope.protocol.name} {name} L{scope.layer}{mark}"
    table: Any = scope.case.sweep(pairs, worlds, what)
    if one.texts:
        table = with_texts(table, scope.case.texts(pairs, worlds, scope.protocol, what))
    table.insert(0, "protocol", scope.protocol.name)
    table.insert(1, "arm", one.arm)
    return table.assign(**one.labels)


def ran(scope: Scope, sweeps: Mapping[str, Sweep], shared: dict[Any, Any]) -> Seen:
    """What a protocol sees of its sweeps."""
    seen = Seen(scope, {}, shared=shared, kept=tuple(name for name, one in sweeps.items() if one.kept))
    for name, one in sweeps.items():
        if one.among is None:
            seen.tables[name] = swept(scope, name, one, one.worlds)
        else:
            _walked(seen, name, one, one.among)
    return seen


def _walked(seen: Seen, name: str, one: Sweep, among: Alternatives) -> None:
    """Run the worlds of a sweep and then of its alternatives, look by look, until every rank is settled."""
    claim, plan = seen.scope.claim, among.plan(seen.scope.claim)
    alphas, ready, known = levels(claim), 0, set()

    def drawn(n: int) -> None:
        nonlocal ready
        worlds = [w for w in one.part(among, ready, n) if w.name not in known]
        known.update(w.name for w in worlds)
        mark = f", to {n}" if len(plan.at) > 1 else ""
        if worlds or not ready:
            more = swept(seen.scope, name, one, worlds, mark)
            seen.tables[name] = stacked([seen.tables[name], more]) if ready else more
        ready = n

    def place(statistic: str, look: int) -> tuple[Rank | Estimate, bool]:
        n, asked = plan.at[look], among.placed[statistic]
        if n > ready:
            drawn(n)
        found = drawn_by_pair(asked.shown(seen, n), seen.clusters(name), claim)
        alpha, tests = alphas.get(statistic, claim.alpha), len(claim.predictions)
        return rank_at(found, plan, look, alpha=alpha, tests=tests, unit=asked.unit, tail=asked.tail)

    asked = [k for k in among.placed if k in alphas]
    found, path = walk(plan, asked, place, [k for k in among.placed if k not in alphas])
    pairs = len(seen.scope.pairs if one.pairs is None else one.pairs)
    ran, every = (len({w.name for w in among.between(0, n)}) * pairs for n in (path.drawn, plan.planned))
    seen.walks[name] = replace(path, passes=ran, of=every)
    seen.places |= {k: r for k, r in found.items() if isinstance(r, Rank)}


def read(scope: Scope, method: Method, shared: dict[Any, Any] | None = None) -> tuple[list[Reading], Seen | None]:
    """The claim by one protocol."""
    claim, name = scope.claim, scope.protocol.name
    if method.binds is not None:
        claim = claim.model_copy(update={"controls": tuple(c for c in claim.controls if c in method.binds)})
    why = method.impossible(scope)
    seen = ran(scope, {} if why else method.sweeps(scope), {} if shared is None else shared)
    if name == "standard" and not why:
        seen.shared["standard"] = seen
    controls: list[Control] = []
    try:
        for number in () if why else method.numbers:
            seen.told += number(seen)
        controls += flat(check(seen) for check in (() if why else method.controls))
    except Undefined as error:
        why = str(error)
    if why:
        verdict = decide(method.asks(claim, {}), {}, [], impossible=why)
        words = method.words if isinstance(method.words, str) else "not run"
        return [Reading(protocol=name, words=words, verdict=verdict)], None  # type: ignore[arg-type]
    found: dict[str, Found] = {}
    for t in seen.told:
        if not t.shown:
            found.setdefault(t.name, t.found)
    reason = (scope.able.reason if scope.able else "") or method.ineligible(seen)
    asked, why, idle = method.asks(claim, found), method.undefined(seen), method.idle(seen)
    told = {"ineligible": reason, "impossible": why, "idle": idle, "withheld": method.withheld}
    verdict = decide(asked, found, controls, **told)
    words = method.words if isinstance(method.words, str) else method.words(seen)
    estimates = tuple(t.estimate() for t in seen.told)
    own = Reading(protocol=name, words=words, verdict=verdict, estimates=estimates)  # type: ignore[arg-type]
    return [own, *(other(seen, controls) for other in method.also)], seen


def flat(some: Iterable[T | Sequence[T]]) -> list[T]:
    """Things and sequences of things as one list."""
    out: list[T] = []
    for one in some:
        out += one if isinstance(one, list | tuple) else [one]  # type: ignore[list-item]
    return out


@dataclass(frozen=True)
class Ground:
    """Where a case stands before it is read: its layer, what the record keeps of that, and its eligibility by protocol."""

    layer: int
    settings: Mapping[str, Any]
    able: Callable[[str], Any]
    facts: Callable[[Mapping[str, Any]], dict[str, Any]]
    """What the record says of eligibility, from what each protocol found of it."""


@dataclass(frozen=True, kw_only=True)
class Declared(Entry):
    """An experiment as data: a method for each protocol, and what stands beside the readings.

    ``options``: settings of its own that a claim may give, with their defaults; ``sections``: heading → text of the report;
    ``figures``: drawn from all readings together.  ``cannot``: why nothing can be measured on a case, or empty.
    ``facts``: tables of the case that are made even then.
    ``eligibility``: what the record says of it where answers are not asked for.
    """

    methods: Mapping[str, Method]
    sections: Mapping[str, str]
    figures: Sequence[Callable[[Sequence[Reading]], Figure]] = ()
    cannot: Callable[[Any], str] = lambda case: ""
    facts: Mapping[str, Callable[[Any], pd.DataFrame]] = field(default_factory=dict)
    eligibility: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] | None = None

    def ground(self, case: Any) -> Ground:
        raise NotImplementedError

    def said(self, case: Any) -> dict[str, Any]:
        """What the record says of eligibility where answers are not asked for."""
        return dict(self.eligibility(case) if callable(self.eligibility) else self.eligibility or {})

    def method(self, protocol: str) -> Method:
        """How a protocol reads the claim; one that the experiment does not know says so."""
        known = " and ".join(self.methods)
        return self.methods.get(protocol) or never(f"{self.slug} has no {protocol} reading; it is read by {known}")

    def scope(self, case: Any, protocol: str, layer: int, able: Any = None) -> Scope:
        return Scope(case, PROTOCOLS[protocol], layer, {**self.options, **case.claim.options}, able)

    def worlds(self, case: Any, layer: int) -> list[World]:
        """Every world that runs, for ``--dry-run``."""
        found: list[World] = []
        for name in case.claim.readings:
            scope = self.scope(case, name, layer)
            if self.method(name).impossible(scope):
                continue
            for sweep, one in self.method(name).sweeps(scope).items():
                found += [replace(w, name=f"{name} {sweep} {w.name}") for w in one.every]
        return found

    def tried(self, case: Any) -> Findings:
        """Every reading that the claim asks for."""
        facts = {key: make(case) for key, make in self.facts.items()}
        if why := self.cannot(case):
            verdict = decide(case.claim, {}, [], impossible=why)
            nothing = [Reading(protocol=name, words=why, verdict=verdict) for name in case.claim.readings]
            said = {"ok": False, "reason": why}
            return Findings(nothing, [], facts, said, sections=headed(self.sections))
        ground = self.ground(case)
        options = {**self.options, **case.claim.options}
        out = Findings([], [], facts, {}, settings={**ground.settings, "options": options})
        parts: dict[str, list[Any]] = {}
        suited: dict[str, Any] = {}
        shared: dict[Any, Any] = {}
        walks: dict[str, object] = {}
        for name in case.claim.readings:
            method, able = self.method(name), ground.able(name)
            suited[name] = None if able is None else able.plain()
            readings, seen = read(self.scope(case, name, ground.layer, able), method, shared)
            out.readings += readings
            if seen is None:
                continue
            out.figures += flat(draw(seen) for draw in method.figures)
            out.notes += [*method.notes(seen), *(remark(w) for w in seen.walks.values() if len(w.plan.at) > 1)]
            out.settings |= method.settings(seen)
            walks |= {f"{name} {sweep}": w.plain() for sweep, w in seen.walks.items()}
            out.sections += headed(method.sections(seen))
            if seen.kept:
                parts.setdefault("effects", []).extend(seen.tables[name] for name in seen.kept)
            for key, make in method.tables.items():
                parts.setdefault(key, []).append(make(seen))
        out.figures += [draw(out.readings) for draw in self.figures]
        out.sections += headed(self.sections)
        out.tables |= {k: stacked(some) for k, some in parts.items()}
        out.eligibility = ground.facts(suited)
        out.settings |= {"walks": walks} if walks else {}
        return out


def stacked(some: Sequence[Table]) -> Table:
    """Tables as one, in order."""
    import pandas as pd

    return some[0] if len(some) == 1 else pd.concat(some, ignore_index=True)


def headed(sections: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"heading": heading, "text": text} for heading, text in sections.items()]


@dataclass(frozen=True, kw_only=True)
class OnPairs(Declared):
    """On prompt pairs of which the model gets the clean prompt right and the corrupted one wrong (where ``eligibility`` says
    nothing else), at one layer.  ``alone``: the record speaks of eligibility by the standard protocol alone.
    ``layered``: False where no layer is chosen."""

    alone: bool = False
    layered: bool = True

    def standard(self, seen: Seen) -> Seen:
        """What the standard protocol sees, whichever reading asks: run now where the claim does not ask for it."""
        if "standard" not in seen.shared:
            able = eligibility(seen.case, PROTOCOLS["standard"]) if self.eligibility is None else None
            scope = self.scope(seen.case, "standard", seen.scope.layer, able)
            seen.shared["standard"] = ran(scope, self.methods["standard"].sweeps(scope), seen.shared)
        return seen.shared["standard"]

    def ground(self, case: Any) -> Ground:
        layer, scan = layer_of(case) if self.layered else (-1, [])
        settings = {"layer": layer, "layer_scan": scan} if self.layered else {}
        if self.eligibility is not None:
            said = self.said(case)
            return Ground(layer, settings, lambda protocol: None, lambda suited: said)
        if self.alone:
            own = eligibility(case, PROTOCOLS["standard"])
            able = {"standard": own}
            return Ground(layer, settings, able.get, lambda suited: own.plain())
        return Ground(
            layer,
            settings,
            lambda protocol: eligibility(case, PROTOCOLS[protocol]),
            lambda suited: {**suited[case.claim.readings[0]], "by_protocol": suited},
        )


@dataclass(frozen=True, kw_only=True)
class OnProblems(Declared):
    """On word problems that a thinking model answers better than the commonest answer does (where ``eligibility`` says nothing
    else)."""

    def ground(self, case: Any) -> Ground:
        if self.eligibility is not None:
            said = self.said(case)
            return Ground(-1, {}, lambda protocol: None, lambda suited: said)
        return Ground(-1, {}, lambda protocol: case.able, lambda suited: suited[case.claim.readings[0]])
