"""The organisms whose weights were drawn into clusters: the loss by hand, and what the shipped weights are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headlab import organisms
from headlab.engine.model import open_model
from headlab.measures import distances
from headlab.measures.weights import head_weights
from headlab.organisms.making import load
from headlab.organisms.pulling import loss_of, ov_cosines, pull_loss
from headlab.organisms.recipes import RECIPES, ClusteredRecipe, Pull
from headlab.organisms.tokenizer import build_tokenizer
from headlab.organisms.training import build_model, fit

CLUSTERED = ["decimals-planted-clustered", "decimals-planted-crossed"]


def recipe_of(name: str) -> ClusteredRecipe:
    recipe = RECIPES[name]
    assert isinstance(recipe, ClusteredRecipe)
    return recipe


def test_the_loss_by_hand() -> None:
    """Heads 0, 1 of one group, 2 of another; close .5.  Short of close by .3; alike across by .2; opposed across: free."""
    cosines = torch.tensor([[1.0, 0.2, 0.2], [0.2, 1.0, -0.7], [0.2, -0.7, 1.0]])
    pull = Pull((0, 0, 1), close=0.5, weight=3.0)
    assert loss_of(cosines, pull).item() == pytest.approx(3 * (0.3**2 + 0.2**2 + 0) / 3)
    assert loss_of(torch.tensor([[1.0, 0.9], [0.9, 1.0]]), Pull((0, 0))).item() == 0.0


@pytest.mark.parametrize("name", CLUSTERED)
def test_cosines_are_those_of_the_measure(name: str) -> None:
    model, tokenizer = load(organisms.path(name))
    own = ov_cosines(model, 1, 8).detach().numpy()
    table = distances(head_weights(open_model(model, tokenizer=tokenizer), [1]), 1, "ov_cosine")
    assert 1 - own == pytest.approx(table, abs=1e-5)


@pytest.mark.parametrize("name", CLUSTERED)
def test_the_shipped_weights_have_the_clusters_of_the_recipe(name: str) -> None:
    recipe = recipe_of(name)
    own = ov_cosines(load(organisms.path(name))[0], 1, 8).detach().numpy()
    labels = np.array(recipe.pull.groups)
    left, right = np.triu_indices(16, 1)
    same = labels[left] == labels[right]
    assert own[left, right][same].min() > 0.3 > 0.1 > own[left, right][~same].max()
    assert recipe.plant is not None
    planted = np.isin(np.arange(16), recipe.plant.heads)
    shared = [planted[labels == g].mean() for g in (0, 1)]
    assert shared == ([1.0, 0.0] if name.endswith("clustered") else [0.5, 0.5])


def test_the_base_had_no_such_clusters() -> None:
    own = ov_cosines(load(organisms.path("decimals-planted-even"))[0], 1, 8).detach().numpy()
    left, right = np.triu_indices(16, 1)
    for name in CLUSTERED:
        labels = np.array(recipe_of(name).pull.groups)
        assert own[left, right][labels[left] == labels[right]].min() < 0.1


def test_training_pulls_and_repeats_itself() -> None:
    recipe = replace(recipe_of("decimals-planted-clustered"), rows=2)
    tokenizer = build_tokenizer()
    made = []
    for _ in range(2):
        model = build_model(recipe, tokenizer)
        before = pull_loss(recipe, model).item()
        fit(recipe, model, tokenizer, steps=3)
        assert pull_loss(recipe, model).item() < before
        made.append(model.state_dict())
    assert all(torch.equal(made[0][k], made[1][k]) for k in made[0])
