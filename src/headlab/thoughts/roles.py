"""Roles of heads from attributions: ratios by class of word, what earns a role, and controls that can fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.claims import Control, judged
from headlab.heads import Head
from headlab.stats import Estimate, bootstrap_mean
from headlab.stats.correlation import spearman
from headlab.stats.figures import interval, percent

Array = np.ndarray
GAP, ADDS, ALIKE, DELETED = 0.05, 0.5, 0.5, 3
"""Completeness gap of a problem, relative to the change, up to which it counts; share of problems that must; rank correlation
that random weights must stay under; tokens deleted."""


@dataclass(frozen=True)
class Told:
    """Attributions of one problem: ``tokens`` [head, token], ``change`` and ``gap`` [head], ``deleted`` and ``random`` [head]:
    |change of F| when the tokens that weigh most, or as many others, are set to the baseline."""

    tokens: Array
    change: Array
    gap: Array
    deleted: Array
    random: Array

    def adds_up(self, h: int) -> bool:
        return bool(abs(self.gap[h]) <= GAP * abs(self.change[h]))

    def counted(self, h: int) -> Array:
        """A head's attributions, or zeros where they do not add up: the integrand has a spike that these steps miss."""
        return self.tokens[h] if self.adds_up(h) else np.zeros_like(self.tokens[h])


def ratios(weights: Sequence[Array], kinds: Sequence[Sequence[str]], name: str) -> Array:
    """By problem: share of the absolute weight on tokens of a class over their share of the tokens; NaN where the question
    has none of them (or no weight at all).  1 is an even spread; ``weights`` [token] of each problem."""
    out = np.full(len(weights), np.nan)
    for i, (w, kind) in enumerate(zip(weights, kinds, strict=True)):
        mass, inside = np.abs(w), np.array([k == name for k in kind])
        if inside.any() and mass.sum() > 0:
            out[i] = mass[inside].sum() / mass.sum() / inside.mean()
    return out


def mean_of(values: Array, clusters: Sequence[str], seed: int) -> Estimate:
    kept = np.isfinite(values)
    if kept.sum() < 2:
        return Estimate.undefined("problems", int(kept.sum()), "fewer than two problems have such a word")
    return bootstrap_mean(
        values[kept], [c for c, k in zip(clusters, kept, strict=True) if k], unit="problems", seed=seed
    )


def shuffled(weights: Sequence[Array], kinds: Sequence[Sequence[str]], name: str, seed: int, draws: int) -> Array:
    """The mean ratio when weights change places within each question, [draw]."""
    rng, total, count = np.random.default_rng(seed), np.zeros(draws), 0
    for w, kind in zip(weights, kinds, strict=True):
        mass, inside = np.abs(w), np.array([k == name for k in kind])
        if inside.any() and mass.sum() > 0:
            order = rng.random((draws, len(mass))).argsort(1)
            total += mass[order][:, inside].sum(1) / mass.sum() / inside.mean()
            count += 1
    return total / count if count else np.empty(0)


def has_role(row: Mapping[str, Any]) -> bool:
    """Surely above an even share, beyond the shuffles, and attributions that add up."""
    return (
        row["adds_up"] >= ADDS
        and row["low"] is not None
        and row["low"] > 1
        and row["p_adjusted"] is not None
        and row["p_adjusted"] < 0.05
    )


def role_of(rows: Sequence[Mapping[str, Any]], head: Head) -> str:
    """One sentence: what the head draws on and attends to, as far as intervals and shuffles bear it out."""
    own = [r for r in rows if r["head"] == str(head)]
    parts = []
    for kind, word in (("class", "{}"), ("operator", "words for {}")):
        found = sorted((r for r in own if r["kind"] == kind and has_role(r)), key=lambda r: -r["ratio"])
        parts += [
            f"{word.format(r['class'])} ({interval(r['ratio'], r['low'], r['high'])} times an even share)"
            for r in found
        ]
    look = [r for r in own if r["kind"] == "class" and r["attention_low"] is not None and r["attention_low"] > 1]
    seen = ", ".join(
        f"{r['class']} ({interval(r['attention'], r['attention_low'], r['attention_high'])})"
        for r in sorted(look, key=lambda r: -r["attention"])
    )
    if own[0]["adds_up"] < ADDS:
        drawn = f"{head}: attributions add up in {percent(own[0]['adds_up'])} of the problems only, so no role is given"
        return f"{drawn}; it attends more than evenly to {seen or 'no class of words'}."
    drawn = (
        f"{head} draws on {' and '.join(parts)}" if parts else f"{head} has no clear role: no class of words stands out"
    )
    return f"{drawn}; it attends more than evenly to {seen or 'no class of words'} (n = {own[0]['n']} problems)."


def adds_up(told: Sequence[Told], h: int) -> float:
    """Share of problems in which a head's attributions add up (see :meth:`Told.counted`)."""
    return float(np.mean([t.adds_up(h) for t in told]))


def judged_completeness(told: Sequence[Told]) -> Control:
    """The leading head's attributions must add up in most problems; where they do not, the problem is left out."""
    share = adds_up(told, 0)
    words = (
        f"the leading head's attributions add up, within {GAP:.0%} of the change of its contribution, in "
        f"{percent(share, ADDS)} of {len(told)} problems (at least {ADDS:.0%} needed; the others are left out)"
    )
    return Control(name="completeness", kind="positive", passed=share >= ADDS, value=share, words=words)


def judged_random(told: Sequence[Told], other: Sequence[Told], clusters: Sequence[str], seed: int) -> Control:
    """Random weights must give other attributions (Adebayo et al. 2018): rank correlation over tokens, leading head."""
    each = np.array([spearman(np.abs(a.tokens[0]), np.abs(b.tokens[0])) for a, b in zip(told, other, strict=True)])
    found = mean_of(each, clusters, seed)
    words = (
        f"absolute attributions with random weights correlate with the model's own by {found} (below {ALIKE} needed)"
    )
    return judged("randomised", "negative", found.below(ALIKE) == "yes", found.value, words)


def judged_deletion(told: Sequence[Told], clusters: Sequence[str], seed: int) -> Control:
    """What weighs most matters most: setting it to the baseline moves the head more than random tokens do."""
    found = bootstrap_mean(np.array([t.deleted[0] - t.random[0] for t in told]), clusters, unit="problems", seed=seed)
    words = f"the {DELETED} heaviest tokens set to the baseline move the contribution by {found} more than {DELETED} others do"
    return Control(name="deletion", kind="positive", passed=found.above(0) == "yes", value=found.value, words=words)
