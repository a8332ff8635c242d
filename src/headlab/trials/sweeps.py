"""What one protocol sees of a claim: where it reads, what it sweeps, the walk through the alternatives, what was seen.

Nothing here rules: :mod:`headlab.trials.flow` makes readings of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from headlab.claims import Claim, Protocol
from headlab.effects import Table, pivot
from headlab.heads import Grid, Heads
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.prompts import EncodedPair
from headlab.reading import meant, some
from headlab.stats import Estimate, Rank
from headlab.stats.sequential import Looks, Walk, rank_at, walk
from headlab.store import NamedEstimate
from headlab.trials.alternatives import levels, plan_of
from headlab.trials.pairs import no_op_world, protocol_patch, with_texts
from headlab.trials.ranks import drawn_by_pair

if TYPE_CHECKING:
    pass


T = TypeVar("T")
Found = Estimate | Rank


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
    """A number with its name and label; ``arm`` is the site (or other group of numbers) that it stands under.  ``unruled``: it
    stands in the reading and no prediction is ruled by it."""

    name: str
    label: str
    found: Found
    arm: str = "z"
    unruled: bool = False

    @property
    def plain(self) -> Estimate:
        """A rank as the estimate of its p."""
        return self.found.estimate if isinstance(self.found, Rank) else self.found

    def estimate(self) -> NamedEstimate:
        return NamedEstimate(name=self.name, label=self.label, arm=self.arm, estimate=self.plain.to_dict())


def under(name: str, known: Mapping[str, T], what: str) -> T:
    """What stands under a name.  Raises KeyError that says which names there are."""
    if name not in known:
        raise KeyError(f"{what} {name!r}; expected one of {some(known, 12) or 'none'}{meant(name, known)}")
    return known[name]


@dataclass
class Seen:
    """What ran: a table of effects for each sweep by its name, and what was made of them.

    Raises KeyError where a sweep, rank or number is asked for under a name that none has.
    """

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
        return under(name, self.tables, "no sweep ran as")

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
        found = self._told(name)
        return found.estimate if isinstance(found, Rank) else found

    def rank(self, name: str) -> Rank:
        found = self._told(name)
        assert isinstance(found, Rank)
        return found

    def _told(self, name: str) -> Found:
        return under(name, {t.name: t.found for t in reversed(self.told)}, "no number was told before as")

    def place(self, name: str) -> Rank:
        """Where what is ranked among alternatives stands."""
        return under(name, self.places, "nothing was ranked as")


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


def flat(some: Iterable[T | Sequence[T]]) -> list[T]:
    """Things and sequences of things as one list."""
    out: list[T] = []
    for one in some:
        out += one if isinstance(one, list | tuple) else [one]  # type: ignore[list-item]
    return out


def stacked(some: Sequence[Table]) -> Table:
    """Tables as one, in order."""
    import pandas as pd

    return some[0] if len(some) == 1 else pd.concat(some, ignore_index=True)
