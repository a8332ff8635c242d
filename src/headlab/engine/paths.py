"""Path patching: what a receiver's site held in another run of the edited prompt.

For the rows of a batch whose world has writes with ``computed_in``:

1. Rows run once for each such run: its own interventions act; every other head, from their first layer up to below
   the last receiver, keeps the z of the unedited run (unless ``free``); MLPs and norms run.  The pass stops once the
   last receiver's site is there.  A receiver's value is taken before its head is held.
2. The values are written by the rows' own pass, as a patch.

Only what the run's interventions can change is run (:mod:`headlab.engine.resume`), and only that is written.  Layers
without softmax attention have no heads to hold; they run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from headlab.engine.attention import Edit, Stop, Tape
from headlab.engine.edits import Rows, Source, to_layout, upload
from headlab.engine.model import Lab
from headlab.engine.passes import EngineError, forward, skipping
from headlab.engine.resume import Corrupted, edits_of, run_through
from headlab.interventions import SITES, Intervention, written
from headlab.prompts import EncodedPair


@dataclass(frozen=True)
class Run:
    """A run in which receivers are computed: its interventions, the receivers' places in the world, and its layers."""

    ones: tuple[Intervention, ...]
    free: bool
    receivers: tuple[int, ...]
    layers: range
    last: tuple[int, str]
    """The site after which nothing is needed."""


def runs_of(world: Sequence[Intervention]) -> list[Run]:
    """The runs that a world's writes are computed in, each once."""
    grouped: dict[Any, list[int]] = {}
    for n, one in enumerate(world):
        if one.computed_in is not None:
            grouped.setdefault((one.computed_in, one.free), []).append(n)
    out = []
    for (ones, free), receivers in grouped.items():
        top = max(world[n].layer for n in receivers)
        ends_in_z = any(world[n].layer == top and world[n].site == "z" for n in receivers)
        layers = range(min(one.layer for one in ones), top + 1)
        out.append(Run(ones, free, tuple(receivers), layers, (top, "z" if ends_in_z else "v")))
    return out


def held_layers(lab: Lab, run: Run) -> list[int]:
    """The layers whose other heads keep the unedited run's z."""
    return [] if run.free else [at for at in run.layers[:-1] if at in lab.attentions]


def kept_of(lab: Lab, run: Run) -> set[tuple[int, str]]:
    """What of the unedited run such a run starts from and holds."""
    sites = {(at, "z") for at in held_layers(lab, run)}
    if lab.can_resume and lab.can_reuse:
        sites |= {(at, site) for at in run.layers if at in lab.attentions for site in "kv"}
    return sites


@runtime_checkable
class Ground(Protocol):
    """What rows of one length start from (:class:`headlab.engine.work.Block`)."""

    pairs: list[EncodedPair]
    ids: Tensor

    @property
    def corrupted(self) -> Corrupted: ...

    def source(self, one: Intervention) -> Source: ...

    def first(self, one: Intervention, pair: int) -> int:
        """The first position of a pair at which ``one`` can change anything."""
        ...


def computed(
    lab: Lab, ground: Ground, world: Sequence[Intervention], rows: Mapping[int, Sequence[Rows]]
) -> dict[int, tuple[Source, Rows]]:
    """The source of each write that is computed in another run, by its place in the world: one value for each *row*.

    ``rows[n]``: the batch's rows of write n and of the interventions of its run.  The rows that come back take their
    own value.
    """
    out: dict[int, tuple[Source, Rows]] = {}
    for run in runs_of(world):
        inner = rows[run.receivers[0]][1:]
        local, index = inner[0].pairs, inner[0].pair
        chosen = [m for m, one in enumerate(run.ones) if _arrives(one, run)]
        ones, some = [run.ones[m] for m in chosen], [inner[m] for m in chosen]
        begins = {pair: min(ground.first(one, pair) for one in run.ones) for pair in set(local)}
        length = ground.ids.shape[1]
        reuse = lab.can_resume and lab.can_reuse
        start = min(*begins.values(), length - 1) if reuse else 0
        edits, _ = edits_of(lab, ones, some, [ground.source(one) for one in ones], start=start, whole=True)
        kept: dict[tuple[int, str], Tensor] = {}
        for key in {(world[n].layer, world[n].site) for n in run.receivers}:
            edits.setdefault(key, []).append(_keeper(kept, key))
        for layer in held_layers(lab, run):
            own = ground.corrupted.kept[layer, "z"][:, start:][index]
            edits.setdefault((layer, "z"), []).append(_hold(own, _acting(lab, layer, ones, some)))
        tape = Tape(edits=edits, stop_after=run.last)
        _pass(lab, ground, run.layers, local, index, start, tape)
        planned = {key: len(made) for key, made in edits.items()}
        if tape.fired != planned:
            raise EngineError(f"planned edits did not fire as planned: planned {planned}, fired {tape.fired}")
        for n in run.receivers:
            one, own_rows = world[n], rows[n][0]
            value = to_layout(one.site, kept[one.layer, one.site], lab.grid.n_heads, None)
            value = torch.nn.functional.pad(value, (0, 0, 0, 0, length - value.shape[1], 0))
            where = torch.zeros(len(local), length, dtype=torch.bool)
            for r, pair in enumerate(local):
                where[r, [p for p, _ in written(one, ground.pairs[pair]) if p >= begins[pair]]] = True
            source = Source(value, upload(where, value.device))
            out[n] = source, replace(own_rows, pair=torch.arange(len(local), device=index.device))
    return out


def _arrives(one: Intervention, run: Run) -> bool:
    """Whether an intervention of a run acts before its last receiver is read."""
    top, site = run.last
    order = SITES.index
    return one.layer < top or (one.layer == top and order(one.site) <= order(site))


def _keeper(kept: dict[tuple[int, str], Tensor], key: tuple[int, str]) -> Edit:
    def keep(x: Tensor) -> Tensor:
        kept[key] = x
        return x

    return keep


def _hold(own: Tensor, acting: Tensor) -> Edit:
    """z [row, position, head, d]: every head but the ``acting`` ones [row, head] keeps ``own``."""
    return lambda z: torch.where(acting[:, None, :, None], z, own)


def _acting(lab: Lab, layer: int, ones: Sequence[Intervention], rows: Sequence[Rows]) -> Tensor:
    """[row, head]: the query heads that a run's interventions name in a layer, KV heads for their whole group."""
    acting = torch.zeros(len(rows[0].pairs), lab.grid.n_heads, dtype=torch.bool, device=rows[0].heads.device)
    for one, some in zip(ones, rows, strict=True):
        if one.layer == layer and one.site in {"k", "v"}:
            acting |= some.heads.repeat_interleave(lab.grid.group_size, dim=1)
        elif one.layer == layer and one.site in {"q", "scores", "pattern", "z"}:
            acting |= some.heads
    return acting


def _pass(lab: Lab, ground: Ground, layers: range, local: Sequence[int], index: Tensor, start: int, tape: Tape) -> None:
    """The rows' pass through ``layers``, from position ``start`` on where that can be resumed."""
    if lab.can_resume:
        return run_through(lab, ground.corrupted, layers, local, index, start, tape)
    entering = ground.corrupted.entering[layers.start][index] if layers.start and lab.can_skip else None
    with lab.tape(tape), skipping(lab, layers.start, entering), suppress(Stop):
        forward(lab, ground.ids[index])
