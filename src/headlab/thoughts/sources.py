"""What edits of the latent loop write, and the operations of each pass.

An edit that writes something captured gets it by role: the own value at the same position (``noop``); another problem's
(``resample``, ``patch``) at the same thought, ``bot`` and ``eot``, at question tokens counted from the question's end,
at generated tokens counted from the first (the last one where the donor's answer was shorter); the mean over problems
(``mean``) at each thought, ``bot`` and ``eot``, over all tokens of the question, over all generated tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headlab.engine.attention import Edit
from headlab.engine.edits import HEAD_FIRST, Rows, Source, compile_edit, to_layout
from headlab.engine.model import Lab
from headlab.engine.resume import rotation_for
from headlab.interventions import Intervention
from headlab.thoughts.loading import Thinker
from headlab.thoughts.worlds import Force, Layout, ThoughtWorld

Site = tuple[int, str]
Lent = Mapping[int, Sequence[tuple["Observed", int]]]
"""By seed: for each problem of a block its donor's run, and the donor's place in it."""


@dataclass
class Observed:
    """Unedited runs of problems of one length.

    ``thoughts`` [problem, thought, d_model]; ``kept`` {(layer, site): [problem, position, …]} up to the last position
    computed; ``alive`` [problem, answer token]: whether that token was still part of the answer.
    """

    layout: Layout
    thoughts: Tensor
    kept: dict[Site, Tensor]
    alive: Tensor

    @classmethod
    def of(cls, ran: Any, wanted: frozenset[Site], stops: Sequence[int]) -> Observed:
        kept = {}
        for layer, site in wanted:
            parts = []
            for places, seen in zip(ran.layout.passes, ran.kept, strict=False):
                x = seen[layer, site]
                x = x.transpose(1, 2) if site in HEAD_FIRST else x
                parts.append(x[:, -len(places) :])  # keys and values reach back to the first position
            kept[layer, site] = torch.cat(parts, 1)
        ended = torch.isin(ran.made, torch.tensor(list(stops) or [-1], device=ran.made.device))
        return cls(ran.layout, ran.thoughts, kept, ended.cumsum(1) == 0)

    @property
    def length(self) -> int:
        """Positions computed: the last generated token was never fed."""
        return self.layout.eot + self.alive.shape[1]

    @property
    def bytes(self) -> int:
        return sum(x.nbytes for x in (self.thoughts, self.alive, *self.kept.values()))

    def place(self, layout: Layout, position: int) -> int:
        """The position here that lends to ``position`` of another layout."""
        role = layout.role_of(position)
        if role == "question":
            return max(0, self.layout.question - (layout.question - position))
        if role == "answer":
            return min(self.layout.eot + position - layout.eot, self.length - 1)
        return self.layout.positions(role)[0]


class Means:
    """Running means over problems: of what was fed as each thought, and of sites by role."""

    def __init__(self) -> None:
        self._sums: dict[Any, Tensor] = {}
        self._counts: dict[Any, int] = {}

    def _put(self, key: Any, values: Tensor) -> None:
        """``values`` [case, …]."""
        if len(values):
            total = values.double().sum(0)
            self._sums[key] = self._sums[key] + total if key in self._sums else total
            self._counts[key] = self._counts.get(key, 0) + len(values)

    def add(self, seen: Observed) -> None:
        layout = seen.layout
        for j in range(seen.thoughts.shape[1]):
            self._put(("fed", j), seen.thoughts[:, j])
        for site, x in seen.kept.items():
            self._put((site, "question"), x[:, : layout.question].flatten(0, 1))
            for position in range(layout.question, layout.eot + 1):
                self._put((site, layout.role_of(position)), x[:, position])
            answers = x[:, layout.eot + 1 :]
            self._put((site, "answer"), answers[seen.alive[:, : answers.shape[1]]])

    def fed(self, j: int) -> Tensor:
        return self._of(("fed", j))

    def at(self, site: Site, role: str) -> Tensor:
        """The mean at a role; at ``eot`` where no answer token was ever fed."""
        return self._of((site, role) if (site, role) in self._sums else (site, "eot"))

    def _of(self, key: Any) -> Tensor:
        return (self._sums[key] / self._counts[key]).float()


def _captured(
    one: Intervention, layout: Layout, n: int, own: Observed | None, lent: Lent | None, means: Means | None
) -> tuple[Tensor | None, int]:
    """What a captured write puts at every position, [problem, position, …] as the site gives it, and up to where."""
    site = (one.layer, one.site)
    if one.write == "noop":
        assert own is not None
        return own.kept[site], own.length
    if one.write == "mean":
        assert means is not None
        rows = [means.at(site, layout.role_of(p)) for p in range(layout.length)]
        return torch.stack(rows).expand(n, *[-1] * (rows[0].dim() + 1)), layout.length
    if one.write in {"resample", "patch"}:
        assert lent is not None
        rows = []
        for seen, place in lent[one.seed]:
            index = [seen.place(layout, p) for p in range(layout.length)]
            rows.append(seen.kept[site][place][index])
        return torch.stack(rows), layout.length
    return None, layout.length


@dataclass
class _Slot:
    """One write of one shape, for the rows that make it."""

    one: Intervention
    rows: Rows
    value: Tensor | None
    where: Tensor
    keys: Tensor | None
    from_keys: Tensor | None
    rotation: Tensor | None
    names: Sequence[str]

    def edit(self, places: range) -> Edit | None:
        reach = slice(0 if self.one.site in {"k", "v"} else places.start, places.stop)
        where = self.where[:, reach]
        if not bool(where.any()):
            return None
        told = [hashlib.sha256(f"{self.one.seed} {name} {reach.start}".encode()).digest()[:7] for name in self.names]
        source = Source(
            None if self.value is None else self.value[:, reach],
            where,
            seeds=tuple(int.from_bytes(t) for t in told),
            keys=None if self.keys is None else self.keys[:, : places.stop],
            from_keys=None if self.from_keys is None else self.from_keys[:, : places.stop],
        )
        return compile_edit(self.one, source, self.rows, self.rotation)


@dataclass
class _Forced:
    """Forced attention in one layer: which heads of which rows, with which shape."""

    layer: int
    layout: Layout
    forces: list[tuple[slice, Force]]
    rows: int
    n_heads: int
    device: Any

    def edit(self, places: range) -> Edit | None:
        layout = self.layout
        if places.start < layout.prompt or layout.n_thoughts < 2 or places.start == layout.prompt:
            return None
        reader = places.start - layout.prompt if places.start < layout.eot else None
        covered = [(rows, f) for rows, f in self.forces if f.rows == "all" or (f.rows == "answer") == (reader is None)]
        if not covered:
            return None
        seen = layout.n_thoughts if reader is None else reader + 1
        mask = torch.zeros(self.rows, self.n_heads, dtype=torch.bool)
        profile = torch.zeros(self.rows, self.n_heads, seen)
        for rows, force in covered:
            if (weights := force.profile(reader, layout.n_thoughts)) is not None:
                heads = list(force.heads.at(self.layer))
                mask[rows, heads] = True
                profile[rows, heads] = torch.tensor(weights[:seen])
        mask, profile = mask.to(self.device), profile.to(self.device)
        columns = slice(layout.prompt, layout.prompt + seen)

        def edit(own: Tensor) -> Tensor:
            inside = own[..., columns]
            made = own.clone()
            made[..., columns] = inside.sum(-1, keepdim=True) * profile[:, :, None].to(own.dtype)
            return torch.where(mask[:, :, None, None], made, own)

        return edit


@dataclass
class Slots:
    """All edits of a block of rows, asked for pass by pass."""

    slots: list[_Slot]
    forced: list[_Forced]
    contents: dict[int, list[tuple[Tensor, str, Tensor | None]]] = field(default_factory=dict)

    def edits(self, places: range) -> dict[Site, list[Edit]]:
        """The operations of the pass that computes these positions."""
        out: dict[Site, list[Edit]] = {}
        for slot in self.slots:
            if (edit := slot.edit(places)) is not None:
                out.setdefault((slot.one.layer, slot.one.site), []).append(edit)
        for one in self.forced:
            if (edit := one.edit(places)) is not None:
                out.setdefault((one.layer, "pattern"), []).append(edit)
        return out

    def fed(self, vector: Tensor, j: int) -> Tensor:
        """Thought ``j`` as the rows are fed it, [row, d_model]."""
        for rows, kind, value in self.contents.get(j, ()):
            vector = vector.clone()
            if kind == "zero":
                vector[rows] = 0
            elif kind == "noise":
                assert value is not None
                vector[rows] = value.to(vector) * vector[rows].norm(dim=-1, keepdim=True)
            else:
                assert value is not None
                vector[rows] = value.to(vector)
        return vector


def slots_of(
    thinker: Thinker,
    layout: Layout,
    worlds: Sequence[ThoughtWorld],
    n: int,
    names: Sequence[str],
    own: Observed | None,
    lent: Lent | None,
    means: Means | None,
) -> Slots:
    """The edits of rows ``world × problem`` (world after world), for ``n`` problems of one layout."""
    lab = thinker.lab
    grouped: dict[Any, list[tuple[int, Intervention]]] = {}
    for w, world in enumerate(worlds):
        met: dict[Any, int] = {}
        for one in world.interventions:
            nth = met[one.shape] = met.get(one.shape, -1) + 1
            grouped.setdefault((*one.shape, nth), []).append((w, one))
    slots = [_slot(lab, layout, made, len(worlds), n, names, own, lent, means) for made in grouped.values()]
    by_layer: dict[int, list[tuple[slice, Force]]] = {}
    for w, world in enumerate(worlds):
        for force in world.forces:
            for at in force.heads.layers:
                by_layer.setdefault(at, []).append((slice(w * n, (w + 1) * n), force))
    forced = [
        _Forced(at, layout, found, n * len(worlds), lab.grid.n_heads, lab.device) for at, found in by_layer.items()
    ]
    return Slots(slots, forced, contents(thinker, worlds, n, names, own, lent, means))


def _slot(
    lab: Lab,
    layout: Layout,
    made: Sequence[tuple[int, Intervention]],
    n_worlds: int,
    n: int,
    names: Sequence[str],
    own: Observed | None,
    lent: Lent | None,
    means: Means | None,
) -> _Slot:
    one = made[0][1]
    chosen = dict(made)
    rows = Rows.of(
        [chosen.get(w, one) for w in range(n_worlds) for _ in range(n)], list(range(n)) * n_worlds, lab.grid, lab.device
    )
    idle = [w * n + i for w in range(n_worlds) if w not in chosen for i in range(n)]
    rows.heads[idle] = False
    where = torch.zeros(n, layout.length, dtype=torch.bool, device=lab.device)
    for role in one.roles or ("question", "bot", "thoughts", "eot", "answer"):
        where[:, list(layout.positions(role))] = True
    value, until = _captured(one, layout, n, own, lent, means)
    rotation = rotation_for(lab, one)
    if value is not None:
        if one.site in HEAD_FIRST or one.site == "z":
            value = value.to(lab.dtype)
        else:
            value = to_layout(one.site, value.to(lab.dtype), lab.grid.n_heads, rotation)
        short = layout.length - value.shape[1]
        if short > 0:
            value = torch.cat([value, value.new_zeros(n, short, *value.shape[2:])], 1)
    where[:, until:] = False
    sides: list[Tensor | None] = [None, None]
    for at, roles in enumerate((one.keys, one.from_keys)):
        if one.keys is not None:
            side = torch.zeros(n, layout.length, dtype=torch.bool, device=lab.device)
            for role in roles or ():
                side[:, list(layout.positions(role))] = True
            sides[at] = side
    return _Slot(one, rows, value, where, sides[0], sides[1], rotation, names)


def contents(
    thinker: Thinker,
    worlds: Sequence[ThoughtWorld],
    n: int,
    names: Sequence[str],
    own: Observed | None,
    lent: Lent | None,
    means: Means | None,
) -> dict[int, list[tuple[Tensor, str, Tensor | None]]]:
    """What is fed in place of each thought: (rows, kind, vectors [row, d_model])."""
    out: dict[int, list[tuple[Tensor, str, Tensor | None]]] = {}
    device, width = thinker.lab.device, thinker.lab.d_model
    for w, world in enumerate(worlds):
        rows = torch.arange(w * n, (w + 1) * n, device=device)
        for one in world.replaced:
            for j in one.thoughts:
                value: Tensor | None = None
                if one.by == "self":
                    assert own is not None
                    value = own.thoughts[:, j]
                elif one.by == "mean":
                    assert means is not None
                    value = means.fed(j).expand(n, -1)
                elif one.by == "resample":
                    assert lent is not None
                    value = torch.stack([seen.thoughts[place, j] for seen, place in lent[one.seed]])
                elif one.by == "noise":
                    value = torch.stack([_direction(f"{one.seed} {name} {j}", width) for name in names]).to(device)
                out.setdefault(j, []).append((rows, one.by, value))
    return out


def _direction(told: str, width: int) -> Tensor:
    """A random unit vector, the same for the same words."""
    seed = int.from_bytes(hashlib.sha256(told.encode()).digest()[:7])
    g = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return g / g.norm()


__all__ = ["Means", "Observed", "Slots", "slots_of"]
