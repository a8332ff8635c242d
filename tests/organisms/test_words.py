"""Word organisms: their text is what is said of it, their cards hold for fresh prompts and by another way of removing heads."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from headlab import organisms
from headlab.experiments import load
from headlab.heads import Head
from headlab.organisms import words
from headlab.organisms.word_evaluate import held_out
from headlab.organisms.word_recipes import WORD_RECIPES

SHIPPED = organisms.names("words")
FILES = {"card.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
         "tokenizer_config.json"}  # fmt: skip


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def loaded(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(organisms.path(name), dtype=torch.float32).eval()


def test_shipped_organisms_are_small_with_its_own_card() -> None:
    assert list(WORD_RECIPES) == SHIPPED
    for name in SHIPPED:
        files = {p.name: p.stat().st_size for p in organisms.path(name).iterdir()}
        assert set(files) == FILES and sum(files.values()) < 1_000_000
        card = organisms.card(name)
        assert card.recipe == json.loads(json.dumps(WORD_RECIPES[name].plain())), "the card belongs to another recipe"
        assert card.reproduce == f"headlab organism train {name}"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_word_is_a_token_and_other_text_is_kept(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(organisms.path(name))
    every = [*words.NAMES, *words.PLACES, *words.OBJECTS, *words.COMMON, *words.fixed_words()]
    assert all(len(tokenizer(f" {w}", add_special_tokens=False)["input_ids"]) == 1 for w in every)
    text = "When Mary and John went to the store, John gave a drink to"
    assert len(tokenizer(text)["input_ids"]) == 1 + 14
    other = "Zoë's 9.11 apples; unmöglich!"
    assert tokenizer.decode(tokenizer(other)["input_ids"], skip_special_tokens=True) == other
    assert tokenizer(text)["input_ids"] == words.build_word_tokenizer()(text)["input_ids"]


def test_ioi_prompts_by_hand() -> None:
    """The right name is said once, the wrong one twice; pairs held out from training are all that tests draw, and none that
    training draws."""
    name_ids = set(words.word_ids(words.NAMES).tolist())
    apart = {}
    for test in (False, True):
        p = words.ioi(6, seeded(3), test=test, templates=16)
        apart[test] = set()
        for row, right, wrong in zip(p.ids.tolist(), p.right.tolist(), p.wrong.tolist(), strict=True):
            said = Counter(t for t in row if t in name_ids)
            assert said == {right: 1, wrong: 2}
            apart[test].add(frozenset((right, wrong)))
    assert apart[False] and not apart[False] & apart[True]
    pairs = [tuple(sorted(words.build_word_tokenizer().decode(list(x)).split())) for x in apart[True]]
    assert all(words.held_out(a, b) and words.held_out(b, a) for a, b in pairs)
    thirds = words.ioi(50, seeded(4), third=1.0)
    assert sum(len({t for t in row if t in name_ids}) == 3 for row in thirds.ids.tolist()) >= 190


def test_repeats_by_hand() -> None:
    ids, source = words.repeats(40, seeded(5))
    labels = words.scored(ids, source)
    assert ids.shape == (40, words.LENGTH + 1) and (source[:, 0] == -1).all()
    for row, at in (labels != -100).nonzero().tolist():
        back = int(source[row, at])
        assert ids[row, back] == ids[row, at + 1] == labels[row, at] and ids[row, back - 1] == ids[row, at]
    blocks = {int((torch.arange(words.LENGTH + 1) - s)[s >= 0][0]) for s in source}
    assert len(blocks) > 5, "no fixed distance will do"


@pytest.mark.parametrize("name", SHIPPED)
def test_fresh_prompts_are_answered_as_the_card_says(name: str) -> None:
    card: Any = organisms.card(name)
    asked = list(held_out(WORD_RECIPES[name], 160 if name != "induction" else 16, seed=21).values())[-1]
    with torch.no_grad():
        _, right = asked.answers(loaded(name))
    said = card.accuracy[-1].accuracy
    assert said >= 0.95 and right.float().mean() >= said - 4 * (0.05 * 0.95 / len(right)) ** 0.5


@pytest.mark.parametrize("name", SHIPPED)
def test_a_head_without_its_output_weights_costs_what_the_card_says(name: str) -> None:
    """Another way to remove z: columns of W_O set to zero; on the card's prompts, the head that costs most and one other."""
    card: Any = organisms.card(name)
    asked = list(held_out(WORD_RECIPES[name], 80 if name == "induction" else 800).values())[-1]
    model = loaded(name)
    with torch.no_grad():
        before = asked.answers(model)[0].mean()
        for told in (max(card.heads, key=lambda h: h.zero), card.heads[0]):
            head = Head.parse(told.head)
            weight = model.model.layers[head.layer].self_attn.o_proj.weight
            kept, size = weight.clone(), model.config.head_dim
            weight[:, head.index * size : (head.index + 1) * size] = 0
            after = asked.answers(model)[0].mean()
            weight.copy_(kept)
            assert told.n == len(asked.row) and 1 - (after / before).item() == pytest.approx(told.zero, abs=2e-3)


def test_the_induction_organism_has_a_head_that_looks_back_and_heads_that_go_on() -> None:
    """The card's attention, asked of the model again on other rows: to the previous token, to the word after the same one."""
    card: Any = organisms.card("induction")
    asked = held_out(WORD_RECIPES["induction"], 16, seed=22)["repeats"]
    model = loaded("induction")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(asked.ids, output_attentions=True).attentions
    costly = Head.parse(max(card.heads, key=lambda h: h.mean).head)
    n = torch.arange(len(asked.row))
    back = patterns[costly.layer][asked.row, costly.index, asked.at][n, asked.at - 1].mean()
    on = patterns[1][asked.row, :, asked.at][n, :, asked.to["after"]].mean(0)
    assert costly.layer == 0 and back > 0.5 and on.min() > 0.4


def test_a_word_organism_opens_as_any_model_does() -> None:
    for name in SHIPPED:
        lab = load(name)
        assert lab.grid.n_heads == 8 and str(lab.info["family"]) == "llama"


def test_training_is_repeatable_and_the_folder_appears_whole(tmp_path) -> None:
    made = [organisms.train("induction", tmp_path / x, steps=2, problems=20) for x in "ab"]
    assert len({(m / "model.safetensors").read_bytes() for m in made}) == 1
    assert {p.name for p in made[0].iterdir()} == FILES and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(FileExistsError):
        organisms.train("induction", made[0], steps=2)
