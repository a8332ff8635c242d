"""Each detector fires on its artefact and is silent on the honest twin; the published silhouettes come from one norm."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

from headlab.measures.artefacts import forced_mean, repetition, self_counted, singleton, singleton_silhouette
from headlab.stats.agreement import most_similar

GROUPS = [h // 4 for h in range(32)]


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def unlike(n: int = 32, axes: int = 997, seed: int = 0) -> np.ndarray:
    """Cosines of random directions."""
    return cosine_similarity(noise(n, axes, seed))


# -- repetition ---------------------------------------------------------------------------------------------


def test_repeated_keys_are_found_and_own_ones_are_not() -> None:
    own, shared = noise(32, 53), np.repeat(noise(8, 47, 1), 4, 0)
    found = repetition(np.hstack([own, shared]), GROUPS)
    assert found.found and found.value == 47 / 100 and "copies" in found.words
    scaled = StandardScaler().fit_transform(np.hstack([own, shared]))  # the published scaling hides nothing
    assert repetition(scaled, GROUPS).value == 47 / 100
    twin = repetition(np.hstack([own, noise(32, 47, 1)]), GROUPS)
    assert not twin.found and twin.value == 0
    nearly = np.hstack([own, shared + 1e-3 * noise(32, 47, 2)])  # alike, not copied: a finding, no artefact
    assert not repetition(nearly, GROUPS).found


def test_repetition_needs_groups_of_several_heads() -> None:
    x = noise(8, 11)
    assert repetition(x, range(8)).value is None and repetition(x, [0] * 8).value is None
    constant = np.hstack([x, np.ones((8, 5))])  # a feature that never differs repeats nothing
    assert repetition(constant, [0, 0, 0, 0, 1, 1, 1, 1]).value == 0
    with pytest.raises(ValueError, match="each of 8 heads"):
        repetition(x, [0, 1])
    with pytest.raises(ValueError, match="finite"):
        repetition(np.full((4, 2), np.nan), [0, 0, 1, 1])


# -- the forced mean ----------------------------------------------------------------------------------------


def test_standardising_forces_the_mean_cosine() -> None:
    """Whatever the features: -1/31 among 32 heads, as scikit-learn has it; exactly so for rows of equal norm."""
    scaled = StandardScaler().fit_transform(noise(32, 997) * 3 + 5)
    found, table = forced_mean(scaled), cosine_similarity(scaled)
    off = table[~np.eye(32, dtype=bool)].mean()
    assert found.found and found.value == pytest.approx(off) and found.value == pytest.approx(-1 / 31, abs=1e-4)
    assert "-0.0323" in found.words
    simplex = np.eye(7) - 1 / 7
    assert forced_mean(simplex).value == pytest.approx(-1 / 6, abs=1e-12)


def test_features_as_they_are_force_nothing() -> None:
    twin = forced_mean(noise(32, 997) + 5)
    assert not twin.found and twin.value is not None and twin.value > 0.9
    plain = forced_mean(noise(32, 997))
    assert not plain.found and plain.value == pytest.approx(0, abs=0.01)
    assert forced_mean(np.zeros((5, 3))).value is None


# -- the singleton ------------------------------------------------------------------------------------------

PUBLISHED = [(0.646, 4.7), (0.277, 1.8), (0.626, 4.4), (0.606, 4.1), (0.467, 2.7), (0.687, 5.6)]
"""Silhouettes reported for Pythia-160m at 120k and 143k steps, and the norm ratios behind them."""


@pytest.mark.parametrize(("reported", "ratio"), PUBLISHED)
def test_one_norm_yields_the_published_silhouettes(reported: float, ratio: float) -> None:
    """12 isotropic blocks, one of them `ratio` times as long: scikit-learn's silhouette of that cut."""
    assert singleton_silhouette(ratio, 12) == pytest.approx(reported, abs=0.02)
    for seed in range(3):
        blocks = noise(12, 6007, seed)
        blocks[5] *= ratio
        cut = np.arange(12) == 5
        assert silhouette_score(blocks, cut) == pytest.approx(reported, abs=0.02)
        found = singleton(blocks, cut.tolist())
        assert found.found and found.value == pytest.approx(ratio, rel=0.03) and "block 5" in found.words


@pytest.mark.parametrize("n", [3, 7, 12, 31])
def test_the_formula_for_any_number_of_blocks(n: int) -> None:
    """Blocks exactly at right angles, so there is nothing random: scikit-learn's number to rounding."""
    for ratio in (0.5, 1.0, 1.7, 4.0, 9.0):
        blocks = np.eye(n)
        blocks[2] *= ratio
        made = silhouette_score(blocks, np.arange(n) == 2)
        assert singleton_silhouette(ratio, n) == pytest.approx(made, abs=1e-12)
    with pytest.raises(ValueError, match="norm ratio"):
        singleton_silhouette(-1.0, n)


def test_the_tree_finds_the_long_block_by_itself() -> None:
    blocks = noise(12, 997)
    blocks[7] *= 4.5
    found = singleton(blocks)
    assert found.found and found.value == pytest.approx(4.5, rel=0.05) and "block 7" in found.words


def test_a_block_that_turned_away_is_no_artefact() -> None:
    """Eleven blocks share a direction and one does not: it stands apart with norms equal too, whatever its length."""
    blocks = noise(12, 997) * 0.2 + noise(1, 997, 1)
    blocks[3] = 4 * noise(1, 997, 2)
    twin = singleton(blocks)
    assert not twin.found and "block 3" in twin.words and twin.value is not None and twin.value > 3
    halves = noise(12, 997) * 0.2 + np.repeat(noise(2, 997, 1), 6, 0)
    assert singleton(halves).value is None and not singleton(halves).found
    equal = singleton(noise(12, 997), [0] * 11 + [1])
    assert not equal.found and equal.value == pytest.approx(1, abs=0.1)
    assert singleton(noise(3, 5)).value is None


# -- likeness to oneself ------------------------------------------------------------------------------------


def test_a_set_that_predicts_itself_is_found() -> None:
    alike, even = unlike(), list(range(0, 32, 2))
    counted = most_similar(alike, even, 16, itself=True)
    found = self_counted(alike, even, counted)
    assert counted == tuple(even) and found.found and "100%" in found.words
    honest = most_similar(alike, even, 16)
    share = len(set(honest) & set(even)) / 16
    assert found.value == pytest.approx(1 - share) and share < 0.8
    assert not self_counted(alike, even, honest).found


def test_a_set_that_is_alike_needs_no_help() -> None:
    """Even heads that do share something are predicted either way: nothing was given away."""
    x = noise(32, 997) + np.where(np.arange(32) % 2 == 0, 2.0, 0.0)[:, None] * noise(1, 997, 1)
    alike, even = cosine_similarity(x), list(range(0, 32, 2))
    twin = self_counted(alike, even, most_similar(alike, even, 16, itself=True))
    assert not twin.found and "same without it" in twin.words
    assert most_similar(alike, even, 16) == tuple(even)
