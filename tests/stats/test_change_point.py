"""Where a short series changes: hand cases, an outside table, and coverage and size by simulation."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from headlab.stats.change_point import LEAST, change_point

LOOKS = (0, 16, 32, 64, 96, 128, 192, 256, 384, 576, 864, 1296)
STEP = (1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0)


def p_of(found, low, high):
    """The p that the change lies in that gap."""
    return {(a, b): p for a, b, p in found.kept}[(low, high)]


def test_a_clean_step_is_bracketed_by_the_looks_around_it():
    found = change_point(STEP, LOOKS, seed=0)
    assert found.found and found.gap == (128, 192) and found.size == -1.0
    low, high = found.interval
    assert low <= 128 < 192 <= high < 512
    e = found.estimate
    assert (e.value, e.n, e.unit) == (192, 12, "looks") and e.low <= 128 and e.high >= 192
    assert "128" in e.note


def test_the_set_of_gaps_by_hand_when_looks_may_be_permuted():
    """Were the change one look later, its first side held one zero among seven looks, and it stood last by chance 1/7;
    two looks later 1/C(8, 2) = 1/28, under .05."""
    found = change_point(STEP, LOOKS, seed=0, draws=19999)
    assert p_of(found, 128, 192) == 1.0
    assert p_of(found, 192, 256) == pytest.approx(1 / 7, abs=0.01)
    assert p_of(found, 256, 384) == pytest.approx(1 / 28, abs=0.005)
    assert found.interval == (96, 256)


def test_p_is_the_share_of_orders_by_hand():
    """Three zeros before three ones: 2·3!·3! of 6! orders part them as well."""
    found = change_point([0, 0, 0, 1, 1, 1], range(6), seed=0)
    assert found.p.value == found.p.low == pytest.approx(72 / 720) and found.p.high is not None
    alone = change_point([0, 0, 0, 1, 1, 1], range(6), seed=0, drift=False)
    assert alone.p.low == alone.p.high == found.p.value
    assert not found.found and found.gap is None and found.interval is None
    assert not found.estimate.defined and "p = 0.1" in found.note
    assert found.attainable == pytest.approx(0.1), "six looks say no more, however clear"
    eight = change_point([0, 0, 0, 0, 1, 1, 1, 1], range(8), seed=0, draws=40320, drift=False)
    assert eight.p.value == eight.attainable == pytest.approx(2 / 70) and eight.found
    assert change_point(STEP, LOOKS, seed=0, kind="jump").attainable == 0


def test_p_equals_enumeration_from_scratch():
    """An independent count: every order of six odd numbers, split by the sum of squares around two means."""
    x = np.array([0.3, 0.1, 0.4, 2.2, 1.9, 2.5])

    def best(y):
        return min(sum(((part - part.mean()) ** 2).sum() for part in (y[:g], y[g:])) for g in range(2, 5))

    orders = [best(x[list(o)]) for o in permutations(range(6))]
    expected = np.mean(np.array(orders) <= best(x) + 1e-12)
    assert change_point(x, range(6), seed=0).p.value == pytest.approx(expected)


def test_the_published_eight_looks_are_too_few_to_call_a_change_without_normal_noise():
    """Silhouettes of query blocks: a split into six and two can come in 2 of 28 ways, whatever the size of the jump."""
    values = [0.019, 0.056, 0.048, 0.054, 0.050, 0.051, 0.646, 0.606]
    steps = [1000, 5000, 10000, 20000, 40000, 80000, 120000, 143000]
    free = change_point(values, steps, seed=0, draws=9999)
    assert free.p.value == pytest.approx(2 / 28, abs=0.01) and not free.found
    normal = change_point(values, steps, seed=0, noise="normal")
    assert normal.found and normal.gap == normal.interval == (80000, 120000)


def test_unit_and_origin_do_not_matter():
    rng = np.random.default_rng(3)
    x = rng.normal(size=12) + np.where(np.arange(12) > 6, 1.5, 0)
    a, b = (change_point(y, LOOKS, seed=1) for y in (x, 7e6 * x - 3e6))
    assert a.kept == b.kept and a.p == b.p and b.size == pytest.approx(7e6 * a.size)


@pytest.mark.parametrize("kind", ["level", "jump"])
def test_constant_series_change_nowhere(kind):
    for values in ([0.7] * 12, np.full(12, 0.1) + 1e-18):
        found = change_point(values, LOOKS, seed=0, kind=kind)
        assert found.p.value == 1.0 and not found.found and found.note


def test_few_looks_are_undefined_and_small_changes_are_not_found():
    few = change_point([0, 0, 1, 1], [1, 2, 3, 4], seed=0)
    assert len([0, 0, 1, 1]) < LEAST and not few.p.defined and not few.estimate.defined and "at least 5" in few.note
    small = change_point(np.array(STEP) * 0.01, LOOKS, seed=0, least=0.1)
    assert not small.found and small.p.value < 0.01 and "under 0.1" in small.note


def test_a_jump_is_told_from_a_drift():
    drift = np.arange(12) / 11
    rng = np.random.default_rng(0)
    wobble = drift + rng.normal(scale=0.02, size=12)
    assert change_point(wobble, LOOKS, seed=0, drift=False).found, "a drift has a level change wherever one looks"
    level = change_point(wobble, LOOKS, seed=0)
    assert not level.found and level.p.low < 0.05 < level.p.high and "against a drift" in level.note
    assert not change_point(wobble, LOOKS, seed=0, kind="jump").found
    leap = change_point(wobble + np.where(np.arange(12) > 7, 0.6, 0), LOOKS, seed=0, kind="jump")
    assert change_point(wobble + np.where(np.arange(12) > 7, 0.6, 0), LOOKS, seed=0).found
    assert leap.found and leap.gap == leap.interval == (256, 384) and leap.size == pytest.approx(0.6, abs=0.1)


def test_the_jumps_p_is_that_of_grubbs_test():
    """The critical value of a single outlier among 11, two-sided, from scipy's t: p there is .05."""
    n, alpha = 11, 0.05
    t = scipy_stats.t.ppf(1 - alpha / (2 * n), n - 2)
    critical = (n - 1) / np.sqrt(n) * np.sqrt(t**2 / (n - 2 + t**2))
    rng = np.random.default_rng(1)
    d = rng.normal(size=n)

    def outlier(size):
        x = d.copy()
        x[4] = size
        return abs(x[4] - x.mean()) / x.std(ddof=1)

    low, high = 2.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if outlier(middle) < critical else (low, middle)
    x = d.copy()
    x[4] = high
    found = change_point(np.r_[0, np.cumsum(x)], range(n + 1), seed=0, kind="jump", noise="normal", draws=19999)
    assert found.p.value == pytest.approx(alpha, abs=0.006)


CASES = [
    ("level", "any", 8),
    ("level", "any", 12),
    ("level", "normal", 12),
    ("jump", "normal", 12),
    ("jump", "heavy", 12),
]


@pytest.mark.parametrize(("kind", "noise", "n"), CASES)
def test_without_a_change_p_is_uniform(kind, noise, n):
    rng, ps = np.random.default_rng(5), []
    for i in range(300):
        drawn = rng.standard_t(3, n) if noise == "heavy" else rng.normal(size=n)
        x = drawn if kind == "level" else np.cumsum(drawn)
        ps.append(change_point(x, range(n), seed=i, kind=kind, noise=noise, drift=False, draws=199).p.value)
    # as a step function of 200 values; the bounds are four standard errors wide
    for share in (0.05, 0.25, 0.5, 0.75):
        assert abs(np.mean(np.array(ps) <= share) - share) < 4 * np.sqrt(share * (1 - share) / 300)


@pytest.mark.parametrize(("kind", "noise", "n"), [("level", "any", 20), *CASES[1:]])
def test_the_set_holds_the_true_gap_as_often_as_it_says(kind, noise, n):
    rng, held, sizes = np.random.default_rng(6), 0, []
    for i in range(200):
        at = int(rng.integers(3, n - 3))
        if kind == "level":
            x = rng.exponential(size=n) if noise == "any" else rng.normal(size=n)
            x = x + 2 * (np.arange(n) >= at)
        else:
            drawn, size = (rng.standard_t(3, n), 15) if noise == "heavy" else (rng.normal(size=n), 5)
            x = np.cumsum(drawn + size * (np.arange(n) == at))
        found = change_point(x, range(n), seed=i, kind=kind, noise=noise, drift=False, draws=199)
        held += p_of(found, at - 1, at) > 0.05
        sizes.append(sum(p > 0.05 for _, _, p in found.kept) / len(found.kept))
    assert held / 200 >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 200)
    assert np.mean(sizes) < 0.85, "a set of every gap would hold the truth too"


def test_between_normal_and_heavy_tails_nothing_is_decided():
    """A step 14 times the noise: an outlier among normal differences, none among those of t on 3."""
    x = np.random.default_rng(3).normal(size=12) + 14 * (np.arange(12) > 5)
    heavy, normal = (change_point(x, LOOKS, seed=0, kind="jump", noise=noise) for noise in ("heavy", "normal"))
    assert normal.found and not heavy.found
    assert heavy.p.low <= normal.p.value < 0.05 < heavy.p.value <= heavy.p.high


WALKS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "t3": lambda rng, n: rng.standard_t(3, n),
    "drift": lambda rng, n: 1 + 0.3 * rng.normal(size=n),
}


@pytest.mark.parametrize("walk", WALKS)
def test_what_drifts_or_wanders_is_seldom_found_to_change(walk):
    """Walks of 12 looks with normal and heavy steps, and a drift: a level was found in 71 % of normal
    walks, a jump in 25 % of those by t on 3.  A sudden change of 25 times the noise of a look is still found."""
    rng, found, tries = np.random.default_rng(8), np.zeros(2), 80
    for i in range(tries):
        x = np.cumsum(WALKS[walk](rng, 12))
        found += [change_point(x, LOOKS, seed=i, kind=kind, draws=199).found for kind in ("level", "jump")]
    assert (found / tries <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / tries)).all(), found / tries
    sudden = [rng.normal(size=12) + 25 * (np.arange(12) > 5) for _ in range(20)]
    assert sum(change_point(x, LOOKS, seed=0, draws=499).found for x in sudden) >= 19


def test_the_same_seed_gives_the_same_answer():
    rng = np.random.default_rng(9)
    x = rng.normal(size=12)
    assert change_point(x, LOOKS, seed=4) == change_point(x, LOOKS, seed=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (0, 1, 1, 2, 3, 4)}, "steps must increase"),
        ({"steps": (0, 1, 2)}, "rows must be paired"),
        ({"values": (0, 1, np.nan, 2, 3, 4)}, "NaN"),
        ({"kind": "jump", "noise": "any"}, "jump"),
        ({"draws": 10}, "draws"),
    ],
)
def test_bad_input_is_refused(changes, message):
    given = {"values": (0, 1, 2, 3, 4, 5), "steps": (0, 1, 2, 3, 4, 5), "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        change_point(given.pop("values"), given.pop("steps"), **given)
