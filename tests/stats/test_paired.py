"""Paired comparisons against statsmodels, the published worked example and counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as oracle

from headlab.stats import mcnemar, paired_difference, sign_flip, tost_paired

cells = st.tuples(*[st.integers(0, 25)] * 4)


def rows(both, only_a, only_b, neither):
    """Paired rows with these four counts."""
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return np.array(a, dtype=bool), np.array(b, dtype=bool)


@settings(deadline=None)
@given(cells.filter(sum))
def test_mcnemar_agrees_with_statsmodels(counts):
    both, only_a, only_b, neither = counts
    result = mcnemar(*rows(*counts))
    expected = oracle([[both, only_a], [only_b, neither]], exact=True).pvalue
    assert result.p == pytest.approx(expected, abs=1e-12) and 0 < result.p <= 1
    assert (result.both, result.only_a, result.only_b, result.neither) == counts
    assert result.n == sum(counts) and result.discordant == only_a + only_b


def test_mcnemar_by_hand():
    assert mcnemar(*rows(40, 6, 0, 4)).p == 2 / 64  # six heads in a row, both sides
    assert mcnemar(*rows(40, 5, 0, 5)).p == 2 / 32 > 0.05
    assert mcnemar(*rows(40, 0, 0, 10)).p == 1.0
    assert mcnemar([], []).p is None


def test_clusters_change_sides_as_wholes_by_hand():
    """Three clusters with differences 3, 1 and -1: of 8 signs of (3, 1, 1), |sum| is 5, 3, 3, 1 and their mirrors."""
    a = np.array([True] * 3 + [True] + [False])
    clusters = ["x"] * 3 + ["y", "z"]
    assert mcnemar(a, ~a, clusters).p == 6 / 8 and mcnemar(a, ~a).p == oracle([[0, 4], [1, 0]], exact=True).pvalue
    assert (mcnemar(a, ~a, clusters).only_a, mcnemar(a, ~a, clusters).only_b) == (4, 1)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), min_size=1, max_size=30))
def test_clustered_mcnemar_is_the_enumerated_sign_flip(rows):
    a, b, clusters = zip(*rows, strict=True)
    flips = sign_flip(np.array(a, float) - np.array(b, float), clusters, seed=0)
    assert flips.enumerated == (len(set(clusters)) <= 13)
    assert mcnemar(a, b, clusters).p == pytest.approx(flips.p, abs=1e-12)


def type_one(k, size, icc, sims, seed):
    """How often rows of k clusters, equally often right in both worlds, are called different: by rows, by clusters."""
    rng = np.random.default_rng(seed)
    clusters, found = np.repeat(np.arange(k), size), np.zeros(2)
    for _ in range(sims):
        same = rng.random((2, k, size)) < np.sqrt(icc)  # a row copies its cluster's draw, in either world
        a, b = np.where(same, (rng.random((2, k)) < 0.6)[..., None], rng.random((2, k, size)) < 0.6).reshape(2, -1)
        found += mcnemar(a, b).p <= 0.05, mcnemar(a, b, clusters).p <= 0.05
    return found / sims


def test_correlated_rows_no_longer_reject_by_themselves():
    by_rows, by_clusters = type_one(40, 6, 0.9, 120, seed=2)
    assert by_rows > 0.25 and by_clusters <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 120)


@pytest.mark.accept
@pytest.mark.parametrize("icc", [0, 0.3, 0.6, 1])
@pytest.mark.parametrize("k", [10, 46, 200])
def test_clustered_mcnemar_keeps_its_level(k, icc):
    """Type I by rows was .31 at strong correlation."""
    by_rows, by_clusters = type_one(k, 5, icc, 2000, seed=3)
    print(k, icc, "by rows", by_rows, "by clusters", by_clusters)
    assert by_clusters <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 2000)


def test_newcombe_reproduces_the_published_example():
    """Airway hyper-responsiveness before and after stem cell transplantation, 1 / 1 / 7 / 12 children
    (Bentur et al. 2009), as worked by Fagerland, Lydersen & Laake, Stat. Med. 33:2850 (2014):
    difference -0.286, Newcombe's interval -0.507 to -0.026."""
    e = paired_difference(*rows(1, 1, 7, 12), unit="children")
    assert (e.value, e.low, e.high) == pytest.approx((-0.286, -0.507, -0.026), abs=5e-4)
    assert e.n == 21 and e.method == "Newcombe"


def test_newcombe_without_correlation_is_square_and_add():
    # 4 both, 4 only a, 4 only b, 4 neither: phi = 0, both rates 1/2, each Wilson half-width h.
    e = paired_difference(*rows(4, 4, 4, 4), unit="pairs")
    z = 1.959963984540054
    half = z / (1 + z * z / 16) * np.sqrt(0.25 / 16 + z * z / (4 * 16 * 16))
    assert (e.low, e.high) == pytest.approx((-half * np.sqrt(2), half * np.sqrt(2)), abs=1e-12)


@given(cells.filter(sum))
def test_the_difference_stays_in_range_and_mirrors(counts):
    a, b = rows(*counts)
    e, mirror = paired_difference(a, b, unit="pairs"), paired_difference(b, a, unit="pairs")
    assert -1 <= e.low <= e.value <= e.high <= 1 and e.low < e.high
    assert e.value == pytest.approx(a.mean() - b.mean())
    assert (e.low, e.high) == pytest.approx((-mirror.high, -mirror.low), abs=1e-12)


def test_the_interval_covers():
    """600 samples of 40 pairs, rates .7 and .5 with positive dependence."""
    rng = np.random.default_rng(3)
    truth, sims, hits = 0.2, 600, 0
    for both, only_a, only_b, neither in rng.multinomial(40, [0.45, 0.25, 0.05, 0.25], size=sims):
        e = paired_difference(*rows(both, only_a, only_b, neither), unit="pairs")
        hits += e.low <= truth <= e.high
    assert 0.93 <= hits / sims <= 0.98


def test_repeated_clusters_need_a_seed_and_widen_the_interval():
    rng = np.random.default_rng(0)
    a, b = np.repeat(rng.random(30) < 0.8, 10), np.repeat(rng.random(30) < 0.5, 10)
    prompts = np.repeat(np.arange(30), 10)
    with pytest.raises(ValueError, match="give a seed"):
        paired_difference(a, b, prompts, unit="rows")
    clustered = paired_difference(a, b, prompts, unit="rows", seed=1)
    single = paired_difference(a[::10], b[::10], unit="rows")
    naive = paired_difference(a, b, unit="rows")
    width, honest, small = (e.high - e.low for e in (clustered, single, naive))
    assert width == pytest.approx(honest, rel=0.15) and small < 0.5 * width


def test_nothing_changed_is_not_certainty():
    same = np.array([True] * 20)
    prompts = np.arange(20) // 4
    e = paired_difference(same, same, prompts, unit="rows", seed=0)
    assert e.value == 0 and e.low < -0.3 and e.high > 0.3 and "5 clusters" in e.note
    assert e.high == pytest.approx(paired_difference(same[:5], same[:5], unit="rows").high)
    assert paired_difference([True], [True], unit="rows").low < -0.5
    assert not paired_difference([], [], unit="rows").defined
    assert not paired_difference(same, same, ["p"] * 20, unit="rows", seed=0).defined


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        ((180, 2, 2, 116), "equivalent"),
        ((10, 1, 1, 8), "undecided"),
        ((100, 80, 5, 15), "different"),
        ((15, 5, 80, 100), "different"),
        ((0, 0, 0, 0), "undefined"),
    ],
)
def test_equivalence_of_rates(counts, outcome):
    result = tost_paired(*rows(*counts), margin=0.05, unit="pairs")
    assert result.outcome == outcome
    assert result.difference.level == pytest.approx(0.9) and result.margin == 0.05


def test_equivalence_of_numbers():
    rng = np.random.default_rng(1)
    a = rng.normal(5, 3, 100)
    b = a + rng.normal(0, 0.1, 100)
    assert tost_paired(a, b, margin=0.05, unit="prompts", seed=0).outcome == "equivalent"
    assert tost_paired(a, b, margin=1e-4, unit="prompts", seed=0).outcome == "undecided"
    assert tost_paired(a, b + 1, margin=0.05, unit="prompts", seed=0).outcome == "different"
    assert tost_paired(a, a, margin=0.05, unit="prompts", seed=0).outcome == "undefined"
    with pytest.raises(ValueError, match="seed"):
        tost_paired(a, b, margin=0.05, unit="prompts")


def test_equivalence_rarely_passes_a_difference_at_the_margin():
    rng = np.random.default_rng(8)
    margin, passed, sims = 0.1, 0, 500
    for counts in rng.multinomial(100, [0.5, 0.15, 0.05, 0.3], size=sims):
        passed += tost_paired(*rows(*counts), margin=margin, unit="pairs").outcome == "equivalent"
    assert passed / sims <= 0.07


def test_bad_input_is_refused():
    for margin in (0, -0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="margin"):
            tost_paired([True], [True], margin=margin, unit="pairs")
    with pytest.raises(ValueError, match="alpha"):
        tost_paired([True], [True], margin=0.1, unit="pairs", alpha=0.5)
    with pytest.raises(ValueError, match="lengths"):
        mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="booleans"):
        mcnemar([0.5], [1.0])
