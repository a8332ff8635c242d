"""The central table, and what is read from it.

**effects** has one row per prompt pair × world (a world is a set of interventions applied together): the clean,
corrupted and edited readouts.  Everything before it makes rows; everything after it reads rows.

Columns: ``pair`` (int), ``pair_id``, ``cluster``, ``world`` (str), ``clean``, ``corrupted``, ``edited`` (logit
differences, in logits), and where text was generated ``clean_text``, ``corrupted_text``, ``edited_text``, ``parsed``
(whether an answer could be read), ``right`` (whether it is the right one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from headlab.stats import Estimate, bootstrap_ratio, clustered_rate

if TYPE_CHECKING:
    import pandas as pd

Table = Any
"""A pandas table: which columns it has is said where it is made; no type names them."""

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``: called often; must return fast."""


def quiet(what: str, done: int, total: int) -> None:
    """A progress that shows nothing."""


def as_part(progress: Progress, name: str, n: int, total: int) -> Progress:
    """The progress of the ``n``-th of ``total`` trials, each worth as much, as that of all of them under one ``name``."""
    return lambda _what, done, of: progress(name, 1000 * n + (1000 * done // of if of else 0), 1000 * total)


@dataclass(frozen=True)
class Figure:
    """A figure as data; the report draws it.

    ``null``: ``data`` rows ``{"value": x}`` (the matched sets; ``heads`` where no table has them), options ``observed``, ``low``,
    ``high``, ``label``, ``named`` (heads), ``of`` (which ``table`` has the heads, beside which ``column``, ``where``).
    ``curve``: rows ``{"x", "y", "low", "high", "series"}``, options ``threshold``.
    ``estimates``: rows ``{"label", "value", "low", "high", "group"}``, options ``threshold``.
    ``pairs``: rows ``{"pair", "world", "value"}`` (one dot per pair).
    ``heatmap``: rows ``{"x", "y", "value", "panel"}`` (one cell each, in the order given; panels under each other).
    ``scatter``: rows ``{"x", "y", "label", "group"}``, option ``named`` (names beside the points).
    ``timeline``: rows as ``curve``, x a training step; options ``looks`` (steps), ``onsets`` (rows ``{"x", "label"}``),
    ``bands`` (rows ``{"series", "low", "high", "from", "to"}``: where a change may lie, and most likely does).
    ``x_title`` and ``y_title`` stand in ``options``.
    """

    kind: Literal["null", "curve", "estimates", "pairs", "heatmap", "scatter", "timeline"]
    name: str
    title: str
    caption: str
    data: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "data": [dict(d) for d in self.data], "options": dict(self.options)}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Figure:
        return cls(**{**data, "data": tuple(data["data"])})


def of_world(effects: pd.DataFrame, world: str) -> Any:
    """The rows of one world.  Raises KeyError when it was not run."""
    rows = effects[effects["world"] == world]
    if rows.empty:
        raise KeyError(f"world {world!r} is not in the table; it has {sorted(effects['world'].unique())[:8]} …")
    return rows


def graded(effects: pd.DataFrame, world: str) -> Any:
    """The rows of one world, in the order of pairs, with ``right``.  Raises KeyError when it was not run or no text was graded."""
    if "right" not in effects:
        raise KeyError(
            f"no text of world {world!r} was graded; expected a sweep that asks for it: Sweep(…, texts=True)"
        )
    return of_world(effects, world).sort_values("pair")


def recovery(effects: pd.DataFrame, world: str, *, seed: int) -> Estimate:
    """Mean recovery of the logit difference, ``Σ(edited − corrupted) / Σ(clean − corrupted)`` over pairs.

    1 = the clean run's logit difference is restored, 0 = nothing changed; it may leave [0, 1].  The ratio of means
    is used because a mean of ratios is ruled by pairs whose clean and corrupted runs hardly differ.  Interval:
    bootstrap over clusters.  It misleads when the clean run is not better than the corrupted one (see eligibility).
    """
    rows = of_world(effects, world)
    return bootstrap_ratio(
        rows["edited"].to_numpy() - rows["corrupted"].to_numpy(),
        rows["clean"].to_numpy() - rows["corrupted"].to_numpy(),
        clusters=rows["cluster"].to_numpy(),
        unit="pairs",
        seed=seed,
    )


def repair(effects: pd.DataFrame, world: str) -> Estimate:
    """Share of eligible pairs answered rightly under the intervention (``right``), in [0, 1].

    Eligible: the clean run is right and the corrupted run is wrong, so 0 is the corrupted run and 1 the clean one.
    Interval: `clustered_rate`.  It misleads near a decision
    boundary, where a small shift of every margin turns 0 into 1: read it beside :func:`recovery`.
    """
    rows = graded(effects, world)
    return clustered_rate(rows["right"].to_numpy(dtype=bool), clusters=rows["cluster"].to_numpy(), unit="pairs")


def mean_recovery(edited: Any, clean: Any, corrupted: Any) -> Any:
    """Point recovery of many worlds at once: ``edited`` [world, pair], ``clean`` and ``corrupted`` [pair] → [world]."""
    return (edited - corrupted).mean(-1) / (clean - corrupted).mean()


def pivot(effects: pd.DataFrame, worlds: Sequence[str], column: str = "edited") -> Any:
    """``[world, pair]`` array of a column.  Raises KeyError when a cell is missing."""
    table = effects.pivot(index="world", columns="pair", values=column)
    missing = [w for w in worlds if w not in table.index]
    if missing:
        raise KeyError(f"worlds {missing[:5]} are not in the table")
    out = table.loc[list(worlds)]
    if out.isna().to_numpy().any():
        raise KeyError("the table lacks some pair × world rows")
    return out.to_numpy()
