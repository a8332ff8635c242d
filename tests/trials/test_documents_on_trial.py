"""Documents tried to their end: every word of the language on one model, and plain hooks."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from put_on_trial import values

import headlab
from headlab.claims import ClaimError
from headlab.experiments import load
from headlab.organisms.words import NAMES, OBJECTS, PLACES
from headlab.prompts import PromptError, PromptSet
from headlab.report import nulls
from headlab.store import Store


@pytest.fixture(scope="module")
def ioi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety sentences about who is given something; pairs of names are clusters."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("ioi")
    rows = []
    for a, b in zip(*(iter(rng.sample(NAMES, 90)),) * 2, strict=True):
        for first, second in ((a, b), (b, a)):
            start = f"When {first} and {second} went to the {rng.choice(PLACES)},"
            rest = f"gave a {rng.choice(OBJECTS)} to"
            rows.append((f"{start} {second} {rest}", f"{start} {first} {rest}", f" {first}", f" {second}", f"{a} {b}"))
    with open(folder / "ioi.csv", "w", newline="") as file:
        csv.writer(file).writerows([("clean", "corrupted", "answer", "wrong", "cluster"), *rows])
    return folder


RICH: dict[str, Any] = {
    "language": 1,
    "id": "everything",
    "words": "Everything the language can say, on one small model.",
    "source": "a test",
    "chosen_on": "other",
    "task": {"file": "ioi.csv"},
    "edit": "clean",
    "pairs": 32,
    "selection_pairs": 16,
    "scores": {"rises": "drop:with/zero - drop:one/zero - drop:named/zero"},
    "sets": {
        "named": "L0H4",
        "one": {"singles": {"not": "named", "among": {"pool": "all", "layer": [0, 1]}}},
        "backup": {"top": 2, "by": "rises", "among": {"not": "named"}},
        "less": {"leave_one_out": "L0H4 L0H5 L1H0"},
    },
    "worlds": {
        "named": {"heads": "named", "write": {"each": ["mean", "zero", "resample"]}},
        "one": {"heads": "one", "write": {"each": ["mean", "zero", "resample"]}},
        "with": {"heads": ["named", "one"], "write": {"each": ["mean", "zero", "resample"]}},
        "backup": {"heads": "backup", "write": {"each": ["mean", "zero", "resample"]}},
        "both": {"heads": ["named", "backup"], "write": {"each": ["mean", "zero", "resample"]}},
        "less": {"heads": "less", "write": {"each": ["mean", "zero", "resample"]}},
        "kept": {"heads": "named", "write": "rescale", "amount": {"each": [0, 0.5, 1.5]}},
        "patched": {"heads": "named", "write": "patch"},
        "path": {"heads": "L1H0 L1H1", "site": "v", "write": "patch", "computed_in": "patched"},
        "added": {"heads": "named", "write": "add", "direction": "other"},
    },
    "readout": {"margin": "margin", "p": "probability", "kl": "kl"},
    "reference": {"redraw": "named", "match": ["layer"], "n": 99},
    "waive": {"whole": "a path through two heads is no whole"},
    "predictions": [
        {"statistic": "lost:named", "op": ">", "threshold": 0.2},
        {"statistic": "rank:drop:named/zero", "op": "rank<", "threshold": 0.2},
        {"statistic": "rank:drop:both/zero - drop:named/zero - drop:backup/zero", "op": "rank<", "threshold": 0.9},
        {"statistic": "least:drop:less/zero", "op": ">", "threshold": -5},
        {"statistic": "slope:kept", "op": ">", "threshold": 0.1},
        {"statistic": "spearman:one/zero:norm", "op": ">", "threshold": -1.1},
        {"statistic": "lost:path / lost:patched", "op": "<", "threshold": 0.5},
        {"statistic": "drop:named/zero@kl", "op": ">", "threshold": 0},
        {"statistic": "drop:added", "op": "<", "threshold": 5},
    ],
}


@pytest.fixture(scope="module")
def tried(ioi: Path) -> Any:
    (ioi / "rich.yaml").write_text(yaml.safe_dump(RICH, sort_keys=False))
    return headlab.trial(ioi / "rich.yaml", "ioi-small", store=ioi / "store")


def test_every_word_of_the_language_runs_to_a_verdict(tried: Any) -> None:
    """The planted knowledge is the card's: removing L0H4 costs most (independent ablation by W_O columns set to zero)."""
    by_name = {r.prediction.statistic: r for r in tried.verdict.rulings}
    assert {f"lost:named/{w}" for w in ("mean", "zero", "resample")} <= set(by_name)
    assert all(by_name[f"lost:named/{w}"].outcome == "upheld" for w in ("mean", "zero", "resample"))
    assert by_name["rank:drop:named/zero"].value == 1 / 8
    assert {c.name for c in tried.verdict.controls} == {"no-op", "takes-hold", "whole"}
    assert tried.verdict.outcome != "void", tried.verdict.sentence
    settings = tried.record.settings
    assert len(settings["design_hash"]) == len(settings["selection_hash"]) == 64
    assert {"effects", "worlds", "alternatives", "selection"} <= set(tried.record.tables)
    assert len(tried.tables["alternatives"]) == 2 * 8
    drawn = [n for f in tried.figures if (n := nulls.null(f, tried.record, tried.tables))]
    assert [len(n.sets) for n in drawn] == [8, 8] and drawn[0].sets == drawn[1].sets


def test_the_numbers_are_those_of_plain_hooks(tried: Any) -> None:
    """``drop:named/zero`` and its kl, pair by pair, by a hook that sets the head's columns to zero before W_O."""
    lab = load("ioi-small")
    model = lab.model
    rows = tried.tables["effects"][tried.tables["effects"]["world"] == "named/zero"].head(6)
    texts = {p["id"]: p for p in tried.record.prompts["pairs"][0]["pairs"]}

    def hook(_module: Any, args: Any) -> Any:
        z = args[0].clone()
        z[..., 4 * 16 : 5 * 16] = 0
        return (z,)

    for _, row in rows.iterrows():
        pair = texts[row["pair_id"]]
        ids = torch.tensor([lab.tokenizer(pair["clean"]["text"])["input_ids"]])
        tokens = [lab.tokenizer(pair[k], add_special_tokens=False)["input_ids"][0] for k in ("answer", "wrong")]
        with torch.no_grad():
            before = model(ids).logits[0, -1].double()
            handle = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(hook)
            after = model(ids).logits[0, -1].double()
            handle.remove()
        assert row["clean"] == pytest.approx(float(before[tokens[0]] - before[tokens[1]]), abs=2e-5)
        assert row["edited"] == pytest.approx(float(after[tokens[0]] - after[tokens[1]]), abs=2e-5)
        a, b = before.log_softmax(-1), after.log_softmax(-1)
        assert row["edited@kl"] == pytest.approx(float((a.exp() * (a - b)).sum()), rel=1e-4, abs=1e-6)


def test_the_same_document_again_is_counted_and_repeats(tried: Any, ioi: Path) -> None:
    """Another design on the same prompts is a further look; a repeat gives the same numbers."""
    from headlab.experiments import repeat

    home = Store(ioi / "store")
    again = repeat(home.record(tried.record.id), store=ioi / "again")
    assert np.allclose(again.effects["edited"], tried.effects["edited"], atol=1e-5)
    assert again.verdict.outcome == tried.verdict.outcome
    other = {**RICH, "id": "other", "predictions": RICH["predictions"][:1]}
    for unused in ("scores", "reference", "waive"):
        other.pop(unused)
    other["sets"] = {"named": "L0H4"}
    other["worlds"] = {"named": RICH["worlds"]["named"]}
    (ioi / "other.yaml").write_text(yaml.safe_dump(other, sort_keys=False))
    looked = headlab.trial(ioi / "other.yaml", "ioi-small", store=home)
    assert looked.record.settings["ledger"]["designs"] == 1
    assert looked.verdict.outcome == "upheld", looked.verdict.sentence


def test_heads_found_on_these_prompts_are_never_upheld(ioi: Path) -> None:
    data = {
        **RICH,
        "id": "these",
        "chosen_on": "these",
        "predictions": RICH["predictions"][:1],
        "sets": {"named": "L0H4"},
    }
    data["worlds"] = {"named": RICH["worlds"]["named"]}
    data = {k: v for k, v in data.items() if k not in {"scores", "reference", "waive"}}
    (ioi / "these.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    found = headlab.trial(ioi / "these.yaml", "ioi-small", store=ioi / "these")
    assert found.verdict.outcome == "undecided" and "exploratory" in found.verdict.sentence, found.verdict.sentence


def test_a_document_as_text_on_prompts_as_a_frame(ioi: Path, tmp_path: Path) -> None:
    """Asked of ``trial``: YAML of several lines and a mapping; a file, a frame, rows and a set of prompts."""
    few = {
        "id": "two-heads",
        "words": "Two heads are needed.",
        "source": "a test",
        "chosen_on": "other",
        "language": 1,
        "task": {"file": str(ioi / "ioi.csv")},
        "edit": "clean",
        "pairs": 24,
        "sets": {"named": "L0H4 L1H2"},
        "worlds": {"cut": {"heads": "named", "write": {"each": ["mean", "zero", "resample"]}}},
        "reference": {"redraw": "named", "n": 19},
        "predictions": [{"statistic": "lost:cut", "op": ">", "threshold": 0.2}],
    }
    frame = pd.read_csv(ioi / "ioi.csv").assign(id=lambda f: [f"row-{n}" for n in f.index])
    frame.to_csv(file := tmp_path / "with-ids.csv", index=False)
    asked = {"store": tmp_path, "seed": 3}
    given = (file, frame, frame.to_dict("records"), PromptSet.from_file(file))
    found = [headlab.trial(yaml.safe_dump(few, sort_keys=False), "ioi-small", prompts=p, **asked) for p in given]
    found.append(headlab.trial(few, "ioi-small", prompts=frame, **asked))
    numbers = [values(r) for r in found]
    assert numbers[0] and all(n == numbers[0] for n in numbers)
    with pytest.raises(ClaimError, match=r"line \d+: worlds\.cut\.wirte: is not read; did you mean write"):
        headlab.trial(yaml.safe_dump(few, sort_keys=False).replace("write:", "wirte:"), "ioi-small")
    with pytest.raises(PromptError, match="lacks the column"):
        headlab.trial(few, "ioi-small", prompts=frame.drop(columns="answer"))
