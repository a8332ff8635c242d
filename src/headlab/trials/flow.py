"""The flow of an experiment of the docket, once, whatever it measures.

layer → for each protocol that the claim is read by: eligibility → what runs → numbers → controls → verdict → tables and
figures.  An experiment declares these as plain functions; nothing here knows which claim is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from headlab.claims import PROTOCOLS, Claim, Control, Protocol, decide
from headlab.effects import Figure, pivot
from headlab.heads import Grid, Heads
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.prompts import EncodedPair, encode
from headlab.stats import Estimate, Rank
from headlab.store import NamedEstimate, Reading
from headlab.trials.case import Bench
from headlab.trials.experiment import Entry
from headlab.trials.findings import Findings
from headlab.trials.pairs import Eligibility, choose_layer, eligibility, no_op_world, protocol_patch, with_texts

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Found = Estimate | Rank


@dataclass(frozen=True)
class Scope:
    """Where one protocol reads the claim: the model, the layer, the pairs it is about, the experiment's own settings."""

    case: Bench
    protocol: Protocol
    layer: int
    options: Mapping[str, Any]
    able: Eligibility | None = None

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
        baseline = self.edit("baseline", self.whole, site=site, amount=0.0)
        return baseline, no_op_world(self.protocol, self.whole, site or None)


@dataclass(frozen=True)
class Sweep:
    """Worlds that run together.  ``texts``: greedy text is graded beside the logit difference; ``labels``: further columns of
    their rows; ``pairs``: others than those that the reading is about."""

    worlds: Sequence[World]
    texts: bool = False
    arm: str = "z"
    labels: Mapping[str, str] = field(default_factory=dict)
    pairs: Sequence[EncodedPair] | None = None


@dataclass(frozen=True)
class Told:
    """A number with its name and label.  ``shown`` only: it stands in the reading and no prediction is ruled by it."""

    name: str
    label: str
    found: Found
    arm: str = "z"
    shown: bool = False

    def estimate(self) -> NamedEstimate:
        plain = self.found.estimate if isinstance(self.found, Rank) else self.found
        return NamedEstimate(name=self.name, label=self.label, arm=self.arm, estimate=plain.to_dict())


@dataclass
class Seen:
    """What ran: a table of effects for each sweep by its name, and what was made of them."""

    scope: Scope
    tables: dict[str, Any]
    told: list[Told] = field(default_factory=list)
    _made: dict[Any, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.tables[name]

    def once(self, make: Callable[[Seen], T]) -> T:
        """What ``make`` gives, made once."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

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
    ``controls``, ``figures``, ``tables``, ``notes``: functions from what ran.  ``impossible``: why it cannot run here, or
    empty.  ``asks``: the predictions it rules.  ``also``: further readings of the same measurement.  ``binds``: the controls
    that bind it, the claim's where None.
    """

    words: str
    sweeps: Callable[[Scope], Mapping[str, Sweep]]
    numbers: Sequence[Callable[[Seen], Iterable[Told]]]
    controls: Sequence[Callable[[Seen], Control]] = ()
    figures: Sequence[Callable[[Seen], Figure]] = ()
    tables: Mapping[str, Callable[[Seen], Any]] = field(default_factory=dict)
    notes: Callable[[Seen], Sequence[str]] = lambda seen: ()
    impossible: Callable[[Scope], str] = possible
    asks: Callable[[Claim, Mapping[str, Found]], Claim] = everything
    also: Sequence[Callable[[Seen, Sequence[Control]], Reading]] = ()
    binds: tuple[str, ...] | None = None


def layer_of(case: Bench) -> tuple[int, list[dict[str, Any]]]:
    """The claim's layer, or the one chosen on selection pairs; and the scan that chose it."""
    auto = case.claim.layer == "auto"
    return choose_layer(case, [encode(p, case.lab.tokenizer) for p in case.selection] if auto else [])


def swept(scope: Scope, sweeps: Mapping[str, Sweep]) -> dict[str, pd.DataFrame]:
    """The effects of each sweep, with the protocol and the arm in front of every row."""
    out: dict[str, Any] = {}
    for name, one in sweeps.items():
        pairs = scope.pairs if one.pairs is None else one.pairs
        what = f"{scope.protocol.name} {name} L{scope.layer}"
        table: Any = scope.case.sweep(pairs, one.worlds, what)
        labels = {"protocol": scope.protocol.name, "arm": one.arm, **one.labels}
        if one.texts:
            table = with_texts(table, scope.case.texts(pairs, one.worlds, scope.protocol, what))
        for n, (key, value) in enumerate(labels.items()):
            table.insert(n, key, value)
        out[name] = table
    return out


def read(scope: Scope, method: Method) -> tuple[list[Reading], Seen | None]:
    """The claim by one protocol."""
    claim, name = scope.claim, scope.protocol.name
    if method.binds is not None:
        claim = claim.model_copy(update={"controls": tuple(c for c in claim.controls if c in method.binds)})
    if why := method.impossible(scope):
        verdict = decide(method.asks(claim, {}), {}, [], impossible=why)
        return [Reading(protocol=name, words=method.words, verdict=verdict)], None  # type: ignore[arg-type]
    seen = Seen(scope, swept(scope, method.sweeps(scope)))
    for number in method.numbers:
        seen.told += number(seen)
    found: dict[str, Found] = {}
    for t in seen.told:
        if not t.shown:
            found.setdefault(t.name, t.found)
    controls = [check(seen) for check in method.controls]
    reason = scope.able.reason if scope.able else ""
    verdict = decide(method.asks(claim, found), found, controls, ineligible=reason)
    estimates = tuple(t.estimate() for t in seen.told)
    own = Reading(protocol=name, words=method.words, verdict=verdict, estimates=estimates)  # type: ignore[arg-type]
    return [own, *(other(seen, controls) for other in method.also)], seen


@dataclass(frozen=True, kw_only=True)
class Declared(Entry):
    """An experiment as data: a method for each protocol, and what stands beside the readings.

    ``options``: settings of its own that a claim may give, with their defaults (all of them stand in the record);
    ``sections``: heading → text of the report; ``settings``: what else the record keeps; ``figures``: drawn from all
    readings together.
    """

    methods: Mapping[str, Method] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    settings: Callable[[Scope], Mapping[str, Any]] = lambda scope: {}
    figures: Sequence[Callable[[Sequence[Reading]], Figure]] = ()

    def scope(self, case: Bench, protocol: str, layer: int, able: Eligibility | None = None) -> Scope:
        return Scope(case, PROTOCOLS[protocol], layer, {**self.options, **case.claim.options}, able)

    def worlds(self, case: Bench, layer: int) -> list[World]:
        """Every world that runs, for ``--dry-run``."""
        found: dict[str, World] = {}
        for name in case.claim.readings:
            scope = self.scope(case, name, layer)
            if not self.methods[name].impossible(scope):
                found |= {w.content_hash(): w for s in self.methods[name].sweeps(scope).values() for w in s.worlds}
        return list(found.values())

    def tried(self, case: Bench) -> Findings:
        """Every reading that the claim asks for."""
        import pandas as pd

        layer, scan = layer_of(case)
        readings: list[Reading] = []
        figures: list[Figure] = []
        parts: dict[str, list[Any]] = {}
        suited: dict[str, Any] = {}
        notes: list[str] = []
        for name in case.claim.readings:
            method, able = self.methods[name], eligibility(case, PROTOCOLS[name])
            suited[name] = able.plain()
            scope = self.scope(case, name, layer, able)
            found, seen = read(scope, method)
            readings += found
            if seen is None:
                continue
            figures += [draw(seen) for draw in method.figures]
            notes += method.notes(seen)
            parts.setdefault("effects", []).extend(seen.tables.values())
            for key, make in method.tables.items():
                parts.setdefault(key, []).append(make(seen))
        return Findings(
            readings,
            [*figures, *(draw(readings) for draw in self.figures)],
            {name: pd.concat(some, ignore_index=True) for name, some in parts.items()},
            {**suited[case.claim.readings[0]], "by_protocol": suited},
            settings={"layer": layer, "layer_scan": scan, **self.settings(self.scope(case, "standard", layer))},
            sections=[{"heading": heading, "text": text} for heading, text in self.sections.items()],
            notes=notes,
        )
