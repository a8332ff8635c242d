"""Weight moved between the keys of a layer's patterns, by dose.

1. Keys by token role: numeric, format, and the frame (what stands before and after the question).
2. Doses of one write in the even, the odd and some random halves of a layer; the same with as many other keys.
3. The place of a half among matched halves at one dose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from headlab.designs import Matched, matched_sets
from headlab.effects import Figure, Table, graded, mean_recovery
from headlab.heads import Grid, Heads, even, odd
from headlab.interventions import Intervention, InterventionError, When, World, Write, key_positions
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, Rank, bootstrap_ratio, paired_difference
from headlab.stats.crossed import rate_over_sets
from headlab.tasks.decimals import NUMERIC_ROLES
from headlab.trials import charts
from headlab.trials.alternatives import matched_halves
from headlab.trials.sweeps import Alternatives, Placed, Scope, Seen, Told

CLASSES: dict[str, tuple[str, ...]] = {
    "numeric": NUMERIC_ROLES,
    "format": ("marker", "ask", "word", "colon", "or", "question", "comma", "cue"),
    "frame": ("marker", "cue"),
}
"""Token roles by class; the frame is the part of the format that one template has and another lacks."""

EVERY_HALF = "random halves"


@dataclass(frozen=True)
class Arm:
    """One write between keys, by their token roles: ``name`` in tables, ``label`` in figures.  ``mask`` scales the weight of
    ``keys`` by 1 − amount, ``force`` makes amount their share of the row, ``redistribute`` moves that share of ``from_keys`` to
    them; ``decoy``: on as many other keys of the prompt."""

    name: str
    label: str
    write: Write
    keys: tuple[str, ...]
    from_keys: tuple[str, ...] | None = None
    decoy: bool = False

    def edit(self, heads: Heads, amount: float, *, seed: int = 0, when: When = "prefill") -> Intervention:
        """The write in these heads, at every query."""
        return Intervention(
            heads,
            "pattern",
            self.write,
            amount=amount,
            keys=self.keys,
            from_keys=self.from_keys,
            decoy=self.decoy,
            seed=seed,
            when=when,
        )

    def world(self, members: str, heads: Heads, dose: float, seed: int) -> World:
        return World(self.named(members, dose), (self.edit(heads, dose, seed=seed),))

    def named(self, members: str, dose: float) -> str:
        return f"{self.name} | {members} × {dose:g}"

    def fits(self, pairs: Sequence[EncodedPair]) -> bool:
        """Whether every prompt has enough keys for it."""
        one = self.edit(Heads(), 0.0)
        try:
            return all(key_positions(one, p.corrupted)[0] for p in pairs)
        except InterventionError:
            return False

    def against(self, pairs: Sequence[EncodedPair]) -> Arm | None:
        """The same write on as many other keys; None where a prompt has too few of them."""
        other = replace(self, name=f"{self.name}-decoy", label=f"{self.label}: as many other keys", decoy=True)
        return other if other.fits(pairs) else None


def roles_of(pairs: Sequence[EncodedPair], name: str) -> tuple[str, ...]:
    """The roles of a class that every prompt has."""
    return tuple(r for r in CLASSES[name] if all(r in p.corrupted.roles for p in pairs))


def lacking(*names: str) -> Callable[[Scope], str]:
    """Why the prompts cannot be dosed; empty when they can."""

    def why(scope: Scope) -> str:
        absent = [n for n in names if not roles_of(scope.pairs, n)]
        if not absent:
            return ""
        return f"the prompts name no {' and no '.join(absent)} tokens (roles such as {CLASSES[absent[0]][0]})"

    return why


def clean_side(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    """The same pairs with the clean prompt in the place of the corrupted one: what is edited is the clean run."""
    return [replace(p, corrupted=p.clean) for p in pairs]


def halves(grid: Grid, at: int, n: int, seed: int) -> dict[str, Heads]:
    """Even, odd, and ``n`` halves that nobody named (fewer where there are fewer)."""
    drawn = matched_sets(grid, even(grid, at), n=max(n, 1), seed=seed).sets
    others = [s for s in drawn if s not in (even(grid, at), odd(grid, at))]
    order = np.random.default_rng(seed).permutation(len(others))[:n]
    return {"even": even(grid, at), "odd": odd(grid, at), **{f"half {i}": others[j] for i, j in enumerate(order)}}


def named_halves(scope: Scope) -> dict[str, Heads]:
    return {"even": even(scope.grid, scope.layer), "odd": odd(scope.grid, scope.layer)}


def checked(scope: Scope, idle: Intervention | None = None) -> tuple[World, ...]:
    """The worlds that ``no_op`` and ``patch_all`` read: every head patched (``all``); a write of nothing new, ``idle`` or a patch
    by nothing (``baseline``); the own pattern written back (``noop``)."""
    nothing = idle or Intervention(scope.whole, "pattern", "patch", amount=0.0)
    own = (Intervention(scope.whole, "pattern", "noop"),) if scope.protocol.when == "prefill" else ()
    return scope.edit("all", scope.whole), World("baseline", (nothing,)), World("noop", own)


@dataclass(frozen=True)
class Doses:
    """Each of ``arms(scope)`` at each of ``doses(scope)``, in even, odd and random halves (these in the first arm alone; how many
    is the option ``random_halves``).  Its worlds run under the name ``sweep`` in a method's sweeps."""

    arms: Callable[[Scope], list[Arm]]
    doses: Callable[[Scope], list[float]]
    sweep: str = "doses"

    def sets(self, scope: Scope) -> dict[str, Heads]:
        return halves(scope.grid, scope.layer, int(scope.options["random_halves"]), scope.seed)

    def members(self, scope: Scope) -> Iterator[tuple[Arm, str, list[str]]]:
        """Each arm and label with the sets that it averages."""
        arms = self.arms(scope)
        for arm in arms:
            found: dict[str, list[str]] = {}
            for name in self.sets(scope):
                if arm == arms[0] or not name.startswith("half "):
                    found.setdefault(EVERY_HALF if name.startswith("half ") else name, []).append(name)
            for label, names in found.items():
                yield arm, label, names

    def worlds(self, scope: Scope) -> list[World]:
        sets = self.sets(scope)
        return [
            arm.world(name, sets[name], dose, scope.seed)
            for arm, _, names in self.members(scope)
            for name in names
            for dose in self.doses(scope)
        ]

    def curve(self, seen: Seen) -> Table:
        """Share of pairs with a positive logit difference by arm, sets and dose."""
        return seen.once(self._curve)

    def _curve(self, seen: Seen) -> Table:
        rows = []
        for arm, label, names in self.members(seen.scope):
            for dose in self.doses(seen.scope):
                hits = seen.values(self.sweep, [arm.named(m, dose) for m in names]) > 0
                e = rate_over_sets(hits, seen.clusters(self.sweep), all_subsets=len(names) == 1)
                row = {"arm": arm.name, "set": label, "dose": dose, "sets": len(names), "right": e.value}
                rows.append(row | {"low": e.low, "high": e.high, "n": e.n, "method": e.method})
        return pd.DataFrame(rows)

    def figure(self, name: str, title: str, caption: str, x_title: str, y_title: str) -> Callable[[Seen], Figure]:
        """A line for each arm and set; ``{}`` in the title is the layer."""

        def draw(seen: Seen) -> Figure:
            labels = {a.name: a.label for a in self.arms(seen.scope)}
            rows = [
                {"x": r["dose"], "y": r["right"], "low": r["low"], "high": r["high"], "n": r["n"]}
                | {"series": f"{r['set']}, {labels[r['arm']]}"}
                for r in self.curve(seen).to_dict("records")
            ]
            return charts.curve(name, title.format(seen.scope.layer), caption, rows, x_title, y_title)

        return draw


@dataclass(frozen=True)
class AmongHalves:
    """The odd heads under one write among the size- and KV-matched halves, by recovery of the logit difference (of the half
    alone: nothing is taken off for the other heads).  It runs under the name ``sweep`` in a method's sweeps."""

    arm: Callable[[Scope], Arm]
    dose: str
    """The option that holds the dose."""
    words: str
    sweep: str = "matched"

    def sets(self, scope: Scope) -> Matched:
        """The matched halves, in the order in which they are walked."""
        own, claim = odd(scope.grid, scope.layer), scope.claim
        return matched_halves(claim, claim.matched_sets, scope.grid, own, "rank:odd", scope.seed)

    def worlds(self, scope: Scope, sets: Sequence[Heads]) -> list[World]:
        arm, dose = self.arm(scope), float(scope.options[self.dose])
        return [arm.world(f"set {s}", s, dose, scope.seed) for s in (odd(scope.grid, scope.layer), *sets)]

    def among(self, scope: Scope) -> Alternatives:
        matched = self.sets(scope)
        own, *others = [[w] for w in self.worlds(scope, matched.sets)]
        return Alternatives(others, {"rank:odd": Placed(self._gained, "matched halves")}, matched.enumerated, (), own)

    def _gained(self, seen: Seen, n: int) -> Table:
        """What the write gives the odd heads and the first n matched halves [1 + n, pair]."""
        worlds = self.worlds(seen.scope, self.sets(seen.scope).sets[:n])
        return seen.values(self.sweep, worlds) - seen.pairs(self.sweep)["corrupted"].to_numpy()

    def found(self, seen: Seen) -> tuple[Estimate, Rank, Table]:
        """Recovery of the odd heads, their place, and a row for each half."""
        return seen.once(self._found)

    def _found(self, seen: Seen) -> tuple[Estimate, Rank, Table]:
        scope, one = seen.scope, seen.pairs(self.sweep)
        sets = self.sets(scope).sets[: seen.walks[self.sweep].drawn]
        edited = seen.values(self.sweep, self.worlds(scope, sets))
        clean, corrupted, clusters = (one[c].to_numpy() for c in ("clean", "corrupted", "cluster"))
        band = bootstrap_ratio(
            edited[0] - corrupted, clean - corrupted, clusters=clusters, unit="pairs", seed=scope.seed
        )
        rows = {"heads": [str(s) for s in sets], "recovery": mean_recovery(edited, clean, corrupted)[1:]}
        return band, seen.place("rank:odd"), pd.DataFrame(rows)

    def told(self, recovery: str) -> Callable[[Seen], Iterator[Told]]:
        """``rank:odd``, and ``recovery:odd`` under this label."""

        def numbers(seen: Seen) -> Iterator[Told]:
            band, place, _ = self.found(seen)
            yield Told("rank:odd", "matched halves at least as extreme", place, "pattern")
            yield Told("recovery:odd", recovery, band, "pattern", unruled=True)

        return numbers

    def table(self, seen: Seen) -> Table:
        return self.found(seen)[2]

    def figure(self, seen: Seen) -> Figure:
        band, place, rows = self.found(seen)
        caption = (
            "Each bar counts halves with as many heads in each KV group by how much of the logit difference the same write "
            f"recovers in them. The line is the half that the claim names, its band the 95 % interval over {band.n} pairs. "
            f"{place.at_least_as_extreme} of {place.n_sets} halves recover at least as much: p = {place.p:.3g}."
        )
        title = f"{self.words}, among {place.n_sets} halves of layer {seen.scope.layer} that nobody named"
        own, told = odd(seen.scope.grid, seen.scope.layer), ("the named half", "logit difference recovered", place.p)
        of = charts.Column("matched", "recovery")
        return charts.null("null", title, caption, rows["recovery"], band, *told, of=of, named=own)


def gain(effects: Any, world: str, other: str, seed: int) -> Estimate:
    """Pairs answered rightly in one world minus those in another, paired by prompt pair."""
    a, b = (graded(effects, w) for w in (world, other))
    return paired_difference(
        a["right"].to_numpy(bool), b["right"].to_numpy(bool), clusters=a["cluster"].to_numpy(), unit="pairs", seed=seed
    )
