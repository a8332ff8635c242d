"""A document of one prediction, by which claims over models, revisions and settings are tried, and what came of it."""

from __future__ import annotations

from typing import Any

from headlab.trials.document import Document

LOST: dict[str, Any] = {"statistic": "recovery:put", "op": ">", "threshold": 0.2}
SERIES = "decimals-series-planted"
PUT: dict[str, Any] = {
    "words": "The even heads carry the answer over.",
    "source": "a test",
    "chosen_on": "other",
    "task": {"name": "decimals"},
    "edit": "corrupted",
    "pairs": 16,
    "eligible": {"pairs": 10},
    "worlds": {"put": {"heads": "named", "write": "patch"}},
    "predictions": [LOST],
}


def read(data: dict[str, Any]) -> Document:
    return Document.from_data(data)


def values(result: Any) -> dict[str, tuple[Any, ...]]:
    ruled = result.record.readings[0].verdict.rulings
    return {r.prediction.statistic: (r.value, r.low, r.high, r.outcome) for r in ruled}
