"""What thoughts and answer tokens attend to: one row of attention for each of them, in every head, for every problem.

1. The question and ``bot`` are read; nothing of them is kept.
2. The pass that is fed thought i gives row i: attention of its query to the question (summed), to ``bot``, and to each
   thought up to and including itself.
3. ``eot`` and the answer give two more rows, which see all thoughts: ``eot``'s, and the mean over the answer tokens that
   were fed (up to the end token, which is not fed).
4. Every row must sum to one; a row that does not is an error, never a smaller number.

Problems are batched by length, never padded.  The measures on these rows (:mod:`headlab.thoughts.metrics`,
:mod:`headlab.thoughts.hubs`) are plain numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from headlab.effects import Progress, quiet
from headlab.engine.decode import stop_ids
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import BATCH, Asked, Ran, ids_of, layout_of, read_prompt, run
from headlab.thoughts.model import ThoughtError
from headlab.thoughts.sources import slots_of
from headlab.thoughts.worlds import ThoughtWorld

SLACK = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}
"""How far a row's sum may lie from one, by the dtype of the pattern: rounding of a few dozen weights."""


@dataclass(frozen=True)
class ThoughtAttention:
    """Attention of thoughts, ``eot`` and answer, by what is attended to.

    ``question``, ``bot``, ``later`` [problem, layer, head, row] and ``thoughts`` [problem, layer, head, row, thought]
    sum to one in each row.  Rows are thought 0 … n−1, ``eot``, answer; ``later`` is mass on ``eot`` and answer tokens
    (none in the rows of thoughts).  The answer's row is NaN for a problem whose answer ended at once.
    """

    names: tuple[str, ...]
    question: Float[np.ndarray, "problem layer head row"]
    bot: Float[np.ndarray, "problem layer head row"]
    thoughts: Float[np.ndarray, "problem layer head row thought"]
    later: Float[np.ndarray, "problem layer head row"]

    @property
    def n_thoughts(self) -> int:
        return self.thoughts.shape[-1]

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows."""
        return (*(f"thought[{i}]" for i in range(self.n_thoughts)), "eot", "answer")

    @property
    def among(self) -> Float[np.ndarray, "problem layer head thought thought"]:
        """Row i, column j: attention of thought i to thought j (zero for j > i)."""
        return self.thoughts[..., : self.n_thoughts, :]

    @property
    def matrices(self) -> Float[np.ndarray, "problem head thought thought"]:
        """Attention among thoughts, the heads of all layers one after the other."""
        return self.among.reshape(len(self.among), -1, *self.among.shape[-2:])

    @property
    def answers(self) -> Float[np.ndarray, "problem layer head reader thought"]:
        """Attention of ``eot`` and of the answer to each thought; both see all of them."""
        return self.thoughts[..., self.n_thoughts :, :]

    def gap(self) -> float:
        """Largest distance of a row's sum from one."""
        total = self.question + self.bot + self.thoughts.sum(-1) + self.later
        return float(np.nanmax(np.abs(total - 1)))

    def frame(self) -> pd.DataFrame:
        """One row for each problem × layer × head, one column for each number: what a store keeps."""
        n, layers, heads = self.question.shape[:3]
        problem, layer, head = (x.ravel() for x in np.indices((n, layers, heads)))
        columns: dict[str, Any] = {"name": np.array(self.names)[problem], "layer": layer, "head": head}
        for r, row in enumerate(self.rows):
            for key in ("question", "bot", "later"):
                columns[f"{row} {key}"] = getattr(self, key)[..., r].ravel()
            for j in range(self.n_thoughts):
                columns[f"{row} {j}"] = self.thoughts[..., r, j].ravel()
        return pd.DataFrame(columns)

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> ThoughtAttention:
        """What :meth:`frame` wrote."""
        layers, heads = (int(frame[k].to_numpy().max()) + 1 for k in ("layer", "head"))
        shape = (-1, layers, heads)
        thoughts = sum(1 for c in frame.columns if c.startswith("eot ")) - 3
        rows = (*(f"thought[{i}]" for i in range(thoughts)), "eot", "answer")

        def take(keys: Sequence[Any]) -> np.ndarray:
            return frame[[f"{row} {key}" for row in rows for key in keys]].to_numpy(float)

        whole = {k: take([k]).reshape(*shape, len(rows)) for k in ("question", "bot", "later")}
        names = frame["name"].to_numpy()[:: layers * heads]
        among = take(range(thoughts)).reshape(*shape, len(rows), thoughts)
        return cls(tuple(map(str, names)), thoughts=among, **whole)

    def taken(self, order: Sequence[int]) -> ThoughtAttention:
        """These problems, in this order."""
        index = list(order)
        return ThoughtAttention(
            tuple(self.names[i] for i in index),
            self.question[index],
            self.bot[index],
            self.thoughts[index],
            self.later[index],
        )


@torch.inference_mode()
def attention(
    thinker: Thinker,
    questions: Sequence[str],
    names: Sequence[str],
    world: ThoughtWorld | None = None,
    *,
    batch: int = BATCH,
    max_new_tokens: int = 12,
    keep: Callable[[str, Callable[[], Any]], Any] | None = None,
    progress: Progress = quiet,
    what: str = "attention",
) -> ThoughtAttention:
    """The rows of attention of every problem, in the order given.

    Definition: row(i)[key] = softmax(q_i · k / √d)[key], the pattern of the pass that is fed thought i, as the model's own
        eager function gives it; question: the sum over its tokens.  eot, answer: see :class:`ThoughtAttention`.
    Shapes: [problem, layer, head, row(, thought)], layers by number; units: attention weight.
    Range: 0 to 1; question + bot + thoughts + later = 1 in each row.
    Mean over: nothing, but the answer's row is the mean over the answer tokens that were fed.
    ``world``: forced patterns or edits under which the model runs (such that need no other run: no mean, no donor).
    ``keep(name, compute)`` stores each finished batch; ``batch`` changes the time, not the numbers (beyond rounding).
    Raises: ThoughtError for a model without thoughts, a layer without softmax attention, a row that does not sum to one,
        a world that needs another run.
    Source: the 6×6 extraction of the CODI attention-flow study (2025), with six thoughts fed and each query matched to
        the keys before it and its own.
    When it misleads: attention is not use.  Most of a row's mass is on the question; compare rows by their shares inside
        the thoughts only with that mass beside them.
    """
    _readable(thinker, world)
    asked = Asked.of(thinker, questions, names)
    parts: list[ThoughtAttention] = []
    order: list[int] = []
    for group in asked.groups.values():
        for start in range(0, len(group), batch):
            chosen = group[start : start + batch]

            def compute(chosen: list[int] = chosen) -> Any:
                return _block(thinker, asked, chosen, world, max_new_tokens).frame()

            made = compute() if keep is None else keep(_name(what, asked, chosen, world, max_new_tokens), compute)
            parts.append(ThoughtAttention.of_frame(made))
            order += chosen
            progress(what, len(order), len(asked.ids))
    whole = ThoughtAttention(
        tuple(n for p in parts for n in p.names),
        *(np.concatenate([getattr(p, k) for p in parts]) for k in ("question", "bot", "thoughts", "later")),
    )
    found = whole.taken(np.argsort(order).tolist())
    _check(thinker, found)
    return found


def _readable(thinker: Thinker, world: ThoughtWorld | None) -> None:
    if not thinker.spec.n_thoughts:
        raise ThoughtError(
            f"{thinker.name} has no thoughts, so there is no attention among them; expected a codi or filler model"
        )
    if world is not None and (world.asks_own or world.asks_donor or world.asks_mean):
        raise ThoughtError(f"world {world.name!r} writes what another run holds; attention is read in one run")
    grid = thinker.lab.grid
    if missing := sorted(set(range(grid.n_layers)) - set(thinker.lab.attentions)):
        raise ThoughtError(f"{thinker.name}: layers {missing} have no softmax attention to read")
    for force in world.forces if world else ():
        grid.check(force.heads)


def _block(
    thinker: Thinker, asked: Asked, chosen: Sequence[int], world: ThoughtWorld | None, answer: int
) -> ThoughtAttention:
    """Problems of one length."""
    layout, ids = layout_of(thinker, asked, chosen[0], answer), ids_of(thinker, asked, chosen)
    names = [asked.names[i] for i in chosen]
    slots = None if world is None else slots_of(thinker, layout, [world], len(chosen), names, None, None, None)
    index = torch.arange(len(chosen), device=ids.device)
    read = read_prompt(thinker, ids, layout, slots=slots)
    wanted = frozenset((at, "pattern") for at in range(thinker.lab.grid.n_layers))
    ran = run(thinker, ids, layout, slots=slots, wanted=wanted, prompt=read, index=index)
    return _sorted(thinker, ran, names)


def _sorted(thinker: Thinker, ran: Ran, names: Sequence[str]) -> ThoughtAttention:
    """Attention of each pass after the prompt's, by role."""
    layout, n = ran.layout, ran.layout.n_thoughts
    columns: list[list[torch.Tensor]] = []
    for p in range(1, len(ran.kept)):
        end = layout.passes[p].stop
        seen = [ran.kept[p][at, "pattern"][:, :, -1] for at in range(thinker.lab.grid.n_layers)]
        if any(x.shape[-1] != end for x in seen):
            raise ThoughtError(
                f"{thinker.name}: a query at position {end - 1} sees {sorted({x.shape[-1] for x in seen})} keys, expected "
                f"{end}; a window that drops the question cannot be sorted by role"
            )
        row = torch.stack(seen, 1).double()  # [problem, layer, head, key]
        among = torch.zeros(*row.shape[:-1], n, dtype=row.dtype, device=row.device)
        inside = row[..., layout.prompt : min(end, layout.eot)]
        among[..., : inside.shape[-1]] = inside
        parts = (row[..., : layout.question].sum(-1), row[..., layout.question], among, row[..., layout.eot :].sum(-1))
        columns.append(list(parts))
    whole = [torch.stack([c[k] for c in columns], 3) for k in range(4)]
    # the pass after eot's is fed the first token made, and so on: it belongs to the answer while no end token was made
    stops = torch.tensor(sorted(stop_ids(thinker.lab)) or [-1], device=ran.made.device)
    fed = torch.isin(ran.made, stops).cumsum(1)[:, : whole[0].shape[3] - n - 1] == 0
    out = []
    for x in whole:
        alive = fed.reshape(len(fed), 1, 1, -1, *[1] * (x.dim() - 4)).to(x)
        answer = (x[:, :, :, n + 1 :] * alive).sum(3) / alive.sum(3)
        out.append(torch.cat([x[:, :, :, : n + 1], answer[:, :, :, None]], 3).cpu().numpy())
    return ThoughtAttention(tuple(names), out[0], out[1], out[2], out[3])


def _check(thinker: Thinker, found: ThoughtAttention) -> None:
    if found.gap() > SLACK[thinker.lab.dtype]:
        raise ThoughtError(
            f"{thinker.name}: a row of attention sums to one only within {found.gap():.2g} (allowed "
            f"{SLACK[thinker.lab.dtype]:.0e}), so some key is not counted; an attention with a sink of its own has none"
        )


def _name(what: str, asked: Asked, chosen: Sequence[int], world: ThoughtWorld | None, answer: int) -> str:
    edits = None if world is None else ([i.plain() for i in world.interventions], world.forces, world.replaced)
    told = repr(([(asked.names[i], asked.ids[i]) for i in chosen], edits, answer))
    return f"{what}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
