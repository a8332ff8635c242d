"""Heads by name, and pools of heads.

A head is a *query* head: ``Head(layer, index)``, written ``L10H4``, both 0-based.  Under grouped-query
attention several query heads share one key/value head; that set is a *KV group*.  This room knows only
counts and names: no tensors, no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import total_ordering
from numbers import Integral
from operator import attrgetter

_NAME = re.compile(r"^L(\d+)H(\d+)$")
_NEAR = re.compile(r"^\s*[(\[]?[la]?(\d{1,9})(?:[\s.,:]+h?|h)(\d{1,9})[)\]]?\s*$", re.IGNORECASE)
"""Other ways to write a head: 9.6, 9H6, l9h6, L9 H6, a9.h6, (9, 6)."""


def near_names(given: object) -> str:
    """The names of heads that are written in another way (``9.6 9.9``, ``(9, 6)``, ``l9h6``); empty where they are none."""
    whole = str(given).strip()
    found = [_NEAR.match(one) for one in ([whole] if _NEAR.match(whole) else re.split(r"[\s,;+]+", whole))]
    return " ".join(f"L{m[1]}H{m[2]}" for m in found if m) if all(found) else ""


_PLACE = attrgetter("layer", "index")


@total_ordering
@dataclass(frozen=True)
class Head:
    """One query head, ``L{layer}H{index}`` (0-based)."""

    layer: int
    index: int

    def __post_init__(self) -> None:
        if type(self.layer) is not int or type(self.index) is not int:
            self._whole()
        if self.layer < 0 or self.index < 0:
            raise ValueError(f"a head has layer >= 0 and index >= 0, given layer {self.layer}, index {self.index}")

    def _whole(self) -> None:
        """Numbers of other types (numpy's, a table's 1.0) as int.  Raises ValueError for what is no whole number."""
        try:
            layer, index = (int(x) for x in (self.layer, self.index))
            if (layer, index) != (self.layer, self.index):
                raise ValueError
        except (TypeError, ValueError):
            given = f"{self.layer!r:.40} and {self.index!r:.40}"
            raise ValueError(
                f"a head is two numbers, Head(10, 4), given {given}; Head.parse('L10H4') reads a name"
            ) from None
        object.__setattr__(self, "layer", layer)
        object.__setattr__(self, "index", index)

    @classmethod
    def parse(cls, name: str) -> Head:
        """``Head.parse("L10H4")``.  Raises ValueError on anything that is not ``L<int>H<int>``."""
        match = _NAME.match(str(name).strip())
        if not match:
            near = near_names(name)
            like = f"write {near!r}" if near else "expected a name like 'L10H4' (layer 10, head 4, counted from 0)"
            raise ValueError(f"not a head: {name!r:.60}; {like}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"L{self.layer}H{self.index}"

    def __lt__(self, other: Head) -> bool:
        return (self.layer, self.index) < (other.layer, other.index)


@dataclass(frozen=True)
class Grid:
    """How many layers, query heads and KV heads a model has.

    ``n_heads`` query heads share ``n_kv_heads`` key/value heads: KV group ``g`` holds the query heads
    ``g * group_size … (g + 1) * group_size - 1`` (the repeat-interleave order of every GQA model in
    transformers).  MHA has ``n_kv_heads == n_heads``, MQA has one.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int

    def __post_init__(self) -> None:
        if min(self.n_layers, self.n_heads, self.n_kv_heads) < 1:
            raise ValueError(f"a grid needs at least one layer, head and KV head, given {self}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} query heads cannot be shared evenly by {self.n_kv_heads} KV heads")

    @property
    def group_size(self) -> int:
        """Query heads per KV head."""
        return self.n_heads // self.n_kv_heads

    def kv_group_of(self, index: int) -> int:
        """The KV head that query head ``index`` reads."""
        return index // self.group_size

    def check_layer(self, layer: int) -> int:
        """``layer`` itself, or ValueError when the model has no such layer."""
        if not isinstance(layer, Integral) or not 0 <= layer < self.n_layers:
            raise ValueError(f"layer {layer} is out of range: this model has layers 0 to {self.n_layers - 1}")
        return layer

    def check(self, heads: Iterable[Head]) -> Heads:
        """The heads as ``Heads``, or ValueError naming the first that does not exist."""
        out = Heads(heads)
        for head in out:
            if head.layer >= self.n_layers or head.index >= self.n_heads:
                raise ValueError(
                    f"head {head} is out of range: this model has layers 0 to {self.n_layers - 1} "
                    f"and heads 0 to {self.n_heads - 1}"
                )
        return out


class Heads:
    """A frozen, sorted set of heads, possibly of several layers.

    >>> str(Heads.parse("L1H2 L1H0"))
    'L1H0 L1H2'
    """

    __slots__ = ("_heads",)

    def __init__(self, heads: Iterable[Head] = ()) -> None:
        some = [heads] if isinstance(heads, Head) else [] if isinstance(heads, str) else list(heads)
        if isinstance(heads, str) or not all(isinstance(h, Head) for h in some):
            raise ValueError(
                f"Heads takes heads, [Head(1, 3), …], given {heads!r:.60}; Heads.parse('L1H3 L2H0') reads names"
            )
        self._heads = tuple(sorted(set(some), key=_PLACE))

    @classmethod
    def of(cls, layer: int, indices: Iterable[int]) -> Heads:
        """Heads of one layer by index (or by one)."""
        return cls(Head(layer, int(i)) for i in ([indices] if isinstance(indices, Integral) else indices))

    @classmethod
    def parse(cls, text: str) -> Heads:
        """From names parted by spaces or commas."""
        if not isinstance(text, str):
            raise ValueError(f"Heads.parse reads names, such as 'L1H3 L2H0', given {text!r:.60}")
        return cls(Head.parse(name) for name in re.split(r"[\s,]+", text.strip()) if name)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({h.layer for h in self._heads}))

    def at(self, layer: int) -> tuple[int, ...]:
        """The indices chosen in one layer."""
        return tuple(h.index for h in self._heads if h.layer == layer)

    def __iter__(self) -> Iterator[Head]:
        return iter(self._heads)

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, head: object) -> bool:
        return head in self._heads

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Heads) and self._heads == other._heads

    def __hash__(self) -> int:
        return hash(self._heads)

    def __or__(self, other: Heads) -> Heads:
        return Heads((*self._heads, *other._heads))

    def __sub__(self, other: Heads) -> Heads:
        without = set(other._heads)
        return Heads(h for h in self._heads if h not in without)

    def __str__(self) -> str:
        return " ".join(map(str, self._heads))

    def __repr__(self) -> str:
        return f"Heads({self})"


@dataclass(frozen=True)
class KVHeads:
    """Key/value heads of one layer, ``L{layer}KV{index}``: another axis than query heads, so another type.

    Interventions at the sites ``k`` and ``v`` take these; every query head of the group is affected.
    """

    layer: int
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.indices, Integral):
            object.__setattr__(self, "indices", (int(self.indices),))
        if self.layer < 0 or not self.indices or min(self.indices) < 0:
            raise ValueError(
                f"KV heads need a layer >= 0 and at least one index >= 0, given {self.layer}, {self.indices}"
            )
        object.__setattr__(self, "indices", tuple(sorted(set(self.indices))))

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def at(self, layer: int) -> tuple[int, ...]:
        return self.indices if layer == self.layer else ()

    def __len__(self) -> int:
        return len(self.indices)

    def __str__(self) -> str:
        return " ".join(f"L{self.layer}KV{i}" for i in self.indices)


def layer(grid: Grid, at: int) -> Heads:
    """All heads of one layer."""
    return Heads.of(grid.check_layer(at), range(grid.n_heads))


def every_head(grid: Grid) -> Heads:
    """All heads of all layers."""
    return Heads(Head(at, h) for at in range(grid.n_layers) for h in range(grid.n_heads))


def even(grid: Grid, at: int) -> Heads:
    """Heads 0, 2, 4, … of one layer."""
    return Heads.of(grid.check_layer(at), range(0, grid.n_heads, 2))


def odd(grid: Grid, at: int) -> Heads:
    """Heads 1, 3, 5, … of one layer."""
    return Heads.of(grid.check_layer(at), range(1, grid.n_heads, 2))


def kv_group(grid: Grid, at: int, group: int) -> Heads:
    """The query heads of one layer that share KV head ``group``."""
    if not 0 <= group < grid.n_kv_heads:
        raise ValueError(f"KV group {group} is out of range: this model has groups 0 to {grid.n_kv_heads - 1}")
    start = group * grid.group_size
    return Heads.of(grid.check_layer(at), range(start, start + grid.group_size))


def group_position(grid: Grid, at: int, position: int) -> Heads:
    """The heads that stand at ``position`` inside their KV group, one for each group."""
    if not 0 <= position < grid.group_size:
        raise ValueError(f"position {position} is out of range: KV groups here have {grid.group_size} heads")
    return Heads.of(grid.check_layer(at), range(position, grid.n_heads, grid.group_size))


POOL = r"all|any|even|odd|(kv_group|group_position):[0-9]+|[0-9]+(,[0-9]+)*"
"""How a pool is named, as a pattern of the whole name."""


def named_pool(name: str) -> str:
    """``name``, where a pool can have it.  Raises ValueError."""
    if re.fullmatch(POOL, name) is None:
        raise ValueError(
            f"unknown pool {name!r}; expected all, even, odd, kv_group:G, group_position:P or indices such as 0,2,5"
        )
    return name


def pool(grid: Grid, at: int, name: str) -> Heads:
    """A pool by name: ``all``, ``even``, ``odd``, ``kv_group:G``, ``group_position:P`` or head indices ``0,2,5``.

    Raises ValueError for an unknown name and for an empty pool.
    """
    word, _, number = named_pool(name).partition(":")
    if word in {"all", "any"}:
        chosen = layer(grid, at)
    elif word == "even":
        chosen = even(grid, at)
    elif word == "odd":
        chosen = odd(grid, at)
    elif number:
        chosen = (kv_group if word == "kv_group" else group_position)(grid, at, int(number))
    else:
        chosen = grid.check(Heads.of(at, map(int, name.split(","))))
    if not chosen:
        raise ValueError(f"pool {name!r} is empty at layer {at}: this model has {grid.n_heads} head(s) a layer")
    return chosen
