"""The flow of an experiment of the docket, once, whatever it measures.

layer → for each protocol that the claim is read by: eligibility → what runs → numbers → controls → verdict → tables and
figures.  An experiment declares these as plain functions; nothing here knows which claim is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from headlab.claims import PROTOCOLS, Claim, Control, decide
from headlab.effects import Figure
from headlab.interventions import World
from headlab.prompts import encode
from headlab.store import Reading
from headlab.trials.alternatives import remark
from headlab.trials.case import Bench
from headlab.trials.eligibility import PAIRS_AT_LEAST, PROBLEMS_AT_LEAST
from headlab.trials.experiment import Entry
from headlab.trials.findings import Findings
from headlab.trials.pairs import choose_layer, eligibility
from headlab.trials.sweeps import Found, Scope, Seen, Sweep, Told, flat, ran, stacked

if TYPE_CHECKING:
    import pandas as pd

NO_ANSWERS = {"ok": True, "reason": "", "rule": "none: what heads attend to is measured, not whether answers are right"}
"""What the record says of eligibility where only attention is read."""


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
        if not t.unruled:
            found.setdefault(t.name, t.found)
    reason = (scope.able.reason if scope.able else "") or method.ineligible(seen)
    asked, why, idle = method.asks(claim, found), method.undefined(seen), method.idle(seen)
    told = {"ineligible": reason, "impossible": why, "idle": idle, "withheld": method.withheld}
    verdict = decide(asked, found, controls, **told)
    words = method.words if isinstance(method.words, str) else method.words(seen)
    estimates = tuple(t.estimate() for t in seen.told)
    own = Reading(protocol=name, words=words, verdict=verdict, estimates=estimates)  # type: ignore[arg-type]
    return [own, *(other(seen, controls) for other in method.also)], seen


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


def headed(sections: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"heading": heading, "text": text} for heading, text in sections.items()]


@dataclass(frozen=True, kw_only=True)
class OnPairs(Declared):
    """On prompt pairs of which the model gets the clean prompt right and the corrupted one wrong (where ``eligibility`` says
    nothing else), at one layer.  ``alone``: the record speaks of eligibility by the standard protocol alone.
    ``layered``: False where no layer is chosen."""

    alone: bool = False
    layered: bool = True

    def needed(self, claim: Claim) -> int:
        if claim.readings[0] != "standard" and (self.alone or self.eligibility is not None):
            return 0
        return self.least or (PAIRS_AT_LEAST if self.eligibility is None else 0)

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

    def needed(self, claim: Claim) -> int:
        return self.least or (PROBLEMS_AT_LEAST if self.eligibility is None else 0)

    def ground(self, case: Any) -> Ground:
        if self.eligibility is not None:
            said = self.said(case)
            return Ground(-1, {}, lambda protocol: None, lambda suited: said)
        return Ground(-1, {}, lambda protocol: case.able, lambda suited: suited[case.claim.readings[0]])
