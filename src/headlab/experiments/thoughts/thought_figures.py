"""Figures of attention among thoughts: matrices as heatmaps, thoughts against references, models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.effects import Figure
from headlab.stats import Estimate, bootstrap_mean

Array = np.ndarray


def heatmap(name: str, title: str, caption: str, panels: Mapping[str, Array], value_title: str) -> Figure:
    """Matrices [reader, thought], one panel each."""
    data = tuple(
        {"panel": panel, "y": f"{i}", "x": f"{j}", "value": float(matrix[i, j])}
        for panel, matrix in panels.items()
        for i in range(matrix.shape[0])
        for j in range(matrix.shape[1])
    )
    return Figure(
        "heatmap", name, title, caption, data,
        {"x_title": "thought that is read", "y_title": "thought that reads (rows 0 to 5 downwards)", "value_title": value_title},
    )  # fmt: skip


def cells(name: str, title: str, caption: str, rows: Mapping[str, Any], **options: Any) -> Figure:
    """One line of cells for each name, one cell for each thought."""
    data = tuple(
        {"panel": "", "y": label, "x": f"{j}", "value": float(v)}
        for label, values in rows.items()
        for j, v in enumerate(values)
    )
    return Figure("heatmap", name, title, caption, data, {"x_title": "thought", **options})


def estimates(
    name: str, title: str, caption: str, rows: Sequence[tuple[str, str, Estimate]], x_title: str,
    threshold: float | None = None,
) -> Figure:  # fmt: skip
    """``rows``: label, group, estimate."""
    data = tuple(
        {"label": label, "group": group, **{k: e.to_dict()[k] for k in ("value", "low", "high", "n", "unit")}}
        for label, group, e in rows
    )
    options: dict[str, Any] = {"x_title": x_title} | ({} if threshold is None else {"threshold": threshold})
    return Figure("estimates", name, title, caption, data, options)


def null(
    name: str,
    title: str,
    caption: str,
    values: Sequence[float] | Array,
    seen: Estimate,
    label: str,
    x_title: str,
    unit: str,
) -> Figure:
    """A null's values as a histogram, the observed one as a line with its interval."""
    options = {
        "observed": seen.value, "low": seen.low, "high": seen.high, "label": label, "x_title": x_title, "unit": unit,
    }  # fmt: skip
    return Figure("null", name, title, caption, tuple({"value": float(v)} for v in np.asarray(values)), options)


def exactly(value: float, n: int, unit: str) -> Estimate:
    """A number that follows from the definition: an interval of no width."""
    return Estimate(value, value, value, n, unit, "by definition")


def over_models(values: Sequence[float], seed: int) -> Estimate:
    """The mean over models, each of which is one draw."""
    return bootstrap_mean(list(values), unit="models", seed=seed)
