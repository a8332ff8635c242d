"""Where attention goes: shares by token class, routes by role, entropy.

Prompts are grouped by length and never padded.  Every row of a table is about one prompt, layer and query head.  A
layer without softmax attention has no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from headlab.effects import Progress, quiet
from headlab.engine.model import Lab
from headlab.measures.classes import DECIMALS, Classes
from headlab.measures.tables import Array, Shares, Sink, Sorting, blank, tidy
from headlab.measures.watching import Batch, Look, Queries, layers_of, rows_of, survey
from headlab.prompts import Encoded, PromptError
from headlab.tasks.decimals import NUMERIC_ROLES

if TYPE_CHECKING:
    import pandas as pd

One = Literal["last", "decision"]


@torch.inference_mode()
def bandwidth(
    lab: Lab,
    encoded: Sequence[Encoded],
    classes: Classes = DECIMALS,
    *,
    queries: Queries = "last",
    sink: Sink = "in",
    relative: bool = True,
    layers: Sequence[int] | None = None,
    tokens: int | None = None,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Share of each head's attention that goes to each class of tokens, and what it is to uniform attention.

    Definition: share(c) = mean over the queries q of Σ_{s in c} α[q, s] / Σ_{s counted} α[q, s].  Counted are all keys
        with ``sink="in"``, all but those of the class ``sink`` with ``"out"``; a query without mass on counted keys is
        left out.  uniform(c) is the same with α[q, s] equal on all keys that q sees in this layer (causal, within its
        window; asked of the model's own mask), over the same queries; relative = share / uniform.
    Shapes: one row for each prompt × layer × head × class: ``prompt`` (place in ``encoded``), ``layer``, ``head``,
        ``token_class``, ``tokens`` (of this class that the last query may see by causality), ``queries`` (how many
        counted), ``share``, and with ``relative`` also ``uniform`` and ``relative``.  A sink that is out has no rows.
    Units: a share of 1; relative: times uniform.  Range: shares 0 to 1, summing to 1 over the classes; relative ≥ 0, 1
        as uniform, more = more attention than the number of tokens explains.  Undefined (NaN), not 0: a class without
        tokens, and ``relative`` of a class that no counted query sees.
    Mean: over the queries of one prompt only; ``queries`` is ``last`` (last token of the prompt), ``decision`` (where
        the answers part; the answer's shared start is then the class ``answer``) or ``all`` (tokens of the prompt).
        Batches (``tokens`` in flight) change the time, never a number.
    Raises: PromptError for a role without a class, before anything runs; EngineError without prompts; ModelError for
        a layer without softmax attention; ValueError for ``sink="out"`` where the classes have no sink.
    Source: bandwidth framework §1.1 (all queries, sink in, not relative); the script after it used the last query.
    When it misleads: attention is not use: a head may look at what its value and output matrices erase
        (:func:`output_bandwidth`).  With the sink in, a head that rests shows small shares everywhere; with it out, such
        a head is judged by a sliver of its mass.  With ``all``, early queries, which see few keys, count as much as
        late ones.  The query's own token is a key too.  A learned sink that is no token (a constant in the softmax) is
        no key and counts nowhere.
    """
    layers, sorting = layers_of(lab, layers), Sorting.of(encoded, classes, queries, sink)
    columns = ["queries", "share", "uniform"] if relative else ["queries", "share"]
    found = blank(encoded, lab, layers, len(sorting.names), columns)

    def readers(batch: Batch, seen: Mapping[int, Tensor]) -> Any:
        member, (index, asked) = sorting.member(batch), batch.asked(queries)

        def reader(place: int, layer: int) -> dict[str, Look]:
            def look(pattern: Tensor) -> None:
                flat = seen[layer][index] if relative else None
                shares = Shares.of(rows_of(pattern, index), member, sorting.counted, asked, flat)
                found["queries"][batch.which, place] = shares.queries[..., None].cpu().numpy()
                found["share"][batch.which, place] = shares.share.cpu().numpy()
                if shares.uniform is not None:
                    found["uniform"][batch.which, place] = shares.uniform.cpu().numpy()

            return {"pattern": look}

        return reader

    survey(lab, encoded, layers, readers, "bandwidth", reference=relative, tokens=tokens, progress=progress)
    return sorting.table(lab, encoded, layers, _ready(found))


@torch.inference_mode()
def routing(
    lab: Lab,
    encoded: Sequence[Encoded],
    roles: Sequence[str] = NUMERIC_ROLES,
    layers: Sequence[int] | None = None,
    *,
    at: Sequence[One] = ("last", "decision"),
    tokens: int | None = None,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Attention from the last token, and from the token where the answers part, to each role, in every layer.

    Definition: attention(r) = Σ_{s in role r} α[q, s] for the query q; uniform(r) = the share of the keys that q sees
        in this layer which have the role.
    Shapes: one row for each prompt × query × layer × head × role: ``prompt``, ``query`` (``last``: the last token of
        the prompt; ``decision``: the last before the answers part), ``layer``, ``head``, ``role``, ``tokens`` (with
        this role), ``attention``, ``uniform``.
    Units: attention weight.  Range: 0 to 1, more = looks there more.  NaN where a prompt lacks the role.
    Mean: none is taken.  Batches (``tokens`` in flight) change the time, never a number.
    Raises: PromptError for a role that no prompt has; ValueError for no role or another query; EngineError without
        prompts; ModelError for a layer without softmax attention.
    Source: bandwidth framework §2.1 (routing from the integer, the point and each fraction; layers L−2 to L+2).
    When it misleads: two roles in one token (a tokenizer that keeps "9.8" whole) show the same number twice; roles of
        more tokens get more attention from a head that looks nowhere (compare ``uniform``).  What arrives at a token
        was partly moved there by earlier layers, so attention to a digit's place is not attention to the digit.
    """
    layers, roles = layers_of(lab, layers), tuple(roles)
    _asked(encoded, roles, at)
    found = blank(encoded, lab, layers, len(at) * len(roles), ["attention", "uniform"])
    counts = np.array([[len(e.roles.get(r, ())) for r in roles] for e in encoded])

    def readers(batch: Batch, seen: Mapping[int, Tensor]) -> Any:
        index = torch.cat([batch.asked(which)[0] for which in at], 1)
        member = torch.zeros(len(batch.which), len(roles), batch.length, device=batch.ids.device)
        for row, one in enumerate(batch.encoded):
            for n, role in enumerate(roles):
                member[row, n, list(one.roles.get(role, ()))] = 1

        def reader(place: int, layer: int) -> dict[str, Look]:
            def look(pattern: Tensor) -> None:
                rows = rows_of(pattern, index)
                flat = seen[layer][index].to(rows)
                flat = (flat / flat.sum(-1, keepdim=True))[:, :, None].expand_as(rows)
                for name, x in (("attention", rows), ("uniform", flat)):
                    by_role = torch.einsum("rqhk,rck->rhqc", x, member.to(x)).double()
                    found[name][batch.which, place] = by_role.flatten(2).cpu().numpy()

            return {"pattern": look}

        return reader

    survey(lab, encoded, layers, readers, "routing", tokens=tokens, progress=progress)
    # [prompt, layer, head, query, role] → the query before the layer
    shape = (len(encoded), len(layers), lab.grid.n_heads, len(at), len(roles))
    shaped = {k: np.moveaxis(v.reshape(shape), 3, 1) for k, v in found.items()}
    held = np.broadcast_to(counts[:, None, None, None], shaped["attention"].shape)
    columns = {"tokens": held, **{k: np.where(held > 0, v, np.nan) for k, v in shaped.items()}}
    return tidy({"query": at, "layer": layers, "head": range(lab.grid.n_heads), "role": roles}, columns)


def _asked(encoded: Sequence[Encoded], roles: tuple[str, ...], at: Sequence[One]) -> None:
    if not roles or not at or set(at) - {"last", "decision"}:
        raise ValueError(f"routing needs roles and queries (last, decision); given roles {roles}, queries {tuple(at)}")
    have = {role for e in encoded for role in e.roles}
    if encoded and set(roles) - have:
        missing = ", ".join(r for r in roles if r not in have)
        raise PromptError(f"no prompt has the role(s) {missing}; these prompts have {', '.join(sorted(have))}")


@torch.inference_mode()
def entropy(
    lab: Lab,
    encoded: Sequence[Encoded],
    *,
    at: One = "last",
    layers: Sequence[int] | None = None,
    tokens: int | None = None,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """How widely one query of each head spreads its attention.

    Definition: −Σ_s p_s log2 p_s with p_s = α[q, s] / Σ_s α[q, s], over all keys s.
    Shapes: one row for each prompt × layer × head: ``prompt``, ``layer``, ``head``, ``bits``, ``most`` (log2 of the
        number of keys that q sees in this layer: the entropy of uniform attention).
    Units: bits.  Range: 0 (one key) to ``most``; more = wider.  For one head: never summed over heads, where a sum
        grows with their number by construction.
    Mean: none is taken.  ``at``: ``last`` token of the prompt, or ``decision``, where the answers part.
    Raises: EngineError without prompts; ModelError for a layer without softmax attention; ValueError for another query.
    Source: Shannon 1948; the framework's §4.2 printed nats as bits and summed over the chosen heads.
    When it misleads: longer prompts allow more bits: compare with ``most``.  A head that rests on the sink has few bits
        whatever it does with the rest.  Entropy says nothing of what is carried.
    """
    layers = layers_of(lab, layers)
    if at not in {"last", "decision"}:
        raise ValueError(f"at is {at!r}; expected last or decision")
    found = blank(encoded, lab, layers, 1, ["bits", "most"])

    def readers(batch: Batch, seen: Mapping[int, Tensor]) -> Any:
        index = batch.asked(at)[0]

        def reader(place: int, layer: int) -> dict[str, Look]:
            def look(pattern: Tensor) -> None:
                rows = rows_of(pattern, index)[:, 0].double()
                nats = torch.special.entr(rows / rows.sum(-1, keepdim=True)).sum(-1, keepdim=True)
                found["bits"][batch.which, place] = nats.cpu().numpy() / np.log(2)
                keys = seen[layer][index].sum(-1)[:, :, None].double()
                found["most"][batch.which, place] = keys.log2().cpu().numpy()

            return {"pattern": look}

        return reader

    survey(lab, encoded, layers, readers, "entropy", tokens=tokens, progress=progress)
    return tidy({"layer": layers, "head": range(lab.grid.n_heads)}, {k: v[..., 0] for k, v in found.items()})


def _ready(found: dict[str, Array]) -> dict[str, Array]:
    """Relative where there is a reference; the number of queries as a whole number."""
    out = {**found, "queries": found["queries"].astype(np.int64)}
    if "uniform" in found:
        reference = np.where(found["uniform"] > 0, found["uniform"], np.nan)
        out["relative"] = found["share"] / reference
    return out
