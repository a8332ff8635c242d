"""Shares by token class, and tidy tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlab.engine.model import Lab
from headlab.measures.classes import ANSWER, SINK, Classes
from headlab.measures.watching import Batch, Queries
from headlab.prompts import Encoded, PromptError

Array = np.ndarray
Sink = Literal["in", "out"]


@dataclass(frozen=True)
class Sorting:
    """The class of every token of every prompt, made before anything runs.

    ``names`` are the classes that some query asked for may see; ``counted`` those of them that make up the whole.
    """

    names: tuple[str, ...]
    counted: tuple[bool, ...]
    assigned: tuple[tuple[str, ...], ...]
    queries: Queries

    @classmethod
    def of(cls, encoded: Sequence[Encoded], classes: Classes, queries: Queries, sink: Sink) -> Sorting:
        """Raises PromptError, naming the prompt, for a role without a class; ValueError for a sink that is not there."""
        if queries not in {"last", "decision", "all"}:
            raise ValueError(f"queries is {queries!r}; expected last, decision or all")
        if sink not in {"in", "out"} or (sink == "out" and SINK not in classes.names):
            raise ValueError(
                f"sink is {sink!r}; expected in, or out where the classes have a {SINK!r}: {classes.names}"
            )
        assigned = []
        for n, one in enumerate(encoded):
            try:
                assigned.append(classes.of(one))
            except PromptError as error:
                raise PromptError(f"prompt {n}: {error}") from error
        names = tuple(name for name in classes.names if name != ANSWER or queries == "decision")
        return cls(names, tuple(not (sink == "out" and n == SINK) for n in names), tuple(assigned), queries)

    def member(self, batch: Batch) -> Tensor:
        """Which key is of which class, 0 or 1, [row, class, key]."""
        table = [[[float(c == name) for c in self.assigned[i]] for name in self.names] for i in batch.which]
        return torch.tensor(table, device=batch.ids.device)

    def counts(self, encoded: Sequence[Encoded]) -> Array:
        """How many tokens of each class the last query asked for may see by causality, [prompt, class]."""
        ends = [len(e.ids) if self.queries == "decision" else e.n_prompt for e in encoded]
        rows = [[a[:end].count(n) for n in self.names] for a, end in zip(self.assigned, ends, strict=True)]
        return np.array(rows, dtype=np.int64)

    def table(
        self, lab: Lab, encoded: Sequence[Encoded], layers: Sequence[int], out: Mapping[str, Array]
    ) -> pd.DataFrame:
        """Arrays [prompt, layer, head, class] as rows; a class without tokens is undefined, the sink left out if out."""
        tokens = np.broadcast_to(self.counts(encoded)[:, None, None], next(iter(out.values())).shape)
        columns = {k: np.where(tokens > 0, v, np.nan) if v.dtype.kind == "f" else v for k, v in out.items()}
        kept = np.flatnonzero(self.counted)
        names = [self.names[n] for n in kept]
        axes = {"layer": layers, "head": range(lab.grid.n_heads), "token_class": names}
        return tidy(
            axes, {k: np.broadcast_to(v, tokens.shape)[..., kept] for k, v in {"tokens": tokens, **columns}.items()}
        )


def blank(
    encoded: Sequence[Encoded], lab: Lab, layers: Sequence[int], rest: int, names: Sequence[str]
) -> dict[str, Array]:
    """Undefined numbers, [prompt, layer, head, rest] for each name."""
    shape = (len(encoded), len(layers), lab.grid.n_heads, rest)
    return {name: np.full(shape, np.nan) for name in names}


def tidy(axes: Mapping[str, Sequence[Any]], columns: Mapping[str, Array]) -> pd.DataFrame:
    """One row for each entry of arrays [prompt, *axes], in that order."""
    shape = next(iter(columns.values())).shape
    places = np.indices(shape, dtype=np.int64).reshape(len(shape), -1)
    named = {name: np.array(list(v))[places[n]] for n, (name, v) in enumerate(axes.items(), start=1)}
    return pd.DataFrame(
        {"prompt": places[0], **named, **{k: np.ascontiguousarray(v).ravel() for k, v in columns.items()}}
    )


@dataclass(frozen=True)
class Shares:
    """Shares of a whole by class, with what they are shares of.

    ``share`` and ``uniform`` [row, head, class], means over the queries that count; ``mass`` the same before division;
    ``queries`` [row, head]: how many count, because they were asked for and have any mass.
    """

    share: Tensor
    mass: Tensor
    queries: Tensor
    uniform: Tensor | None = None

    @classmethod
    def of(
        cls, rows: Tensor, member: Tensor, counted: Sequence[bool], asked: Tensor, seen: Tensor | None = None
    ) -> Shares:
        """``rows`` [row, query, head, key], ``member`` [row, class, key], ``asked`` [row, query]; ``seen``
        [row, query, key] are the keys over which uniform attention would spread."""
        keep = torch.tensor(counted, device=rows.device)

        def by_class(x: Tensor) -> tuple[Tensor, Tensor]:
            mass = torch.einsum("rqhk,rck->rqhc", x, member.to(x)).double()
            return mass, (mass * keep).sum(-1, keepdim=True)

        mass, total = by_class(rows)
        good = (asked.to(rows.device)[:, :, None, None] & (total > 0)).double()
        n = good.sum(1)

        def mean(x: Tensor) -> Tensor:
            return (torch.where(good > 0, x, 0.0)).sum(1) / n

        uniform = None
        if seen is not None:
            flat, whole = by_class(seen.to(rows)[:, :, None])
            uniform = mean((flat / whole).expand_as(mass))
        return cls(mean(mass / total), mean(mass), n[..., 0], uniform)
