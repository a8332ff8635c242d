"""An experiment, its task, its settings and its prompts go together, or one line says what does not, before anything runs.

Looked for: every experiment of the docket with the task of the other kind, and with a file; every setting that is not read by
every experiment (`layer`, `pool`, `matched_sets`), from the command line, from Python and in a claim file; every experiment
with prompts of one's own, with and without spans (bandwidth, format-injection, position-sensitivity and routing measure the
two numbers, and raised ZeroDivisionError, ValueError or a late PromptError); every name that `trial` takes given to `run`.
"""

from __future__ import annotations

import csv
import json
import os
import random
from typing import Any

import pytest

from headlab import experiments
from headlab.claims import Claim, ClaimError
from headlab.cli import main
from headlab.experiments.fitting import NUMBER_ROLES, SETTINGS, THINKING, check_fit, reads
from headlab.experiments.trial import EXPERIMENTS, adjusted, builtin_claims, load
from headlab.prompts import PromptError, PromptSet

ALL = sorted(EXPERIMENTS)


@pytest.mark.parametrize("slug", ALL)
def test_a_task_of_the_other_kind_is_refused(slug: str, tmp_path, capsys) -> None:
    """No model is loaded: none is there."""
    claim = builtin_claims()[slug]
    others = ["decimals", "file"] if claim.task.name == THINKING else [THINKING]
    for other in others:
        wrong = adjusted(claim, task={"name": other})
        with pytest.raises(ClaimError, match=f"{slug} is about .*; given {{name: {other}}}") as refused:
            experiments.trial(wrong, "no-such-folder/model", store=tmp_path)
        assert len(str(refused.value)) < 300
    with pytest.raises(ClaimError, match="which decimals would not read"):
        experiments.trial(adjusted(claim, task={"file": "pairs.csv"}), "no-such-folder/model", store=tmp_path)
    check_fit(claim, {}, claim)


@pytest.mark.parametrize("slug", ALL)
def test_a_setting_that_is_not_read_is_refused(slug: str, tmp_path, capsys) -> None:
    given: dict[str, Any] = {"layer": 1, "pool": "even", "matched_sets": 7}
    read = reads(builtin_claims()[slug])
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        command = ["trial", slug, "--model", "no-such-folder/model", flag, str(value), "--store", str(tmp_path)]
        assert main(command) == 2
        said = capsys.readouterr().err
        assert (f"{slug} does not read {name} ({flag})" in said) == (name not in read), said
        assert (f"does not read {name}" in said) or "no-such-folder/model" in said
    if "pool" not in read:
        data = json.loads(builtin_claims()[slug].model_dump_json())
        with pytest.raises(ClaimError, match="does not read pool"):
            experiments.trial(Claim.model_validate_json(json.dumps({**data, "pool": "odd"})), "x/y", store=tmp_path)


def test_what_the_docket_reads() -> None:
    """By hand, from the experiments' pages: pools are drawn from by four; nothing of a layer is asked of thinking models."""
    found = {s: [slug for slug in ALL if s in reads(builtin_claims()[slug])] for s in SETTINGS}
    assert found["pool"] == ["head-count", "pattern-threshold", "spatial-patterns", "subset-sweep"]
    assert "parity" in found["layer"] and "parity" in found["matched_sets"]
    assert not {"bug-rate", "hubs", "head-ablation"} & set(found["layer"])
    assert not {"bug-rate", "head-count", "robustness", "reindexing", "training-dynamics"} & set(found["matched_sets"])


@pytest.mark.accept
@pytest.mark.parametrize("slug", ALL)
def test_what_an_experiment_reads_is_what_its_claim_names(slug: str, tmp_path, monkeypatch) -> None:
    """Fields of the claim are counted as they are read, in a small trial of every experiment on an organism."""
    import sys

    seen: set[str] = set()

    class Watched(Claim):
        def __getattribute__(self, name: str) -> Any:
            frame = sys._getframe(1).f_code
            outside = not frame.co_filename.endswith(("claims.py", "trial.py", "main.py", "fitting.py"))
            if name in SETTINGS and outside and frame.co_name not in {"draw", "draw_problems"}:
                seen.add(name)
            return super().__getattribute__(name)

    claim = builtin_claims()[slug]
    small = {"pairs": 20, "selection_pairs": 8, "matched_sets": 8, "subsets_per_size": 4}
    watched = Watched.model_validate({**claim.model_dump(), **small})
    object.__setattr__(watched, "__pydantic_fields_set__", set())
    model = "thoughts-gpt2" if claim.task.name == THINKING else "decimals-planted-even"
    model = "decimals-series-planted" if slug == "training-dynamics" else model
    experiments.trial(watched, model, store=tmp_path)
    assert seen <= set(reads(claim)), f"{slug} reads {sorted(seen)}"


def own_pairs(spans: bool) -> PromptSet:
    rows = []
    for n in range(2, 14):
        row: dict[str, Any] = {"clean": f"{n}.8 or {n}.11? Answer:", "corrupted": f"{n}.8 or {n}.85? Answer:"}
        row |= {"answer": f" {n}.8", "wrong": f" {n}.85"}
        if spans:
            row |= {"clean_spans": {"thing": [0, 3]}, "corrupted_spans": {"thing": [0, 3]}}
        rows.append(row)
    return PromptSet.from_rows(rows, name="mine")


@pytest.fixture(scope="module")
def lab():
    return load("decimals-planted-even")


@pytest.mark.parametrize("slug", ["bandwidth", "format-injection", "position-sensitivity", "routing"])
@pytest.mark.parametrize("spans", [False, True])
def test_prompts_that_do_not_name_what_is_measured_are_refused_before_the_run(lab, slug, spans, tmp_path) -> None:
    with pytest.raises(
        PromptError, match=f"{slug} reads the two numbers .* pair .* give clean_spans and corrupted_spans"
    ):
        experiments.trial(slug, lab, prompts=own_pairs(spans), layer=1, store=tmp_path)
    assert not list(tmp_path.glob("*/record.json")), "nothing ran"


@pytest.mark.accept
@pytest.mark.parametrize("slug", [s for s in ALL if builtin_claims()[s].task.name != THINKING])
@pytest.mark.parametrize("spans", [False, True])
def test_ones_own_prompts_reach_a_verdict_or_one_line(lab, slug, spans, tmp_path) -> None:
    """Every experiment on prompts that know nothing of decimals: a verdict, or a PromptError that says what is lacking."""
    claim = adjusted(builtin_claims()[slug], selection_pairs=4, pairs=8)
    try:
        result = experiments.trial(claim, lab, prompts=own_pairs(spans), store=tmp_path)
    except PromptError as error:
        assert "clean_spans" in str(error) and all(r in str(error) for r in NUMBER_ROLES)
    else:
        assert result.verdict.outcome in {"untestable", "void", "undecided", "refuted"}


OWN = [(slug, n) for slug in sorted(ALL) for n in (8, 40)]
DRAWN = random.Random(os.environ.get("HEADLAB_PROMPTS_SEED", "0")).sample(OWN, 2)


@pytest.mark.parametrize(
    ("slug", "n"), [pytest.param(*c, marks=() if c in DRAWN else pytest.mark.accept, id=f"{c[0]} {c[1]}") for c in OWN]
)
def test_a_file_of_own_prompts_ends_in_a_verdict_or_in_one_line(slug, n, tmp_path, capsys) -> None:
    """Every entry of the docket from the command line with a file of 8 and of 40 rows that name no role: a record, or exit
    2 with one line that says what the prompts lack.  Looked for beside these: prompts for an entry about thinking
    models, roles of other words and single prompts (above), a file without rows (test_prompts)."""
    with open(tmp_path / "own.csv", "w", newline="") as file:
        rows = [(f"{a}.8 or {a}.{b}1? Answer:", f"{a}.8 or {a}.{b}2? Answer:", f" {a}.8", f" {a}.{b}1")
                for a in range(2, 10) for b in range(1, 6)]  # fmt: skip
        csv.writer(file).writerows([("clean", "corrupted", "answer", "wrong"), *rows[:n]])
    claim = builtin_claims()[slug]
    thinks, series = claim.task.name == THINKING, slug == "training-dynamics"
    model = "thoughts-gpt2" if thinks else "decimals-series-planted" if series else "decimals-planted-even"
    small = ["--matched-sets", "8"] if "matched_sets" in reads(claim) else []
    given = ["trial", slug, "--model", model, "--prompts", str(tmp_path / "own.csv"), *small]
    code = main([*given, "--store", str(tmp_path / "store"), "--json", "--anyway"])
    out = capsys.readouterr()
    assert code in {0, 2} and "Traceback" not in out.err + out.out, out.err
    if code == 2:
        (line,) = [x for x in out.err.splitlines() if x.startswith("headlab: ")]
        bugs = ("Error:", "division", "NoneType", "empty sequence", "zero-size", "out of bounds")
        assert len(line) < 700 and not any(x in line for x in bugs), line


def test_run_takes_what_trial_takes(tmp_path, capsys) -> None:
    for name in ("run", "trial"):
        for slug in experiments.slugs():
            assert main([name, slug, "--model", "./no-such-folder", "--store", str(tmp_path)]) == 2
            assert "at './no-such-folder'" in capsys.readouterr().err, slug
    assert {"null-rates", "scorecard", *ALL} <= set(experiments.slugs())


def test_a_file_task_without_a_file_says_so(lab, tmp_path) -> None:
    claim = adjusted(builtin_claims()["parity"], task={"name": "file"})
    with pytest.raises(PromptError, match="the claim's task is a file and names none"):
        experiments.trial(claim, lab, store=tmp_path)
