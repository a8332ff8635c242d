"""From the worlds of a document and resolved sets to worlds of the engine.

An :class:`Arm` is one cell of one declared world for one member of a family: one engine world, or several (draws of
``resample``) whose readouts are averaged within each pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from headlab.heads import Grid, Heads, KVHeads
from headlab.interventions import Intervention, World, lasts
from headlab.thoughts.worlds import ThoughtWorld
from headlab.trials import thought_worlds
from headlab.trials.consistency import NUMERIC, axes_of
from headlab.trials.document import Document
from headlab.trials.fields import ABLATIONS, Donors, Write, WriteAxes
from headlab.trials.sets import Family, Resolved

FITTED = frozenset({"mean", "resample"})


@dataclass(frozen=True)
class Arm:
    """``draws`` of one cell: ``cell`` holds the axes' values in the order of the document; ``sampled``: the family was
    drawn at random from a larger one."""

    world: str
    cell: tuple[tuple[str, Any], ...]
    member: int
    draws: tuple[World | ThoughtWorld, ...]
    sampled: bool = False

    @property
    def values(self) -> tuple[str, ...]:
        """The cell as a statistic writes it."""
        return tuple(str(v) for _, v in self.cell)

    @property
    def heads(self) -> Heads:
        """The query heads written, over all layers (empty at ``k`` and ``v``, which belong to groups)."""
        return Heads(h for one in self.draws[0].interventions if isinstance(one.heads, Heads) for h in one.heads)

    @property
    def label(self) -> str:
        """``movers/mean``; of a family ``one/mean #3``."""
        return "/".join([self.world, *self.values]) + (f" #{self.member}" if self.member >= 0 else "")


def arms(doc: Document, subject: Any, world: str, resolved: Mapping[str, Resolved], find: Any) -> list[Arm]:
    """Every arm of a declared world.  ``find(spec)`` resolves a set that is written inside the world."""
    writes = doc.world_axes()[world]
    heads = [find(w.spec) for w in writes]
    families = [h for h in heads if isinstance(h, Family)]
    if len({len(f) for f in families}) > 1:
        sizes = " and ".join(str(len(f)) for f in families)
        raise ValueError(f"world {world!r} has families of {sizes} members; one by one they need the same number")
    members = range(len(families[0])) if families else [-1]
    axes = axes_of(doc, world)
    out = []
    for values in product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        for m in members:
            chosen = [h.members[m] if isinstance(h, Family) else h for h in heads]
            drawn = tuple(_draws(doc, subject, writes, chosen, cell, find))
            out.append(Arm(world, tuple(cell.items()), m, drawn, any(f.sampled for f in families)))
    return out


def _draws(
    doc: Document, subject: Any, writes: Sequence[WriteAxes], heads: Sequence[Heads], cell: Mapping[str, Any], find: Any
) -> Iterator[World | ThoughtWorld]:
    grid, specs = subject.grid, [w.at(cell) for w in writes]
    for draw in range(max((s.draws for s in specs if s.write == "resample"), default=1)):
        ones: list[Any] = []
        for spec, chosen in zip(specs, heads, strict=True):
            inner: tuple[Intervention, ...] | None = None
            if spec.computed_in is not None:
                inner = _inner(doc, grid, spec.computed_in, cell, draw, find)
            n = subject.thinker.spec.n_thoughts if doc.thinking else 0
            own = thought_worlds.parts(spec, chosen, n, doc.seed * 1000 + draw) if doc.thinking else None
            ones += interventions(doc, grid, spec, chosen, draw, inner) if own is None else own
        yield thought_worlds.world(ones) if doc.thinking else named(ones)


def _inner(
    doc: Document, grid: Grid, world: str, cell: Mapping[str, Any], draw: int, find: Any
) -> tuple[Intervention, ...]:
    out: list[Intervention] = []
    for write in doc.world_axes()[world]:
        chosen = find(write.spec)
        if isinstance(chosen, Family):
            raise ValueError(f"computed_in: {world!r} runs over a family; expected a world of one set")
        out += interventions(doc, grid, write.at({k: v for k, v in cell.items() if k in write.axes}), chosen, draw)
    return tuple(out)


def named(ones: Sequence[Intervention]) -> World:
    """A world that is called by what it does, so that equal worlds have one name."""
    bare = World("", tuple(ones))
    return replace(bare, name=bare.content_hash()[:20])


def interventions(
    doc: Document, grid: Grid, write: Write, heads: Heads, draw: int = 0, inner: tuple[Intervention, ...] | None = None
) -> list[Intervention]:
    """One intervention for each layer of the heads; at ``k`` and ``v`` heads mean their KV groups."""
    spoken = any(r["kind"] == "text" for r in doc.readouts.values())
    when = write.when
    if when == "auto":
        when = lasts(write.write) if spoken else "prefill"  # type: ignore[arg-type]
    more: dict[str, Any] = {}
    if write.write in FITTED:
        more |= {"over": write.mean.name, "by": write.mean.by}
    if write.write == "add":
        more["direction"] = direction_name(write)
    if inner is not None:
        more |= {"computed_in": inner, "free": write.free}
    if write.write == "exchange":
        more["donors"] = write.donors
    out = []
    for at in heads.layers:
        where: Heads | KVHeads = Heads.of(at, heads.at(at))
        if write.site in {"k", "v"}:
            where = KVHeads(at, tuple({grid.kv_group_of(i) for i in heads.at(at)}))
        out.append(
            Intervention(
                where,
                write.site,  # type: ignore[arg-type]
                write.write,  # type: ignore[arg-type]
                align=doc.align,
                when=when,
                amount=write.amount,  # type: ignore[arg-type]
                roles=write.roles,
                beyond=write.beyond,
                keys=write.keys,
                from_keys=write.from_keys,
                decoy=write.decoy,
                seed=doc.seed * 1000 + draw,
                **more,
            )
        )
    return out


def direction_name(write: Write) -> str:
    """What a direction is called among the sweep's material: where it comes from, and the site it is for."""
    d = write.direction
    source = next(f"{k} {v}" for k, v in d.items()) if isinstance(d, dict) else str(d)
    return f"{source} at {write.site}"


def doses(doc: Document, world: str) -> tuple[float, ...]:
    """The values of a world's numeric axis, or none."""
    for axis, values in axes_of(doc, world).items():
        if axis in NUMERIC:
            return tuple(float(v) for v in values)
    return ()


def populations(doc: Document) -> dict[str, Donors]:
    """Where ``mean`` and ``resample`` take their donors from, by name."""
    return {
        one.mean.name: one.mean
        for writes in doc.world_axes().values()
        for w in writes
        for one in map(w.at, w.cells())
        if one.write in FITTED
    }


def widened(
    doc: Document, grid: Grid, world: str, cell: Mapping[str, Any], layers: Sequence[int], senders: Sequence[int] = ()
) -> World:
    """The control ``whole``: every head of the touched layers under the same write; where it is computed in another
    world, every head of that world's layers (``senders``) acts there."""
    return named(list(_wide(doc, grid, world, cell, layers, senders)))


def _wide(
    doc: Document, grid: Grid, world: str, cell: Mapping[str, Any], layers: Sequence[int], senders: Sequence[int]
) -> Iterator[Intervention]:
    every = Heads(h for at in layers for h in Heads.of(at, range(grid.n_heads)))
    for write in doc.world_axes()[world]:
        spec = write.at({k: v for k, v in cell.items() if k in write.axes})
        if spec.write == "exchange":  # every head has the next one's
            n = grid.n_kv_heads if spec.site in {"k", "v"} else grid.n_heads
            spec = spec.model_copy(update={"donors": tuple((i + 1) % n for i in range(n))})
        inner = None
        if spec.computed_in is not None:
            inner = tuple(_wide(doc, grid, spec.computed_in, cell, senders, ()))
        yield from interventions(doc, grid, spec, every, inner=inner)


def ablates(doc: Document) -> bool:
    """Whether any world takes heads away."""
    return any(w.at(c).write in ABLATIONS for ws in doc.world_axes().values() for w in ws for c in w.cells())
