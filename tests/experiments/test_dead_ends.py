"""A run that no outcome could uphold or refute at its size is said before it begins: refused without a terminal, asked on one.

Looked for: every entry of the docket at the sizes of ``test_golden``, every shipped claim at its own size, rates at every number
of clusters, ranks with too few alternatives, problems of thinking models, scorecards of which some or all rows are so.
"""

from __future__ import annotations

import io
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest

from headlab import Store
from headlab.claims import Prediction, Ruled, decide
from headlab.cli import main
from headlab.experiments import builtin_claims
from headlab.experiments.scorecard import scorecard
from headlab.experiments.trial import ahead, experiment, load, load_thinker, trial
from headlab.prompts import Pair, Prompt, PromptSet
from headlab.stats import clustered_rate
from headlab.trials import attainable, registry
from headlab.trials.eligibility import pairs_needed

DAILY = {
    "parity.decimals-natural": True,
    "reindexing.decimals-natural-neox": False,
    "format-injection.decimals-natural": True,
    "routing.decimals-natural": False,
    "forced-patterns.thoughts-gpt2": True,
}
"""Kept cases of each kind, and whether they are dead ends."""


def prompts(n: int) -> PromptSet:
    """So many pairs that share nothing."""
    sides = [(Prompt(f"{i} + 1 ="), Prompt(f"{i} - 1 =")) for i in range(n)]
    pairs = [Pair(str(i), a, b, "yes", "no", cluster=str(i)) for i, (a, b) in enumerate(sides)]
    return PromptSet(tuple(pairs), "mine")


@pytest.mark.parametrize("among", [1, 3])
@pytest.mark.parametrize(("op", "threshold"), [(">", 0.5), (">", 0.95), ("<", 0.1), (">", 0.05)])
def test_a_dead_end_is_where_neither_none_nor_all_decides(op: Any, threshold: float, among: int) -> None:
    """Against `decide` itself: every row a hit, every row a miss, at each number of clusters."""
    asked = tuple(Prediction(statistic=f"repair:{i}", op=op, threshold=threshold) for i in range(among))
    ends = {}
    for k in range(2, 130):
        outcomes = set()
        for hits in (np.ones(k, bool), np.zeros(k, bool)):
            found = clustered_rate(hits, np.arange(k), unit="pairs")
            outcomes.add(decide(Ruled(predictions=asked), {p.statistic: found for p in asked}, []).outcome)
        ends[k] = attainable.dead_end(asked, prompts(k), 0, None)
        decided = bool(outcomes & {"upheld", "refuted"})
        assert not (ends[k] and decided), (k, outcomes)
        assert ends[k] or decided or (among, k) == (3, 2), (
            "two clusters at a third of the level: its interval is a little wide"
        )
    assert not ends[129] and (threshold != 0.5 or ends[2])
    mean = Prediction(statistic="recovery:even", op=">", threshold=0.5)
    assert not attainable.dead_end((*asked, mean), prompts(2), 0, None), "a mean may be refuted"


def stored(case: str) -> str:
    return golden.read(case)["outcomes"][1][1]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=() if c in DAILY else pytest.mark.accept)
        for c, made in sorted(golden.cases().items())
        if getattr(made, "func", None) is trial
    ],
)
def test_what_is_a_dead_end_was_not_decided(case: str) -> None:
    """Against the kept outcome of each entry of the docket, on each kind of organism: of 92, 57 are said to be dead ends, and
    all of these ended untestable or void; of the 35 others 18 were decided."""
    claim, model = golden.cases()[case].args  # type: ignore[attr-defined]
    thinks = claim.task.name == "word-problems"
    end = ahead(claim, (load_thinker if thinks else load)(model), {})
    assert not end or stored(case) in {"untestable", "void"}, end
    assert bool(end) == DAILY.get(case, bool(end))


def test_nothing_that_ships_is_one_at_its_own_size() -> None:
    for claim in builtin_claims().values():
        assert experiment(claim.experiment).needed(claim) <= claim.pairs
    for doc in registry.library().values():
        assert pairs_needed(doc, ()) <= doc.pairs, doc.id


def test_ranks_that_nothing_could_decide(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One head among the four of its layer: p is 1/4 at best.  Beside a mean, which may be refuted, it is none."""
    plain = {
        **{
            "language": 1,
            "id": "mine",
            "words": "w",
            "source": "s",
            "chosen_on": "published",
            "only_because": "it is short",
        },
        **{"task": {"name": "ioi"}, "edit": "clean", "pairs": 8, "selection_pairs": 8, "sets": {"own": "L0H0"}},
        **{
            "worlds": {"cut": {"heads": "own", "write": "zero"}},
            "reference": {"redraw": "own", "match": ["layer"], "n": 9},
        },
        "predictions": [{"statistic": "rank:drop:cut", "op": "rank<", "threshold": 0.05}],
    }
    with pytest.raises(Stopped, match="no outcome could uphold or refute rank:drop:cut: too few alternatives"):
        trial(plain, "ioi-small", store=tmp_path, dead_end=stop)
    beside = [*plain["predictions"], {"statistic": "drop:cut", "op": ">", "threshold": 0.1}]  # type: ignore[misc]
    assert trial({**plain, "predictions": beside}, "ioi-small", store=tmp_path, dead_end=stop).verdict.outcome


class Stopped(Exception):
    pass


def stop(why: str) -> None:
    raise Stopped(why)


TINY = [
    "trial",
    "parity",
    "-m",
    "decimals-natural",
    "--layer",
    "0",
    "--pairs",
    "4",
    "--matched-sets",
    "2",
    "--decide",
    "fixed",
]


def test_the_command_refuses_asks_or_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal it is refused and nothing is stored; on one it is asked; the line that is printed runs."""
    words = [*TINY, "--store", str(tmp_path / "runs")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "at least 100 pairs, given 4: --pairs 100 suffices" in said and "--anyway" in said
    assert not (tmp_path / "runs").exists()

    class Typed(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer, code in (("n\n", 2), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin", Typed(answer))
        monkeypatch.setattr("sys.stderr", Typed())
        assert main(words) == code
        assert "Run it all the same?" in sys.stderr.getvalue()  # type: ignore[attr-defined]
        assert (tmp_path / "runs").exists() == (code == 0)
    again = Store(tmp_path / "runs").records()[0][0].call["command"]
    monkeypatch.setattr("sys.stdin", Typed())
    monkeypatch.setattr("sys.stderr", Typed())
    assert " --anyway --store " in again and main(shlex.split(again)[1:]) == 0
    assert "Run it" not in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_a_scorecard_names_the_rows_once_and_asks_only_where_all_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lab, small = load("decimals-natural"), {"pairs": 4, "protocol": "standard", "layer": 0, "store": tmp_path}
    with caplog.at_level(logging.WARNING, "headlab"), pytest.raises(Stopped, match="no row"):
        scorecard(lab, experiments=["robustness", "layer-scan"], dead_end=stop, **small)
    assert "robustness, layer-scan: this can only end" in caplog.text and not Store(tmp_path).records()[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "headlab"):
        done = scorecard(lab, experiments=["robustness", "routing"], dead_end=stop, **small)
    assert len(done.record.children) == 2 and caplog.text.count("this can only end") == 1
