"""One change in a short series of looks: whether there is any, and between which looks it lies.

1. Two kinds of change.  *level*: the mean differs before and after.  *jump*: one difference of neighbouring looks
   stands out among the others, which may drift.
2. Each gap between neighbouring looks is a candidate; the best one leaves the smallest residual sum of squares.
3. Any change at all: that smallest sum against its distribution when there is none.  A level wanders too where looks drift:
   its p reaches up to that of a jump, whose null may drift, and between the two nothing is decided.
4. Where: a gap stays in the confidence set unless, were it the true one, another gap would rarely look so much better.
   Given the gap, its two means and its residual sum are held fixed, so the size of the change and the noise need not
   be known and the coverage is exact for any number of looks.
5. Places are steps of the looks that bracket a gap.  What happened between two looks was not seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from math import comb, factorial
from typing import Literal

import numpy as np

from ._check import Bools, Floats, Values, floats, open_unit, same_length, whole
from .estimate import Estimate
from .permutation import rank

Kind = Literal["level", "jump"]
Noise = Literal["any", "normal", "heavy"]
HEAVY = 3
"""Degrees of freedom of "heavy" noise, Student's."""
LEAST = 5
"""With fewer looks no arrangement of them is rare enough to say anything."""
_SIDE = 2
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """What a series of looks says about one change.

    p: any change at all, with its interval (of a level: up to the p of a jump, unless no drift was allowed).  found: p's
    interval below alpha and `size` at least as large as asked.
    size: mean after minus mean before (level), or the outlying difference minus the mean of the others (jump).
    gap: the steps of the two looks that bracket the best candidate; interval: from the look before the first gap of the
    confidence set to the look after its last; both None where nothing was found.  kept: the p of every candidate gap, by
    its two looks.  note: why something is undefined, or cannot be told.
    """

    kind: Kind
    noise: Noise
    found: bool
    p: Estimate
    size: float | None
    gap: tuple[float, float] | None
    interval: tuple[float, float] | None
    kept: tuple[tuple[float, float, float], ...]
    n: int
    alpha: float
    seed: int
    note: str = ""

    @property
    def estimate(self) -> Estimate:
        """The step of the first look after the change; its interval runs over the looks that may bracket it."""
        if self.gap is None or self.interval is None:
            return Estimate.undefined("looks", self.n, self.note, method=f"change in {self.kind}")
        return Estimate(
            self.gap[1],
            *self.interval,
            self.n,
            "looks",
            f"change in {self.kind}, confidence set of gaps",
            1 - self.alpha,
            self.seed,
            note=f"first look after it; the one before is at {self.gap[0]:g}",
        )

    @property
    def attainable(self) -> float:
        """The smallest p that so many looks allow, whatever they show: 2 / C(n, n/2) where looks are permuted, else 0."""
        return 2 / comb(self.n, self.n // 2) if self.noise == "any" else 0.0


def change_point(
    values: Values,
    steps: Values,
    *,
    seed: int,
    kind: Kind = "level",
    noise: Noise | None = None,
    least: float = 0.0,
    drift: bool = True,
    draws: int = 1999,
    alpha: float = 0.05,
) -> ChangePoint:
    """Is there one change in `values`, and between which looks?

    Definition: for each candidate gap, R = residual sum of squares of the looks around the mean before and the mean after
    it (level; at least 2 looks on either side), or of the differences of neighbouring looks around their mean, the one at
    the gap left out (jump).  p = share of null series whose smallest R is at most the observed one.  A gap is in the
    confidence set when the share of series with a change *there* whose smallest R is at most the observed one exceeds
    alpha.
    Null series: noise "any" permutes looks (within each side, given a gap): exact when looks are exchangeable, whatever
    their distribution; all orders are taken when they are at most `draws`.  noise "normal" turns residuals on their sphere
    of equal length: exact for normal noise of unknown variance.  "heavy" does so by Student's t on 3: exact there, and
    cautious for lighter tails, so that p reaches down to that of "normal".  Default: "any" for a level, "heavy" for
    a jump (which has no "any").
    A level whose looks may ``drift``: p's upper end is the larger of its own and the p of a jump, so that a change is found
    only where it is sudden; an interval about alpha says that it cannot be told from a drift.
    Shapes, units: values [look] in any unit, steps [look] increasing.
    Range: p in (0, 1], less is more evidence; interval within [steps[0], steps[-1]].
    Mean over: looks; each counts once, however far apart they are.
    Undefined: fewer than 5 looks, or all values equal (p is 1 then); a change smaller than `least` is not `found`.
    Raises: ValueError on NaN, steps that do not increase, lengths that differ, noise "any" for a jump.
    Source: Worsley, Biometrika 73:91 (1986), conditional sets; for a jump, Grubbs, Ann. Math. Stat. 21:27 (1950).
    When it misleads: with drift=False a series that drifts, or wanders like a random walk, has a level change wherever one
    looks (71 % of walks).  A change that takes several looks spreads over several differences, and is not told from a drift.
    Tails heavier than t on 3 make jumps.  Looks that share prompts share their errors, which are then not noise of a look.
    Values that are exactly equal make "normal" find changes of any size: give `least`.  7 looks or fewer cannot bring
    "any" under .05.
    """
    x, at = floats(values, "values"), floats(steps, "steps")
    n, draws = same_length(values=x, steps=at), whole(draws, "draws", 99)
    alpha, seed = open_unit(alpha, "alpha"), whole(seed, "seed")
    noise = _noise(kind, noise)
    if (np.diff(at) <= 0).any():
        raise ValueError(f"steps must increase from look to look, got {at.tolist()[:8]}. Sort the looks, one per step.")
    if n < LEAST:
        reason = f"{n} looks: at least {LEAST} are needed"
        none = Estimate.undefined("looks", n, reason)
        return ChangePoint(kind, noise, False, none, None, None, None, (), n, alpha, seed, reason)
    y, after = _observations(x, kind)
    if (scaled := _scaled(x, y)) is None:
        reason = "no change: every " + ("look gives the same value" if kind == "level" else "difference is the same")
        return ChangePoint(kind, noise, False, _nothing(n), 0.0, None, None, (), n, alpha, seed, reason)
    drifts = None
    if drift and kind == "level":  # a jump's p alone, not where it lies
        steep, places = _observations(x, "jump")
        jumps = _scaled(x, steep)
        drifts = _nothing(n) if jumps is None else _whether(jumps, places, "heavy", draws, alpha, seed)[0]
    return _read(x, at, scaled, after, kind, noise, least, draws, alpha, seed, drifts)


def _noise(kind: Kind, noise: Noise | None) -> Noise:
    noise = noise or ("any" if kind == "level" else "heavy")
    known = kind in ("level", "jump") and noise in ("any", "normal", "heavy")
    if not known or (kind, noise) == ("jump", "any"):
        raise ValueError(
            f"kind is level or jump, noise any (of a level), normal or heavy, got {kind!r} with {noise!r}."
        )
    return noise


def _scaled(x: Floats, y: Floats) -> Floats | None:
    """``y`` with mean 0 and sum of squares 1, None where nothing differs: p and the set do not depend on unit or origin."""
    spread = float(((y - y.mean()) ** 2).sum())
    still = spread <= _TINY**2 * max(1.0, float(np.abs(x).max()) ** 2)
    return None if still else (y - y.mean()) / np.sqrt(spread)


def _nothing(n: int) -> Estimate:
    return Estimate(1.0, 1.0, 1.0, n, "looks", "nothing differs")


def _whether(
    y: Floats, after: Bools, noise: Noise, draws: int, alpha: float, seed: int
) -> tuple[Estimate, Floats, np.random.Generator]:
    """p of any change at all, the residual sum of squares of each gap, and the generator as the null left it."""
    rng = np.random.default_rng(seed)
    residual = _residuals(y[None], after)[0]
    smallest = float(residual.min())
    whole_null, enumerated = _null(y, noise, draws, rng)
    p = rank(
        smallest,
        _residuals(whole_null, after).min(1),
        enumerated=enumerated,
        tail="less",
        alpha=alpha,
        unit="orders of the looks" if noise == "any" else "series without a change",
    ).estimate
    if noise == "heavy" and p.low is not None:
        light = _null(y, "normal", draws, np.random.default_rng(seed))[0]
        lowest = rank(smallest, _residuals(light, after).min(1), enumerated=False, tail="less", alpha=alpha).low
        p = replace(p, low=min(p.low, lowest), note=f"{p.note}; down to that of normal noise")
    return p, residual, rng


def _read(
    x: Floats,
    at: Floats,
    y: Floats,
    after: Bools,
    kind: Kind,
    noise: Noise,
    least: float,
    draws: int,
    alpha: float,
    seed: int,
    drifts: Estimate | None,
) -> ChangePoint:
    p, residual, rng = _whether(y, after, noise, draws, alpha, seed)
    best = int(residual.argmin())
    smallest = float(residual[best])
    raw, _ = _observations(x, kind)
    size = float(raw[after[best]].mean() - raw[~after[best]].mean())
    shift = _SIDE if kind == "level" else 1
    gaps = [(float(at[i + shift - 1]), float(at[i + shift])) for i in range(len(after))]
    shares = [_share(y, after, i, smallest, noise, draws, rng) for i in range(len(after))]
    kept = tuple((*gap, share) for gap, share in zip(gaps, shares, strict=True))
    inside = [i for i, share in enumerate(shares) if share > alpha]
    alone = p.high is not None and p.high < alpha
    if drifts is not None and drifts.high is not None and p.high is not None:
        p = replace(
            p, high=max(p.high, drifts.high), note=f"{p.note}; as sudden in {drifts.value:.3g} of drifting series"
        )
    clear = p.high is not None and p.high < alpha
    if clear and abs(size) >= least:
        interval = gaps[inside[0]][0], gaps[inside[-1]][1]
        return ChangePoint(kind, noise, True, p, size, gaps[best], interval, kept, len(x), alpha, seed)
    note = f"no change found: p = {p.value:.3g}" + (f", size {size:.3g} under {least:g}" if clear else "")
    note += f", and {p.high:.3g} against a drift" if alone and not clear else ""
    return ChangePoint(kind, noise, False, p, size, None, None, kept, len(x), alpha, seed, note)


def _observations(x: Floats, kind: Kind) -> tuple[Floats, Bools]:
    """What is compared, [row], and for each candidate gap which rows are its second group, [gap, row]."""
    if kind == "jump":
        return np.diff(x), np.eye(len(x) - 1, dtype=bool)
    first = np.arange(_SIDE, len(x) - _SIDE + 1)
    return x, np.arange(len(x))[None, :] >= first[:, None]


def _residuals(rows: Floats, after: Bools) -> Floats:
    """Residual sum of squares of each row for each gap, [row, gap]."""
    second = after.sum(1)
    in_second = rows @ after.T.astype(np.float64)
    in_first = rows.sum(1, keepdims=True) - in_second
    fitted = in_second**2 / second + in_first**2 / (after.shape[1] - second)
    left = (rows**2).sum(1, keepdims=True) - fitted
    return np.where(left < _TINY, 0.0, left)


def _null(y: Floats, noise: Noise, draws: int, rng: np.random.Generator) -> tuple[Floats, bool]:
    """Series without a change, [draw, row], and whether they are all there are."""
    if noise != "any":
        z = _drawn(noise, (draws, len(y)), rng)
        z -= z.mean(1, keepdims=True)
        return z / np.linalg.norm(z, axis=1, keepdims=True), False
    if factorial(len(y)) <= max(draws, factorial(6)):
        return np.array(list(permutations(y))), True
    return rng.permuted(np.tile(y, (draws, 1)), axis=1), False


def _drawn(noise: Noise, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    return rng.standard_normal(shape) if noise == "normal" else rng.standard_t(HEAVY, shape)


def _share(
    y: Floats, after: Bools, gap: int, smallest: float, noise: Noise, draws: int, rng: np.random.Generator
) -> float:
    """p of the hypothesis that the change is at `gap`: how often another gap would then look as good as the best one."""
    groups = [np.flatnonzero(~after[gap]), np.flatnonzero(after[gap])]
    rows = np.tile(y, (draws, 1))
    if noise == "any":
        for group in groups:
            rows[:, group] = rng.permuted(rows[:, group], axis=1)
    else:
        z = _drawn(noise, (draws, len(y)), rng)
        for group in groups:
            z[:, group] -= z[:, group].mean(1, keepdims=True)
            rows[:, group] = y[group].mean()
        length = np.linalg.norm(z, axis=1, keepdims=True)
        rows += z / length * np.sqrt(_residuals(y[None], after)[0, gap])
    found = _residuals(rows, after).min(1)
    return float((1 + np.count_nonzero(found <= smallest + _TINY)) / (1 + draws))
