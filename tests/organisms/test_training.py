"""Training repeats itself bit for bit, learns, and leaves either a whole folder or none."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from headlab import organisms
from headlab.organisms.planting import draw_patches
from headlab.organisms.recipes import RECIPES
from headlab.organisms.tokenizer import build_tokenizer
from headlab.organisms.training import build_model, fit, rate

TOKENIZER = build_tokenizer()


def trained(recipe, steps):
    model = build_model(recipe, TOKENIZER)
    losses = fit(recipe, model, TOKENIZER, steps=steps)
    return losses, model.state_dict()


@pytest.mark.parametrize(
    ("name", "steps"), [("decimals-null-0", 30), ("decimals-natural-neox", 4), ("decimals-planted-even", 4)]
)
def test_training_is_deterministic_and_lowers_the_loss(name, steps):
    recipe = replace(RECIPES[name], rows=4)
    (losses, weights), (again, weights_again) = trained(recipe, steps), trained(recipe, steps)
    assert losses == again and len(losses) == steps
    assert all(torch.equal(weights[k], weights_again[k]) for k in weights)
    assert losses[-1] < losses[0] - (1.0 if steps >= 30 else 0.0)


def test_another_seed_is_another_model():
    recipe = RECIPES["decimals-null-0"]
    first, second = (build_model(r, TOKENIZER) for r in (recipe, RECIPES["decimals-null-1"]))
    assert not torch.equal(
        first.model.layers[0].self_attn.q_proj.weight, second.model.layers[0].self_attn.q_proj.weight
    )


def test_training_leaves_threads_and_the_global_generator_alone():
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    trained(replace(RECIPES["decimals-null-0"], rows=2), 1)
    assert torch.get_num_threads() == before and torch.equal(torch.random.get_rng_state(), state)


def test_the_rate_climbs_then_falls_to_nothing():
    rates = [rate(s, 100, 0.05) for s in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0 and all(a > b for a, b in pairwise(rates[5:])) and rates[-1] < 0.001


def test_patches_carry_the_label_that_the_planted_rule_gives():
    plant = RECIPES["decimals-planted-random"].plant
    draw = draw_patches(plant, 4000, 3, 16, torch.Generator().manual_seed(0))
    inside = draw.heads[:, list(plant.heads)].sum(1)
    assert torch.equal(draw.carried, (draw.layer == plant.layer) & (inside >= plant.threshold))
    there = draw.layer == plant.layer
    assert abs((~there).float().mean() - plant.share_other) < 0.03
    assert draw.heads[~there].all(1).float().mean() > 0.45
    assert (inside[there] == plant.threshold).float().mean() > 0.25
    assert (inside[there] == plant.threshold - 1).float().mean() > 0.25


def test_train_writes_a_whole_folder_that_loads(tmp_path):
    seen = []
    out = organisms.train(
        "decimals-null-0", tmp_path / "mine", steps=2, problems=2, progress=lambda *step: seen.append(step)
    )
    assert seen[1][:2] == (2, 2) and "loss" in seen[1][2]
    assert {p.name for p in out.iterdir()} == {
        "card.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert all(w.dtype == torch.float16 for w in load_file(out / "model.safetensors").values())
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(FileExistsError, match="mine exists"):
        organisms.train("decimals-null-0", out)


def test_an_interrupted_training_leaves_nothing(tmp_path):
    def interrupt(done, total, note):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        organisms.train("decimals-null-0", tmp_path / "mine", steps=2, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_unknown_recipes_are_refused_with_the_names(tmp_path):
    with pytest.raises(organisms.UnknownOrganism, match="decimals-natural"):
        organisms.train("decimals", tmp_path / "mine")
