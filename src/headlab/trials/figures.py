"""Figures of a document's trial: what each world does in each cell, each rank among its alternatives, doses as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.effects import Figure
from headlab.stats import Estimate, Rank
from headlab.stats.figures import percent
from headlab.store import NamedEstimate
from headlab.trials import charts
from headlab.trials.alternatives import Alternatives
from headlab.trials.document import Document
from headlab.trials.expressions import Expression, Term
from headlab.trials.measured import kind_of, name_of
from headlab.trials.statistics import Statistics
from headlab.trials.words import READOUT_WORDS, said, shown_words
from headlab.trials.worlds import Arm, doses


def drawn(
    doc: Document,
    stats: Statistics,
    own: Mapping[str, Sequence[Arm]],
    estimates: Sequence[NamedEstimate],
    found: Mapping[str, Estimate | Rank],
    values: Mapping[str, Any],
    matched: Alternatives | None,
    asked: Sequence[Any],
) -> list[Figure]:
    """The figures, ranks first: what a reader must see beside the verdict."""
    out = [
        _rank(stats, own, a, found[a.prediction.statistic], values[a.prediction.statistic], matched)
        for a in asked
        if a.prediction.statistic in values
    ]
    out += _worlds(doc, estimates)
    for world in own:
        if doses(doc, world) and own[world][0].member < 0:
            out.append(_curve(doc, stats, own, world))
        if all(a.member >= 0 and len(a.heads) == 1 for a in own[world]):
            out.append(_grid(doc, stats, own, world))
    return out


def _rank(
    stats: Statistics, own: Any, a: Any, found: Estimate | Rank, values: Any, matched: Alternatives | None
) -> Figure:
    from dataclasses import replace

    bare: Expression = replace(a.read, rank=False)
    band = stats.estimate(bare, own)
    assert matched is not None and isinstance(found, Rank)
    how = "all" if found.enumerated else "a random sample of"
    one, what = ("direction", "directions") if stats.doc.reference and stats.doc.reference.labels else ("set", "sets")
    stable = (
        ""
        if found.under is None
        else f" In {percent(found.under)} of resamples of the prompts p is under {found.resampled_at:g}."
    )
    title = f"{a.prediction.words or said(bare).capitalize()}, among {found.n_sets:,} {what} that nobody named"
    caption = (
        f"Each bar counts {what} ({how} {matched.total:,}) by {said(bare)}. The line is the {one} named, its band "
        f"the 95 % interval over {band.n} {band.unit}. {found.at_least_as_extreme} of {found.n_sets:,} are at least as "
        f"extreme: p = {found.p:.3g}.{stable}"
    )
    told = (band if band.defined else float(values[0]), f"the {one} named", said(bare), found.p)
    of = charts.Column("alternatives", "value", {"statistic": a.prediction.statistic}) if one == "set" else what
    return charts.null(f"rank {a.prediction.statistic}", title, caption, values[1:], *told, of=of)


def _worlds(doc: Document, estimates: Sequence[NamedEstimate]) -> list[Figure]:
    """One figure for each word shown of worlds: cells side by side."""
    out = []
    for word, title in (
        ("lost", "What each edit takes away"),
        ("recovery", "What each edit gives back"),
        ("drop", "What each edit costs"),
        ("repair", "Pairs repaired"),
    ):
        for readout in doc.readouts:
            mark = f"@{readout}" if readout != name_of(doc, "") else ""
            rows = []
            for e in estimates:
                plain = e.name.startswith(f"{word}:") and " " not in e.name
                if (
                    not plain
                    or ("@" in e.name) != bool(mark)
                    or not e.name.endswith(mark)
                    or e.estimate["value"] is None
                ):
                    continue
                world, _, cell = e.name.removeprefix(f"{word}:").removesuffix(mark).partition("/")
                keys = ("value", "low", "high", "n", "unit")
                rows.append({"label": world, "group": cell or "edited", **{k: e.estimate[k] for k in keys}})
            if rows:
                unit = READOUT_WORDS.get(kind_of(doc, readout), "")
                out.append(
                    Figure(
                        kind="estimates",
                        name=f"{word} {readout}",
                        title=title,
                        caption=f"Read: {unit}. Bars: 95 % intervals by cluster of prompts. Predicted or not, every world is here.",
                        data=tuple(rows),
                        options={"threshold": 0.0, "x_title": f"{word} ({readout})"},
                    )
                )
    return out


def _grid(doc: Document, stats: Statistics, own: Mapping[str, Sequence[Arm]], world: str) -> Figure:
    """A world of single heads: what each does, by layer and head, a panel for each cell."""
    name = next(n for n in doc.readouts if stats.seen.has(own[world][0], n))
    word, readout = [*shown_words(doc, name, stats.paired(name))][-1], "" if name == name_of(doc, "") else name
    rows = []
    for cell in dict.fromkeys(a.values for a in own[world]):
        values = stats.each(Expression((Term(word, world, cell, readout),)), own)
        ones = [next(iter(a.heads)) for a in own[world] if a.values == cell]
        rows += [
            {"x": str(h.index), "y": f"L{h.layer}", "value": float(v), "panel": "/".join(cell)}
            for h, v in zip(ones, values, strict=True)
        ]
    best = max(rows, key=lambda r: abs(r["value"]))
    return Figure(
        kind="heatmap",
        name=f"heads {world}",
        title=f"{said(Expression((Term(word, world),))).capitalize()}, each head alone",
        caption=(
            f"Means over {stats.seen.n} {stats.seen.unit}; the largest is {best['value']:.3g}, at {best['y']}H{best['x']}. A head "
            "that stands out here is picked by looking: try it on prompts that did not pick it."
        ),
        data=tuple(rows),
        options={"x_title": "head", "y_title": "layer", "value_title": said(Expression((Term(word, world),)))},
    )


def _curve(doc: Document, stats: Statistics, own: Mapping[str, Sequence[Arm]], world: str) -> Figure:
    rows = []
    read = next(n for n in doc.readouts if stats.seen.has(own[world][0], n))
    for arm in own[world]:
        term = Term("value", world, arm.values, read)
        e = stats.estimate(Expression((term,)), own)
        dose = next(float(v) for a, v in arm.cell if a == "amount")
        series = "/".join(str(v) for a, v in arm.cell if a != "amount") or world
        if e.defined:
            rows.append(
                {"x": dose, "y": e.value, "low": e.low, "high": e.high, "series": series, "n": e.n, "unit": e.unit}
            )
    rows.sort(key=lambda r: (r["series"], r["x"]))
    spread = np.ptp([r["x"] for r in rows]) if rows else 0
    return Figure(
        kind="curve",
        name=f"dose {world}",
        title=f"{world} by dose",
        caption=f"The readout at {len(rows)} doses over {spread:g}; bands are 95 % intervals by cluster of prompts.",
        data=tuple(rows),
        options={"x_title": "dose", "y_title": read},
    )
