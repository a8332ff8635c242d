"""Heads that hold a constant on which the rest relies: needed under zero, not under the mean, and the page says so.

In the organism that is written down, the four planted heads say +1 in every plain prompt.  Zero takes that away and the
other rule answers; their mean over plain prompts, or another plain prompt's output, is the same +1.  Seen by its card too.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

import headlab
from headlab import organisms
from headlab.cli.tree import make_page
from headlab.store import Store

DOCUMENT = {
    "id": "needed-heads",
    "words": "The four heads are needed for the answer.",
    "source": "a test",
    "chosen_on": "other",
    "task": {"name": "decimals"},
    "edit": "clean",
    "pairs": 24,
    "selection_pairs": 16,
    "sets": {"named": " ".join(organisms.BUILT_RECIPES["heads-planted-two-layers"].members)},
    "worlds": {"edited": {"heads": "named", "write": {"each": ["zero", "mean", "resample"]}}},
    "predictions": [{"statistic": "lost:edited", "op": ">", "threshold": 0.5, "words": "half of the lead is lost"}],
}


def test_zero_upholds_and_the_mean_refutes_and_the_page_says_so(tmp_path: Path) -> None:
    found = headlab.trial(DOCUMENT, "heads-planted-two-layers", store=tmp_path)
    verdict = found.verdict
    assert {r.prediction.statistic: r.outcome for r in verdict.rulings} == {
        "lost:edited/zero": "upheld",
        "lost:edited/mean": "refuted",
        "lost:edited/resample": "refuted",
    }
    assert verdict.outcome == "refuted"
    said = "the write decides: lost:edited is upheld under zero and refuted under mean and resample"
    assert said in verdict.sentence
    values = {r.prediction.statistic: r.value for r in verdict.rulings}
    assert values["lost:edited/zero"] > 0.9 and abs(values["lost:edited/mean"]) < 0.01
    raw = make_page(found.record, Store(tmp_path))
    page = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", raw))).split())
    assert said in page
    beside = r"half of the lead is lost \(zero\) 1\.\d+ \[[^]]*\] n = 24 pairs half of the lead is lost \(mean\) -?\d"
    assert re.search(beside, page), "zero and mean stand under each other in one table"
