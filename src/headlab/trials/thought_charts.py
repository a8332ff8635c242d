"""Figures of trials on thinking models: effects, matrices among thoughts, thoughts against references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from headlab.effects import Figure
from headlab.stats import Estimate, bootstrap_mean
from headlab.trials import charts
from headlab.trials.answers import Effect

Array = np.ndarray


def heatmap(name: str, title: str, caption: str, panels: Mapping[str, Array], value_title: str) -> Figure:
    """Matrices [reader, thought], one panel each."""
    data = tuple(
        {"panel": panel, "y": f"{i}", "x": f"{j}", "value": float(matrix[i, j])}
        for panel, matrix in panels.items()
        for i in range(matrix.shape[0])
        for j in range(matrix.shape[1])
    )
    axes = {"x_title": "thought that is read", "y_title": "thought that reads (rows 0 to 5 downwards)"}
    return Figure("heatmap", name, title, caption, data, {**axes, "value_title": value_title})


def cells(name: str, title: str, caption: str, rows: Mapping[str, Any], **options: Any) -> Figure:
    """One line of cells for each name, one cell for each thought."""
    data = tuple(
        {"panel": "", "y": label, "x": f"{j}", "value": float(v)}
        for label, values in rows.items()
        for j, v in enumerate(values)
    )
    return Figure("heatmap", name, title, caption, data, {"x_title": "thought", **options})


def drops(
    name: str,
    title: str,
    caption: str,
    rows: Iterable[Effect],
    by: str = "drop",
    x_title: str = "accuracy lost",
    threshold: float | None = None,
) -> Figure:
    """Effects with intervals; ``by`` is drop, relative, kept or accuracy."""
    return charts.estimates(
        name, title, caption, ((e.label, e.group, getattr(e, by)) for e in rows), x_title, threshold
    )


def spread_point(series: str, x: float, values: Sequence[float] | Array) -> dict[str, Any]:
    """A point of a reference: mean and middle 95 % of its values."""
    low, high = np.quantile(np.asarray(values), [0.025, 0.975])
    return {"series": series, "x": x, "y": float(np.mean(values)), "low": float(low), "high": float(high)}


def exactly(value: float, n: int, unit: str) -> Estimate:
    """A number that follows from the definition: an interval of no width."""
    return Estimate(value, value, value, n, unit, "by definition")


def over_models(values: Sequence[float], seed: int) -> Estimate:
    """The mean over models, each of which is one draw."""
    return bootstrap_mean(list(values), unit="models", seed=seed)
