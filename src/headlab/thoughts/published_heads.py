"""Flow, hub variance, skip, composite and type of heads as they were printed, and what the composite makes of them."""

from __future__ import annotations

from headlab.thoughts import metrics

PUBLISHED: dict[str, tuple[tuple[str, float, float, float, float, str], ...]] = {
    "Llama": (
        ("L4H5", 1.0, 0.300, 0.162, 0.528, "Hub Aggregator"),
        ("L5H30", 1.0, 0.246, 0.153, 0.449, "Hub Aggregator"),
        ("L5H28", 1.0, 0.196, 0.218, 0.434, "Skip Connection"),
    ),
    "GPT-2": (
        ("L0H3", 1.0, 0.266, 0.153, 0.600, "Multi-Purpose"),
        ("L5H3", 1.0, 0.213, 0.080, 0.425, "Hub Aggregator"),
        ("L6H0", 1.0, 0.197, 0.093, 0.417, "Hub Aggregator"),
    ),
}
"""Head, flow, hub variance, skip, composite and type, as printed; :data:`MAXIMA` are the largest over all heads."""
MAXIMA = {"Llama": (0.300, 0.252), "GPT-2": (0.266, 0.153)}
PRINTED = 0.0015
"""Three printed digits, and the rounding of the values that went in."""


def recomputed() -> tuple[float, bool]:
    """The largest distance of a composite of the printed values from the printed one, and whether types are the same."""
    worst, types = 0.0, True
    for name, rows in PUBLISHED.items():
        hub, skip = MAXIMA[name]
        flow, variance, skips = ([row[k] for row in rows] for k in (1, 2, 3))
        assert max(variance) == hub
        # the heads that were not printed: one with nothing, one with the largest skip, both of flow one
        got = metrics.composite([*flow, 1.0, 1.0], [*variance, 0.0, 0.0], [*skips, 0.0, skip])
        worst = max(worst, *(abs(float(got.score[i]) - row[4]) for i, row in enumerate(rows)))
        types = types and [row[5] for row in rows] == got.types[: len(rows)]
    return worst, types
