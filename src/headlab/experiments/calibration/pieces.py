"""What a calibration does, cut into pieces that are stored one by one, what says most for its time first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from headlab import organisms
from headlab.claims import Claim
from headlab.experiments.calibration import drawn, numbered, shapes
from headlab.experiments.training.models_table import CANNOT
from headlab.trials.document import Document
from headlab.trials.loading import load

NUMBERED = (
    *("head-similarity", "routing", "parity", "bandwidth", "position-sensitivity", "layer-scan", "architecture"),
    *("head-exchange", "bandwidth-repair", "format-masking", "bandwidth-dose", "spatial-patterns", "pattern-swap"),
    *("weight-clusters", "head-count"),
)
"""Entries about heads by their numbers: of heads numbered at random they say nothing true.  The cheapest first."""
PLANTED = {"parity": "decimals-planted-even", "layer-scan": "decimals-planted-even"}
"""Models in which a claim is true, as their cards say."""
TRIALS, ON_PLANTED, PER_PIECE = 1000, 60, 100
SHARES: Mapping[Any, float] = {"false": 1.0, 1.25: 0.1, "just so": 0.2, 1.5: 0.06, 2.0: 0.06}
"""Trials of each truth, as a share of those of false claims."""
FAR = (1.5, 2.0)
NULLS, NUMBERINGS = 5, 40
"""Null models, and numberings of each: a model's worlds are dear, another numbering of it is cheap."""
COLUMNS = ("source", "model", "truth", "n", "outcome", "p")


@dataclass(frozen=True)
class Piece:
    """Some trials of one rule: of the claims ``of``, made by ``make``; ``drawn``: of numbers, without a model."""

    name: str
    of: tuple[str, ...]
    make: Callable[[], list[dict[str, Any]]]
    drawn: bool = False

    def frame(self) -> pd.DataFrame:
        """A row for each trial."""
        return pd.DataFrame(self.make(), columns=list(COLUMNS)).astype({"p": float})


@dataclass
class Models:
    """Models as they are needed, and what is known of their worlds."""

    seed: int
    labs: dict[str, Any] = field(default_factory=dict)
    known: dict[str, dict[Any, Any]] = field(default_factory=dict)

    def ground(self, model: str, slug: str, pool: int | None = None) -> numbered.Ground:
        """A claim before a model.  Raises what loading raises."""
        if model not in self.labs:
            self.labs[model] = load(model)
        out = numbered.ground(self.labs[model], slug, pool=pool, seed=self.seed)
        out.known = self.known.setdefault(model, {})
        return out

    def on_null(self, slug: str, model: str, first: int, n: int) -> list[dict[str, Any]]:
        """So many numberings of one model."""
        at = self.ground(model, slug)
        return [_row("numbered", model, "false", i, at, numbered.numbering(at.lab, i)) for i in range(first, first + n)]

    def on_planted(self, slug: str, model: str, first: int, n: int) -> list[dict[str, Any]]:
        """So many draws of pairs from one pool."""
        at, size = self.ground(model, slug, numbered.POOL), numbered.SIZES["pairs"]
        return [_row("planted", model, "true", i, at, None, size) for i in range(first, first + n)]


def _row(
    source: str, model: str, truth: str, n: int, at: numbered.Ground, order: Any, pairs: int | None = None
) -> dict[str, Any]:
    try:
        found = at.tried(order, pairs, seed=n)
    except CANNOT:  # a trial that cannot be made is counted as one
        found = {"outcome": "untestable", "p": None}
    return {"source": source, "model": model, "truth": truth, "n": n, "outcome": found["outcome"], "p": found["p"]}


def _drawn(shape: shapes.Shape, truth: Any, seed: int, first: int, n: int) -> list[dict[str, Any]]:
    outcomes = drawn.trials(shape, truth, seed, first, n)
    told = {"source": "drawn", "model": "", "truth": str(truth), "p": None}
    return [{**told, "n": first + i, "outcome": o} for i, o in enumerate(outcomes)]


def pieces(claims: Sequence[Claim | Document], model: str | None, trials: int, seed: int) -> Iterator[Piece]:
    """What is to be done, what says most for its time first."""
    models, names = Models(seed), {c.id for c in claims if isinstance(c, Claim)}
    shape_pieces = list(_of_shapes(claims, trials, seed)) if model is None else []
    yield from (p for early, p in shape_pieces if early)
    nulls = [n for n in organisms.names() if n.startswith("decimals-null-")][:NULLS] if model is None else [model]
    each = NUMBERINGS if model is None else trials
    for slug in (s for s in NUMBERED if s in names):
        for first in range(0, each, 5):
            for name in nulls:
                make = partial(models.on_null, slug, name, first, min(5, each - first))
                yield Piece(f"numbered {slug} {name} {first}", (slug,), make)
        if model is None and slug in PLANTED:
            for first in range(0, ON_PLANTED, 10):
                make = partial(models.on_planted, slug, PLANTED[slug], first, 10)
                yield Piece(f"planted {slug} {first}", (slug,), make)
    yield from (p for early, p in shape_pieces if not early)


def _of_shapes(claims: Sequence[Claim | Document], trials: int, seed: int) -> Iterator[tuple[bool, Piece]]:
    """Some trials of each truth of every rule come before more of any, the cheapest rules first; those of far effects (not
    early) come last."""
    every = sorted(shapes.shared(claims).items(), key=lambda s: s[0].cost)
    wanted = [(t, first) for t, n in SHARES.items() for first in range(0, max(1, round(trials * n)), PER_PIECE)]
    for truth, first in sorted(wanted, key=lambda w: w[1] > 0):
        n = min(PER_PIECE, max(1, round(trials * SHARES[truth])) - first)
        for shape, of in every:
            make = partial(_drawn, shape, truth, seed, first, n)
            yield truth not in FAR, Piece(f"drawn {shape} {truth} {first} {n}", tuple(of), make, drawn=True)
