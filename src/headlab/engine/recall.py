"""What passes over unedited prompts gave, kept from one sweep or look to the next, so that the next costs only the edited pass.

Inside :func:`recalling` (every trial, every look), activations and readouts of unedited prompts are kept by the tokens of
their batch and handed on when the same batch is asked for again: the same tensors, so the same numbers, bit for bit (law 1;
the same prompts in other batches run again).  A look keeps the other layers' activations of the same kinds, too, since the
next one is at another head.  Outside nothing is kept.

Everything is dropped when anything of :func:`mark` differs: a weight or buffer (their contents, however they were written),
the config, an attribute, the class or a hook of any module, how each layer's attention is computed, dtype, device, threads.  It
is taken at every entry, and inside wherever :func:`pulse` differs: what a trial does to its own model shows there, unless it
writes past torch (``.data``, numpy).  Under code of others (hooks, another forward), which may do something else at each pass,
nothing is kept.  What is oldest goes when ``limit`` bytes are full, or what a plan leaves of a bound of memory, and what
:data:`AGE` trials or looks did not ask for.
"""

from __future__ import annotations

import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from headlab.engine.marks import foreign, mark, pulse
from headlab.engine.model import Lab

LIMIT = 2**29
"""Bytes that are kept for a model, unless told otherwise."""
AGE = 16
"""Trials and looks for which a value is kept that none of them asks for."""
OWN_WAY = frozenset({"pattern", "scores"})
"""Sites whose reading makes the pass compute attention in another way: their passes are kept apart."""
RESUMED = ("z", "out_block", "k", "v")
"""What edits of other layers will start from, where one starts from what enters a layer."""

Made = TypeVar("Made")
Given = ParamSpec("Given")
Site = tuple[int, str] | int
"""(layer, site), or a layer: what enters it."""


class Recall:
    """Kept values by key, the oldest out first.  ``limit``: bytes (0 keeps nothing), ``room``: what a bound of memory leaves
    of them; ``bytes``: what is kept; ``passes``: how many batches were run because they were not there; ``owner``: whose they
    are (a copy of a Lab begins anew: its passes may run under edits); ``wide``: other layers are kept, too; ``foreign``: code
    of others runs in the passes, so that nothing is kept; ``entries``: how many trials and looks began."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.bytes, self.passes, self.entries = limit, 0, 0, 0
        self.room: int | None = None
        self.owner: weakref.ref[Lab] | None = None
        self.mark = b""
        self.pulse: tuple[object, ...] = ()
        self.open, self.steady, self.wide, self.foreign = False, False, True, False
        self._kept: OrderedDict[object, tuple[Any, dict[int, int], int]] = OrderedDict()
        self._held: Counter[int] = Counter()

    def __reduce__(self) -> tuple[type[Recall], tuple[int]]:
        return Recall, (self.limit,)

    @property
    def most(self) -> int:
        """Bytes that may be kept."""
        if self.foreign:
            return 0
        return max(0, self.limit if self.room is None else min(self.limit, self.room))

    def within(self, room: int | None) -> None:
        """From now on no more than ``room`` bytes (None: no other bound than ``limit``)."""
        self.room = None if room is None else max(0, room)
        self._make_room()

    def get(self, key: object) -> Any:
        """What is kept under ``key``, or None."""
        if key not in self._kept:
            return None
        value, parts, _ = self._kept.pop(key)
        self._kept[key] = value, parts, self.entries  # to the end
        return value

    def put(self, key: object, value: Any) -> None:
        """Keep a value; what is oldest goes to make room.  One of more than :attr:`most` is not kept."""
        parts = dict(_storages(value))
        if sum(parts.values()) > self.most or key in self._kept:
            return
        self._kept[key] = value, parts, self.entries
        self.bytes += sum(size for at, size in parts.items() if not self._held[at])
        self._held.update(parts.keys())
        self._make_room()

    def begin(self) -> None:
        """Another trial or look: what the last :data:`AGE` did not ask for goes."""
        self.entries += 1
        while self._kept and self.entries - next(iter(self._kept.values()))[2] > AGE:
            self._drop_oldest()

    def _make_room(self) -> None:
        while self.bytes > self.most:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (_, old, _) = self._kept.popitem(last=False)
        self._held.subtract(old.keys())
        self.bytes -= sum(size for at, size in old.items() if not self._held[at])

    def clear(self) -> None:
        """Keep nothing of what there was."""
        self._kept.clear()
        self._held.clear()
        self.bytes = 0


def recall(lab: Lab) -> Recall:
    """The one of a model; ``recall(lab).limit`` may be set, ``recall(lab).clear()`` empties it."""
    kept = lab.__dict__.get("_recall")
    if kept is None or kept.owner is None or kept.owner() is not lab:
        kept = lab.__dict__["_recall"] = Recall()
        kept.owner = weakref.ref(lab)
    return kept


@contextmanager
def recalling(lab: Lab, *, wide: bool = True, memory: int | None = None) -> Iterator[Recall]:
    """Inside, captures of unedited prompts are kept and handed on.  May be entered inside itself.

    ``wide``: a pass keeps all layers.  ``memory``: a bound in bytes; until a plan says what it leaves, a third is kept.
    """
    kept = recall(lab)
    if kept.open:
        yield kept
        return
    kept.begin()
    kept.within(None if memory is None else memory // 3)
    kept.pulse = ()
    kept.open, kept.wide = True, wide
    try:
        _look(lab, kept)
        yield kept
    finally:
        kept.open = False


def steady(run: Callable[Given, Made]) -> Callable[Given, Made]:
    """A function of a Lab that changes nothing of the model: inside, the pulse is felt once, at the beginning."""

    @wraps(run)
    def once(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        kept = recall(args[0]) if args and isinstance(args[0], Lab) else None
        if kept is None or not kept.open or kept.steady:
            return run(*args, **kwargs)
        _look(args[0], kept)
        kept.steady = True
        try:
            return run(*args, **kwargs)
        finally:
            kept.steady = False

    return once


def _look(lab: Any, kept: Recall) -> None:
    """Drop everything if the model is no longer what it was."""
    if not kept.steady and kept.pulse != (now := pulse(lab)):
        kept.foreign = foreign(lab)
        if kept.mark != (whole := mark(lab)) or kept.foreign:
            kept.clear()
        kept.pulse, kept.mark = now, whole


def remembered(lab: Lab, named: Callable[[], tuple[object, ...]], make: Callable[[], Made]) -> Made:
    """``make()``, or what it gave before under the key ``named()``.  Outside of :func:`recalling`: ``make()``."""
    kept = recall(lab)
    if not kept.open:
        return make()
    _look(lab, kept)
    key = named()
    if (found := kept.get(key)) is None:
        kept.passes += 1
        found = make()
        kept.put(key, found)
    return found


def observed(
    lab: Lab, ids: Tensor, sites: Collection[Site], run: Callable[[Collection[Site]], dict[Site, Tensor]]
) -> dict[Site, Tensor]:
    """What ``run(sites)``, one pass over ``ids`` [row, position], gives by site, or gave before."""
    kept = recall(lab)
    if not kept.open or not sites:
        return run(sites)
    _look(lab, kept)
    apart = frozenset(s for s in sites if isinstance(s, tuple) and s[1] in OWN_WAY)
    name = (tuple(ids.shape), ids.cpu().numpy().tobytes(), apart)
    found = {site: kept.get((name, site)) for site in sites}
    if all(x is not None for x in found.values()):
        return found
    more = {*sites, *_of_other_layers(lab, sites)} if kept.wide and not apart else set(sites)
    if ids.numel() * sum(_width(lab, site) for site in more) > kept.most // 2:
        more = set(sites)
    made = run(more)
    kept.passes += 1
    for site, value in made.items():
        kept.put((name, site), value)
    return {site: made[site] for site in sites}


def _of_other_layers(lab: Lab, sites: Collection[Site]) -> set[Site]:
    kinds = {s[1] if isinstance(s, tuple) else "" for s in sites}
    kinds |= set(RESUMED) if "" in kinds else set()
    heads: set[Site] = {(at, k) for at in lab.attentions for k in kinds - {"", "resid"}}
    whole = range(lab.grid.n_layers)
    return heads | {(at, "resid") for at in whole if "resid" in kinds} | {at for at in whole if "" in kinds}


def _width(lab: Lab, site: Site) -> int:
    """Bytes of a site for a token."""
    kind, grid = site[1] if isinstance(site, tuple) else "", lab.grid
    heads = grid.n_kv_heads if kind in {"k", "v"} else grid.n_heads
    wide = heads * lab.head_dim if kind in {"q", "k", "v", "z"} else lab.d_model
    return wide * torch.finfo(lab.dtype).bits // 8


def _storages(value: Any) -> Iterator[tuple[int, int]]:
    """Where the memory of a value lies, and how many bytes (of a view: all that it is a view of)."""
    if isinstance(value, Tensor):
        yield value.untyped_storage().data_ptr(), value.untyped_storage().nbytes()
    elif isinstance(value, Mapping):
        yield from _storages(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _storages(one)
