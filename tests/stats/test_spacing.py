"""Spacing by hand, its correlation against scipy and statsmodels, and the exact tests of members."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact, mannwhitneyu, rankdata, spearmanr
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.tools import add_constant

from headlab.stats.members import linear_separability, member_tests, separable_by_chance
from headlab.stats.spacing import rank_correlation, spacing

LINES = ("Definition:", "Shapes, units:", "Range", "ean over", "Raises:", "ource", "hen it misleads:")


@pytest.mark.parametrize("measure", [spacing, rank_correlation, member_tests, separable_by_chance])
def test_docstrings_say_what_a_reader_needs(measure):
    for line in LINES:
        assert line in measure.__doc__, line


# -- one set, by hand --------------------------------------------------------------------------------------


def test_equal_gaps():
    s = spacing([12, 0, 4, 8], 16)  # gaps 4, 4, 4; in any order
    assert (s.mean_gap, s.gap_sd, s.largest_gap, s.regularity) == (4, 0, 4, 1)
    assert (s.span, s.coverage, s.centre, s.balance) == (13, 4 / 13, 6, 1)
    assert s.spread == pytest.approx(np.sqrt((36 + 4 + 4 + 36) / 4))


def test_unequal_gaps():
    s = spacing([1, 2, 4, 10], 11)  # gaps 1, 2, 6: mean 3, squares of 2, 1, 3
    assert (s.mean_gap, s.largest_gap, s.span) == (3, 6, 10)
    assert s.gap_sd == pytest.approx(np.sqrt(14 / 3))
    assert s.regularity == pytest.approx(3 / (3 + np.sqrt(14 / 3)))
    assert s.coverage == pytest.approx(0.4) and s.centre == pytest.approx(4.25)
    assert s.balance == pytest.approx(0.5)  # three of four below the middle place, 5


def test_the_middle_place_counts_half():
    assert spacing([0, 2], 5).balance == pytest.approx(0.5)  # shares .75 and .25
    assert spacing([2], 5).balance == 1 and spacing([0, 1], 5).balance == 0


def test_sets_too_small_for_gaps():
    one = spacing([3], 7)
    assert (one.mean_gap, one.gap_sd, one.largest_gap, one.regularity) == (None,) * 4
    assert (one.span, one.coverage, one.centre, one.spread) == (1, 1, 3, 0)
    assert spacing([], 7).span is None


@settings(deadline=None)
@given(st.sets(st.integers(0, 22), min_size=2), st.integers(0, 5))
def test_moving_a_set_changes_only_where_it_is(members, by):
    here, there = spacing(sorted(members), 29), spacing([m + by for m in members], 29)
    same = ("mean_gap", "gap_sd", "largest_gap", "regularity", "span", "coverage", "spread")
    assert [getattr(here, k) for k in same] == pytest.approx([getattr(there, k) for k in same])
    assert there.centre == pytest.approx(here.centre + by)


@pytest.mark.parametrize("bad", [[0, 0], [-1, 2], [0, 7], [0.5, 2]])
def test_what_is_no_set_is_refused(bad):
    with pytest.raises(ValueError, match="positions"):
        spacing(bad, 7)


# -- correlation with success ------------------------------------------------------------------------------


def rows(seed, n=41, slope=0.0):
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=n), 1)  # some ties
    return x, slope * x + rng.normal(size=n) > 0


@pytest.mark.parametrize("seed", range(4))
def test_the_correlation_is_spearmans_and_p_the_rank_sum_tests(seed):
    x, y = rows(seed, slope=0.5)
    found = rank_correlation(x, y, unit="sets", seed=1)
    assert found.correlation.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.correlation.low < found.correlation.value < found.correlation.high
    rank_sum = mannwhitneyu(x[y], x[~y], method="asymptotic", use_continuity=False).pvalue
    assert found.rank.p == pytest.approx(rank_sum, abs=0.015)
    assert found.rank.n_sets == 9999 and len(found.null) == 9999


def test_the_partial_correlation_is_that_of_two_regressions_residuals():
    rng = np.random.default_rng(5)
    others = rng.random((47, 5)) < 0.5
    x, y = rng.normal(size=47) + others @ np.arange(5.0), rng.random(47) < 0.5
    design = add_constant(others.astype(float))
    a, b = (OLS(v, design).fit().resid for v in (rankdata(x), y.astype(float)))
    found = rank_correlation(x, y, others, unit="sets", seed=0)
    assert found.correlation.value == pytest.approx(np.corrcoef(a, b)[0, 1])
    # Fisher's interval by hand: five others cost five degrees of freedom
    z, half = np.arctanh(found.correlation.value), 1.959964 / np.sqrt(47 - 3 - 5)
    assert (found.correlation.low, found.correlation.high) == pytest.approx((np.tanh(z - half), np.tanh(z + half)))


def test_what_the_others_explain_is_taken_out():
    """Success follows one member, and so does the description: the raw test finds it, the partial one does not."""
    rng = np.random.default_rng(3)
    others = rng.random((60, 3)) < 0.5
    x, y = others[:, 1] + rng.normal(0, 0.3, 60), others[:, 1] ^ (rng.random(60) < 0.1)
    assert rank_correlation(x, y, unit="sets", seed=0).rank.outcome == "upheld"
    assert rank_correlation(x, y, others, unit="sets", seed=0).rank.p > 0.05


def test_the_level_is_kept_with_others():
    rng = np.random.default_rng(8)
    hits = 0
    for seed in range(200):
        others = rng.random((30, 4)) < 0.5
        x, y = rng.normal(size=30) + 2 * others[:, 0], rng.random(30) < 0.2 + 0.6 * others[:, 0]
        found = rank_correlation(x, y, others, unit="sets", seed=seed, shuffles=199).rank
        hits += found is not None and found.p <= 0.05  # None where chance made success one of the others
    assert hits <= 20  # Pr[Bin(200, .05) > 20] < .001


def test_nothing_to_correlate_is_undefined():
    flat = rank_correlation(np.ones(20), np.arange(20) < 9, unit="sets", seed=0)
    assert not flat.correlation.defined and flat.rank is None
    assert not rank_correlation(np.arange(20.0), np.ones(20, dtype=bool), unit="sets", seed=0).correlation.defined
    few = rank_correlation(np.arange(6.0), np.arange(6) < 3, np.eye(6)[:, :4], unit="sets", seed=0)
    assert not few.correlation.defined
    with pytest.raises(ValueError, match="paired"):
        rank_correlation(np.arange(6.0), np.arange(5) < 3, unit="sets", seed=0)


# -- members -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "n"), list(enumerate([2, 3, 5, 11, 17, 30, 54, 60])))
def test_member_tests_agree_with_scipy_and_statsmodels(seed, n):
    rng = np.random.default_rng(seed)
    x, y = rng.random((n, 5)) < rng.random(5), rng.random(n) < rng.random()
    found = member_tests(x, y)
    expected = {}
    for m in range(5):
        assert (found[m].present.n, found[m].absent.n) == (x[:, m].sum(), (~x[:, m]).sum())
        if 0 < x[:, m].sum() < n:
            table = [[(x[:, m] & y).sum(), (x[:, m] & ~y).sum()], [(~x[:, m] & y).sum(), (~x[:, m] & ~y).sum()]]
            expected[m] = fisher_exact(table).pvalue
            assert found[m].p == pytest.approx(expected[m], rel=1e-6)
        else:
            assert found[m].p is None and found[m].holm is None
    if expected:
        adjusted = multipletests(list(expected.values()), method="holm")[1]
        assert [found[m].holm for m in expected] == pytest.approx(list(adjusted), rel=1e-6)


def test_how_often_chance_separates():
    x = np.array([[j == i for j in range(7)] for i in range(7)])  # in general position: always separable
    assert separable_by_chance(x, np.arange(7) < 3, seed=0, shuffles=20).value == 1
    twice = np.vstack([x, x])  # each subset twice: separable only when both copies agree
    labels = np.arange(14) % 7 < 3
    assert linear_separability(twice, labels).separable
    assert separable_by_chance(twice, labels, seed=0, shuffles=40).high < 0.3
    assert not separable_by_chance(x, np.ones(7, dtype=bool), seed=0).defined
