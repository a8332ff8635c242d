"""What the heads of a claim attend to is kept beside its numbers: the right weights, of the right heads, or why there are none.

Looked for beside an entry with a null and a document with a reference: documents without one, entries that name heads only by
their worlds, more heads than are kept, families of sets, prompts that are too long or have no partner, models that cannot give
patterns, thinking models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import headlab
from headlab import organisms
from headlab.effects import Figure
from headlab.heads import Head, Heads
from headlab.prompts import Pair, Prompt, PromptSet
from headlab.trials import patterns
from headlab.trials.findings import Findings

PLACE = Path(organisms.__file__).parent / "weights" / "decimals-planted-even"


def found(sets: dict[str, Any] | None = None, named: str | None = None, worlds: pd.DataFrame | None = None) -> Findings:
    figures = [Figure("null", "null", "", "", (), {"named": named})] if named else []
    return Findings([], figures, {} if worlds is None else {"worlds": worlds}, {}, {"sets": sets} if sets else {})


def test_which_heads_a_trial_names() -> None:
    ran = pd.DataFrame({"family": ["odd", "even"], "heads": ["L0H1", "L0H0 L0H2"]})
    many = " ".join(f"L0H{n}" for n in range(20))
    for claim, seen, expected in (
        ({}, found(named="L1H0", worlds=ran), "L1H0"),
        ({}, found(worlds=ran), "L0H0 L0H2"),
        ({}, found({"a": "L0H1", "singles": "3 sets", "none": ""}), "L0H1"),
        ({"reference": {"redraw": "b"}}, found({"a": "L0H1", "b": "L2H0 L2H1", "all": many}), "L0H1 L2H0 L2H1"),
        ({}, found({"all": many}), " ".join(f"L0H{n}" for n in range(16))),
        ({}, found(named="</script>"), ""),
        ({}, found(), ""),
    ):
        assert str(patterns.named(claim, seen)) == expected


def test_a_document_and_an_entry_keep_what_transformers_gives(tmp_path: Path) -> None:
    """Rows against ``output_attentions`` of the model loaded apart from headlab, on the tokens that the rows spell."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    document = {
        "id": "two", "words": "w", "source": "s", "chosen_on": "other", "task": {"name": "decimals"}, "edit": "corrupted",
        "pairs": 6, "selection_pairs": 6, "sets": {"two": "L1H2 L2H5"}, "worlds": {"cut": {"heads": "two", "write": "patch"}},
        "predictions": [{"statistic": "recovery:cut", "op": ">", "threshold": 0.5}],
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(PLACE, attn_implementation="eager", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(PLACE)
    one = headlab.trial(document, "decimals-planted-even", store=tmp_path)
    other = headlab.trial("routing", "decimals-planted-even", pairs=6, layer=1, store=tmp_path, protocol="standard")
    assert set(one.tables["attended"]["head"]) == {"L1H2", "L2H5"}
    assert set(other.tables["attended"]["head"]) == {f"L1H{n}" for n in range(0, 16, 2)}
    for result in (one, other):
        table = result.tables["attended"]
        assert table.groupby(["pair_id", "run"]).ngroups == 6 and "attended" in result.record.tables
        first = {(p["id"], run): side for p in result.record.prompts["first"] for run, side in p["sides"].items()}
        for (pair, run), rows in table.groupby(["pair_id", "run"]):
            keys = rows[rows["query"] == rows["query"].max()].drop_duplicates("key")
            text = "".join(keys["token"][1:])
            if side := first.get((pair, run)):
                assert text.startswith(side["text"])
                for role, start, end in side["spans"]:
                    assert "".join(keys.loc[keys["role"] == role, "token"]).strip() == side["text"][start:end]
            with torch.inference_mode():
                seen = model(tokenizer(text, return_tensors="pt").input_ids, output_attentions=True).attentions
            for name, own in rows.groupby("head"):
                theirs = seen[Head.parse(str(name)).layer][0, Head.parse(str(name)).index]
                assert len(theirs) == len(keys) and len(own) == len(keys) * (len(keys) + 1) / 2
                assert theirs[own["query"].tolist(), own["key"].tolist()].tolist() == pytest.approx(
                    own["weight"], abs=2e-5
                )


def test_why_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lab = headlab.load("decimals-planted-even")
    long = PromptSet((Pair("a", Prompt("1 or " * 40), Prompt("1 or " * 40), "1", "2"),), "long")
    made, why = patterns.kept(lab, long, Heads.parse("L0H0"))
    assert made is None and "longer than 64 tokens" in why

    def none(*_: Any, **__: Any) -> None:
        raise RuntimeError("the site 'pattern' is not available for this model")

    monkeypatch.setattr(patterns, "capture", none)
    result = headlab.trial("parity", lab, pairs=4, layer=1, matched_sets=3, store=tmp_path, protocol="standard")
    assert "attended" not in result.tables
    told = "What L1H0 L1H2 L1H4 L1H6 L1H8 L1H10 L1H12 L1H14 attend to is not kept: the site 'pattern' is not available"
    assert any(told in n for n in result.record.notes)
