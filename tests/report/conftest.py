"""One small record of each sort, made by the same rule that makes real verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from browsing import chromium
from headlab.claims import Claim, Control, Prediction, decide
from headlab.effects import Figure
from headlab.stats import clopper_pearson, rank
from headlab.store import NamedEstimate, Reading, Record, TableInfo

CLAIM = Claim(
    id="parity",
    words="The even heads repair the bug; the odd ones do not.",
    source="a published study, see https://example.org/paper",
    published="even 100 %, odd 0 %",
    experiment="parity",
    predictions=(
        Prediction(statistic="repair:even", op=">", threshold=0.5, words="the even heads repair most pairs"),
        Prediction(statistic="repair:odd", op="<", threshold=0.5, words="the odd heads repair few"),
        Prediction(statistic="rank:even", op="rank<", threshold=0.05, words="chance halves seldom do as well"),
    ),
    controls=("no-op", "patch-all"),
)
OBSERVED = 0.98765
NULL = tuple(round(float(x), 4) for x in np.random.default_rng(7).normal(0, 0.3, 97))


def null_figure(**options: Any) -> Figure:
    """97 matched halves, none as large as the observed one."""
    shown = {"observed": OBSERVED, "low": 0.91, "high": 1.02, "label": "even − odd", "x_title": "contrast", **options}
    return Figure("null", "null", "Even among halves", "Bars count halves.", tuple({"value": v} for v in NULL), shown)


def curve_figure() -> Figure:
    rows = [
        {"x": x, "y": y, "low": max(0.0, y - 0.1), "high": min(1.0, y + 0.1), "series": series}
        for series, ys in (("from even", (0.0, 0.4, 1.0)), ("from any", (0.0, 0.2, 0.5)))
        for x, y in enumerate(ys)
    ]
    options = {"threshold": 0.5, "x_title": "heads patched", "y_title": "share repaired"}
    return Figure("curve", "dose", "By number of heads", "Bands are intervals.", tuple(rows), options)


def estimates_figure() -> Figure:
    rows = [
        {"label": label, "value": v, "low": v - 0.05, "high": v + 0.05, "group": arm}
        for arm, even in (("z", 0.9), ("out_block", 0.5))
        for label, v in (("even heads", even), ("odd heads", 0.1))
    ]
    rows.append({"label": "all heads", "value": None, "low": None, "high": None, "group": "z"})
    return Figure("estimates", "arms", "By site", "Bars are intervals.", tuple(rows), {"threshold": 0.5})


def pairs_figure() -> Figure:
    rows = tuple({"pair": i, "world": w, "value": float(i)} for w in ("even", "odd") for i in range(13))
    return Figure("pairs", "pairs", "Pair by pair", "One dot per pair.", rows, {"threshold": 0})


def heatmap_figure(panels: Sequence[str] = ("zero",)) -> Figure:
    """Layers by heads, as many as a middling model has, below each other for each panel."""
    rows = [
        {"x": str(x), "y": f"L{y}", "value": 0.1 * x - 0.2 * y, "panel": panel}
        for panel in panels
        for y in range(5)
        for x in range(16)
    ]
    options = {"x_title": "head", "y_title": "layer", "value_title": "lost"}
    return Figure("heatmap", f"cells-{len(panels)}", "Head by head", "One cell a head.", tuple(rows), options)


def scatter_figure() -> Figure:
    rows = tuple({"x": 0.1 * i, "y": i % 3, "label": f"L{i % 2}H{i}", "group": f"layer {i % 2}"} for i in range(7))
    return Figure(
        "scatter", "dots", "Head against head", "One point a head.", rows, {"named": True, "x_title": "score"}
    )


def timeline_figure() -> Figure:
    rows = [{"x": x, "y": y, "low": y - 0.1, "high": y + 0.1, "series": "layer 1"} for x, y in ((0, 0.1), (4000, 0.9))]
    bands = [{"series": "layer 1", "low": 0, "high": 4000, "from": 1000, "to": 2000}]
    options = {"threshold": 0.5, "onsets": [{"x": 1000, "label": "loss falls"}], "bands": bands}
    return Figure("timeline", "steps", "Step by step", "Looks at checkpoints.", tuple(rows), options)


def every_figure() -> list[Figure]:
    return [null_figure(), curve_figure(), estimates_figure(), pairs_figure()]


def every_kind() -> list[Figure]:
    """One of each kind that there is, and a table of cells in several panels."""
    more = [heatmap_figure(), heatmap_figure(("zero", "mean", "patch")), scatter_figure(), timeline_figure()]
    return [*every_figure(), *more]


def tables() -> dict[str, pd.DataFrame]:
    """Effects of four named worlds, and of one matched half that no page shows inline, over 11 pairs."""
    rows = [
        {
            "pair": i, "pair_id": f"{i}.8 vs {i}.11", "cluster": str(i), "world": world,
            "clean": 3.0 + i, "corrupted": -3.0, "edited": 2.0 if good else -2.0,
            "clean_text": f" {i}.8", "corrupted_text": f" {i}.11",
            "edited_text": f" {i}.8" if good else f" {i}.11", "parsed": True, "right": good,
            "protocol": "standard", "arm": "z",
        }
        for world, good in {"set L0H0": False, "noop": False, "odd": False, "even": True, "all": True}.items()
        for i in range(11)
    ]  # fmt: skip
    families = {"even": "even", "odd": "odd", "all": "all", "noop": "noop", "set L0H0": "matched"}
    worlds = [
        {"world": w, "arm": "z", "layer": 0, "heads": "L0H0", "size": 1, "family": f} for w, f in families.items()
    ]
    return {"effects": pd.DataFrame(rows), "worlds": pd.DataFrame(worlds)}


def reading(protocol: str, even: int, controls: list[Control], null: tuple[float, ...] = NULL) -> Reading:
    """Even heads repair ``even`` of 100 pairs, odd ones 3."""
    found: dict[str, Any] = {
        "repair:even": clopper_pearson(even, 100, unit="pairs"),
        "repair:odd": clopper_pearson(3, 100, unit="pairs"),
        "rank:even": rank(OBSERVED, null, enumerated=False, unit="matched halves"),
    }
    labels = {"repair:even": "even heads repair", "repair:odd": "odd heads repair", "rank:even": "halves as extreme"}
    estimates = tuple(
        NamedEstimate(name=k, label=labels[k], arm="z", estimate=getattr(v, "estimate", v).to_dict())
        for k, v in found.items()
    )
    verdict = decide(CLAIM, found, controls)
    return Reading(protocol=protocol, words=f"how {protocol} reads it", verdict=verdict, estimates=estimates)


def make(
    id: str = "parity-0123abcd",
    *,
    name: str = "decimals-planted-even",
    even: int = 97,
    noop: bool = True,
    beside: Sequence[Control] = (),
    **changes: Any,
) -> Record:
    """A trial's record. ``noop`` says whether that control passed; ``beside`` are controls that the claim does not name;
    ``changes`` replace fields."""
    controls = [
        Control(name="patch-all", kind="positive", passed=True, words="all heads repair 100 of 100 pairs"),
        Control(name="no-op", kind="negative", passed=noop, words="0 moved" if noop else "writing back moved 3 pairs"),
        *beside,
    ]
    readings = [reading(p, e, controls) for p, e in (("standard", even), ("published", 4), ("naive", 97))]
    fields: dict[str, Any] = {
        "id": id, "kind": "trial", "slug": "parity", "title": f"Parity on {name}", "status": "complete",
        "created": "2025-01-02T03:04:05+00:00", "finished": "2025-01-02T03:05:05+00:00", "key": "ab" * 32,
        "claim": CLAIM.model_dump(mode="json"), "claim_hash": CLAIM.content_hash(),
        "model": {"name": name, "fingerprint": "9f" * 32, "dtype": "float32", "device": "cpu"},
        "prompts": {"name": "decimals", "n": 100, "hash": "cd" * 32},
        "settings": {"layer": 1, "seed": 5}, "versions": {"torch": "2.13.0"},
        "call": {"command": "headlab trial parity", "python": 'headlab.trial("parity")'},
        "eligibility": {"ok": True, "reason": "", "clean": clopper_pearson(99, 100, unit="pairs").to_dict()},
        "readings": readings, "figures": [f.plain() for f in every_figure()],
        "sections": [{"heading": "When this misleads", "text": "One model is n = 1."}],
        "notes": ["loaded as float32"], "seconds": 1.5,
        "tables": {"effects": TableInfo(rows=55, sha256="ee" * 32)},
    }  # fmt: skip
    return Record(**{**fields, **changes})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return make


@pytest.fixture
def figures() -> list[Figure]:
    return every_figure()


@pytest.fixture
def kinds() -> list[Figure]:
    return every_kind()


@pytest.fixture
def frames() -> dict[str, pd.DataFrame]:
    return tables()


@pytest.fixture(scope="session")
def good_page() -> str:
    from headlab import report

    return report.page(make(), tables())
