"""Records made by hand, and the port of an application without a server."""

from __future__ import annotations

from typing import Any

import pandas as pd

from headlab.claims import Claim, Control, Prediction, decide
from headlab.stats import clopper_pearson
from headlab.store import NamedEstimate, Reading, Record, Store

PORT = 8123
CLAIM = Claim(
    id="parity",
    words="Even heads repair the bug.",
    source="by hand",
    published="",
    experiment="parity",
    predictions=(Prediction(statistic="repair:even", op=">", threshold=0.5, words="even heads repair most"),),
    controls=("no-op",),
)


HOSTILE = "<img src=x onerror=alert(1)>'\"--></script><script>alert(2)</script>"
"""What a stranger might write where words are shown."""


def kept(
    store: Store, n: int, *, slug: str = "parity", model: str = "decimals-planted-even", words: str = ""
) -> Record:
    """A stored run in which even heads repair ``n`` of 100 pairs; ``words`` stands in every field that holds text."""
    found: dict[str, Any] = {"repair:even": clopper_pearson(n, 100, unit="pairs")}
    verdict = decide(CLAIM, found, [Control(name="no-op", kind="negative", passed=True, words=words or "0 moved")])
    estimates = (
        NamedEstimate(name="repair:even", label=words or "even heads", estimate=found["repair:even"].to_dict()),
    )
    claim = CLAIM.model_dump(mode="json") | ({k: words for k in ("words", "source", "published")} if words else {})
    draft = {"claim": claim, "model": {"name": words or model, "dtype": "float32"}, "prompts": {"test": {"n": 100}}}
    with store.open(kind="trial", slug=slug, title=words or f"{slug} on {model}", inputs={"n": n}, draft=draft) as run:
        run.table("effects", pd.DataFrame({"pair": [0], "pair_id": [words or "p"], "world": ["even"], "edited": [1.0]}))
        if words:
            verdict = verdict.model_copy(update={"sentence": words, "would_change": words})
        reading = Reading(protocol="standard", words=words or "as it is", verdict=verdict, estimates=estimates)
        return run.finish(readings=[reading], notes=[words] if words else [], sections=[])
