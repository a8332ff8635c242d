"""Drawn sets in place of the named one: what the record says of a document's rule, from worlds already run.

The kind: a rate must be that of whole trials.  Looked for besides: the named set counted among the drawn ones, worlds of
families and differences that ranks did not run, void and ineligible trials.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from remembering import Bench, bench

from headlab.designs import Matched
from headlab.heads import Grid, Heads
from headlab.trials.references import Matching, redrawn
from headlab.trials.stand_ins import TIMES

MODEL = "decimals-null-3"
GRID = Grid(2, 16, 4)
FIRST = {"pool": [0, 1, 2, 3, 4, 5, 6], "layer": [0]}
"""Seven heads of the layer that repairs: 21 pairs of them."""


def document(named: str, n: int = 99, **more: Any) -> dict[str, Any]:
    return {
        "id": "mine",
        "words": "These heads carry the format.",
        "source": "drawn",
        "chosen_on": "other",
        "task": {"name": "decimals"},
        "edit": "corrupted",
        "pairs": 40,
        "eligible": {"pairs": 30},
        "sets": {"named": named, "rest": {"not": "named", "among": {"pool": "all", "layer": [0]}}},
        "worlds": {"named": {"heads": "named", "write": "patch"}, "rest": {"heads": "rest", "write": "patch"}},
        "reference": {"redraw": "named", "match": ["layer"], "n": n, "among": FIRST},
        "predictions": [
            {"statistic": "recovery:named", "op": ">", "threshold": 0.1},
            {"statistic": "rank:recovery:named", "op": "rank<", "threshold": 0.3},
        ],
        **more,
    }


def matched(named: str, n: int) -> Matched:
    among = Heads.of(0, FIRST["pool"])
    return redrawn(GRID, Heads.parse(named), Matching(frozenset({"layer"}), among=among), n=n, seed=0)


def told(at: Bench, data: dict[str, Any]) -> dict[str, Any]:
    return at.tried(data).settings["stand_ins"]


def test_a_stand_in_is_decided_as_a_trial_about_it_is(tmp_path: Path) -> None:
    """All 21 pairs of the first seven heads: the outcomes of the 20 others are those of 20 documents that name them, which rank
    among the same 28; so it is with every world of a difference measured for each."""
    with bench(MODEL, tmp_path) as at:
        found = told(at, document("L0H2 L0H5"))
        each = [at.tried(document(str(s))) for s in matched("L0H2 L0H5", 99).sets if s != Heads.parse("L0H2 L0H5")]
        assert Counter(found["outcomes"]) == Counter(f.readings[0].verdict.outcome for f in each)
        assert len(found["outcomes"]) > 1 and found["upheld"]["n"] == 20 and found["left_out"] == []


def test_what_ranks_did_not_run_is_said(tmp_path: Path) -> None:
    """The rest of the layer is no part of the rank, so a drawn set's rest was not run."""
    asked = document("L0H2 L0H5")
    asked["predictions"].insert(1, {"statistic": "recovery:rest", "op": "<", "threshold": 0.9})
    with bench(MODEL, tmp_path) as at:
        found = told(at, asked)
        assert found["left_out"] == ["recovery:rest"] and "recovery:rest not asked of them" in found["words"]
        few = document("L0H2", n=7)
        assert "stand_ins" not in at.tried(few).settings  # seven sets say nothing
        able = {**document("L0H2 L0H5"), "eligible": {"pairs": 60}}
        assert "stand_ins" not in at.tried(able).settings


def test_what_could_be_upheld_rises_with_the_effect(tmp_path: Path) -> None:
    """In every resample at ten times the thresholds; never where the threshold of the rank lies under
    what 21 sets can give."""
    with bench(MODEL, tmp_path) as at:
        power = told(at, document("L0H2 L0H5"))["power"]
        shares = [power[f"{t:g}"] for t in TIMES]
        assert shares == sorted(shares) and shares[-1] == 1
        asked = document("L0H2 L0H5")
        asked["predictions"][1]["threshold"] = 0.03
        assert set(told(at, asked)["power"].values()) == {0.0}
