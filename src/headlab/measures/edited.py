"""Controls of what is read from attention: the same model, whose passes run under an edit that must show in the reading.

An edit that writes nothing new changes no reading; heads whose queries are zero read alike; heads made to look at the
numbers only read 1, and no other head's reading moves.  With token classes dealt out at random heads give the numbers
what uniform attention does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlab.claims import Control, judged
from headlab.engine.attention import Tape
from headlab.engine.model import Lab
from headlab.engine.passes import by_length
from headlab.engine.selfcheck import TOLERANCE
from headlab.heads import Grid, even
from headlab.measures.attention import bandwidth
from headlab.measures.classes import DECIMALS, Shuffled
from headlab.prompts import Encoded
from headlab.stats import bootstrap_mean
from headlab.tasks.decimals import NUMERIC_ROLES

CONTROLS = ("no-op", "uniform", "pointed")
CONTROL_PROMPTS = 32
NEAR = 0.05
Array = np.ndarray
Measure = Callable[[Lab, Sequence[Encoded], int], Array]
"""``measure(lab, encoded, tokens)`` → [prompt, head]: attention of one layer to the numbers; ``tokens`` in one batch."""


def edited(lab: Lab, edits: Mapping[tuple[int, str], Callable[[Tensor], Tensor]]) -> Lab:
    """The same model, whose passes run under ``edits`` before whatever else they are asked for."""
    other = copy.copy(lab)

    @contextmanager
    def tape(asked: Tape) -> Iterator[Tape]:
        steps = {k: list(v) for k, v in asked.edits.items()}
        for key, edit in edits.items():
            steps[key] = [edit, *steps.get(key, [])]
        with lab.tape(replace(asked, edits=steps)):  # kept, fired and calls are shared with the tape asked for
            yield asked
        for key in edits:
            own, fired = len(asked.edits.get(key, ())), asked.fired.pop(key, 0)
            if own:
                asked.fired[key] = fired * own // (own + 1)

    setattr(other, "tape", tape)  # noqa: B010
    return other


def of_one_length(encoded: Sequence[Encoded]) -> list[Encoded]:
    """The first prompts of the most common length."""
    which = max(by_length(encoded).values(), key=len)
    return [encoded[i] for i in which[:CONTROL_PROMPTS]]


def pointing(encoded: Sequence[Encoded], heads: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """An edit of a pattern [row, head, query, key]: ``heads`` look at the numbers only, from the last number on."""
    places = [[i for role in NUMERIC_ROLES for i in e.roles.get(role, ())] for e in encoded]

    def edit(x: Tensor) -> Tensor:
        if len(x) != len(places):  # the pass that only asks which keys are seen
            return x
        out = x.clone()
        for row, keys in enumerate(places):
            keys = sorted(set(keys))
            aimed = torch.zeros_like(x[row, 0, 0])
            aimed[keys] = 1 / len(keys)
            for head in heads:
                out[row, head, keys[-1] :] = aimed
        return out

    return edit


def copying(grid: Grid, at: int, source: int, target: int) -> dict[tuple[int, str], Callable[[Tensor], Tensor]]:
    """Edits after which head ``target`` asks for what head ``source`` asks for, of the same keys."""

    def copied(x: Tensor) -> Tensor:
        out = x.clone()
        out[:, target] = out[:, source]
        return out

    return {(at, site): copied for site in (("q", "k") if grid.group_size == 1 else ("q",))}


def two_patterns(x: Tensor) -> Tensor:
    """Every even head attends as head 0 does, every odd head as head 1 does; [row, head, query, key]."""
    out = x.clone()
    out[:, 0::2] = x[:, :1]
    out[:, 1::2] = x[:, 1:2]
    return out


def controls(lab: Lab, encoded: Sequence[Encoded], at: int, measure: Measure) -> list[Control]:
    """The three controls of a reading of attention to the numbers from the end of the prompt."""
    some, evens = of_one_length(encoded), list(even(lab.grid, at).at(at))
    tokens = sum(len(e.ids) for e in some)
    slack = TOLERANCE[lab.dtype]

    def under(edits: Mapping[tuple[int, str], Callable[[Tensor], Tensor]]) -> Array:
        return measure(edited(lab, edits), some, tokens)

    own = measure(lab, some, tokens)
    drift = float(np.abs(under({(at, "pattern"): torch.clone}) - own).max())
    flat = under({(at, "q"): torch.zeros_like})
    spread = float(np.ptp(flat, axis=1).max())
    aimed = under({(at, "pattern"): pointing(some, evens)})
    others = [h for h in range(lab.grid.n_heads) if h not in evens]
    short = float(np.abs(aimed[:, evens] - 1).max())
    leak = float(np.abs(aimed[:, others] - own[:, others]).max()) if others else 0.0
    n = f"{len(some)} prompts"
    same = f"writing every pattern back changes no reading of {n}: {drift:.2g}"
    alike = f"with every query zero all heads read alike on {n}: largest difference {spread:.2g}"
    pointed = (
        f"even heads made to look at the numbers only read 1 on {n} (off by {short:.2g}), the others as before "
        f"(off by {leak:.2g})"
    )
    return [
        judged("no-op", "negative", drift == 0.0, drift, same),
        judged("uniform", "negative", spread <= slack, spread, alike),
        judged("pointed", "positive", max(short, leak) <= slack, short, pointed),
    ]


def shuffled_roles(lab: Lab, encoded: Sequence[Encoded], at: int, clusters: Sequence[str], seed: int) -> Control:
    """Roles dealt out at random: on average each head then gives "numbers" exactly what uniform attention does."""

    def relative(n: int) -> Array:
        table: Any = bandwidth(lab, encoded, Shuffled(DECIMALS, seed + n), sink="out", layers=[at])
        table = table[table["token_class"] == "numeric"]
        return table.pivot(index="prompt", columns="head", values="relative").to_numpy().mean(1)

    found = bootstrap_mean(np.mean([relative(n) for n in range(8)], 0), clusters, unit="pairs", seed=seed, level=0.999)
    value = found.value if found.value is not None else 1.0
    words = f"with token classes dealt out at random, heads give the numbers {found} times what uniform attention does"
    passed = found.above(1.0) == "unsure" or abs(value - 1) <= NEAR
    return Control(name="shuffled-roles", kind="negative", passed=passed, words=words, value=value)
