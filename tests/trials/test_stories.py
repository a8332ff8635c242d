"""A real model that nobody here trained: the heads that carry the pronoun of a children's story, from a look to a verdict.

After "a little girl with a red ball." it says " She", after "a little boy" " He".  Heads are found on selection prompts, by
the document; what is found of them on test prompts is compared with hooks that import nothing of headlab.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from remembering import Bench, bench, rulings
from transformers import AutoModelForCausalLM, AutoTokenizer

from headlab.heads import Head, Heads

MODEL = Path(os.environ.get("HEADLAB_SHARED", "")) / "data" / "models" / "stories260k"
pytestmark = pytest.mark.skipif(
    "HEADLAB_SHARED" not in os.environ or not MODEL.is_dir(),
    reason="stories260k is not here: HEADLAB_SHARED names no folder that holds data/models/stories260k",
)
FOUND = Heads.parse("L4H0 L4H2")
LAYERS, HEADS = 5, 8
EDITS = pytest.mark.parametrize("edit", [pytest.param("clean", marks=pytest.mark.accept), "corrupted"])


def document(edit: str, number: int = 1, **more: Any) -> dict[str, Any]:
    """The first heads by a score from selection prompts, patched from the story of the other child.

    One head is ranked among all 40 (least p 1/40); two among 99 sets of two from any layers (1/100), with more prompts.
    """
    word = "lost" if edit == "clean" else "recovery"
    pairs, chosen = (20, 12) if number == 1 else (60, 40)
    return {
        "id": f"pronoun-{edit}",
        "words": "The heads whose output changes the pronoun most carry it.",
        "source": "a look at the model",
        "task": {"name": "pronouns"},
        "edit": edit,
        "pairs": pairs,
        "selection_pairs": chosen,
        "scores": {"carries": f"{word}:one"},
        "sets": {"one": {"singles": "all"}, "carriers": {"top": number, "by": "carries"}},
        "worlds": {"one": {"heads": "one", "write": "patch"}, "edited": {"heads": "carriers", "write": "patch"}},
        "reference": {"redraw": "carriers", "match": [], "n": 99},
        "predictions": [
            {"statistic": f"{word}:edited", "op": ">", "threshold": 0.5},
            {"statistic": f"rank:{word}:edited", "op": "rank<", "threshold": 0.05},
        ],
        "eligible": {"pairs": pairs},
        **more,
    }


def named(edit: str, heads: Heads) -> dict[str, Any]:
    """The same claim of heads that are given by name."""
    data = document(edit, len(heads), chosen_on="other", sets={"carriers": str(heads)})
    data.pop("scores")
    data["worlds"] = {"edited": data["worlds"]["edited"]}
    return data


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(MODEL, tmp_path_factory.mktemp("stories")) as made:
        yield made


@EDITS
def test_the_head_that_carries_most_is_found_and_upheld(stories: Bench, edit: str) -> None:
    """Of all 40 heads, so 1/40 is the least p, and the page says it.  Beside it one with an effect that is clear of zero on
    every prompt but no larger than that of others: the naive reading would have it carry the pronoun, the rank does not."""
    found = stories.tried(document(edit))
    assert found.settings["sets"]["carriers"] == "L4H2"
    assert found.readings[0].verdict.outcome == "upheld", found.readings[0].verdict.sentence
    assert found.settings["least_p"] == 1 / 40 and any("least attainable p is 0.025" in n for n in found.notes)
    data = named(edit, Heads.parse("L4H3"))
    effect, place = (p["statistic"] for p in data["predictions"])
    data["predictions"][0]["threshold"] = 0.0
    naive = stories.tried(data)
    assert rulings(naive)[effect].outcome == "upheld"
    assert rulings(naive)[place].value >= 3 / 40 and naive.readings[0].verdict.outcome == "refuted"


@pytest.mark.accept
@EDITS
def test_the_two_heads_that_carry_most_are_found_and_upheld(stories: Bench, edit: str) -> None:
    found = stories.tried(document(edit, 2))
    assert found.settings["sets"]["carriers"] == str(FOUND)
    assert found.readings[0].verdict.outcome == "upheld", found.readings[0].verdict.sentence
    assert (
        found.settings["least_p"] == 1 / 200
    )  # of 99 sets asked for, 199 are planned: 99 could not bound p below 0.05


def strangers(n: int, size: int) -> list[Heads]:
    """Random sets that share no head with those found."""
    others = [Head(at, i) for at in range(LAYERS) for i in range(HEADS) if Head(at, i) not in FOUND]
    return [Heads(s) for s in random.Random(0).sample(list(combinations(others, size)), n)]


def upheld(stories: Bench, n: int, size: int) -> int:
    """Of ``n`` random sets, those upheld for either edit."""
    return sum(
        any(stories.tried(named(e, s)).readings[0].verdict.outcome == "upheld" for e in ("clean", "corrupted"))
        for s in strangers(n, size)
    )


@pytest.mark.accept
@pytest.mark.parametrize("size", [1, 2])
def test_of_twenty_sets_that_share_no_head_at_most_two_are_upheld(stories: Bench, size: int) -> None:
    assert upheld(stories, 20, size) <= 2


def written(rank: bool) -> dict[str, Any]:
    """The two heads replaced where the answer is read."""
    data = named("clean", FOUND)
    data["worlds"] = {
        "edited": {"heads": "carriers", "roles": ["read"], "write": {"each": ["mean", "zero", "resample"]}}
    }
    data["predictions"] = [{"statistic": "lost:edited", "op": ">", "threshold": 0.2}, data["predictions"][1]]
    if not rank:
        data["predictions"].pop()
        data.pop("reference")
    return data


@pytest.mark.accept
def test_the_heads_are_needed_under_every_write(stories: Bench) -> None:
    """Mean, zero and resample at the token that is read, among sets of two anywhere."""
    found = stories.tried(written(True))
    assert found.readings[0].verdict.outcome == "upheld", found.readings[0].verdict.sentence
    assert len(rulings(found)) == 6


def test_a_mean_where_the_answer_is_read_is_that_of_plain_hooks(stories: Bench) -> None:
    """Stories differ in length, and other roles hold the last token of some: the mean is over where each is read."""
    data = written(False) | {"pairs": 20, "selection_pairs": 16, "eligible": {"pairs": 20}}
    compare(stories, stories.tried(data), data, ("edited/mean", "edited/zero"))


@EDITS
def test_the_numbers_are_those_of_plain_hooks(stories: Bench, edit: str) -> None:
    data = named(edit, FOUND) | {"pairs": 20, "selection_pairs": 12, "eligible": {"pairs": 20}}
    data["predictions"].pop()
    compare(stories, stories.tried(data), data, ("edited",))


def compare(stories: Bench, found: Any, data: dict[str, Any], worlds: tuple[str, ...]) -> None:
    """Readouts pair by pair, by hooks on W_O's input in the last layer at the last position: what the other positions of
    the last layer hold cannot reach the token that is read."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    size, columns = model.config.head_dim, [0, 2]
    project = model.model.layers[LAYERS - 1].self_attn.o_proj

    def run(text: str, written: Any = None) -> tuple[Any, Any]:
        """[vocabulary] logits after ``text``, and z [head, size] of the last layer there."""
        kept = []

        def hook(_: Any, args: Any) -> Any:
            z = args[0].clone().unflatten(-1, (HEADS, size))
            kept.append(z[0, -1].clone())
            if written is not None:
                z[0, -1, columns] = written[columns]
            return (z.flatten(-2),)

        handle = project.register_forward_pre_hook(hook)
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1].double()
        handle.remove()
        return logits, kept[0]

    test, selection, *_ = stories.split[stories.key(data)]
    edited, other = ("clean", "corrupted") if data["edit"] == "clean" else ("corrupted", "clean")
    mean = torch.stack([run(getattr(p, edited).text)[1] for p in selection]).mean(0) if len(worlds) > 1 else None
    rows = found.tables["effects"].set_index(["world", "pair_id"])
    for pair in list(test)[:8]:
        tokens = [tokenizer(f" {w}", add_special_tokens=False)["input_ids"][-1] for w in (pair.answer, pair.wrong)]
        source = run(getattr(pair, other).text)[1]
        for world in worlds:
            value = {"edited/mean": mean, "edited/zero": torch.zeros(HEADS, size)}.get(world, source)
            logits, _ = run(getattr(pair, edited).text, value)
            expected = float(logits[tokens[0]] - logits[tokens[1]])
            assert rows.loc[(world, pair.id), "edited"] == pytest.approx(expected, abs=5e-5, rel=1e-5)
            before = run(getattr(pair, edited).text)[0]
            assert rows.loc[(world, pair.id), edited] == pytest.approx(
                float(before[tokens[0]] - before[tokens[1]]), abs=5e-5
            )
    assert np.isfinite(rows["edited"]).all()
