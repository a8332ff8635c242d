"""What interventions take from elsewhere: populations of prompts, and directions.

A *population* is prompts other than those on trial (selection prompts, or another file).  ``mean`` and ``resample``
with ``over="NAME"`` take their donors from its edited runs.  A donor lends to a position of the target by its *cell*:

``by="position"``  the same position of a prompt with as many tokens;
``by="role"``  the same place in the same role.  Of several roles that hold a position, the one with the fewest tokens
    in the target names it, spans before ``bos`` and ``last``.  A position outside every role lies in the stretch
    between two roles (or the prompt's start) and is counted from the nearer of its ends, from the left at equal
    distance.  Prompts of different length without any span have no cells;
``by="auto"``  position where every donor has as many tokens as the target, else role.

Donors of the target's own cluster never lend.  A mean over fewer than :data:`LEAST` donors is refused, by
:meth:`Population.cells`, which runs no model.

A *direction* is one vector for each head (``L3H1``), KV head (``L3KV0``) or layer (``L3``: the residual stream).

No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headlab.heads import KVHeads
from headlab.interventions import Intervention, InterventionError, World, role_positions, written
from headlab.prompts import Encoded, EncodedPair

LEAST = 8
"""Donors without which a mean is refused."""

Cell = tuple[Any, ...]
"""Where a donor lends: ``("position", tokens, prompt tokens, n)``, ``("role", role, place)`` or
``("between", left role, right role, which stretch, place from the left or -place from the right)``."""
READ: Cell = ("role", "read", 0)


def cluster_of(pair: EncodedPair) -> str:
    return pair.pair.cluster or pair.pair.id


def _spans(encoded: Encoded) -> list[str]:
    """Roles that are spans of the text."""
    return sorted(set(encoded.roles) - {"bos", "last"})


def _between(encoded: Encoded, held: Mapping[int, str]) -> Iterator[tuple[int, Cell, Cell]]:
    """Every position outside all roles, with its cell counted from the left and from the right end of its stretch."""
    seen: dict[tuple[str, str], int] = {}
    at = 0
    while at < encoded.n_prompt:
        if at in held:
            at += 1
            continue
        end = at
        while end < encoded.n_prompt and end not in held:
            end += 1
        ends = (held.get(at - 1, "start"), held.get(end, "end"))
        nth = seen[ends] = seen.get(ends, -1) + 1
        for p in range(at, end):
            yield p, ("between", *ends, nth, p - at), ("between", *ends, nth, p - end)
        at = end


def _role_of(encoded: Encoded) -> dict[int, str]:
    """The role that names each position of a prompt."""
    held: dict[int, str] = {}
    spans = sorted(_spans(encoded), key=lambda role: (len(encoded.roles[role]), role))
    for role in (*spans, "bos", "last"):
        for p in encoded.roles.get(role, ()):
            held.setdefault(p, role)
    return held


def lending(encoded: Encoded) -> dict[Cell, int]:
    """Every cell in which a prompt can lend, and its position."""
    n, length = encoded.n_prompt, len(encoded.ids)
    out: dict[Cell, int] = {("position", length, n, p): p for p in range(length)}
    roles = {**encoded.roles, "answer": tuple(range(n, length)), "read": (length - 1,)}
    out |= {("role", role, place): p for role, where in roles.items() for place, p in enumerate(where)}
    for p, left, right in _between(encoded, _role_of(encoded)):
        out |= {left: p, right: p}
    return out


def taking(encoded: Encoded, by_role: bool) -> list[Cell]:
    """The cell of each position of a target."""
    n, length = encoded.n_prompt, len(encoded.ids)
    if not by_role:
        return [("position", length, n, p) for p in range(length)]
    held = _role_of(encoded)
    out: dict[int, Cell] = {p: ("role", role, encoded.roles[role].index(p)) for p, role in held.items()}
    for p, left, right in _between(encoded, held):
        out[p] = left if left[-1] < -right[-1] else right
    out |= {p: ("role", "answer", p - n) for p in range(n, length)}
    return [out[p] for p in range(length)]


def words(cell: Cell) -> str:
    """A cell for an error message."""
    if cell[0] == "position":
        return f"position {cell[3]} of {cell[1]} tokens"
    if cell[0] == "role":
        return f"token {cell[2]} of role {cell[1]!r}"
    side = f"token {cell[4]}" if cell[4] >= 0 else f"token {-cell[4]} from the end"
    return f"{side} between {cell[1]!r} and {cell[2]!r}"


@dataclass(frozen=True)
class Population:
    """Prompts that lend: their edited runs (``EncodedPair.corrupted``)."""

    name: str
    pairs: tuple[EncodedPair, ...]

    @cached_property
    def lent(self) -> dict[Cell, dict[int, int]]:
        """For each cell the donors that have it, and where."""
        out: dict[Cell, dict[int, int]] = {}
        for d, pair in enumerate(self.pairs):
            for cell, p in lending(pair.corrupted).items():
                out.setdefault(cell, {})[d] = p
        return out

    @cached_property
    def clusters(self) -> dict[str, frozenset[int]]:
        """The donors of each cluster."""
        out: dict[str, set[int]] = {}
        for d, pair in enumerate(self.pairs):
            out.setdefault(cluster_of(pair), set()).add(d)
        return {name: frozenset(which) for name, which in out.items()}

    @cached_property
    def lengths(self) -> frozenset[tuple[int, int]]:
        return frozenset((len(p.corrupted.ids), p.corrupted.n_prompt) for p in self.pairs)

    def own(self, pair: EncodedPair) -> frozenset[int]:
        """Donors that may not lend to ``pair``: its own cluster."""
        return self.clusters.get(cluster_of(pair), frozenset())

    def _targets(self, one: Intervention, pair: EncodedPair) -> dict[int, Cell]:
        """The cells that ``one`` reads for each position that it writes in ``pair``."""
        encoded = pair.corrupted
        by_role = one.by == "role" or (one.by == "auto" and self.lengths != {(len(encoded.ids), encoded.n_prompt)})
        named = {
            p: ("role", role, n)
            for role in reversed(one.roles or ())
            for n, p in enumerate(role_positions(encoded, role))
        }
        places = [p for p, _ in written(one, pair)]
        if by_role and not _spans(encoded) and not named.keys() >= set(places):
            raise InterventionError(
                f"pair {pair.pair.id}: {one.write!r} over {self.name!r} matches prompts by role, and this prompt names "
                "no span; give spans, or prompts of one length, or write at roles: [read]"
            )
        cells = taking(encoded, by_role)
        # a role that the write names says what a token is matched by, whatever other role holds it too
        return {p: named.get(p, cells[p]) if by_role else cells[p] for p in places}

    @cached_property
    def _known(self) -> dict[Any, tuple[EncodedPair, dict[int, Cell]]]:
        return {}

    def cells(self, one: Intervention, pair: EncodedPair) -> dict[int, Cell]:
        """For each position that the ``mean`` ``one`` writes in ``pair``, the cell over which it averages.

        Raises InterventionError naming a cell with fewer than :data:`LEAST` donors and how many it has.
        """
        key = (id(pair), one.by, one.roles, one.when)
        if key in self._known and self._known[key][0] is pair:
            return self._known[key][1]
        found, own = self._targets(one, pair), self.own(pair)
        for cell in (*found.values(), READ) if one.when == "every_step" else found.values():
            n = sum(d not in own for d in self.lent.get(cell, ()))
            if n < LEAST:
                raise InterventionError(
                    f"pair {pair.pair.id}: 'mean' over {self.name!r} has {n} donor(s) for {words(cell)}, and takes at "
                    f"least {LEAST}; give more prompts, or write at roles that they share, such as roles: [read]"
                )
        self._known[key] = pair, found
        return found

    def donor(self, one: Intervention, pair: EncodedPair) -> tuple[int, dict[int, int]]:
        """The donor that ``resample`` draws for ``pair`` with the seed of ``one``, and which of its positions goes where.

        It is of another cluster and another answer and has every cell that is written; which of those is drawn does
        not depend on the order of pairs or donors.  Raises InterventionError where there is none.
        """
        found, own, mine = self._targets(one, pair), self.own(pair), _answers(pair)
        fits = set(range(len(self.pairs))) - own
        fits = {d for d in fits if not (mine and _answers(self.pairs[d]) & mine)}
        other = len(fits)
        for cell in found.values():
            fits &= self.lent.get(cell, {}).keys()
        if not other:
            raise InterventionError(
                f"pair {pair.pair.id}: 'resample' over {self.name!r} finds no donor: none of the {len(self.pairs)} has another "
                "cluster and another answer; give prompts with other answers, or write something else, such as patch or zero"
            )
        if not fits:
            raise InterventionError(
                f"pair {pair.pair.id}: 'resample' over {self.name!r} finds no donor: {other} of {len(self.pairs)} have "
                f"another cluster and another answer, none of them a token for each of the {len(found)} positions "
                "written; give more prompts, or write at roles that they share, such as roles: [read]"
            )

        def drawn(d: int) -> bytes:
            ids = f"{one.seed} {pair.pair.id} {self.pairs[d].pair.id}"
            return hashlib.sha256(ids.encode()).digest()

        chosen = min(fits, key=drawn)
        return chosen, {p: self.lent[cell][chosen] for p, cell in found.items()}

    def plain(self) -> list[Any]:
        """What of it rules a number, as JSON-ready data."""
        return [
            [p.pair.id, cluster_of(p), sorted(_answers(p)), e.ids, e.n_prompt, sorted(e.roles.items())]
            for p in self.pairs
            for e in (p.corrupted,)
        ]


def _answers(pair: EncodedPair) -> frozenset[str]:
    """The right answers of a pair."""
    several = getattr(pair.pair, "answers", None) or (pair.pair.answer,)
    return frozenset(a for a in several if a)


@dataclass(frozen=True)
class Direction:
    """``vectors`` by name: ``L3H1`` [d_head] (at ``out_block`` a block of the residual stream), ``L3KV0`` [d_head],
    ``L3`` [d_model] for ``resid``; float32.  Raises InterventionError for an empty or undefined one.
    """

    vectors: Mapping[str, Any]

    def __post_init__(self) -> None:
        made = {name: np.asarray(v, dtype=np.float32) for name, v in self.vectors.items()}
        wrong = next((n for n, v in made.items() if v.ndim != 1 or not v.size or not np.isfinite(v).all()), None)
        if not made or wrong is not None:
            given = "no vector" if wrong is None else f"{wrong}: an array of shape {made[wrong].shape}"
            raise InterventionError(f"a direction is one finite vector for each head or layer, given {given}")
        object.__setattr__(self, "vectors", dict(sorted(made.items())))

    def named(self, one: Intervention) -> dict[int, str]:
        """The vectors of the layer and kind that an intervention edits, by head (``resid``: 0).

        Raises InterventionError when a head of the intervention has none.
        """
        if one.site == "resid":
            wanted, start = [f"L{one.layer}"], ""
        else:
            start = f"L{one.layer}{'KV' if isinstance(one.heads, KVHeads) else 'H'}"
            wanted = [f"{start}{i}" for i in one.indices]
        for name in wanted:
            if name not in self.vectors:
                raise InterventionError(
                    f"direction {one.direction!r} has no vector for {name}; it has {', '.join(self.vectors)}"
                )
        if not start:
            return {0: wanted[0]}
        return {int(n[len(start) :]): n for n in self.vectors if n.startswith(start) and n[len(start) :].isdigit()}

    def norm(self, name: str) -> float:
        """The Euclidean length of one vector."""
        return float(np.linalg.norm(self.vectors[name].astype(np.float64)))

    def scaled_like(self, other: Direction) -> Direction:
        """The same directions at the norms of ``other``: what a reference at equal norm adds."""
        norms = {name: self.norm(name) for name in other.vectors}
        if zero := [name for name, n in norms.items() if not n]:
            raise InterventionError(f"the vector of {zero[0]} is zero and cannot be brought to another norm")
        return Direction({name: self.vectors[name] * (other.norm(name) / norms[name]) for name in other.vectors})

    def content_hash(self) -> str:
        digest = hashlib.sha256()
        for name, vector in self.vectors.items():
            digest.update(f"{name} {vector.size} ".encode() + vector.astype("<f4").tobytes())
        return digest.hexdigest()

    @classmethod
    def from_file(cls, path: str | Path) -> Direction:
        """From ``.safetensors`` (tensors named ``L3H1``, ``L3KV0`` or ``L3``) or ``.npy`` (an array [layer, head,
        d_head], or [layer, d_model]).  No pickle is ever read.  Raises InterventionError.
        """
        path = Path(path)
        if not path.is_file():
            raise InterventionError(f"no such file of directions: {path}; expected .safetensors or .npy")
        try:
            if path.suffix == ".safetensors":
                from safetensors.numpy import load_file

                return cls(load_file(path))
            if path.suffix != ".npy":
                raise InterventionError(f"{path}: expected .safetensors or .npy, given {path.suffix or 'no suffix'}")
            array = np.load(path, allow_pickle=False)
        except InterventionError:
            raise
        except Exception as error:  # the readers' errors have no common class
            raise InterventionError(f"{path} is not a readable {path.suffix} file: {error}") from error
        if array.ndim == 3:
            return cls({f"L{n}H{h}": v for n, layer in enumerate(array) for h, v in enumerate(layer)})
        if array.ndim == 2:
            return cls({f"L{n}": v for n, v in enumerate(array)})
        raise InterventionError(f"{path}: expected [layer, head, d_head] or [layer, d_model], given {array.shape}")


@dataclass(frozen=True)
class Material:
    """Populations (encoded pairs by name) and directions by name: what a sweep's interventions refer to."""

    populations: Mapping[str, Sequence[EncodedPair]] = field(default_factory=dict)
    directions: Mapping[str, Direction] = field(default_factory=dict)

    @cached_property
    def _made(self) -> dict[str, Population]:
        return {name: Population(name, tuple(pairs)) for name, pairs in self.populations.items()}

    @cached_property
    def _hashes(self) -> dict[str, str]:
        made = {f"over {n}": hashlib.sha256(json.dumps(p.plain()).encode()).hexdigest() for n, p in self._made.items()}
        return made | {f"direction {n}": d.content_hash() for n, d in self.directions.items()}

    def population(self, one: Intervention) -> Population:
        """The population of ``one``.  Raises InterventionError for an unknown name."""
        if one.over not in self._made:
            raise InterventionError(f"no population {one.over!r}; there is {', '.join(self._made) or 'none'}")
        return self._made[one.over]

    def direction(self, one: Intervention) -> Direction:
        """The direction of ``one``.  Raises InterventionError for an unknown name."""
        if one.direction is None or one.direction not in self.directions:
            raise InterventionError(f"no direction {one.direction!r}; there is {', '.join(self.directions) or 'none'}")
        return self.directions[one.direction]

    def content_hash(self) -> str:
        """SHA-256 of every prompt and every vector."""
        return hashlib.sha256(json.dumps(self._hashes, sort_keys=True).encode()).hexdigest()

    def mark(self, world: World) -> str:
        """The content of what a world takes from here: part of its identity.  Empty where it takes nothing."""
        names = {f"over {one.over}" for one in every(world.interventions) if one.over}
        names |= {f"direction {one.direction}" for one in every(world.interventions) if one.direction}
        return "".join(self._hashes[name] for name in sorted(names))

    def check(self, pairs: Sequence[EncodedPair], worlds: Sequence[World]) -> None:
        """Everything that the worlds refer to is there and reaches every pair, found without a model.

        Raises InterventionError.
        """
        kinds: dict[Any, Intervention] = {}
        for world in worlds:
            for one in every(world.interventions):
                if one.write == "add":
                    self.direction(one).named(one)
                elif one.over is not None:
                    kinds.setdefault((one.write, one.over, one.by, one.roles, one.when, one.seed), one)
        for one in kinds.values():
            population = self.population(one)
            look = population.cells if one.write == "mean" else population.donor
            for pair in pairs:
                look(one, pair)


def every(ones: Iterable[Intervention]) -> Iterator[Intervention]:
    """These interventions and those in whose run they are computed."""
    for one in ones:
        yield one
        yield from one.computed_in or ()
