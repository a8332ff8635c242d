"""A relabelled organism is another organism: an ordinary folder, the same answers, its truth under other names."""

from __future__ import annotations

import json

import pytest
import torch

from headlab import organisms
from headlab.cli import main
from headlab.effects import of_world
from headlab.engine.reindexing import Relabelling
from headlab.engine.run import sweep
from headlab.experiments import load
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.organisms.recipes import RECIPES, SCATTERED
from headlab.organisms.relabelled_making import moved_recipe
from headlab.prompts import encode
from headlab.tasks.decimals import decimals

NAME = "decimals-planted-random"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return organisms.relabelled(NAME, tmp_path_factory.mktemp("organisms") / "other", seed=3, problems=3)


@pytest.fixture(scope="module")
def labs(made):
    return load(NAME), load(made)


def drawn(card, grid) -> Relabelling:
    return Relabelling(grid, tuple(map(tuple, card.recipe["relabelled"]["orders"])))


def test_it_is_an_ordinary_folder_with_the_same_function(made, labs) -> None:
    assert {p.name for p in made.iterdir()} == {
        "card.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert [p.name for p in made.parent.iterdir()] == ["other"]
    original, other = labs
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert (original.model(ids).logits - other.model(ids).logits).abs().max() < 1e-4
    assert other.fingerprint != original.fingerprint
    q = [lab.model.model.layers[1].self_attn.q_proj.weight for lab in labs]
    assert not torch.equal(*q) and torch.equal(q[0].sort(0).values, q[1].sort(0).values)  # the same rows elsewhere


def test_the_card_says_how_it_was_made_and_where_the_truth_stands(made, labs) -> None:
    card = organisms.card_in(made)
    assert card is not None and card.name == f"{NAME}-relabelled-3"
    one = drawn(card, labs[0].grid)
    truth = organisms.card(NAME).truth
    assert card.truth is not None and truth is not None
    assert card.truth.heads == tuple(map(str, one.image(Heads.parse(" ".join(truth.heads))))) != truth.heads
    assert (card.truth.layer, card.truth.k) == (truth.layer, truth.k)
    assert 0 < card.recipe["relabelled"]["largest_logit_change"] < 1e-4
    moved = card.recipe["relabelled"]["planted_heads_moved"]
    assert sorted(moved) == sorted(truth.heads) and sorted(moved.values()) == sorted(card.truth.heads)
    assert card.reproduce == f"headlab organism relabel {NAME} OUT --seed 3"
    planted = [r for r in card.repairs if r.patched == "the planted heads"]
    assert planted and all(r.correct == r.n for r in planted)  # measured again, at the new places


def test_the_planted_truth_moves_with_the_heads(made, labs) -> None:
    """In the new organism the image of the planted set repairs, the planted indices (other heads now) do not."""
    card, (original, other) = organisms.card_in(made), labs
    assert card is not None and card.truth is not None
    there = Heads.parse(" ".join(card.truth.heads))
    before = Heads.of(1, SCATTERED)
    pairs = [
        encode(p, other.tokenizer) for p in decimals(16, clean="simple", corrupted="qa", tokenizer=other.tokenizer)
    ]
    worlds = [World("image", (Intervention(there),)), World("index", (Intervention(before),)),
              World("too few", (Intervention(Heads(list(there)[:4])),))]  # fmt: skip
    found = sweep(other, pairs, worlds)
    repaired = {world.name: (of_world(found, world.name)["edited"].to_numpy() > 0).mean() for world in worlds}
    assert repaired["image"] > 0.9 and repaired["index"] < 0.1 > repaired["too few"]
    old = sweep(original, pairs, [World("planted", (Intervention(before),))])["edited"].to_numpy()
    assert abs(of_world(found, "image")["edited"].to_numpy() - old).max() < 1e-3


def test_organisms_without_a_plant_keep_their_recipe(labs) -> None:
    one = Relabelling.identity(labs[0].grid)
    assert moved_recipe(RECIPES["decimals-natural"], one) is RECIPES["decimals-natural"]
    assert moved_recipe(RECIPES[NAME], one) == RECIPES[NAME]


@pytest.mark.accept
@pytest.mark.parametrize("name", ["decimals-natural-neox", "decimals-natural-gemma"])
def test_other_families_are_relabelled_too(name: str, tmp_path) -> None:
    out = organisms.relabelled(name, tmp_path / "other", seed=1, problems=1)
    card = organisms.card_in(out)
    assert card is not None and card.truth is None and card.recipe["relabelled"]["largest_logit_change"] < 1e-4
    assert load(out).grid == load(name).grid


def test_what_cannot_be_made_is_refused(made, tmp_path) -> None:
    with pytest.raises(FileExistsError, match="exists already"):
        organisms.relabelled(NAME, made)
    with pytest.raises(organisms.UnknownOrganism, match="no decimals organism is called 'nobody'"):
        organisms.relabelled("nobody", tmp_path / "x")
    assert organisms.card_in(tmp_path) is None and not list(tmp_path.iterdir())


def test_the_command_writes_it_and_shows_its_card(tmp_path, capsys) -> None:
    out = tmp_path / "new" / "folder"

    def call(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    code, said, _ = call("organism", "relabel", "decimals-null-1", str(out), "--seed", "5", "--problems", "1")
    assert code == 0 and said.strip() == str(out)
    code, said, _ = call("organism", "card", str(out), "--json")
    assert code == 0 and json.loads(said)["name"] == "decimals-null-1-relabelled-5"
    for words, line in (
        (("decimals-null-1", str(out)), "exists already"),
        (("decimals-nul-1", str(tmp_path / "x")), "did you mean decimals-null-1"),
        (("decimals-null-1", str(tmp_path / "x"), "--problems", "0"), "problems"),
    ):
        code, said, error = call("organism", "relabel", *words)
        assert code == 2 and said == "" and line in error and error.count("\n") == 1, error
