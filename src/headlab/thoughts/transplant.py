"""A head of one model fitted into another: activations at positions of the same role, ridge maps, weights written and
always put back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from headlab.engine.decode import stop_ids
from headlab.engine.limits import positions
from headlab.engine.model import Lab, ModelError
from headlab.heads import Head
from headlab.stats import Estimate, bootstrap_ratio
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import watch
from headlab.thoughts.sources import Observed

Array = np.ndarray
ALPHAS = tuple(10.0**k for k in range(-8, 4))
"""Strengths of the ridge, in units of the inputs' variance; cross-validation chooses."""


@dataclass(frozen=True)
class HeadWeights:
    """One head, in float64: ``q`` ``k`` ``v`` [d_model, d_head] with biases [d_head], ``o`` [d_head, d_model]; ``scaling``
    of its scores.  Under grouped queries k and v are those of its KV head."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    bias_q: Tensor
    bias_k: Tensor
    bias_v: Tensor
    scaling: float

    @property
    def size(self) -> int:
        return self.q.shape[1]


def scaling_of(lab: Lab, layer: int) -> float:
    """What scores of a layer are multiplied by: the module's own, or 1/√d_head."""
    own = getattr(lab.attention_of(layer), "scaling", None)
    return float(own) if isinstance(own, int | float) else lab.head_dim**-0.5


def head_weights(lab: Lab, head: Head) -> HeadWeights:
    """W_Q, W_K, W_V, W_O and biases of a head.  Raises ModelError where the family has no such matrices."""
    at, kv = head.layer, lab.grid.kv_group_of(head.index)
    places = {"q": head.index, "k": kv, "v": kv}
    made = {s: lab.weight(s, at)[i].double() for s, i in places.items()}
    bias = {
        s: b[i].double() if (b := lab.bias(s, at)) is not None else made[s].new_zeros(made[s].shape[1])
        for s, i in places.items()
    }
    return HeadWeights(
        made["q"],
        made["k"],
        made["v"],
        lab.weight("o", at)[head.index].double(),
        bias["q"],
        bias["k"],
        bias["v"],
        scaling_of(lab, at),
    )


def has_bias(lab: Lab, layer: int) -> bool:
    """Whether q, k and v of a layer all have biases."""
    return all(lab.bias(s, layer) is not None for s in "qkv")


@contextmanager
def written(lab: Lab, head: Head, new: HeadWeights) -> Iterator[None]:
    """Inside, the head has these weights; afterwards, whatever happens, the model's own stand there bit for bit.

    Where heads share keys and values, the other heads of the group read the new ones too.  Biases are written where
    the model has them.  Raises ModelError for weights of another size, and where LoRA stands beside the weights.
    """
    at, kv = head.layer, lab.grid.kv_group_of(head.index)
    if new.q.shape != (lab.d_model, lab.head_dim) or new.o.shape != (lab.head_dim, lab.d_model):
        raise ModelError(
            f"head {head} of {lab.name} is {lab.d_model} × {lab.head_dim}, given W_Q {tuple(new.q.shape)} "
            f"and W_O {tuple(new.o.shape)}"
        )
    modules: dict[str, Any] = {}
    for site in "qkvo":
        projection = getattr(lab.geometry, site)
        if projection is None:
            raise ModelError(f"{lab.name} has no per-head W_{site.upper()}: {lab.geometry.why}")
        modules[site] = lab.attention_of(at).get_submodule(projection.path)
        if hasattr(modules[site], "get_base_layer"):
            raise ModelError(f"{lab.name} keeps LoRA beside its weights; load it merged to write a head's weights")
    touched = {id(t): t for m in modules.values() for t in (m.weight, getattr(m, "bias", None)) if t is not None}
    saved = {i: t.detach().clone() for i, t in touched.items()}
    try:
        with torch.no_grad():
            for site, place, matrix, bias in (
                ("q", head.index, new.q, new.bias_q),
                ("k", kv, new.k, new.bias_k),
                ("v", kv, new.v, new.bias_v),
                ("o", head.index, new.o, None),
            ):
                _put(modules[site], getattr(lab.geometry, site).channels[place], matrix, bias, out=site != "o")
        yield
    finally:
        with torch.no_grad():
            for i, t in touched.items():
                t.copy_(saved[i])


def _put(module: Any, channels: Sequence[int], matrix: Tensor, bias: Tensor | None, *, out: bool) -> None:
    """``matrix`` [in, out] into the channels of a linear map, its outputs (``out``) or its inputs."""
    weight, index = module.weight, torch.tensor(channels, device=module.weight.device)
    made = matrix.to(weight)
    if isinstance(module, Conv1D) == out:  # kept as [in, out] and outputs wanted, or as [out, in] and inputs wanted
        weight[:, index] = made if out else made.T
    else:
        weight[index] = made.T if out else made
    if bias is not None and getattr(module, "bias", None) is not None:
        module.bias[index] = bias.to(module.bias)


# -- maps ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Streams:
    """What a layer's heads read (the attention module's input) and the residual stream after the layer, for each
    problem by role: ``read`` and ``resid`` {role: [position, d_model]}, question counted from its end."""

    read: list[dict[str, Array]]
    resid: list[dict[str, Array]]


def streams(thinker: Thinker, problems: ProblemSet, layer: int, batch: int) -> Streams:
    """Unedited runs of the problems."""
    lab, caught = thinker.lab, []

    def catch(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append((args[0] if args else kwargs["hidden_states"]).detach())

    read: list[Any] = [None] * len(problems)
    resid: list[Any] = [None] * len(problems)
    site, stops = (layer, "resid"), sorted(stop_ids(lab))
    positions(lab)  # asked before anything is caught, since it takes a pass
    handle = lab.attention_of(layer).register_forward_pre_hook(catch, with_kwargs=True)
    try:
        asked, names = [p.question for p in problems], [p.id for p in problems]
        for chosen, ran in watch(thinker, asked, names, frozenset([site]), batch=batch, what="activations"):
            seen = Observed.of(ran, frozenset([site]), stops)
            inputs = torch.cat(caught, 1)
            caught.clear()
            for row, problem in enumerate(chosen):
                answers = int(seen.alive[row].sum())
                read[problem] = _by_role(inputs[row], seen, answers)
                resid[problem] = _by_role(seen.kept[site][row], seen, answers)
    finally:
        handle.remove()
    return Streams(read, resid)


def _by_role(x: Tensor, seen: Observed, answers: int) -> dict[str, Array]:
    layout, whole = seen.layout, x.double().cpu().numpy()
    thoughts = whole[layout.prompt : layout.eot]
    return {
        "question": whole[: layout.question][::-1],
        "bot": whole[layout.question : layout.prompt],
        "thoughts": thoughts,
        "eot": whole[layout.eot : layout.eot + 1],
        "answer": whole[layout.eot + 1 : layout.eot + 1 + answers],
    }


def paired(a: Sequence[dict[str, Array]], b: Sequence[dict[str, Array]]) -> tuple[Array, Array, Array]:
    """Rows of two models at positions of one role: [row, d_a], [row, d_b], and the problem of each row."""
    left, right, problem = [], [], []
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        for role in one:
            n = min(len(one[role]), len(other[role]))
            left.append(one[role][:n])
            right.append(other[role][:n])
            problem += [i] * n
    return np.concatenate(left), np.concatenate(right), np.array(problem)


@dataclass(frozen=True)
class Fitted:
    """y ≈ x·``matrix`` + ``offset``; ``r2``: on problems that the fit did not see."""

    matrix: Array
    offset: Array
    alpha: float
    r2: Estimate


def fit(x: Array, y: Array, problem: Array, *, offset: bool, seed: int) -> Fitted:
    """A ridge map between residual streams, its strength by generalised cross-validation.

    Definition: argmin Σ‖x·A + a − y‖² + α·‖A‖² (a = 0 without ``offset``); r² = 1 − Σ‖residual‖² / Σ‖y − mean y‖² on a fifth
        of the problems, from a fit to the others; the map is then fitted to all.
    Shapes: x [row, d_x], y [row, d_y], problem [row] → :class:`Fitted`.  Mean over: rows.
    Raises: ValueError for fewer than 5 problems.
    When it misleads: directions that no problem varies are not fitted; a high r² over all roles may be due to the
        question's tokens alone.
    """
    names = np.unique(problem)
    if len(names) < 5:
        raise ValueError(f"a map needs at least 5 problems to be fitted and judged, given {len(names)}")
    held = np.random.default_rng(seed).permutation(names)[: len(names) // 5]
    out = np.isin(problem, held)
    a, b, _ = _ridge(x[~out], y[~out], offset)
    residual = ((x[out] @ a + b - y[out]) ** 2).sum(1)
    spread = ((y[out] - y[~out].mean(0)) ** 2).sum(1)
    lost = bootstrap_ratio(residual, spread, problem[out].tolist(), unit="positions", seed=seed)
    a, b, alpha = _ridge(x, y, offset)
    return Fitted(a, b, alpha, lost.complement())


def _ridge(x: Array, y: Array, offset: bool) -> tuple[Array, Array, float]:
    from sklearn.linear_model import RidgeCV

    unit = len(x) * float(x.var(0).mean())
    found = RidgeCV(alphas=[a * unit for a in ALPHAS], fit_intercept=offset).fit(x, y)
    intercept = np.broadcast_to(np.asarray(found.intercept_, float), (y.shape[1],))
    return np.asarray(found.coef_).reshape(y.shape[1], -1).T, intercept.copy(), float(np.asarray(found.alpha_, float))


def through(donor: HeadWeights, reading: Fitted, writing: Fitted, like: HeadWeights) -> HeadWeights:
    """The donor's head as the recipient can carry it: it reads through ``reading`` (recipient → donor), writes through
    ``writing`` (donor → recipient), with heads of the size and scaling of ``like``."""
    a, a0 = torch.from_numpy(reading.matrix), torch.from_numpy(reading.offset)
    made = {s: (a @ getattr(donor, s), a0 @ getattr(donor, s) + getattr(donor, f"bias_{s}")) for s in "qkv"}
    o = donor.o @ torch.from_numpy(writing.matrix)
    ratio = donor.scaling / like.scaling
    q = (made["q"][0] * ratio, made["q"][1] * ratio)
    (wq, bq), (wk, bk) = _sized(q, made["k"], like.size)
    (wv, bv), (wo, _) = _sized(made["v"], (o.T, o.new_zeros(o.shape[0])), like.size)
    return HeadWeights(wq, wk, wv, wo.T.contiguous(), bq, bk, bv, like.scaling)


Part = tuple[Tensor, Tensor]


def _sized(left: Part, right: Part, size: int) -> tuple[Part, Part]:
    """Two factors [d, head] with biases, whose product over the head's channels is what counts: zeros added, or the best
    product of lower rank."""
    n = left[0].shape[1]
    stacked = [torch.cat([w, b[None]]) for w, b in (left, right)]
    if n < size:
        stacked = [torch.nn.functional.pad(m, (0, size - n)) for m in stacked]
    elif n > size:
        u, s, v = torch.linalg.svd(stacked[0] @ stacked[1].T, full_matrices=False)
        root = s[:size].sqrt()
        stacked = [u[:, :size] * root, v[:size].T * root]
    (a, b), (c, d) = ((m[:-1].contiguous(), m[-1].contiguous()) for m in stacked)
    return (a, b), (c, d)


def zero_like(one: HeadWeights) -> HeadWeights:
    parts = {s: torch.zeros_like(getattr(one, s)) for s in ("q", "k", "v", "o", "bias_q", "bias_k", "bias_v")}
    return HeadWeights(**parts, scaling=one.scaling)


def mean_of(many: Sequence[HeadWeights]) -> HeadWeights:
    """The mean of heads, matrix by matrix."""
    parts = {
        s: torch.stack([getattr(w, s) for w in many]).mean(0)
        for s in ("q", "k", "v", "o", "bias_q", "bias_k", "bias_v")
    }
    return HeadWeights(**parts, scaling=many[0].scaling)


def random_like(one: HeadWeights, seed: int) -> HeadWeights:
    """Gaussian matrices and biases with the norms of the given ones."""
    generator = torch.Generator().manual_seed(seed)

    def draw(x: Tensor) -> Tensor:
        g = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        return g * (x.norm() / g.norm().clamp(min=math.ulp(1.0)))

    parts = {s: draw(getattr(one, s)) for s in ("q", "k", "v", "o", "bias_q", "bias_k", "bias_v")}
    return HeadWeights(**parts, scaling=one.scaling)


def rotated(one: HeadWeights, own: Streams, seed: int) -> tuple[HeadWeights, Streams]:
    """The same head and activations as a model would have them whose residual stream is turned by random rotations."""
    rng, d = np.random.default_rng(seed), len(one.q)
    turn_in, turn_out = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    back = torch.from_numpy(turn_in.T)
    made = HeadWeights(
        back @ one.q,
        back @ one.k,
        back @ one.v,
        one.o @ torch.from_numpy(turn_out),
        one.bias_q,
        one.bias_k,
        one.bias_v,
        one.scaling,
    )
    turned = [
        [{role: x @ turn for role, x in p.items()} for p in each]
        for each, turn in ((own.read, turn_in), (own.resid, turn_out))
    ]
    return made, Streams(*turned)
