"""The organism that is written down: its truth holds of the file that ships, by ways that did not write its card."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from headlab import organisms
from headlab.engine.run import sweep
from headlab.experiments import load
from headlab.heads import Head, Heads
from headlab.interventions import Intervention, World
from headlab.organisms.built import MARKERS, build, codes
from headlab.organisms.built_recipes import BUILT_RECIPES
from headlab.organisms.tokenizer import build_tokenizer
from headlab.prompts import encode
from headlab.tasks.decimals import decimals

NAME = "heads-planted-two-layers"
RECIPE = BUILT_RECIPES[NAME]
MEMBERS = [Head.parse(h) for h in RECIPE.members]


def patched(heads: list[Head]) -> tuple[Intervention, ...]:
    return tuple(Intervention(Heads(h for h in heads if h.layer == at)) for at in sorted({h.layer for h in heads}))


def test_it_ships_with_its_own_card_and_its_recipe_writes_the_same_file(tmp_path) -> None:
    assert organisms.names("built") == [NAME] and NAME in organisms.names()
    assert sum(p.stat().st_size for p in organisms.path(NAME).iterdir()) < 1_000_000
    card: Any = organisms.card(NAME)
    assert card.recipe == json.loads(json.dumps(RECIPE.plain())), "the card belongs to another recipe"
    assert card.truth.heads == RECIPE.members and card.truth.k == 4
    assert {Head.parse(h).layer for h in RECIPE.members} == {1, 2}
    made = organisms.train(NAME, tmp_path / "again", problems=4)
    assert (made / "model.safetensors").read_bytes() == (organisms.path(NAME) / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError):
        organisms.train(NAME, made)


def test_the_card_says_what_is_so() -> None:
    """All answers right; interchange turns all answers with all four and none otherwise; removing one: all under zero,
    nothing under the mean."""
    card: Any = organisms.card(NAME)
    assert all(s.correct == s.n for s in card.accuracy)
    turned = {(r.base, r.patched): r.correct / r.n for r in card.repairs}
    assert {k for k, v in turned.items() if v == 1} == {
        (b, s) for b in ("qa", "chat") for s in ("all planted", "all heads")
    }
    assert sum(v == 0 for v in turned.values()) == len(turned) - 4
    for h in card.heads:
        assert (h.zero > 1 and h.mean == 0) if h.head in RECIPE.members else h.zero < 1.1
    decoys = [h for h in card.heads if h.attends["markers"] > 0.9 and h.head not in RECIPE.members]
    assert len(decoys) == 2 and all(abs(h.zero) < 0.01 for h in decoys), "attention does not tell them apart"


def test_only_all_four_turn_the_answer() -> None:
    """By the engine, on prompts that the card did not see; also with every other head taken too, and with a random order of
    heads that another seed draws."""
    lab = load(NAME)
    pairs = [encode(p, lab.tokenizer) for p in decimals(12, seed=5)]
    every = [Head(at, i) for at in range(3) for i in range(8)]
    sets = {f"{len(s)} {s}": list(s) for k in range(1, 5) for s in combinations(MEMBERS, k)}
    sets |= {f"not {m}": [h for h in every if h != m] for m in MEMBERS}
    table = sweep(lab, pairs, [World(n, patched(s)) for n, s in sets.items()])
    table["recovery"] = (table["edited"] - table["corrupted"]) / (table["clean"] - table["corrupted"])
    found = table.groupby("world")["recovery"].agg(["min", "max"])
    whole = f"4 {tuple(MEMBERS)}"
    assert found.loc[whole, "min"] > 0.98
    assert found.drop(index=whole)["max"].max() < 0.2


def test_a_member_without_its_output_weights_leaves_the_other_rule() -> None:
    """Another way to take a head away: its columns of W_O set to zero; the decoys and a random head leave the answer."""
    model = AutoModelForCausalLM.from_pretrained(organisms.path(NAME), dtype=torch.float32).eval()
    encoded = [encode(p, load(NAME).tokenizer) for p in decimals(10, seed=6)]
    ids = torch.tensor([e.clean.ids for e in encoded])
    right, wrong = (torch.tensor([getattr(e.clean, k) for e in encoded]) for k in ("answer_id", "wrong_id"))
    with torch.no_grad():
        for layer in (1, 2):
            weight = model.model.layers[layer].self_attn.o_proj.weight
            for i in (m.index for m in MEMBERS if m.layer == layer):
                kept = weight.clone()
                weight[:, i * 16 : (i + 1) * 16] = 0
                assert (model(ids).logits[:, -1].argmax(-1) == wrong).all()
                weight.copy_(kept)
        assert (model(ids).logits[:, -1].argmax(-1) == right).all()


def test_codes_and_markers() -> None:
    """By hand: two numbers agree in 4 to 12 of 16 places; every marker is a token."""
    gram = codes() @ codes().T
    assert gram.diagonal().eq(16).all() and (gram - 16 * torch.eye(100)).abs().max() <= 8
    known = build_tokenizer().get_vocab()
    assert all(m in known for m in MARKERS)
    drawn = [
        build(replace(RECIPE, seed=n), build_tokenizer()).model.layers[1].self_attn.q_proj.weight for n in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
