"""groups_differ: by hand, against scipy's Kruskal-Wallis, right where nothing differs."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import kruskal

from headlab.stats.groups import groups_differ


def test_shares_and_p_by_hand() -> None:
    """Values 1, 2, 3, 4 with labels a, a, b, b: ranks' variance 5, between 2·1 + 2·1 = 4.  Of 6 dealings two give .8."""
    found = groups_differ(np.array([[1.0], [2], [3], [40]]), ["a", "a", "b", "b"])
    (one,) = found.properties
    assert one.share == pytest.approx(4 / 5) and found.largest == one.share
    assert one.test is not None and one.test.enumerated and one.test.n_sets == 6 and one.test.p == pytest.approx(2 / 6)
    assert one.test.smallest_attainable == pytest.approx(2 / 6) and one.test.outcome == "untestable"
    assert one.chance == pytest.approx(np.mean([0.8, 0.8, 0.2, 0.2, 0, 0]))


def test_the_share_is_kruskal_s_h_over_n_minus_one() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(17, 3)), rng.integers(0, 3, 17)
    found = groups_differ(x, labels.tolist(), permutations=199)
    for column, one in zip(x.T, found.properties, strict=True):
        assert one.share == pytest.approx(kruskal(*[column[labels == c] for c in range(3)])[0] / 16)
    assert found.largest == max(p.share for p in found.properties if p.share is not None)


def test_labels_are_dealt_within_classes_only() -> None:
    """A property of whole classes: dealt inside them, every labelling explains as much; dealt freely, 52 of 252 do."""
    classes = [0] * 5 + [1] * 5
    labels = ["a"] * 4 + ["b"] + ["a"] + ["b"] * 4
    x = np.array(classes, float)[:, None]
    free, kept = groups_differ(x, labels, permutations=9999), groups_differ(x, labels, classes, permutations=9999)
    assert free.test is not None and kept.test is not None
    assert kept.test.n_sets == 25 and kept.test.p == 1.0
    assert free.test.p == pytest.approx(52 / 252)


def test_the_largest_share_asks_for_all_properties_at_once() -> None:
    """Eleven properties of noise: the smallest p is under .1 more often than not, the joint test about one time in ten
    (over 10 of 60: 1 in 50)."""
    joint = single = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = groups_differ(rng.normal(size=(13, 11)), [0] * 7 + [1] * 6, permutations=199, seed=seed)
        joint += found.test is not None and found.test.p <= 0.1
        single += min(p.test.p for p in found.properties if p.test is not None) <= 0.1
    assert joint <= 12 < 30 < single


def test_a_difference_is_found_among_properties_of_noise() -> None:
    rng = np.random.default_rng(3)
    labels = [0] * 7 + [1] * 6
    x = rng.normal(size=(13, 5))
    x[:, 2] += 5 * np.array(labels)
    found = groups_differ(x, labels)
    assert found.test is not None and found.test.outcome == "upheld"
    assert [p.p_holm is not None and p.p_holm < 0.05 for p in found.properties] == [False, False, True, False, False]


def test_names_and_order_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    x, labels, order = rng.normal(size=(11, 2)), ["u"] * 3 + ["v"] * 8, rng.permutation(11)
    one = groups_differ(x, labels, permutations=999)
    two = groups_differ(x[order], [{"u": 9, "v": 1}[labels[i]] for i in order], permutations=999)
    assert one.test == two.test and one.test is not None
    assert one.largest == pytest.approx(two.largest)


@pytest.mark.parametrize(
    ("labels", "words"), [([0] * 5, "one label"), (list(range(5)), "one for each"), ([0, 0, 1, 1, 1], "no property")]
)
def test_nothing_to_compare(labels: list[int], words: str) -> None:
    found = groups_differ(np.ones((5, 2)), labels)
    assert found.test is None and words in found.note and found.properties[0].share is None


def test_labels_that_follow_the_classes_cannot_be_dealt() -> None:
    found = groups_differ(np.random.default_rng(0).normal(size=(6, 2)), [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1])
    assert found.test is None and "another way" in found.note


def test_a_property_without_spread_counts_in_no_correction() -> None:
    rng = np.random.default_rng(5)
    x = np.column_stack([rng.normal(size=9), np.full(9, 2.0)])
    found = groups_differ(x, [0] * 4 + [1] * 5)
    first, second = found.properties
    assert second.test is None and first.test is not None and first.p_holm == first.test.p


def test_enumeration_agrees_with_all_orders() -> None:
    x, labels = np.array([[3.0], [1], [4], [1.5], [9]]), [0, 0, 1, 1, 1]
    found = groups_differ(x, labels)
    ranks = np.argsort(np.argsort(x[:, 0])) + 1.0

    def share(at: tuple[int, ...]) -> float:
        parts = [ranks[list(at[:2])], ranks[list(at[2:])]]
        return sum(len(p) * (p.mean() - 3) ** 2 for p in parts) / 10

    every = [share(at) for at in permutations(range(5))]
    assert found.test is not None
    assert found.test.p == pytest.approx(np.mean(np.array(every) >= share((0, 1, 2, 3, 4)) - 1e-12))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"NaN|finite|missing"):
        groups_differ(np.array([[np.nan], [1], [2], [3]]), [0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"labels|length|rows"):
        groups_differ(np.ones((5, 1)), [0, 0, 1, 1])
