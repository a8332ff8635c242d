"""The controls of every document: each rule once.

``no-op``       every head's own activation written back changes nothing
``takes-hold``  the same write at every head of the touched layers changes something
``whole``       it does more than half of what could be done; beyond the bound, where a prediction says that little happens
``parse-rate``  answers can be read from the generated text
``opposite``    a direction of the other sign moves the readout the other way
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np

from headlab.claims import Control, Prediction
from headlab.heads import Grid, Heads, KVHeads
from headlab.interventions import Intervention, World
from headlab.material import every
from headlab.stats import Estimate, bootstrap_mean, clustered_rate
from headlab.trials.document import Document
from headlab.trials.expressions import DOSED, Expression, Term
from headlab.trials.measured import Measured, harm, kind_of, name_of, right
from headlab.trials.statistics import Statistics
from headlab.trials.worlds import Arm, named, widened

HALF = 0.5
CHANCE = 0.5
"""What is left of an accuracy (a margin above zero) where nothing is known."""
PARSED = 0.9
NOTHING = frozenset({"drop", "lost", "recovery", "repair", "slope"})
"""Words whose number is 0 where nothing happens."""
FROM_THE_OTHER = frozenset({"patch", "add", "noop"})
"""Writes of what the other run has, which can make the answer the other run's."""


@dataclass(frozen=True)
class Whole:
    """One arm with every head of its layers: ``arm`` is what the document's statistics see in its place."""

    world: str
    arm: Arm
    layers: tuple[int, ...]


def touched(arms: Sequence[Arm], *, inner: bool = False) -> dict[str, tuple[int, ...]]:
    """The layers that each world writes in, over all its members; ``inner``: that the worlds write in in which it is
    computed."""
    out: dict[str, set[int]] = {}
    for arm in arms:
        ones = [one for w in arm.draws for one in w.interventions]
        found = {one.layer for o in ones for one in o.computed_in or ()} if inner else {one.layer for one in ones}
        out.setdefault(arm.world, set()).update(found)
    return {world: tuple(sorted(layers)) for world, layers in out.items()}


def wholes(doc: Document, subject: Any, arms: Sequence[Arm]) -> list[Whole]:
    """The control worlds of every cell of every world."""
    grid: Grid = subject.grid
    if doc.thinking:
        found = subject.wholes(arms)
        return [Whole(name, Arm(name, cell, -1, (w,)), layers) for (name, cell), (w, layers) in found.items()]
    layers, out, seen = touched(arms), [], set()
    senders = touched(arms, inner=True)
    for arm in arms:
        key = (arm.world, arm.cell)
        if key in seen or not layers[arm.world]:
            continue
        seen.add(key)
        world = widened(doc, grid, arm.world, dict(arm.cell), layers[arm.world], senders[arm.world])
        out.append(Whole(arm.world, Arm(arm.world, arm.cell, -1, (world,)), layers[arm.world]))
    return out


def no_ops(grid: Grid, arms: Sequence[Arm]) -> list[World]:
    """For each site that is written, its own activations written back at every head of the touched layers."""
    places: list[tuple[int, Any]] = sorted(
        {(one.layer, one.site) for a in arms for w in a.draws for one in w.interventions}
    )
    out = []
    for site in sorted({s for _, s in places}):
        ones = []
        for layer in sorted({at for at, s in places if s == site}):
            heads: Heads | KVHeads = Heads.of(layer, range(grid.n_heads))
            if site in {"k", "v"}:
                heads = KVHeads(layer, tuple(range(grid.n_kv_heads)))
            ones.append(Intervention(heads, site, "noop"))
        out.append(named(ones))
    return out


def no_op(seen: Measured, worlds: Sequence[World], tolerance: float) -> Control:
    """The largest change of any readout under a write of what was there, against the tolerance of the dtype."""
    worst, scale, where = 0.0, 1.0, ""
    for readout, rows in seen.edited.items():
        base = seen.base[readout]
        for w in worlds:
            gap = float(np.abs(rows[seen.place[readout][w.name]] - base).max())
            size = max(1.0, float(np.abs(base).max()))
            if gap / size >= worst / scale:
                worst, scale, where = gap, size, readout
    words = f"writing back what was there changes {where} by at most {worst:.2g} (allowed {tolerance * scale:.2g})"
    return Control(name="no-op", kind="negative", passed=worst <= tolerance * scale, value=worst, words=words)


def takes_hold(seen: Measured, found: Sequence[Whole], tolerance: float) -> Control:
    """Every kind of write, at every head of its layers, moves some readout of some pair beyond rounding."""
    idle = []
    for world in dict.fromkeys(w.world for w in found):
        moved = 0.0
        for whole in (w for w in found if w.world == world):
            for readout in (r for r in seen.edited if seen.has(whole.arm, r)):
                base = seen.base[readout]
                gap = np.abs(seen.arm(whole.arm, readout) - base).max() / max(1.0, np.abs(base).max())
                moved = max(moved, float(gap))
        if moved <= tolerance:
            idle.append(world)
    words = (
        f"the write of {', '.join(idle)} changes nothing, even at every head"
        if idle
        else "every write changes something"
    )
    return Control(name="takes-hold", kind="positive", passed=not idle, words=words)


def whole(
    doc: Document, stats: Statistics, found: Sequence[Whole], predicted: Sequence[tuple[Prediction, Expression]]
) -> Control:
    """Every head of the touched layers under the same write must do what the test could have shown."""
    checks = list(_checks(doc, stats, found, predicted))
    failed = [words for ok, words in checks if not ok]
    shown = failed or [words for _, words in checks[:2]] or ["no prediction names one world"]
    words = "every head of the layers: " + "; ".join(shown)
    return Control(name="whole", kind="positive", passed=not failed, words=words)


def _checks(
    doc: Document, stats: Statistics, found: Sequence[Whole], predicted: Sequence[tuple[Prediction, Expression]]
) -> Iterator[tuple[bool, str]]:
    seen: set[Any] = set()
    arms: Mapping[str, Sequence[Arm]] = {w.world: [x.arm for x in found if x.world == w.world] for w in found}
    for prediction, read in predicted:
        little = _says_little(doc, stats, prediction, read)
        for term in _must_do(prediction, read):
            if not arms.get(term.world):
                continue
            key = (term.word in DOSED, term.world, term.cell, term.readout, str(prediction.threshold) if little else "")
            if key not in seen:
                seen.add(key)
                yield _beyond(stats, prediction, term, arms) if little else _half(doc, stats, term, arms)


def _must_do(p: Prediction, read: Expression) -> Iterator[Term]:
    """The terms whose worlds must be able to do something: of a difference said to be large those that make it large, not
    what they are compared with; of one said to be small all of them."""
    less = p.op == "<" and isinstance(p.threshold, int | float) and p.threshold <= 0
    large = 1 if p.op == ">" or (p.op == "rank<" and p.tail != "less") else -1 if less else 0
    one_sided = large and not read.bottom and any(t.sign == large for t in read.top)
    for term in read.terms:
        # the same world by another readout is compared with, too
        other = term.sign < 0 and any(t.sign > 0 and (t.world, t.cell) == (term.world, term.cell) for t in read.terms)
        if not other and (not one_sided or term.sign == large):
            yield replace(term, sign=1)


def _says_little(doc: Document, stats: Statistics, p: Prediction, read: Expression) -> bool:
    """Whether a prediction about one number would hold if nothing happened at all."""
    term = read.single
    if term is None or p.op == "rank<" or read.family == "share" or term.word not in {*NOTHING, "value"}:
        return False
    still = float(stats.seen.base[name_of(doc, term.readout)].mean()) if term.word == "value" else 0.0
    if isinstance(p.threshold, tuple):
        return p.threshold[0] <= still <= p.threshold[1]
    # that a head does not help much leaves nothing to show: its opposite is what the others are asked for
    return still < p.threshold if p.op == "<" else term.word == "value" and still > p.threshold


def _beyond(stats: Statistics, p: Prediction, term: Term, arms: Mapping[str, Sequence[Arm]]) -> tuple[bool, str]:
    """Where a prediction says that little happens, everything must do more than that."""
    got = stats.estimate(Expression((term,)), arms)
    low, high = p.threshold if isinstance(p.threshold, tuple) else (p.threshold, p.threshold)
    ok = (p.op != "<" and got.below(low) == "yes") or (p.op != ">" and got.above(high) == "yes")
    return ok, f"{term} is {got}, {'beyond' if ok else 'not beyond'} {p.brief}"


def _half(doc: Document, stats: Statistics, term: Term, arms: Mapping[str, Sequence[Arm]]) -> tuple[bool, str]:
    """More than half of the gap to the other run, where that is written; else of the readout; or any harm, where more is
    worse.  Over doses at the largest, and if that is less than a whole write, of as much less."""
    arm, depth = _deepest(stats, term, arms)
    readout, kind, where = name_of(doc, term.readout), kind_of(doc, term.readout), "/".join([term.world, *arm.values])
    repairs = term.word == "repair" or kind in {"text", "accuracy"}
    term = Term("drop", term.world, arm.values, term.readout)
    seen, told, half = stats.seen, stats.told, HALF * depth
    edited, base, other = seen.arm(arm, readout), seen.base[readout], seen.other[readout]
    if doc.edit == "corrupted" and repairs:
        got = stats.estimate(Expression((replace(term, word="repair"),)), arms)
        return got.above(half) == "yes", f"repair:{where} is {got}"
    if harm(doc, term.readout) < 0:
        got = bootstrap_mean(edited - base, **told)
        return got.above(0) == "yes", f"drop:{where} is {got}"
    if kind in {"text", "accuracy"}:
        got = stats.estimate(Expression((term,)), arms)
        most = float(base.mean()) - (CHANCE if kind == "accuracy" else 0.0)
        if any(w.at(c).shape for w in doc.world_axes()[term.world] for c in w.cells()):
            most = 0.0  # what is removed in place of a forced pattern need not be half of what an answer needs
        return got.above(half * max(0.0, most)) == "yes", f"drop:{where} is {got}"
    # what is taken from elsewhere than the other run can take a preference away, not turn it round: none is left at 0
    writes = {one.write for w in arm.draws for one in every(w.interventions)}
    paired = bool(np.abs(other - base).max() > 0) and not (doc.edit == "clean" and writes - FROM_THE_OTHER)
    if kind == "logprob" and not paired:  # a logarithm has no least value: half of the probability
        got = bootstrap_mean(base - edited, **told)
        return got.above(-log(1 - half)) == "yes", f"drop:{where} is {got}"
    got = _ratio(edited - base, other - base if paired else -base, told)
    word = ("recovery" if doc.edit == "corrupted" else "lost") if paired else "share of the readout lost"
    return got.above(half) == "yes", f"{word} by {where} is {got}"


def _deepest(stats: Statistics, term: Term, arms: Mapping[str, Sequence[Arm]]) -> tuple[Arm, float]:
    """The arm of a term; over doses that which is farthest from doing nothing, and what share of a whole write it is."""
    some = stats._arms(term, arms)[0]
    if term.word not in DOSED:
        return some[0], 1.0
    still = float(all(one.write == "rescale" for one in some[0].draws[0].interventions))
    deep = [max((abs(one.amount - still) for one in arm.draws[0].interventions), default=1.0) for arm in some]
    return some[deep.index(max(deep))], min(1.0, max(deep))


def _ratio(top: Any, bottom: Any, told: Mapping[str, Any]) -> Estimate:
    from headlab.stats import bootstrap_ratio

    return bootstrap_ratio(top, bottom, **told)


def parse_rate(tables: Mapping[str, Any]) -> Control:
    """The share of unedited texts from which an answer can be read."""
    import pandas as pd

    own = pd.concat([t for name, t in tables.items() if "unedited" in name or "other run" in name])
    found = clustered_rate(own["parsed"].to_numpy(bool), unit="answers")
    value = 0.0 if found.value is None else found.value
    words = f"an answer can be read from {found} of the unedited texts (at least {PARSED:.0%} needed)"
    return Control(name="parse-rate", kind="positive", passed=value >= PARSED, value=value, words=words)


def opposite(doc: Document, stats: Statistics, pairs: Sequence[tuple[Arm, Arm]]) -> Control:
    """A direction written with the other sign moves the default readout the other way."""
    readout, words, ok = name_of(doc, ""), [], True
    for arm, mirrored in pairs:
        there, back = (
            bootstrap_mean(stats.seen.arm(a, readout) - stats.seen.base[readout], **stats.told) for a in (arm, mirrored)
        )
        turned = (there.above(0), back.below(0)) == ("yes", "yes") or (there.below(0), back.above(0)) == ("yes", "yes")
        ok = ok and turned
        words.append(f"{arm.label}: {there}, with the other sign {back}")
    said = "; ".join(words) or "no direction is added"
    return Control(name="opposite", kind="positive", passed=ok and bool(pairs), words=said)


__all__ = ["Whole", "no_op", "no_ops", "opposite", "parse_rate", "right", "takes_hold", "touched", "whole", "wholes"]
