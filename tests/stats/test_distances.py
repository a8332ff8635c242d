"""Mantel tests and label contrasts against brute force, and both under their nulls."""

from itertools import combinations, permutations, product

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from headlab.stats.distances import label_contrast, mantel


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def rows(table, noise=0.05, n=30, seed=0):
    """One symmetric table per prompt around `table`."""
    e = np.random.default_rng(seed).normal(0, noise, (n, *table.shape))
    return table + (e + e.swapaxes(1, 2)) / 2


@pytest.mark.parametrize("ranks", [False, True])
def test_mantel_by_brute_force(ranks):
    rng = np.random.default_rng(0)
    a, b = distances(rng.normal(size=(6, 3))), distances(rng.normal(size=(6, 2)))
    upper, f = np.triu_indices(6, 1), spearmanr if ranks else pearsonr
    null = [f(a[upper], b[np.ix_(p, p)][upper]).statistic for p in map(list, permutations(range(6)))]
    m = mantel(a, b, seed=0, ranks=ranks)
    assert m.r == pytest.approx(null[0]) and m.test.enumerated and m.test.n_sets == 720 and m.items == 6
    assert m.test.p == np.mean(np.array(null) >= null[0] - 1e-9)
    assert m.null == pytest.approx(tuple(np.quantile(null, [0.025, 0.975])))
    assert mantel(b, a, seed=0, ranks=ranks).test.p == m.test.p
    if ranks:
        assert mantel(np.exp(a), b, seed=0, ranks=True).r == pytest.approx(m.r)


def test_groups_restrict_the_exchange():
    rng = np.random.default_rng(1)
    a, b = distances(rng.normal(size=(7, 3))), distances(rng.normal(size=(7, 2)))
    groups, upper = ["x", "y", "x", "z", "y", "x", "z"], np.triu_indices(7, 1)
    null = []
    for x, y, z in product(permutations([0, 2, 5]), permutations([1, 4]), permutations([3, 6])):
        p = np.empty(7, dtype=int)
        p[[0, 2, 5]], p[[1, 4]], p[[3, 6]] = x, y, z
        null.append(pearsonr(a[upper], b[np.ix_(p, p)][upper]).statistic)
    m = mantel(a, b, seed=0, groups=groups)
    assert m.test.n_sets == 24 and m.test.p == pytest.approx(np.mean(np.array(null) >= m.r - 1e-9))
    assert "exchange" in mantel(a, b, seed=0, groups=list("abcdefg")).note


def test_mantel_finds_a_planted_agreement_and_keeps_its_level():
    rng, p = np.random.default_rng(2), []
    points = rng.normal(size=(17, 3))
    found = mantel(distances(points), distances(points + rng.normal(0, 0.5, (17, 3))), 999, seed=0)
    assert found.r > 0.4 and found.test.p == 0.001 and not found.test.enumerated and found.r > found.null[1]
    upper, naive = np.triu_indices(11, 1), []
    for seed in range(300):
        x, y = map(distances, rng.normal(size=(2, 11, 2)))
        p.append(mantel(x, y, 199, seed=seed).test.p)
        naive.append(pearsonr(x[upper], y[upper], alternative="greater").pvalue)
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08
    assert np.mean(np.array(naive) <= 0.05) > 0.1  # entries that share an item, counted as independent rows


def test_a_shared_layout_is_no_agreement_within_groups():
    """Both tables only know the group: free exchange calls it, exchange within groups cannot."""
    group = np.arange(16) // 4
    block = (group[:, None] != group[None]).astype(float)

    def noisy(seed):
        return rows(block, 0.1, 1, seed)[0]

    free = mantel(noisy(1), noisy(2), 999, seed=0)
    assert free.test.outcome == "upheld"
    p = [mantel(noisy(s), noisy(s + 500), 199, seed=s, groups=group).test.p for s in range(100)]
    assert np.mean(np.array(p) <= 0.05) <= 0.11


def test_what_mantel_cannot_compare():
    a = distances(np.random.default_rng(0).normal(size=(5, 2)))
    assert "equal" in mantel(a, np.ones((5, 5)), seed=0).note and mantel(a, np.ones((5, 5)), seed=0).r is None
    assert "at least 4" in mantel(a[:3, :3], a[:3, :3], seed=0).note
    assert mantel(a, a + np.eye(5), seed=0).r == pytest.approx(1.0)  # the diagonal is not read
    with pytest.raises(ValueError, match="symmetric"):
        mantel(a, np.triu(a), seed=0)
    with pytest.raises(ValueError, match="paired"):
        mantel(a, a[:4, :4], seed=0)


PARITY = ["even", "odd"] * 4
KV = np.arange(8) // 2


def contrast_by_hand(mean, labels):
    same, other = [], []
    for i, j in combinations(range(len(labels)), 2):
        (same if labels[i] == labels[j] else other).append(mean[i, j])
    return np.mean(same) - np.mean(other)


def test_label_contrast_by_brute_force():
    rng = np.random.default_rng(4)
    table = rows(rng.normal(size=(8, 8)) * 0, 1.0, 20, 7)
    mean = table.mean(0)
    found = label_contrast(table, PARITY, KV, seed=0)
    assert found.contrast.value == pytest.approx(contrast_by_hand(mean, PARITY))
    even = [mean[i, j] for i, j in combinations(range(0, 8, 2), 2)]
    assert found.within["even"].value == pytest.approx(np.mean(even)) and found.within["odd"].n == 20
    assert found.between.value == pytest.approx(np.mean([mean[i, j] for i in range(0, 8, 2) for j in range(1, 8, 2)]))
    null = []
    for swaps in product([False, True], repeat=4):
        null.append(contrast_by_hand(mean, [x for s in swaps for x in (("odd", "even") if s else ("even", "odd"))]))
    assert found.test.enumerated and found.test.n_sets == 16 and found.test.smallest_attainable == 2 / 16
    assert found.test.p == np.mean(np.array(null) >= found.contrast.value - 1e-9)
    free = label_contrast(table, PARITY, seed=0)
    assert (
        free.test.n_sets == 70 and free.test.smallest_attainable == 2 / 70
    )  # C(8, 4), a half ties with its complement


def test_a_planted_label_is_found_and_a_shared_kv_head_is_not_taken_for_one():
    parity, group = np.arange(16) % 2, np.arange(16) // 4
    alike = 0.3 * (parity[:, None] == parity[None])
    found = label_contrast(rows(alike), parity.tolist(), group, seed=0)
    assert found.test.n_sets == 1296 and found.test.p == 2 / 1296 and found.test.outcome == "upheld"
    assert found.contrast.value == pytest.approx(0.3, abs=0.02) and found.contrast.above(0.2) == "yes"
    shared = 0.3 * (group[:, None] == group[None])
    blocks = (np.arange(16) // 8).tolist()  # a label that follows the layout: two whole groups each
    layout = label_contrast(rows(shared), blocks, seed=0)
    assert layout.contrast.above(0.05) == "yes" and layout.test.p < 0.05
    matched = label_contrast(rows(shared), blocks, group, seed=0)
    assert matched.test is None and "no exchange" in matched.note
    assert label_contrast(rows(shared), parity.tolist(), group, seed=0).test.p > 0.05


def test_sampled_labellings_and_intervals():
    parity = (np.arange(24) % 2).tolist()
    found = label_contrast(rows(np.zeros((24, 24)), 1.0), parity, seed=0, permutations=999)
    assert not found.test.enumerated and found.test.low < found.test.p < found.test.high
    assert found == label_contrast(rows(np.zeros((24, 24)), 1.0), parity, seed=0, permutations=999)
    hits = 0
    for s in range(200):
        e = label_contrast(rows(np.zeros((6, 6)), 1.0, 40, s), PARITY[:6], seed=s, draws=200, permutations=100).contrast
        hits += e.low <= 0 <= e.high
    assert 0.89 <= hits / 200 <= 0.99


def test_labels_that_make_no_contrast():
    table = rows(np.eye(5))
    assert label_contrast(table, ["a"] * 5, seed=0).test is None
    assert "no two items" in label_contrast(table, list("abcde"), seed=0).note
    lone = label_contrast(table, list("aaaab"), seed=0)
    assert not lone.within["b"].defined and lone.contrast.defined
    assert not label_contrast(table[:1], list("aabbb"), seed=0).contrast.defined
    with pytest.raises(ValueError, match="symmetric"):
        label_contrast(table, list("aabb"), seed=0)
    with pytest.raises(ValueError, match="symmetric"):
        label_contrast(np.triu(table), list("aabbb"), seed=0)
