"""Gradients over heads: attribution patching (every head at once) and integrated gradients (one layer, exactly summed).

Both answer, without running a world for each head, what a patch from the clean run would do to the logit difference
of the corrupted run.  The weights stay frozen: the graph begins at the first site that is read, which is cut from
what made it, and nothing below it is recorded.  Prompts are grouped by length (of both prompts of a pair) and never
padded; activations are captured under ``no_grad``, never in inference mode, whose tensors autograd refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from headlab.effects import Progress, quiet
from headlab.engine.attention import Tape
from headlab.engine.edits import to_layout
from headlab.engine.model import Lab
from headlab.engine.passes import EngineError, forward, skipping, tensor_of
from headlab.interventions import InterventionError
from headlab.prompts import Alignment, Encoded, EncodedPair, align

Rule = Literal["midpoint", "gauss-legendre"]
Key = tuple[int, str]

SITES = ("z", "q", "k", "v")
TOKENS = 1024
"""Tokens in flight in one batch, unless told otherwise: a backward pass keeps every layer's activations."""


@torch.inference_mode(False)
@torch.enable_grad()
def attribution_patching(
    lab: Lab,
    pairs: Sequence[EncodedPair],
    *,
    sites: Sequence[str] = ("z",),
    align: Alignment = "role",
    tokens: int = TOKENS,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """First-order estimate of what patching each head from the clean run does to the corrupted run's logit difference.

    Definition: ``Σ_{t,c} (x_clean[t', c] − x_corrupted[t, c]) · ∂LD/∂x_corrupted[t, c]`` for head (l, h)'s activation
        x, over the aligned positions (t, t') and all channels c; LD is logit(answer) − logit(wrong) after the shared
        start of the answer.  It estimates ``edited − corrupted`` of the world that patches this head alone, and is
        that number exactly where LD is linear in x.  All heads of all attention layers: one clean forward, one
        corrupted forward and one backward pass for each batch.
    Shapes: one row for each pair × site × attention layer × head: ``pair``, ``pair_id``, ``cluster``, ``site``,
        ``layer``, ``head`` (a KV head for k and v), ``attribution``, ``clean``, ``corrupted`` (logit differences).
        ``sites``: some of z q k v; patterns and scores are not offered (a patched pattern is rescaled, and its
        first-order term is not what :class:`~headlab.interventions.Intervention` writes).
    Units: logits.  Range: any sign; more = patching this head moves the corrupted run toward the answer.
    Mean: none is taken; rows are raw, one for each pair.  Batches (``tokens``) change the time, never a number.
    Raises: EngineError without pairs or when a site was not read; InterventionError for a site that is not offered or
        a pair without aligned positions; PromptError where the alignment is undefined.
    Source: Nanda 2023, "Attribution patching"; Syed, Rager & Conmy 2023, arXiv:2310.10348; limits: Kramár et al.
        2024, arXiv:2403.00745.
    When it misleads: where the patch is no small step.  A saturated softmax or norm has no slope although the whole
        patch matters (q and k most), effects of opposite sign cancel in it, and later heads that would compensate do
        so only to first order; a router's choice of experts has no slope at all.  Confirm the heads that it names,
        and some that it does not, by a sweep.
    """
    pairs, sites = _some(pairs), tuple(sites)
    if not sites or set(sites) - set(SITES) or len(set(sites)) != len(sites):
        raise InterventionError(f"sites must be some of {', '.join(SITES)}, each once; given {sites}")
    keys = list(product(sites, sorted(lab.attentions)))
    wanted = [(layer, site) for site, layer in keys]
    rows: list[tuple[int, str, int, int, float, float, float]] = []
    done = 0
    for which, partners in _batches(pairs, align, tokens):
        some = [pairs[i] for i in which]
        clean, kept = _observe(lab, [p.clean for p in some], wanted)
        corrupted, slopes = slopes_of(lab, [p.corrupted for p in some], wanted)
        for layer, site in wanted:
            own, slope = slopes[layer, site]
            step = partners.toward(own, to_layout(site, kept.pop((layer, site)), lab.grid.n_heads, None))
            for i, a, heads in zip(which, range(len(which)), (step * slope.double()).sum((1, 3)).tolist(), strict=True):
                ends = clean[a].item(), corrupted[a].item()
                rows += [(i, site, layer, head, value, *ends) for head, value in enumerate(heads)]
        done += len(which)
        progress("attribution patching", done, len(pairs))
    order = {key: n for n, key in enumerate(keys)}
    rows.sort(key=lambda r: (r[0], order[r[1], r[2]], r[3]))
    return _table(pairs, rows, ("site", "layer", "head", "attribution", "clean", "corrupted"))


@torch.inference_mode(False)
@torch.enable_grad()
def integrated_gradients(
    lab: Lab,
    pairs: Sequence[EncodedPair],
    layer: int,
    *,
    steps: int = 8,
    rule: Rule = "midpoint",
    align: Alignment = "role",
    tokens: int = TOKENS,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Share of each head of one layer in what patching the whole layer's z from the clean run does.

    Definition: ``Σ_{t,c} (z_clean[t', c] − z_corrupted[t, c]) · Σ_k w_k ∂LD/∂z[t, c] (a_k)`` for each head, along
        ``z(a) = (1 − a)·z_corrupted + a·z_clean`` of all heads of the layer together at the aligned positions (t, t'),
        with ``steps`` nodes a_k and weights w_k of the rule on [0, 1].  The heads' shares add up to the change by the
        path's end, to the error of the rule: ``gap``.
    Shapes: one row for each pair × head: ``pair``, ``pair_id``, ``cluster``, ``layer``, ``head``, ``attribution``, and
        for the pair ``total`` (Σ over heads), ``change`` (LD under z = clean minus LD of the corrupted run, by passes
        without gradients) and ``gap`` = total − change.
    Units: logits.  Range: any sign; more = this head carries more of the move toward the answer.
    Mean: none is taken; rows are raw, one for each pair.  Batches (``tokens``) change the time, never a number.
    Raises: EngineError without pairs or when the edit did not fire; InterventionError for fewer than one step, an
        unknown rule, a layer without softmax attention or a pair without aligned positions; ValueError for a layer
        that does not exist; PromptError where the alignment is undefined.
    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365; for circuits: Hanna, Pezzelle & Belinkov 2024,
        arXiv:2403.17806.
    When it misleads: it divides a joint effect.  Where heads interact, the share of a head is not what patching it
        alone does, and depends on the straight path, whose middle the model never visits.  A gap that is not small
        beside ``change`` means too few steps or, where a router chooses experts, that the choice jumps on the path:
        no slope sees a jump and no number of steps closes that gap.  A small gap says nothing about single shares.
    """
    import numpy as np

    pairs = _some(pairs)
    _has_heads(lab, layer)
    nodes, weights = quadrature(steps, rule)
    rows: list[tuple[int, int, int, float, float, float, float]] = []
    done = 0
    for which, partners in _batches(pairs, align, tokens):
        path = _Path.between(lab, layer, [pairs[i] for i in which], partners)
        n = len(which)
        with torch.no_grad():
            change = path.run(torch.arange(n), torch.ones(n, dtype=torch.float64))[0] - path.corrupted
        pair, amount = torch.arange(n).repeat_interleave(steps), nodes.repeat(n)
        size = max(1, tokens // path.ids.shape[1])
        parts = [path.run(p, a)[1] for p, a in zip(pair.split(size), amount.split(size), strict=True)]
        shares = (torch.cat(parts).unflatten(0, (n, steps)) * weights[None, :, None]).sum(1).numpy()
        totals = shares.sum(1)
        ends = np.stack([totals, change.numpy(), totals - change.numpy()], 1).tolist()
        for i, heads, end in zip(which, shares.tolist(), ends, strict=True):
            rows += [(i, layer, head, value, *end) for head, value in enumerate(heads)]
        done += n
        progress("integrated gradients", done, len(pairs))
    rows.sort(key=lambda r: (r[0], r[2]))
    return _table(pairs, rows, ("layer", "head", "attribution", "total", "change", "gap"))


def _has_heads(lab: Lab, layer: int) -> None:
    lab.grid.check_layer(layer)
    if layer not in lab.attentions:
        raise InterventionError(
            f"layer {layer} of {lab.name} has no softmax attention, so it has no heads; layers "
            f"{', '.join(map(str, sorted(lab.attentions)))} have"
        )


def quadrature(steps: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Nodes and weights [step] on [0, 1], float64; the weights sum to one.

    ``midpoint``: exact for linear integrands, error of order steps⁻².  ``gauss-legendre``: exact for polynomials of
    degree ``2·steps − 1``.  Raises InterventionError for fewer than one step or an unknown rule.
    """
    import numpy as np

    if steps < 1:
        raise InterventionError(f"integrated gradients need at least one step, given {steps}")
    if rule == "midpoint":
        middles = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
        return middles, torch.full_like(middles, 1 / steps)
    if rule != "gauss-legendre":
        raise InterventionError(f"unknown rule {rule!r}; expected midpoint or gauss-legendre")
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


@dataclass
class Partners:
    """Which clean position lends to which corrupted one: ``lent`` and ``where``, [row, position] of the corrupted run."""

    lent: Tensor
    where: Tensor

    @classmethod
    def of(cls, pairs: Sequence[EncodedPair], how: Alignment) -> Partners:
        """For pairs whose corrupted prompts have one length.  Raises InterventionError for a pair without partners."""
        lent = torch.zeros(len(pairs), len(pairs[0].corrupted.ids), dtype=torch.long)
        where = torch.zeros_like(lent, dtype=torch.bool)
        for i, pair in enumerate(pairs):
            chosen = align(pair, how)
            if not chosen:
                raise InterventionError(f"pair {pair.pair.id}: no position is aligned (align {how!r})")
            target, origin = torch.tensor(chosen).T
            lent[i, target], where[i, target] = origin, True
        return cls(lent, where)

    def toward(self, own: Tensor, clean: Tensor) -> Tensor:
        """clean − own where a position has a partner, 0 elsewhere: float64, [row, position, head, channel]."""
        lent, where = self.lent.to(own.device), self.where.to(own.device)
        row = torch.arange(len(lent), device=own.device)[:, None]
        return (clean[row, lent].double() - own.double()) * where[..., None, None]


@dataclass
class _Path:
    """The straight path of one layer's z from corrupted to clean, for pairs whose prompts have one length each.

    ``ids`` [pair, position]; ``residual`` [pair, position, d_model] enters the layer in the corrupted run (None:
    the layers below run again); ``start`` [pair, position, head, channel] is z of the corrupted run and ``step`` what
    leads from there to the clean run's, float64; ``corrupted`` [pair] are logit differences.
    """

    lab: Lab
    layer: int
    pairs: list[EncodedPair]
    ids: Tensor
    residual: Tensor | None
    start: Tensor
    step: Tensor
    corrupted: Tensor

    @classmethod
    def between(cls, lab: Lab, layer: int, pairs: list[EncodedPair], partners: Partners) -> _Path:
        key, below = (layer, "z"), (layer - 1, "resid")
        clean = _observe(lab, [p.clean for p in pairs], [key])[1][key]
        corrupted, kept = _observe(lab, [p.corrupted for p in pairs], [key, below] if layer and lab.can_skip else [key])
        ids = tensor_of([p.corrupted for p in pairs], lab.device)
        step = partners.toward(kept[key], clean)
        return cls(lab, layer, pairs, ids, kept.get(below), kept[key], step, corrupted)

    def run(self, pair: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
        """Rows at ``amount`` [row] of the path of ``pair`` [row]: logit differences [row] and, where gradients are
        recorded, step · slope of each head [row, head]; float64 on the CPU."""
        key, index, there = (self.layer, "z"), pair.to(self.ids.device), pair.to(self.start.device)
        step = self.step[there]

        def edit(_z: Tensor) -> Tensor:
            point = self.start[there].double() + amount.to(step.device)[:, None, None, None] * step
            return point.to(self.start.dtype).requires_grad_(torch.is_grad_enabled())

        tape = Tape(edits={key: [edit]}, wanted=frozenset({key}), grad=True)
        residual = None if self.residual is None else self.residual[index]
        with self.lab.tape(tape), skipping(self.lab, self.layer, residual):
            logits = forward(self.lab, self.ids[index]).logits
        _check(tape, [key])
        difference = _difference(logits, [self.pairs[i].corrupted for i in pair.tolist()])
        if not difference.requires_grad:
            return difference.double().cpu(), torch.empty(len(pair), 0)
        (slope,) = torch.autograd.grad(difference.sum(), [tape.kept[key]])
        return difference.detach().double().cpu(), (step * slope.double()).sum((1, 3)).cpu()


def _some(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    if not pairs:
        raise EngineError("nothing to attribute: 0 pairs")
    return list(pairs)


def _batches(pairs: Sequence[EncodedPair], how: Alignment, tokens: int) -> list[tuple[list[int], Partners]]:
    """Indices of pairs that share both lengths, in batches of at most ``tokens`` tokens of the longer prompt, each
    with its alignment: a pair without one raises before anything runs."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault((len(pair.clean.ids), len(pair.corrupted.ids)), []).append(i)
    out: list[tuple[list[int], Partners]] = []
    for lengths, which in groups.items():
        size = max(1, tokens // max(lengths))
        for start in range(0, len(which), size):
            batch = which[start : start + size]
            out.append((batch, Partners.of([pairs[i] for i in batch], how)))
    return out


@torch.no_grad()
def _observe(lab: Lab, encoded: Sequence[Encoded], keys: Sequence[Key]) -> tuple[Tensor, dict[Key, Tensor]]:
    """One pass without gradients: logit differences [row], and the sites as the model has them."""
    with lab.tape(Tape(wanted=frozenset(keys))) as tape:
        logits = forward(lab, tensor_of(encoded, lab.device)).logits
    return _difference(logits, encoded).double().cpu(), tape.kept


def slopes_of(
    lab: Lab, encoded: Sequence[Encoded], keys: Sequence[Key]
) -> tuple[Tensor, dict[Key, tuple[Tensor, Tensor]]]:
    """One forward and one backward pass: logit differences [row], and of each site its value and ∂LD/∂value in the
    layout [row, position, head, channel].  Rows do not meet in a pass, so the slope of their sum is each row's own."""
    edits: dict[Key, list[Callable[[Tensor], Tensor]]] = {key: [_opened] for key in keys}
    with lab.tape(Tape(edits=edits, wanted=frozenset(keys), grad=True)) as tape:
        logits = forward(lab, tensor_of(encoded, lab.device)).logits
    _check(tape, keys)
    difference = _difference(logits, encoded)
    slopes = torch.autograd.grad(difference.sum(), [tape.kept[key] for key in keys])

    def shown(key: Key, x: Tensor) -> Tensor:
        return to_layout(key[1], x.detach(), lab.grid.n_heads, None)

    out = {key: (shown(key, tape.kept[key]), shown(key, s)) for key, s in zip(keys, slopes, strict=True)}
    return difference.detach().double().cpu(), out


def _opened(x: Tensor) -> Tensor:
    """The same value with a gradient: what does not depend on an opened site yet becomes a leaf of the graph."""
    return x if x.requires_grad else x.detach().requires_grad_()


def _check(tape: Tape, keys: Sequence[Key]) -> None:
    """Law 3: what was planned fired, once."""
    if tape.fired != dict.fromkeys(keys, 1):
        raise EngineError(f"planned edits did not fire as planned: planned one at each of {keys}, fired {tape.fired}")


def _difference(logits: Tensor, encoded: Sequence[Encoded]) -> Tensor:
    """logit(answer) − logit(wrong) at the last position, [row], in float32 (float64 where the model is)."""
    ends = torch.tensor([(e.answer_id, e.wrong_id) for e in encoded], device=logits.device)
    answer, wrong = logits[:, -1].gather(1, ends).to(torch.promote_types(logits.dtype, torch.float32)).unbind(1)
    return answer - wrong


def _table(pairs: Sequence[EncodedPair], rows: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=pd.Index(["pair", *columns]))
    table.insert(1, "pair_id", [pairs[i].pair.id for i in table["pair"]])
    table.insert(2, "cluster", [pairs[i].pair.cluster or pairs[i].pair.id for i in table["pair"]])
    return table
