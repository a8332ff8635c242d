"""Linear probes of the latent loop: what is collected, how probes are fitted, what they are held against."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headlab.effects import Progress, quiet
from headlab.engine.decode import stop_ids
from headlab.tasks.word_problems import Problem, ProblemSet
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import watch

Array = np.ndarray
INPUT = -1
"""The layer before the first: what is fed at a position."""
SHRINKAGE = 0.05
LEAST = 10
"""Examples that a class needs; rarer answers are left out, and the share that is left is told."""


@dataclass(frozen=True)
class Collected:
    """``states`` {place: [problem, layer + 1, d_model]}: the residual stream at each place, first what is fed there, then
    after each layer; ``said`` [problem, d_model], layer 0's output where the last token of the answer is fed, and ``token``
    [problem], that token (−1: nothing was fed after eot); ``logprob`` [problem] of the answer, as it was made while read."""

    states: dict[str, Array]
    said: Array
    token: Array
    logprob: Array


def places(n_thoughts: int) -> list[str]:
    """bot, each thought, eot."""
    return ["bot", *(f"thought {j}" for j in range(n_thoughts)), "eot"]


def collect(
    thinker: Thinker, problems: ProblemSet, *, batch: int, tokens: int, progress: Progress = quiet
) -> Collected:
    """Read the residual stream in unedited runs, in float32."""
    lab, n = thinker.lab, thinker.spec.n_thoughts
    layers = lab.grid.n_layers
    wanted = frozenset((at, "resid") for at in range(layers))
    states = {name: np.empty((len(problems), layers + 1, lab.d_model), np.float32) for name in places(n)}
    said, token = np.zeros((len(problems), lab.d_model), np.float32), np.full(len(problems), -1)
    logprob = np.zeros(len(problems))
    stops = torch.tensor(sorted(stop_ids(lab)) or [-1], device=lab.device)
    fixed = {"bot": thinker.spec.bot, "eot": thinker.spec.eot}
    constant = {
        k: thinker.model.embed(torch.tensor(i, device=lab.device)).float().cpu().numpy() for k, i in fixed.items()
    }
    asked, names = [p.question for p in problems], [p.id for p in problems]
    for chosen, ran in watch(
        thinker, asked, names, wanted, batch=batch, max_new_tokens=tokens, progress=progress, what="probing"
    ):
        fed = [constant["bot"], *ran.thoughts.float().cpu().numpy().swapaxes(0, 1), constant["eot"]]
        for place, name in enumerate(places(n)):
            states[name][chosen, 0] = fed[place]
            for at in range(layers):
                states[name][chosen, at + 1] = ran.kept[place][at, "resid"][:, -1].float().cpu().numpy()
        ended = torch.isin(ran.made, stops)
        length = torch.where(ended.any(1), ended.int().argmax(1), ran.made.shape[1])
        for row, (i, k) in enumerate(zip(chosen, length.tolist(), strict=True)):
            logprob[i] = float(sum(ran.logprob[row, : k + 1].tolist()))
            last = min(k, ran.made.shape[1] - 1)  # the last token that was fed: the one before the end
            if last >= 1:
                token[i] = int(ran.made[row, last - 1])
                said[i] = ran.kept[1 + n + last][0, "resid"][row, -1].float().cpu().numpy()
    return Collected(states, said, token, logprob)


def targets(problems: ProblemSet, most: int = 2) -> dict[str, list[str | None]]:
    """What a probe looks for, by problem: the answer, and the result of each of the first steps that is not the last
    (None where a problem has no such step)."""
    out: dict[str, list[str | None]] = {"answer": [p.answer for p in problems]}
    for k in range(most):
        found = [p.results[k] if p.n_steps > k + 1 else None for p in problems]
        if any(f is not None for f in found):
            out[f"step {k + 1}"] = found
    return out


@dataclass(frozen=True)
class Asked:
    """A target with its classes: ``rows`` of problems that have one, ``y`` their classes, ``folds`` that share no chain,
    ``mixed`` folds that do, ``control`` and ``shuffled`` labels."""

    name: str
    rows: Array
    y: Array
    groups: Array
    folds: list[tuple[Array, Array]]
    mixed: list[tuple[Array, Array]]
    control: Array
    shuffled: Array
    covered: float

    @property
    def majority(self) -> float:
        """Share of the commonest class."""
        return float(np.unique(self.y, return_counts=True)[1].max() / len(self.y))

    @property
    def chance(self) -> Array:
        """By problem, whether the commonest class of its training folds is right."""
        out = np.zeros(len(self.y), bool)
        for train, test in self.folds:
            names, counts = np.unique(self.y[train], return_counts=True)
            out[test] = self.y[test] == names[counts.argmax()]
        return out

    @property
    def repeated(self) -> Array:
        """Rows whose chain of steps occurs more than once: only there can a control task be learnt."""
        _, place, counts = np.unique(self.groups, return_inverse=True, return_counts=True)
        return counts[place] > 1


def ask(name: str, values: Sequence[str | None], problems: Sequence[Problem], folds: int, seed: int) -> Asked | None:
    """Classes with at least :data:`LEAST` examples; None when fewer than two are left or too few chains for the folds."""
    from sklearn.model_selection import GroupKFold, KFold

    there = np.array([v is not None for v in values])
    words = np.array([v or "" for v in values])
    names, counts = np.unique(words[there], return_counts=True)
    common = set(names[counts >= LEAST].tolist())
    rows = np.flatnonzero(there & np.isin(words, list(common)))
    groups = np.array([p.cluster for p in problems])[rows]
    if len(common) < 2 or len(set(groups.tolist())) < folds:
        return None
    y = words[rows]
    rng = np.random.default_rng(seed)
    cross = list(GroupKFold(folds, shuffle=True, random_state=seed).split(y, groups=groups))
    mixed = list(KFold(folds, shuffle=True, random_state=seed).split(y))
    return Asked(
        name,
        rows,
        y,
        groups,
        cross,
        mixed,
        control_labels(y, groups, seed),
        rng.permutation(y),
        len(rows) / max(1, int(there.sum())),
    )


def control_labels(y: Array, groups: Array, seed: int) -> Array:
    """Hewitt and Liang's control task: every chain of steps gets one class, drawn at random from those of the target (with
    their frequencies), by a hash of the chain.  Nothing but memory of the chain can predict it."""
    draws = {
        g: int.from_bytes(hashlib.sha256(f"{seed} {g}".encode()).digest()[:8]) % len(y) for g in set(groups.tolist())
    }
    ordered = np.sort(y)
    return np.array([ordered[draws[g]] for g in groups.tolist()])


def probe(x: Array, y: Array, folds: Sequence[tuple[Array, Array]]) -> Array:
    """Predicted class of every row, by a linear discriminant fitted on the other folds.

    Definition: argmax over classes c of ``xᵀ S⁻¹ m_c − m_cᵀ S⁻¹ m_c / 2 + log share_c`` on features scaled to unit
        variance in training; m_c class means, S the pooled covariance, shrunk by :data:`SHRINKAGE` towards
        a multiple of the identity (it stays invertible with fewer rows than features).  Linear in x.
    Shapes: x [row, feature]; y [row] classes; returns [row] classes.  Every row is predicted once.
    When it misleads: what it finds is there to be read, which does not say that the model reads it.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.preprocessing import StandardScaler

    out = np.empty_like(y)
    for train, test in folds:
        scaler = StandardScaler().fit(x[train].astype(np.float64))
        known, new = scaler.transform(x[train]), scaler.transform(x[test])
        if np.ptp(x[train], axis=0).max() == 0:  # the same vector everywhere: only the classes' shares are left
            names, counts = np.unique(y[train], return_counts=True)
            out[test] = names[counts.argmax()]
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that a fold lacks, and of collinear features
            fit = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE).fit(known, y[train])
        out[test] = fit.predict(new)
    return out


def right(x: Array, asked: Asked, kind: str) -> Array:
    """By row, whether the probe is right: ``true`` and ``shuffled`` labels on folds that share no chain; ``recurring`` and
    ``control`` on folds that do."""
    y = {"true": asked.y, "recurring": asked.y, "shuffled": asked.shuffled, "control": asked.control}[kind]
    return probe(x, y, asked.folds if kind in ("true", "shuffled") else asked.mixed) == y


def by_layer(x: Array, asked: Asked, kind: str) -> Array:
    """By row and layer (what is fed first), whether the probe is right: [row, layer + 1]."""
    return np.stack([right(x[asked.rows, at], asked, kind) for at in range(x.shape[1])], 1)


def inflection(by_layer: Array) -> Array:
    """Layer at which accuracy rises most.

    Definition: argmax over l of a_l − a_{l−1}, with a_{−2} = chance, a_{−1} = what is fed (:data:`INPUT`), a_l after layer l;
        the first of equals.  Shapes: [..., chance, input, layer 0, …] → [...]; −1 is the input.
    When it misleads: two layers that each give half give one of them; the interval then spans both.
    """
    return np.diff(by_layer, axis=-1).argmax(-1) + INPUT


def distance(layers: Sequence[int], at: Array | float) -> Any:
    """Mean distance, in layers, of heads' layers from a layer (the input counts as −1)."""
    return np.abs(np.asarray(layers, float) - np.asarray(at, float)[..., None]).mean(-1)
