"""Sets of heads as a document names them: heads, pools, tops of a score, complements, unions, families.

A specification is plain data (:class:`SetSpec`); :func:`resolve` turns it into :class:`~headlab.heads.Heads`, or into a
:class:`Family` of them, given the model's grid and what else has been resolved.  Nothing here runs a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headlab.designs import leave_one_out, singles, subsets
from headlab.heads import Grid, Head, Heads, named_pool, near_names, pool
from headlab.heads import layer as whole_layer
from headlab.trials import score_files
from headlab.trials.expressions import NAME

HEADS = re.compile(r"L\d+H\d+([\s,]+L\d+H\d+)*")
FAMILIES = ("draw", "singles", "leave_one_out", "chains")
SHAPES: dict[str, tuple[set[str], set[str]]] = {  # what must stand in a specification, and what may
    "pool": ({"pool"}, {"layer"}),
    "top": ({"top", "by"}, {"among"}),
    "above": ({"above", "by"}, {"among"}),
    "file": ({"file"}, {"top", "among"}),
    "bottom": ({"bottom", "by"}, {"among"}),
    "not": ({"not"}, {"among"}),
    "draw": ({"draw", "from", "n"}, {"less"}),
    "singles": ({"singles"}, set()),
    "leave_one_out": ({"leave_one_out"}, set()),
    "chains": ({"chains"}, {"by"}),
}


class SetError(ValueError):
    """A set of heads that cannot be read or holds none: what was given, what was expected."""


@dataclass(frozen=True)
class Family:
    """Several sets that a world is run for, one after another; statistics over them need mean, least, most or share.

    ``sampled``: drawn at random from more than these, so that a mean over them varies with the draw.
    """

    members: tuple[Heads, ...]
    sampled: bool = False

    def __len__(self) -> int:
        return len(self.members)


Resolved = Heads | Family


@dataclass(frozen=True)
class SetSpec:
    """A set as written.  ``kind``: heads, name, union, or one of the keys of ``SHAPES``; ``parts`` are inner sets."""

    kind: str
    heads: Heads | None = None
    name: str = ""
    parts: tuple[SetSpec, ...] = ()
    among: SetSpec | None = None
    by: str = ""
    number: float = 0
    layers: tuple[int, ...] = ()
    n: int = 0
    less: int = 0

    def walk(self) -> Iterator[SetSpec]:
        """This set and every one inside it."""
        yield self
        for part in (*self.parts, *((self.among,) if self.among else ())):
            yield from part.walk()

    @property
    def names(self) -> set[str]:
        """Declared sets that it is made from."""
        return {s.name for s in self.walk() if s.kind == "name"}

    @property
    def scores(self) -> set[str]:
        """Scores that it reads."""
        return {s.by for s in self.walk() if s.by}

    @property
    def literal(self) -> bool:
        """Whether heads are written out, or read from another tool's file."""
        return any(s.kind in {"heads", "file"} for s in self.walk())


def parse(value: Any) -> SetSpec:
    """A set from a document's value.  Raises SetError."""
    if isinstance(value, str):
        if HEADS.fullmatch(value.strip()):
            return SetSpec("heads", heads=Heads.parse(value))
        if re.fullmatch(NAME, value):
            return SetSpec("name", name=value)
        near = near_names(value)
        wanted = f"write {near!r}" if near else "expected heads such as 'L9H6 L9H9', or the name of a declared set"
        raise SetError(f"{value!r} names no set; {wanted}")
    if near := near_names(value):  # 9.6, [9, 6]
        raise SetError(f"{value!r} is no set; write {near!r}")
    if isinstance(value, list | tuple):
        if not value:
            raise SetError("an empty list names no head; expected sets to unite")
        return SetSpec("union", parts=tuple(map(parse, value)))
    if not isinstance(value, Mapping):
        raise SetError(f"{value!r} is no set; expected heads, a name, a list of sets, or one of {_kinds()}")
    kind = next((k for k in SHAPES if k in value), None)
    if "file" in value:
        kind = "file"
    if kind is None:
        raise SetError(f"a set with {', '.join(map(str, value))}; expected one of {_kinds()}")
    must, may = SHAPES[kind]
    wrong = [k for k in value if k not in must | may] or sorted(must - set(value))
    if wrong:
        lacks = "has no" if wrong[0] in value else "needs"
        allowed = ", ".join([*sorted(must), *(f"{k} (optional)" for k in sorted(may))])
        raise SetError(f"a set by {kind!r} {lacks} {wrong[0]!r}; expected {allowed}")
    return _of_kind(kind, value)


def _kinds() -> str:
    return ", ".join(f"{{{k}: …}}" for k in SHAPES)


def _of_kind(kind: str, value: Mapping[str, Any]) -> SetSpec:
    among = parse(value["among"]) if "among" in value else None
    by = str(value.get("by", ""))
    if kind == "pool":
        layers = value.get("layer", ())
        given = tuple(layers) if isinstance(layers, list | tuple) else (layers,)
        if not all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in given):
            raise SetError(f"layer {layers!r} of a pool; expected a number counted from 0, or a list of them")
        named = value["pool"]
        if isinstance(named, list | tuple) and all(isinstance(x, int) for x in named):
            named = ",".join(map(str, named))
        try:
            return SetSpec(kind, name=named_pool(str(named)), layers=given)
        except ValueError as error:
            raise SetError(str(error)) from None
    if kind == "file" and "top" not in value:
        return SetSpec(kind, among=among, name=str(value["file"]))
    if kind in {"top", "bottom", "file", "above"}:
        number = value["top" if kind == "file" else kind]
        wrong = isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number)
        if wrong or (kind != "above" and number <= 0):
            raise SetError(f"{kind}: {number!r}; expected a number" + (" above 0" if kind != "above" else ""))
        if kind != "above" and number >= 1 and number != int(number):
            raise SetError(f"{kind}: {number!r}; expected a whole number of heads, or a share below 1")
        return SetSpec(kind, by=by, number=float(number), among=among, name=str(value.get("file", "")))
    if kind == "draw":
        size, n, less = value["draw"], value["n"], value.get("less", 0)
        share = isinstance(size, float) and 0 < size < 1
        if not (share or _whole(size, 1)) or not _whole(n, 1) or not _whole(less, 0):
            raise SetError(
                f"draw: {size!r}, n: {n!r}, less: {less!r}; expected whole numbers (draw: or a share below 1 of the set)"
            )
        return SetSpec(kind, parts=(parse(value["from"]),), number=float(size), n=n, less=less)
    inner = parse(value[kind])
    return SetSpec(kind, parts=(inner,), among=among, by=by)


def _whole(x: Any, least: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= least


@dataclass(frozen=True)
class Scene:
    """What a set is resolved in: the grid, the layers of pools, resolved sets by name, scores by name, a seed, and
    where files are looked for."""

    grid: Grid
    layers: tuple[int, ...]
    sets: Mapping[str, Resolved]
    score: Callable[[str], Mapping[Head, float]]
    seed: int
    folder: Path = Path(".")


def everything(grid: Grid) -> Heads:
    """Every head of the model."""
    return Heads(h for at in range(grid.n_layers) for h in whole_layer(grid, at))


def resolve(spec: SetSpec, scene: Scene, label: str) -> Resolved:
    """The heads of a specification.  Raises SetError for one that holds no head, ValueError for heads out of range."""
    found = _resolve(spec, scene)
    empty = not found.members if isinstance(found, Family) else not len(found)
    if empty:
        raise SetError(f"{label} holds no head in this model; name others, or a rule that finds some")
    return found


def _resolve(spec: SetSpec, scene: Scene) -> Resolved:
    if spec.kind == "heads":
        assert spec.heads is not None
        return scene.grid.check(spec.heads)
    if spec.kind == "name":
        return scene.sets[spec.name]
    if spec.kind == "pool":
        return Heads(h for at in spec.layers or scene.layers for h in pool(scene.grid, at, spec.name))
    if spec.kind == "union":
        return _union([_resolve(p, scene) for p in spec.parts])
    if spec.kind in FAMILIES:
        return _family(spec, scene)
    among = _one(_resolve(spec.among, scene), "among") if spec.among else everything(scene.grid)
    if spec.kind == "not":
        inner = _resolve(spec.parts[0], scene)
        if isinstance(inner, Family):
            return Family(tuple(among - m for m in inner.members), inner.sampled)
        return among - inner
    if spec.kind == "file" and not spec.number:
        return scene.grid.check(Heads(h for h in score_files.circuit(scene.folder / spec.name) if h in among))
    scores = score_files.scores(scene.folder / spec.name) if spec.kind == "file" else scene.score(spec.by)
    known = [h for h in among if h in scores]
    if spec.kind == "above":
        return Heads(h for h in known if scores[h] > spec.number)
    n = max(1, round(spec.number * len(known))) if spec.number < 1 else int(spec.number)
    if n > len(known):
        raise SetError(f"{spec.kind}: {n} of {len(known)} heads that have a score; ask for fewer")
    side = -1 if spec.kind == "bottom" else 1
    return Heads(sorted(known, key=lambda h: (-side * scores[h], h))[:n])


def _one(found: Resolved, what: str) -> Heads:
    if isinstance(found, Family):
        raise SetError(f"{what} takes one set, given a family of {len(found)}")
    return found


def _union(parts: list[Resolved]) -> Resolved:
    families = [p for p in parts if isinstance(p, Family)]
    if not families:
        return Heads(h for p in parts if isinstance(p, Heads) for h in p)
    if len({len(f) for f in families}) > 1:
        raise SetError(f"families of {' and '.join(str(len(f)) for f in families)} members cannot be united one by one")
    members = []
    for k in range(len(families[0])):
        each = [p.members[k] if isinstance(p, Family) else p for p in parts]
        members.append(Heads(h for heads in each for h in heads))
    return Family(tuple(members), any(f.sampled for f in families))


def _family(spec: SetSpec, scene: Scene) -> Family:
    base = _one(_resolve(spec.parts[0], scene), spec.kind)
    if spec.kind == "singles":
        return Family(singles(base))
    if spec.kind == "leave_one_out":
        return Family(leave_one_out(base))
    if spec.kind == "chains":
        order = list(base)
        if spec.by:
            scores = scene.score(spec.by)
            order.sort(key=lambda h: (-scores.get(h, float("-inf")), h))
        return Family(tuple(Heads(order[: k + 1]) for k in range(len(order))))
    size = (round(spec.number * len(base)) if spec.number < 1 else int(spec.number)) - spec.less
    if not 1 <= size <= len(base):
        raise SetError(f"draw: {size} of {len(base)} heads; ask for 1 to {len(base)}")
    drawn = subsets(base, size, n=spec.n, seed=scene.seed)
    return Family(drawn, sampled=math.comb(len(base), size) > len(drawn))
