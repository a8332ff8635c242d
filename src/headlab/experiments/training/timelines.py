"""The figures of a series: every quantity over the steps that were looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headlab.effects import Figure
from headlab.measures.changes import NORMS, trace
from headlab.measures.checkpoints import WHOLE
from headlab.organisms.checkpoint_series import Series

_MOST_LINES = 6
_CHANGE_OF = {"clustering": "excess"}  # the change asked for is that of the height above the null
_HONEST = (
    "Marks are the steps looked at; the thin lines only join them, what happened in between was not seen. Bars above the "
    "plot: where a change in level was found, from the look before the first possible gap to the look after the last, the "
    "likeliest gap darker."
)


def timeline(
    name: str,
    title: str,
    caption: str,
    lines: Sequence[tuple[str, str, str, int]],
    looks: Any,
    changes: Any,
    own: Sequence[Series],
    y_title: str,
) -> Figure | None:
    """Lines (what it is called, series, quantity, layer) over steps; None where no line has two looks."""
    data: list[dict[str, Any]] = []
    bands: list[dict[str, Any]] = []
    for words, series, quantity, layer in lines:
        rows = trace(looks, series, quantity, layer)
        if len(rows) < 2:
            continue
        columns = {"x": "step", "y": "value", "low": "low", "high": "high"}
        data += [{**{k: float(r[c]) for k, c in columns.items()}, "series": words} for r in rows.to_dict("records")]
        asked = _CHANGE_OF.get(quantity, quantity)
        picked = changes[(changes["series"] == series) & (changes["quantity"] == asked) & (changes["layer"] == layer)]
        columns = {"low": "low", "high": "high", "from": "last_look_before", "to": "first_look_after"}
        changed = picked[picked["changed"]].to_dict("records")
        bands += [{"series": words, **{k: r[c] for k, c in columns.items()}} for r in changed]
    if not data:
        return None
    options: dict[str, Any] = {
        "x_title": "training step",
        "y_title": y_title,
        "bands": bands,
        "onsets": _onsets(own),
        "looks": sorted({int(r["x"]) for r in data}),
    }
    return Figure(
        kind="timeline", name=name, title=title, caption=f"{caption} {_HONEST}", data=tuple(data), options=options
    )


def _onsets(own: Sequence[Series]) -> list[Mapping[str, Any]]:
    return [
        {"x": s.onset, "label": f"planting begins after step {s.onset} ({s.name})"} for s in own if s.onset is not None
    ]


def figures_of(looks: Any, changes: Any, own: Sequence[Series], layer: int, category: str) -> list[Figure]:
    """What a reader sees: repairs first where there are any, then clustering, norms, answers."""
    layers, names = _shown_layers(looks, own), [s.name for s in own]

    def each(quantity: str, at: int = WHOLE, words: str = "") -> list[tuple[str, str, str, int]]:
        return [(f"{n}{', ' + words if words else ''}", n, quantity, at) for n in names]

    null = [(f"{names[0]}, random weights", names[0], "null", WHOLE)]
    with_norms = [(f"{names[0]}, norms left in", names[0], "with norms", WHOLE)]
    told = [
        (
            "repairs",
            "Which layer's heads carry the answer, step by step",
            "Share of the pairs with the bug that are repaired when every head of one layer takes the clean run's values; "
            "bands are 95 % intervals over pairs.",
            [line for at in layers for line in each("repair all", at, f"layer {at}")],
            "share of pairs repaired",
        ),
        (
            "parity",
            f"Even minus odd heads of layer {layer}, step by step",
            "Difference of the shares of pairs repaired; 0 is no preference. The layer is the planted one, or was chosen on "
            "other pairs at the last step. Bands are 95 % intervals over pairs.",
            each("parity", layer),
            "even minus odd, share of pairs",
        ),
        (
            "clustering",
            "How clustered the heads of a layer are, step by step",
            "Best mean silhouette of W_QK and W_OV by cosine distance, norms removed, mean over layers. The null is random "
            "weights with the same norms (band: 95 % of draws): only the height above it is clustering.",
            [*each("clustering"), *null, *with_norms],
            "silhouette",
        ),
        (
            "published",
            "The published silhouettes, step by step",
            "Flattened blocks of the middle layer, two clusters, norms left in, mean of q, k and v. One block of large norm "
            "is enough for a high value.",
            each("published"),
            "silhouette",
        ),
        (
            "norms",
            "How large the heads' products are, step by step",
            "Mean Frobenius norm over heads and layers, each divided by its value at the first look.",
            [line for q in NORMS for line in each(q, WHOLE, "W_QK" if q.endswith("qk") else "W_OV")],
            "norm, first look = 1",
        ),
        (
            "answers",
            f"Right answers to {category} pairs, step by step",
            "Share of pairs whose logit difference is on the right answer's side, from the clean and from the corrupted "
            "prompt; bands are 95 % intervals over pairs.",
            [line for p in ("clean", "corrupted") for line in each(f"{p} {category}", WHOLE, f"{p} prompt")],
            "share of pairs",
        ),
    ]
    made = [timeline(*about, lines, looks, changes, own, y) for *about, lines, y in told]  # type: ignore[arg-type]
    return [f for f in made if f is not None]


def _shown_layers(looks: Any, own: Sequence[Series]) -> list[int]:
    """The layers whose repairs move most in the first series; as many as stay legible."""
    rows = looks[(looks["series"] == own[0].name) & (looks["quantity"] == "repair all")]
    moved = rows.groupby("layer")["value"].agg(lambda v: v.max() - v.min()).sort_values(ascending=False, kind="stable")
    return sorted(int(n) for n in moved.index[: max(1, _MOST_LINES // len(own))])
