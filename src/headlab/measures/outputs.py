"""What each head writes, by the token it comes from; and the two published shares, which measure something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headlab.effects import Progress, quiet
from headlab.engine.attention import repeat_kv
from headlab.engine.model import Lab
from headlab.measures.classes import DECIMALS, Classes
from headlab.measures.tables import Shares, Sink, Sorting, blank
from headlab.measures.watching import Batch, Look, Queries, layers_of, rows_of, survey
from headlab.prompts import Encoded

if TYPE_CHECKING:
    import pandas as pd


@torch.inference_mode()
def output_bandwidth(
    lab: Lab,
    encoded: Sequence[Encoded],
    classes: Classes = DECIMALS,
    *,
    queries: Queries = "last",
    sink: Sink = "in",
    layers: Sequence[int] | None = None,
    tokens: int | None = None,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Share of what each head writes that comes from each class of tokens; the published shares beside it.

    Definition: size(q, s) = ‖α[q, s] · v[s] · W_O‖₂, with v of the KV head that this query head reads and W_O its rows
        of the output projection.  share(c) = mean over the queries of Σ_{s in c} size / Σ_{s counted} size, counted as
        in :func:`~headlab.measures.bandwidth`; norm(c) = mean over the same queries of Σ_{s in c} size.
        published_weight_share(c) = Σ_{s in c} α[last, s] / Σ_s α[last, s] over all keys of the prompt.
        published_output_share(c) = Σ_{t in c} ‖b[t]‖₂ / Σ_t ‖b[t]‖₂ over all positions t of the prompt, where b is the
        ``d_model / n_heads`` coordinates of the attention module's output *after* the projection that were called a
        head.  Neither depends on ``queries`` or ``sink``.
    Shapes: one row for each prompt × layer × head × class: ``prompt``, ``layer``, ``head``, ``token_class``,
        ``tokens``, ``queries``, ``share``, ``norm``, ``published_weight_share``, ``published_output_share``.
    Units: shares of 1; norm: that of the residual stream, before any norm between projection and stream.
    Range: shares 0 to 1; norm ≥ 0, more = larger writes.  Undefined (NaN): a class without tokens; the published output
        share where ``d_model`` does not divide by the number of heads, and of the class ``answer``.
    Mean: over the queries of one prompt only.  Batches (``tokens`` in flight) change the time, never a number.
    Raises: as ``bandwidth``, and ModelError where no projection takes z itself.
    Source: Kobayashi et al. 2020, arXiv:2004.10102, for norms of weighted, transformed vectors; the published shares:
        GusSand/MATS, weights against outputs (seed 000, experiment 1), there with ``PublishedClasses``.
    When it misleads: norms of single tokens do not add up to the norm of their sum: large writes may cancel, and a
        large write may say nothing that a later layer reads.  published_output_share asks at which *positions* a block
        is large, not where anything came from: blocks of equal size give the share of positions, whatever heads do.
    """
    layers, sorting = layers_of(lab, layers), Sorting.of(encoded, classes, queries, sink)
    factors = {layer: factor(lab.weight("o", layer)) for layer in layers}
    columns = ("queries", "share", "norm", "published_weight_share", "published_output_share")
    found = blank(encoded, lab, layers, len(sorting.names), columns)
    everything = (True,) * len(sorting.names)
    divides = lab.d_model % lab.grid.n_heads == 0

    def readers(batch: Batch, _seen: Mapping[int, Tensor]) -> Any:
        member, (index, asked), (last, one) = sorting.member(batch), batch.asked(queries), batch.asked("last")
        within = batch.asked("all")[1]
        values: list[Tensor] = []

        def keep(name: str, place: int, x: Tensor) -> None:
            found[name][batch.which, place] = x.cpu().numpy()

        def reader(place: int, layer: int) -> dict[str, Look]:
            def hold(v: Tensor) -> None:
                values[:] = [sizes(v, factors[layer], lab.grid.n_heads)]

            def weigh(pattern: Tensor) -> None:
                rows = rows_of(pattern, index) * values[0][:, None]
                shares = Shares.of(rows, member, sorting.counted, asked)
                keep("queries", place, shares.queries[..., None])
                keep("share", place, shares.share)
                keep("norm", place, shares.mass)
                keep("published_weight_share", place, Shares.of(rows_of(pattern, last), member, everything, one).share)

            def block(out: Tensor) -> None:
                blocks = out.unflatten(2, (lab.grid.n_heads, -1)).to(torch.promote_types(out.dtype, torch.float32))
                norms = blocks.norm(dim=-1).transpose(1, 2) * within[:, None]
                shares = Shares.of(norms[:, None], member, everything, one)
                keep("published_output_share", place, shares.share)

            return {"v": hold, "pattern": weigh, **({"out_block": block} if divides else {})}

        return reader

    survey(lab, encoded, layers, readers, "output bandwidth", reference=False, tokens=tokens, progress=progress)
    found["queries"] = found["queries"].astype(np.int64)
    if "answer" in sorting.names:
        found["published_output_share"][..., sorting.names.index("answer")] = np.nan
        found["published_weight_share"][..., sorting.names.index("answer")] = np.nan
    return sorting.table(lab, encoded, layers, found)


def factor(weight: Tensor) -> Tensor:
    """R [head, row, d_head] with ‖R v‖ = ‖v W‖ for W [head, d_head, d_model]: of the QR of Wᵀ, in float32 at least."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return torch.linalg.qr(wide.transpose(1, 2), mode="r").R


def sizes(v: Tensor, factors: Tensor, n_heads: int) -> Tensor:
    """‖v[s] · W_O‖₂ of each query head and key, [row, head, key], from v [row, KV head, key, d_head]."""
    mine = repeat_kv(v, n_heads).to(factors)
    return torch.einsum("rhkd,hed->rhke", mine, factors).norm(dim=-1)
