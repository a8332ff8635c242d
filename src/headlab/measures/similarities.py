"""How alike heads are: correlation of their patterns, or of what they put out, over prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from headlab.effects import Progress, quiet
from headlab.engine.model import Lab
from headlab.heads import Grid
from headlab.measures.tables import Array, Sink
from headlab.measures.watching import Batch, Look, Queries, layers_of, rows_of, survey
from headlab.prompts import Encoded

Kind = Literal["pattern", "z", "output"]
FLAT = 1e-12
"""A head whose variance is below this share of its mean square is constant: its correlation is undefined."""


@dataclass(frozen=True)
class Moments:
    """What correlations between heads are made of, prompt by prompt: sums over a prompt's entries.

    ``count`` [prompt], ``total`` [prompt, head] = Σ x_i, ``product`` [prompt, head, head] = Σ x_i·x_j, float64.  Sums
    over prompts are those of the concatenated entries, so any resample of prompts is exact and costs no model.
    """

    count: Array
    total: Array
    product: Array

    def __len__(self) -> int:
        return len(self.count)

    def correlation(self, prompts: Sequence[int] | Array | None = None) -> Array:
        """Pearson correlation over the concatenated entries of ``prompts`` (repeats count; None: all), [head, head].

        NaN for a head that is constant there.
        """
        which = np.arange(len(self)) if prompts is None else np.asarray(prompts)
        if not len(which):
            raise ValueError("a correlation over 0 prompts is undefined")
        times = np.bincount(which, minlength=len(self)).astype(float)
        return _correlation(times @ self.count, times @ self.total, np.tensordot(times, self.product, 1))

    def each(self) -> Array:
        """The correlation within each prompt, [prompt, head, head]."""
        return np.stack([_correlation(*one) for one in zip(self.count, self.total, self.product, strict=True)])


def _correlation(count: Any, total: Array, product: Array) -> Array:
    spread = product / count - np.outer(total, total) / count**2
    variance = np.diag(spread)
    safe = np.where(variance > FLAT * np.diag(product) / count, variance, np.nan)
    out = np.clip(spread / np.sqrt(np.outer(safe, safe)), -1, 1)
    np.fill_diagonal(out, np.where(np.isnan(safe), np.nan, 1.0))
    return out


@torch.inference_mode()
def moments(
    lab: Lab,
    encoded: Sequence[Encoded],
    layer: int,
    *,
    kind: Kind = "pattern",
    queries: Queries = "last",
    sink: Sink = "in",
    tokens: int | None = None,
    progress: Progress = quiet,
) -> Moments:
    """The sums from which :func:`similarity` follows, for each prompt: what a bootstrap over prompts needs.

    Arguments, units and errors are those of :func:`similarity`.
    """
    layers_of(lab, [layer])
    if kind not in {"pattern", "z", "output"} or sink not in {"in", "out"}:
        raise ValueError(f"kind is {kind!r}, sink {sink!r}; expected pattern, z or output, and in or out")
    n, heads = len(encoded), lab.grid.n_heads
    sums = Moments(np.zeros(n), np.zeros((n, heads)), np.zeros((n, heads, heads)))
    weight = lab.weight("o", layer).double() if kind == "output" else None

    def readers(batch: Batch, seen: Mapping[int, Tensor]) -> Any:
        index, asked = batch.asked(queries)

        def add(row: int, entries: Tensor) -> None:
            """``entries`` [head, entry] of one prompt."""
            prompt = batch.which[row]
            sums.count[prompt] = entries.shape[1]
            sums.total[prompt] = entries.sum(1).cpu().numpy()
            product = entries @ entries.T
            sums.product[prompt] = ((product + product.T) / 2).cpu().numpy()  # symmetric to the last bit

        def patterns(x: Tensor) -> None:
            rows = rows_of(x, index)
            for row, one in enumerate(rows):
                counted = seen[layer][index[row]] & asked[row][:, None]
                if sink == "out":
                    counted = counted & (torch.arange(batch.length, device=counted.device) > 0)
                add(row, one.transpose(0, 1)[:, counted].double())

        def outputs(x: Tensor) -> None:
            rows = rows_of(x.transpose(1, 2), index)
            for row, one in enumerate(rows):
                mine = one[asked[row]].double()
                made = mine if weight is None else torch.einsum("qhd,hdm->qhm", mine, weight)
                add(row, made.transpose(0, 1).flatten(1))

        look: Look = patterns if kind == "pattern" else outputs
        chosen: Callable[[int, int], Mapping[str, Look]] = lambda *_: {"pattern" if kind == "pattern" else "z": look}  # noqa: E731
        return chosen

    survey(lab, encoded, [layer], readers, "similarity", reference=kind == "pattern", tokens=tokens, progress=progress)
    return sums


def similarity(
    lab: Lab,
    encoded: Sequence[Encoded],
    layer: int,
    *,
    kind: Kind = "pattern",
    queries: Queries = "last",
    sink: Sink = "in",
    tokens: int | None = None,
    progress: Progress = quiet,
) -> Array:
    """Correlation of every two heads of a layer over prompts.

    Definition: Pearson correlation of x_i and x_j, the entries of heads i and j of all prompts in one row.
        ``pattern``: α[q, s] on the keys s that q sees; ``z``: the channels of z[q]; ``output``: those of z[q]·W_O, the
        head's write to the residual stream.  q runs over ``queries`` (as in :func:`~headlab.measures.bandwidth`);
        ``sink="out"`` leaves the first position out as a key (patterns only).  Prompts of different length are
        concatenated, so each counts by its entries.
    Shapes: [head, head], float64, symmetric; :func:`moments` gives it for each prompt and for any resample.
    Units: none.  Range: −1 to 1, more = more alike; NaN for a head whose entries are all the same.
    Mean: over entries and prompts together; no Fisher transform.
    Raises: EngineError without prompts; ModelError for a layer without softmax attention and, for ``output``, where no
        projection takes z itself; ValueError for another kind or sink.
    Source: framework §3.1, which flattened whole patterns, masked entries included.
    When it misleads: heads that rest on the first token are alike for that reason alone (``sink="out"``), as are, with
        ``queries="all"``, any two heads over early queries, which see few keys.  Heads of one KV group share keys and
        values: compare within and between parity at equal group distance, and permute head labels; pairs share heads,
        so a t-test over pairs counts each head many times.  ``z`` compares channels that each head numbers in its own
        way: a rotation inside a head changes the correlation and nothing else; only heads of one KV group share a
        basis.  ``output`` has one basis for all.
    """
    found = moments(lab, encoded, layer, kind=kind, queries=queries, sink=sink, tokens=tokens, progress=progress)
    return found.correlation()


def least_alike(mean: Array, grid: Grid) -> tuple[int, int]:
    """The two heads that share keys (any two, where no heads do) whose patterns are least alike."""
    left, right = np.triu_indices(len(mean), 1)
    together = (left // grid.group_size == right // grid.group_size) | (grid.group_size == 1)
    values = np.where(together, np.nan_to_num(mean[left, right], nan=2.0), np.inf)
    best = int(values.argmin())
    return int(left[best]), int(right[best])
