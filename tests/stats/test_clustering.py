"""Clusters against scikit-learn, scipy and values by hand; what has none is said to have none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.metrics.pairwise import euclidean_distances

from headlab.stats.agreement import adjusted_rand, cluster_test, co_occurrence, most_similar, purity
from headlab.stats.clustering import (
    NOISE,
    Clustering,
    by_density,
    default_ks,
    euclidean,
    gap_statistic,
    hierarchical,
    k_means,
    silhouette,
    silhouettes,
)
from headlab.stats.views import principal_coordinates, view


def cloud(n: int = 23, axes: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, axes))


def three(each: int = 7, seed: int = 0) -> np.ndarray:
    """Three clusters at the corners of a triangle, one after the other."""
    corners = np.array([[0, 0], [10, 0], [5, 9.0]])
    return np.repeat(corners, each, 0) + np.random.default_rng(seed).normal(size=(3 * each, 2))


THREE = tuple(np.repeat([0, 1, 2], 7).tolist())


# -- agreement of partitions --------------------------------------------------------------------------------


def test_blocks_of_four_against_parity_is_the_published_number() -> None:
    """-28672 / 479232 over ordered pairs of 32 items, by hand; and the least of random 8 x 4 partitions."""
    blocks, parity = [h // 4 for h in range(32)], [h % 2 for h in range(32)]
    assert adjusted_rand(blocks, parity) == -28672 / 479232 == -0.05982905982905983
    assert adjusted_rand_score(blocks, parity) == -0.05982905982905983
    rng = np.random.default_rng(3)
    drawn = [adjusted_rand(rng.permutation(blocks), parity) for _ in range(300)]
    assert min(drawn) == -0.05982905982905983 < np.mean(drawn)


def test_partitions_agree_as_in_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        a, b = rng.integers(0, 5, 31), rng.integers(0, 3, 31)
        assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-15)
    assert adjusted_rand("aabbc", "xxyyz") == 1.0
    assert adjusted_rand([0, 1, 2], [0, 1, 2]) is None
    assert adjusted_rand([0, 0, 0, 0, 0], [0, 1, 2, 0, 1]) is None
    with pytest.raises(ValueError, match="lengths"):
        adjusted_rand([0, 1, 0, 1], [0, 1, 0])


def test_purity_by_hand() -> None:
    assert purity("aaabb", "xxyyy") == pytest.approx(4 / 5)
    assert purity(range(5), "xxyyy") == 1.0
    assert purity("abc", "abc") is None


def test_items_together_by_hand() -> None:
    both = co_occurrence([Clustering((0, 0, 1, 1), 2, None, ""), Clustering((0, 1, 1, NOISE), 2, None, "")])
    assert both.tolist() == [[1, 0.5, 0, 0], [0.5, 1, 0.5, 0], [0, 0.5, 1, 0.5], [0, 0, 0.5, 1]]
    with pytest.raises(ValueError, match="same items"):
        co_occurrence([Clustering((0, 1), 2, None, ""), Clustering((0, 1, 1), 2, None, "")])


# -- silhouettes and clusters -------------------------------------------------------------------------------


def test_silhouettes_as_in_scikit_learn() -> None:
    rng, d = np.random.default_rng(1), euclidean(cloud())
    for k in (2, 3, 5, 11):
        labels = np.concatenate([np.arange(k), rng.integers(0, k, 23 - k)])
        assert silhouette(d, labels) == pytest.approx(silhouette_score(d, labels, metric="precomputed"), abs=1e-12)
    many = np.array([rng.permutation(labels) for _ in range(5)])
    each = [silhouette_score(d, row, metric="precomputed") for row in many]
    assert silhouettes(d, many) == pytest.approx(each, abs=1e-12)


def test_a_silhouette_by_hand() -> None:
    """Points 0, 1, 5, 6 on a line, cut in the middle: a = 1, b = 5.5 or 4.5."""
    d = euclidean([[0.0], [1.0], [5.0], [6.0]])
    assert silhouette(d, "aabb") == pytest.approx((2 * (1 - 1 / 5.5) + 2 * (1 - 1 / 4.5)) / 4)
    assert silhouette(d, "aaab") == pytest.approx(((1 - 3 / 6) + (1 - 2.5 / 5) + (1 / 4.5 - 1) + 0) / 4)
    assert silhouette(d, [0, 0, 1, NOISE]) is None and silhouette(d, "abcd") is None and silhouette(d, "aaaa") is None


def test_the_tree_is_cut_as_scipy_cuts_it() -> None:
    d = euclidean(cloud(17, 5, 4))
    for way, k in itertools.product(("average", "complete", "single", "ward"), (2, 3, 5)):
        expected = fcluster(linkage(squareform(d, checks=False), way), k, "maxclust")
        assert adjusted_rand(hierarchical(d, k, linkage=way).labels, expected) == pytest.approx(1), (way, k)


def test_three_clusters_are_found_by_every_method() -> None:
    x = three()
    d = euclidean(x)
    assert d == pytest.approx(euclidean_distances(x), abs=1e-6)
    for made in (hierarchical(d), hierarchical(d, linkage="ward"), k_means(x, seed=0), by_density(d, least=4)):
        assert made.labels == THREE and made.k == 3 and made.sizes == (7, 7, 7), made
        assert made.silhouette == pytest.approx(silhouette_score(d, THREE, metric="precomputed"))
    far = np.vstack([x, [[40.0, 40.0]]])
    noisy = by_density(euclidean(far), method="dbscan", radius=4.0)
    assert noisy.labels == (*THREE, NOISE) and noisy.silhouette == pytest.approx(hierarchical(d).silhouette)


def test_the_gap_statistic_counts_and_can_say_one() -> None:
    uneven = three() + np.repeat([[0, 0], [0, 0], [25, 0]], 7, 0)  # two near, one far
    for method, references in (("ward", 25), ("average", 25), ("k-means", 10)):
        assert gap_statistic(uneven, seed=0, method=method, references=references, most=4).k == 3, method
    assert gap_statistic(cloud(23, 2), seed=0, references=25, most=6).k == 1
    first, again, other = (gap_statistic(three(), seed=s, references=10, most=4).gaps for s in (0, 0, 1))
    assert first == again != other


def test_the_sums_behind_the_gap_by_hand() -> None:
    """One cluster of 0, 1, 5, 6: mean 3, squares 9 + 4 + 4 + 9; two: 0.5 each."""
    from headlab.stats.clustering import _within_sums

    x = np.array([[0.0], [1.0], [5.0], [6.0]])
    assert _within_sums(x, (1, 2), "ward", 0) == pytest.approx([26, 1])
    assert _within_sums(x, (1, 2), "k-means", 0) == pytest.approx([26, 1])


def test_nothing_is_found_in_nothing() -> None:
    few, flat = cloud(3), np.ones((6, 2))
    for x, why in ((few, "at least 4"), (flat, "equal")):
        d = euclidean(x)
        for made in (hierarchical(d), k_means(x, seed=0), by_density(d)):
            assert made.labels == () and made.silhouette is None and why in made.note
        assert gap_statistic(x, seed=0).k is None and why in gap_statistic(x, seed=0).note
        tested = cluster_test(d, [d])
        assert tested.value is None and tested.test is None and why in tested.note
        assert view(d, seed=0).points == ()
    two = k_means(np.repeat([[0.0], [1.0]], 4, 0), 3, seed=0)
    assert two.labels == () and "2 different items" in two.note


def test_the_order_of_items_changes_no_statistic() -> None:
    d, order = euclidean(cloud()), np.random.default_rng(5).permutation(23)
    parity = [h % 2 for h in range(23)]
    one, two = hierarchical(d), hierarchical(d[np.ix_(order, order)])
    assert adjusted_rand(np.array(one.labels)[order], two.labels) == 1 and one.silhouette == pytest.approx(
        two.silhouette
    )
    assert adjusted_rand(one.labels, parity) == adjusted_rand(two.labels, np.array(parity)[order])


# -- tests with their nulls ---------------------------------------------------------------------------------


def clouds(count: int, n: int = 21) -> list[np.ndarray]:
    return [euclidean(cloud(n, 2, 100 + i)) for i in range(count)]


def test_clusters_beyond_their_null_and_a_cloud_that_is_not() -> None:
    found, none = cluster_test(euclidean(three()), clouds(99)), cluster_test(euclidean(cloud(21, 2)), clouds(99))
    assert found.test and found.test.p == 1 / 100 and found.test.outcome == "upheld" and found.test.unit == "tables"
    assert none.test and none.test.p > 0.05 and none.test.p == (1 + none.test.at_least_as_extreme) / 100
    assert found.clustering and found.clustering.labels == THREE
    assert found.chance == pytest.approx(np.mean(found.null))
    known = cluster_test(euclidean(three()), values=found.null)
    assert known.test == found.test and known.null == found.null


def test_a_null_is_kept_to_its_level() -> None:
    """Of 40 clouds tested against 19 others, about 5 % reach p = 1/20, which is the least: more than 7 would be many."""
    null = clouds(19)
    under = sum(cluster_test(euclidean(cloud(21, 2, i)), null).test.p <= 0.05 for i in range(40))  # type: ignore[union-attr]
    assert 0 < under < 8


def test_labels_that_explain_and_labels_that_do_not() -> None:
    d = euclidean(three())
    shuffled = np.random.default_rng(0).permutation(THREE).tolist()
    for statistic in ("silhouette", "ari", "purity"):
        good = cluster_test(d, labels=THREE, statistic=statistic, permutations=199)
        bad = cluster_test(d, labels=shuffled, statistic=statistic, permutations=199)
        assert good.test and good.test.p == 1 / 200 and not good.test.enumerated and good.test.unit == "labellings"
        assert bad.test and bad.test.p > 0.05
    assert cluster_test(d, labels=THREE, statistic="ari").value == 1.0
    pure = cluster_test(d, labels=THREE, statistic="purity", permutations=999)
    assert pure.chance == pytest.approx(0.5, abs=0.06)  # well above 1/3: chance rises with the number of clusters


def test_few_labellings_are_all_counted() -> None:
    """8 items, halves: 70 labellings, each a tie with the one that swaps the names: p = 2/70 at best."""
    x = np.array([[0.0], [1], [2], [3], [20], [21], [22], [23]])
    exact = cluster_test(euclidean(x), labels="aaaabbbb", statistic="ari").test
    assert exact and exact.enumerated and exact.n_sets == 70 and exact.p == 2 / 70
    grouped = cluster_test(euclidean(x), labels="abababab", groups=[0, 0, 1, 1, 2, 2, 3, 3]).test
    assert grouped and grouped.enumerated and grouped.n_sets == 16
    still = cluster_test(euclidean(x), labels="aaaabbbb", groups="aaaabbbb")
    assert still.test is None and "changes anything" in still.note


def test_labels_against_given_tables() -> None:
    """The null may be tables: do labels explain these distances better than those of items that know no label?"""
    drawn = clouds(49)
    found = cluster_test(euclidean(three()), drawn, labels=THREE, statistic="ari", k=3)
    assert found.test and found.test.p == 1 / 50 and found.value == 1.0


def test_what_cannot_be_tested_is_refused() -> None:
    d = euclidean(cloud(5))
    with pytest.raises(ValueError, match="needs a null"):
        cluster_test(d)
    with pytest.raises(ValueError, match="with labels"):
        cluster_test(d, [d], statistic="ari")
    with pytest.raises(ValueError, match="must hold 5 items"):
        cluster_test(d, [euclidean(cloud(7))])
    with pytest.raises(ValueError, match="not be negative"):
        hierarchical(-d)
    with pytest.raises(ValueError, match="6 clusters"):
        hierarchical(d, 6)
    with pytest.raises(ValueError, match="symmetric"):
        hierarchical(np.triu(d))
    with pytest.raises(ValueError, match="radius"):
        by_density(d, radius=0.0)
    with pytest.raises((ValueError, TypeCheckError), match="dbscan"):  # whichever looks first
        by_density(d, method="optics")  # type: ignore[arg-type]


# -- a set predicted from likeness --------------------------------------------------------------------------


def test_a_set_predicts_itself_when_it_may_look_at_itself() -> None:
    """32 unrelated items: with themselves counted the even ones are returned whole; without, they are not."""
    x = cloud(32, 500)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    alike, even = x @ x.T, tuple(range(0, 32, 2))
    assert most_similar(alike, even, 16, itself=True) == even
    left_out = most_similar(alike, even, 16)
    assert len(left_out) == 16 and 3 <= len(set(left_out) & set(even)) <= 13
    by_hand = [np.mean([alike[i, j] for j in even if j != i]) for i in range(32)]
    assert left_out == tuple(sorted(np.argsort(by_hand)[::-1][:16].tolist()))
    with pytest.raises(ValueError, match="at least 2 different"):
        most_similar(alike, [3], 4)


# -- views --------------------------------------------------------------------------------------------------


def test_principal_coordinates_give_the_distances_back() -> None:
    from sklearn.decomposition import PCA

    x = cloud(13, 5)
    points, shares = principal_coordinates(euclidean(x))
    assert points.shape == (13, 5) and euclidean(points) == pytest.approx(euclidean(x))
    pca = PCA().fit(x)
    assert shares == pytest.approx(pca.explained_variance_ratio_)
    assert np.abs(points) == pytest.approx(np.abs(pca.transform(x)))
    assert np.take_along_axis(points, np.abs(points).argmax(0)[None], 0).min() > 0


def test_views_keep_clusters_apart() -> None:
    d = euclidean(three())
    for method in ("pca", "tsne"):
        made = view(d, method, seed=0)
        assert silhouette(euclidean(made.points), THREE) > 0.5, method
        assert made == view(d, method, seed=0)
    assert view(d, "pca", seed=0).explained == pytest.approx(principal_coordinates(d)[1])
    with pytest.raises((ValueError, TypeCheckError), match="umap"):
        view(d, "lda", seed=0)  # type: ignore[arg-type]


def test_without_umap_one_sentence_says_what_to_install(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"headlab\[views\]"):
        view(euclidean(three()), "umap", seed=0)


@pytest.mark.accept
def test_umap_keeps_clusters_apart() -> None:
    pytest.importorskip("umap", reason="the views extra is not installed")
    d = euclidean(three())
    made = view(d, "umap", seed=0)
    assert silhouette(euclidean(made.points), THREE) > 0.3
    assert len(view(euclidean(cloud(5)), "umap", seed=0).points) == 5


def test_the_tried_numbers() -> None:
    assert default_ks(4) == (2,) and default_ks(9) == (2, 3, 4) and default_ks(32)[-1] == 16
