"""Random effects against statsmodels and the BCG trials, patterns by enumeration."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.meta_analysis import combine_effects

from headlab.stats import Estimate
from headlab.stats.heterogeneity import chance_of_pattern, heterogeneity

Z = 1.959963984540054


def estimates(values, errors):
    return [
        Estimate(x, x - Z * s, x + Z * s, 100, "logit difference", "bootstrap")
        for x, s in zip(values, errors, strict=True)
    ]


def test_the_bcg_trials():
    """Thirteen trials of the BCG vaccine (Colditz et al., JAMA 271:698, 1994), log risk ratios. Reference values of the
    R package metafor: its tests give Q = 152.2330 and the DerSimonian-Laird fit -0.7141 [-1.0644, -0.3638]; its
    documentation of confint gives tau^2 in [0.1197, 1.1115] and I^2 in [81.92, 97.68] %."""
    trials = np.array(
        [
            [4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619], [33, 5036, 47, 5761],
            [180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892], [29, 7470, 45, 7232],
            [17, 1699, 65, 1600], [186, 50448, 141, 27197], [5, 2493, 3, 2338], [27, 16886, 29, 17825],
        ]
    )  # fmt: skip
    a, b, c, d = trials.T.astype(float)
    made = estimates(np.log(a / (a + b)) - np.log(c / (c + d)), np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)))
    h = heterogeneity(made, small_sample=False)
    assert h.q == pytest.approx(152.2330, abs=1e-4) and h.freedom == 12 and h.p < 1e-20
    assert (h.pooled.value, h.pooled.low, h.pooled.high) == pytest.approx((-0.7141, -1.0644, -0.3638), abs=1e-4)
    assert h.tau_squared.value == pytest.approx(0.3088, abs=1e-4) and h.i_squared.value == pytest.approx(
        0.9212, abs=1e-4
    )
    assert (h.tau_squared.low, h.tau_squared.high) == pytest.approx((0.1197, 1.1115), abs=1e-4)
    assert (h.i_squared.low, h.i_squared.high) == pytest.approx((0.8192, 0.9768), abs=1e-4)
    assert h.expected.low < h.pooled.low and h.expected.high > h.pooled.high and h.pooled.n == 13


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.integers(2, 12), st.floats(0, 1.5))
def test_it_is_statsmodels(seed, k, tau):
    rng = np.random.default_rng(seed)
    errors = rng.uniform(0.1, 0.5, k)
    values = rng.normal(0.3, tau, k) + rng.normal(0, errors)
    with np.errstate(invalid="ignore"):  # statsmodels leaves a negative tau^2 as it is; ours is 0, the fixed effect
        theirs = combine_effects(values, errors**2, method_re="chi2", use_t=False)
        fixed, random, fixed_knapp, knapp = combine_effects(values, errors**2, method_re="chi2", use_t=True).conf_int()
        plain = theirs.conf_int()[int(theirs.tau2 > 0)]
    ours = heterogeneity(estimates(values, errors), small_sample=False)
    assert ours.q == pytest.approx(theirs.q) and ours.tau_squared.value == pytest.approx(max(0, theirs.tau2), abs=1e-12)
    assert ours.i_squared.value == pytest.approx(max(0, theirs.i2), abs=1e-9)
    assert ours.pooled.value == pytest.approx(theirs.mean_effect_re if theirs.tau2 > 0 else theirs.mean_effect_fe)
    assert ours.p == pytest.approx(theirs.test_homogeneity().pvalue)
    assert (ours.pooled.low, ours.pooled.high) == pytest.approx(plain)
    careful = heterogeneity(estimates(values, errors)).pooled
    wide, scaled = (random, knapp) if theirs.tau2 > 0 else (fixed, fixed_knapp)  # both with Student's t
    widest = max(wide[1] - wide[0], scaled[1] - scaled[0])
    assert careful.value == ours.pooled.value and careful.high - careful.low == pytest.approx(widest)
    assert ours.i_squared.low <= ours.i_squared.value <= ours.i_squared.high <= 1


def test_the_small_sample_interval_covers_and_the_plain_one_does_not():
    rng, hits, plain = np.random.default_rng(0), 0, 0
    for _ in range(600):
        errors = rng.uniform(0.1, 0.3, 5)
        made = estimates(rng.normal(0.3, 0.3, 5) + rng.normal(0, errors), errors)
        for small in (True, False):
            e = heterogeneity(made, small_sample=small).pooled
            inside = e.low <= 0.3 <= e.high
            hits, plain = hits + (inside and small), plain + (inside and not small)
    assert 0.93 <= hits / 600 <= 0.985 and plain / 600 < 0.92


def test_q_keeps_its_level_and_tau_its_coverage():
    rng, called, inside = np.random.default_rng(1), 0, 0
    for _ in range(600):
        errors = rng.uniform(0.1, 0.3, 7)
        called += heterogeneity(estimates(rng.normal(0, errors), errors)).p < 0.05
        t = heterogeneity(estimates(rng.normal(0, 0.3, 7) + rng.normal(0, errors), errors)).tau_squared
        inside += t.low <= 0.09 <= t.high
    assert 0.03 <= called / 600 <= 0.075 and 0.92 <= inside / 600 <= 0.975


def test_equal_and_few_estimates():
    same = heterogeneity(estimates([0.4] * 4, [0.1] * 4))
    assert (same.q, same.p) == pytest.approx((0, 1)) and same.i_squared.value == 0.0 == same.tau_squared.value
    assert same.pooled.value == pytest.approx(0.4) and same.i_squared.high == 0.0
    two = heterogeneity(estimates([0.0, 1.0], [0.1, 0.1]))
    assert two.pooled.defined and not two.expected.defined and two.q == pytest.approx(50)
    gone = Estimate.undefined("logit difference", 0, "no rows")
    one = heterogeneity([*estimates([0.2], [0.1]), gone])
    assert not one.pooled.defined and one.p is None and "1 undefined estimates left out" in one.pooled.note
    assert "left out" in heterogeneity([*estimates([0.2, 0.1, 0.3], [0.1] * 3), gone]).pooled.note
    flat = Estimate(0.5, 0.5, 0.5, 10, "logit difference", "bootstrap")
    assert "without width" in heterogeneity([flat, *estimates([0.2], [0.1])]).pooled.note
    other = Estimate(0.5, 0.4, 0.6, 10, "prompts", "bootstrap", level=0.9)
    assert heterogeneity([other, *estimates([0.5], [0.1])]).pooled.value == pytest.approx(0.5)


@pytest.mark.parametrize("p", [0.5, 0.2, [0.1, 0.5, 0.9, 0.3]])
def test_patterns_by_enumeration(p):
    each = np.broadcast_to(p, 4)
    chances = {
        t: math.prod(q if yes else 1 - q for yes, q in zip(t, each, strict=True)) for t in product([0, 1], repeat=4)
    }
    for table in chances:
        found = chance_of_pattern(table, p)
        assert found.exact.value == pytest.approx(chances[table]) and found.tables == 16
        assert found.exact.low == found.exact.value == found.exact.high and found.exact.n == 4
        assert found.at_least.value == pytest.approx(sum(c for t, c in chances.items() if sum(t) >= sum(table)))
    if isinstance(p, float):
        assert chance_of_pattern([1, 1, 0, 0], p).at_least.value == pytest.approx(binom.sf(1, 4, p))


def test_the_published_table_at_the_rate_of_organisms_without_parity():
    """Seven of fourteen show the contrast by chance: two yes and two no among four models is as likely as any table."""
    share = Estimate(0.5, 0.23, 0.77, 14, "organisms", "Clopper-Pearson")
    found = chance_of_pattern([True, True, False, False], share)
    assert found.exact.value == 1 / 16 and found.at_least.value == pytest.approx(11 / 16)
    assert (found.exact.low, found.exact.high) == pytest.approx((0.23**2 * 0.77**2, 1 / 16))
    assert found.at_least.low == pytest.approx(binom.sf(1, 4, 0.23)) and found.at_least.level == 0.95
    wide = chance_of_pattern([True, True, True, False], share)
    assert wide.exact.high == pytest.approx(0.75**3 * 0.25)  # within the interval, not at its ends


def test_bad_patterns():
    assert not chance_of_pattern([], 0.5).exact.defined
    assert not chance_of_pattern([1, 0], Estimate.undefined("models", 0, "none")).at_least.defined
    assert chance_of_pattern([1, 1], 1.0).exact.value == 1.0 and chance_of_pattern([0], 1.0).exact.value == 0.0
    for p in (1.2, [-0.1, 0.5]):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            chance_of_pattern([1, 0], p)
    with pytest.raises(ValueError, match="paired"):
        chance_of_pattern([1, 0], [0.5, 0.5, 0.5])
