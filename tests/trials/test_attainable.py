"""What no outcome could uphold is said before the run: by `check`, `--dry-run` and `trial`, with the size that suffices."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from headlab.claims import Prediction, rule
from headlab.cli import app
from headlab.experiments import builtin_claims
from headlab.experiments.trial import plan, trial
from headlab.stats import clustered_rate
from headlab.trials import attainable, registry
from headlab.trials.case import draw
from headlab.trials.document import Document


@pytest.mark.parametrize("op", [">", "<"])
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_number_of_clusters_is_the_least_at_which_a_flawless_rate_is_upheld(op: Any, threshold: float) -> None:
    """Against `clustered_rate` and `rule` themselves, one and three rows a cluster."""
    asked = Prediction(statistic="repair:even", op=op, threshold=threshold)
    needed = attainable.clusters_needed(asked)
    for clusters, wanted in ((needed, "upheld"), (needed - 1, "undecided")):
        for rows in (1, 3):
            if clusters >= 2:
                hits = np.full(clusters * rows, op == ">")
                found = clustered_rate(hits, np.repeat(np.arange(clusters), rows), unit="pairs")
                assert rule(asked, found).outcome == wanted
    assert list(attainable.out_of_reach([asked], needed - 1, None))
    assert not list(attainable.out_of_reach([asked], needed, None))


def test_other_statistics_are_none_of_it() -> None:
    """Means, ranks, counts over models or heads; thresholds outside the range of a rate."""
    for statistic, op, threshold in (
        ("recovery:even", ">", 0.95),
        ("rank:even", "rank<", 0.05),
        ("upheld:models", ">", 0.95),
        ("accuracy:format", "<", 0.0),
        ("agreement:numerics", ">", 0.95),
    ):
        asked = Prediction(statistic=statistic, op=op, threshold=threshold)  # type: ignore[arg-type]
        assert attainable.clusters_needed(asked) == 0


def test_every_claim_at_its_own_size(shared: Path) -> None:
    """The docket on a real tokenizer reaches what it predicts; on the organisms' (63 clusters) `head-count` cannot, and says so."""
    from transformers import AutoTokenizer

    from headlab.organisms.tokenizer import build_tokenizer

    real, own = AutoTokenizer.from_pretrained(shared / "data" / "tokenizers" / "llama-3"), build_tokenizer()
    claims = {n: c for n, c in builtin_claims().items() if max(map(attainable.clusters_needed, c.predictions)) > 20}
    said = {name: attainable.of_claim(c, own) for name, c in claims.items()}
    assert {name for name, lines in said.items() if lines} == {"head-count"}
    assert "72 are needed: the task has not so many in this tokenizer" in said["head-count"][0]
    assert not any(attainable.of_claim(c, real) for c in claims.values())
    most = max(
        attainable.clusters_needed(p) for n, c in builtin_claims().items() if n not in claims for p in c.predictions
    )
    assert most <= 20  # the others draw 20 pairs at least, in as many clusters
    few = builtin_claims()["head-count"].model_copy(update={"pairs": 40})
    (line,) = attainable.of_claim(few, real)
    size = int(line.split("--pairs ")[1].split()[0])
    enough = few.model_copy(update={"pairs": size})
    assert not attainable.of_claim(enough, real) and 40 < size <= 200
    assert len({p.cluster for p in draw(enough, real, None)[0]}) >= 72


def test_documents_and_their_prompts(tmp_path: Path) -> None:
    """By clusters where prompts are known (a file, a tokenizer), else by their number; in the library too."""
    rows = "".join(f"{i} + {j} =,{i} - {j} =, {i + j}, {i - j},{i}\n" for i in range(20, 26) for j in range(10, 16))
    (tmp_path / "pairs.csv").write_text("clean,corrupted,answer,wrong,cluster\n" + rows)
    plain: dict[str, Any] = {
        "language": 1,
        "id": "mine",
        "words": "w",
        "source": "s",
        "chosen_on": "published",
        "task": {"file": "pairs.csv"},
        "edit": "corrupted",
        "sets": {"own": "L0H0"},
        "worlds": {"cut": {"heads": "own", "write": "patch"}},
        "readout": "margin",
        "pairs": 30,
        "predictions": [{"statistic": "repair:cut", "op": ">", "threshold": 0.6}],
    }
    (line,) = attainable.of_document(Document.from_data(plain, name="mine"), None, tmp_path)
    assert "6 clusters" in line and "give prompts with as many" in line
    drawn = Document.from_data({**plain, "task": {"name": "decimals"}, "pairs": 5}, name="mine")
    (line,) = attainable.of_document(drawn, None, tmp_path)
    assert "--pairs" in line
    short = {
        name
        for name, doc in registry.library().items()
        if not doc.thinking and max(map(attainable.clusters_needed, doc.predictions), default=0) > doc.pairs
    }
    assert short == set()


def test_check_dry_run_and_trial_say_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Before the run, and in the record's notes."""
    made = CliRunner().invoke(app, ["check", "head-count", "--model", "decimals-natural"])
    assert made.exit_code == 3 and "nothing could uphold it here" in " ".join(made.output.split())
    few: dict[str, Any] = {"layer": 0, "pairs": 5, "matched_sets": 5, "protocol": "standard"}
    said = plan("parity", "decimals-natural", **few)["cannot be decided"]
    assert len(said) == 2 and all("--pairs" in line for line in said)
    end = plan("parity", "decimals-natural", **few)["dead end"]
    assert "cannot be decided" not in plan("parity", "decimals-natural", layer=0, pairs=40, matched_sets=5)
    with caplog.at_level(logging.WARNING, "headlab"):
        done = trial("parity", "decimals-natural", store=tmp_path, **few)
    assert caplog.messages == [*said, end] and list(done.record.notes[:2]) == said
    assert done.verdict.outcome in {"untestable", "void"} and "given 5: --pairs 100 suffices" in end
