"""Drawn sets in place of the named one: what the record says of a document's rule, from worlds already run.

The kind: a rate must be that of whole trials.  Looked for besides: the named set counted among the drawn ones, worlds of
families and differences that ranks did not run, void and ineligible trials.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from remembering import Bench, bench

from headlab.claims import Prediction
from headlab.designs import Matched
from headlab.heads import Grid, Heads
from headlab.stats import clopper_pearson
from headlab.trials.references import Matching, redrawn
from headlab.trials.stand_ins import TIMES, _fits

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


def test_a_walk_that_stopped_early_says_no_rate(tmp_path: Path) -> None:
    """Twenty sets ranked among each other could not be upheld at .05, whatever they do: that says nothing of the rule."""
    early = document("L0H1 L0H3")
    early["reference"] = {"redraw": "named", "match": ["layer"], "n": 99}
    early["predictions"][1]["threshold"] = 0.05
    with bench(MODEL, tmp_path) as at:
        found = at.tried(early)
        drawn = found.settings["walks"]["alternatives"]["drawn"]
        assert 20 < drawn < 73 and "stand_ins" not in found.settings
        assert "stand_ins" in at.tried({**early, "decide": "fixed"}).settings


def test_as_many_may_lie_above_as_the_bound_of_p_allows() -> None:
    """Each count by itself, by Clopper and Pearson's interval; of all sets that match, by the share."""
    for n, alpha in ((20, 0.05), (72, 0.05), (73, 0.05), (199, 0.05), (99, 0.2)):
        p = Prediction(statistic="rank:recovery:named", op="rank<", threshold=alpha)
        bounds = [clopper_pearson(c, n, unit="sets").high for c in range(n)]
        assert list(_fits(p, n, False)) == [c for c, high in enumerate(bounds) if high < alpha], n
        assert list(_fits(p, n, True)) == [c for c in range(n) if (c + 1) / n < alpha], n


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
