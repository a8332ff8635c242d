"""The additive margin: its closed form, the illusions of one pair, and that an honest reading sees no step."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest, multivariate_normal, norm

from headlab.effects import Figure
from headlab.experiments.subsets import simulator as sim
from headlab.organisms import additive_margin as margin
from headlab.stats import Estimate

MODEL = margin.AdditiveMargin()


@pytest.fixture(scope="module")
def found() -> sim.Simulation:
    return sim.simulate()


# -- the closed form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "dose"), [(0, 1.0), (1, 1.0), (8, 1.0), (13, 1.0), (16, 1.0), (32, 0.4), (32, 0.2)])
def test_expected_success_is_the_normal_tail_and_what_is_simulated(size, dose):
    """One set and one pair per model: independent trials, so an exact interval of .9999 must hold the formula."""
    mean, spread = -1 + dose * size * 3 / 32, np.sqrt(0.25**2 + dose**2 * size * 0.15**2)
    expected = MODEL.expected(size, dose)
    assert expected == pytest.approx(norm.sf(0, mean, spread))
    rng = np.random.default_rng(size)
    n = 20_000
    weights, offsets = MODEL.weights(rng, n), MODEL.offsets(rng, n)
    members = rng.permuted(np.tile(np.arange(32), (n, 1)), axis=1)[:, :size]
    hits = (offsets + dose * np.take_along_axis(weights, members, axis=1).sum(1) > 0).sum()
    interval = binomtest(int(hits), n).proportion_ci(0.9999)
    assert interval.low <= expected <= interval.high


def test_a_wrong_formula_would_be_noticed():
    """The same comparison with the weights' spread left out fails, so the test above can."""
    rng = np.random.default_rng(1)
    hits = (MODEL.offsets(rng, 20_000) + MODEL.weights(rng, 20_000)[:, :8].sum(1) > 0).sum()
    interval = binomtest(int(hits), 20_000).proportion_ci(0.9999)
    assert not interval.low <= norm.sf(0, -1 + 8 * 3 / 32, 0.25) <= interval.high


def test_the_chains_of_one_model_average_to_every_subset():
    """One model's curve, by enumeration of all subsets of its pool, against the simulated chains."""
    small = margin.AdditiveMargin(heads=14)
    rng = np.random.default_rng(3)
    w, offsets = small.weights(rng), np.array([-0.7])
    margins = margin.chain_margins(w, offsets, small.pool, 4000, rng)
    assert margins.shape == (4000, 8, 1)
    for k in range(8):
        sums = np.array([w[list(c)].sum() for c in combinations(small.pool, k)])
        assert margins[:, k].mean() == pytest.approx(sums.mean() - 0.7, abs=0.03)
        assert (margins[:, k] > 0).mean() == pytest.approx((sums > 0.7).mean(), abs=0.04)


# -- the published readout ----------------------------------------------------------------------------------


def test_the_published_sets_are_the_published_ones():
    from headlab.tasks.outcomes import shipped

    table = shipped()
    published = set(table.subsets)
    assert all(set(s) for s in sim.FEWER) and {*sim.EIGHTS, *sim.FEWER} <= published
    even = {s for s in published if len(s) < 8 and all(m % 2 == 0 for m in s)}
    assert even == set(sim.FEWER), "every smaller even set that was published, and no other"
    assert not {s for s in published if len(s) == 7} and len(sim.SEVEN) == 7


def test_the_readout_by_hand():
    flat = np.full((4, 32), 1.0)  # margins: size − need; the whole layer reaches 32 · dose − need
    shown = sim.published_readout(flat, np.array([-7.5, -6.5, -8.5, -5.5]))
    assert shown["any"].tolist() == [True, True, False, True]
    assert shown["exactly"].tolist() == [True, True, False, False]  # the set of six works at −5.5
    assert shown["seven"].tolist() == [True, False, False, False]
    assert shown["threshold"].tolist() == [False] * 4  # crosses at .17 to .27 of the dose
    half = np.zeros((1, 32))
    half[0, ::2] = 1.0  # only the even heads carry: 16 in all, so 8 heads and half the dose
    both = sim.published_readout(half, np.array([-7.5]))
    assert both["all"].tolist() == [True] and both["threshold"].tolist() == [True]


def test_the_share_of_any_8_is_that_of_a_trivariate_normal(found):
    """Sums of the three 8-sets share members: covariance sd²·|A ∩ B| plus the pair's own variance."""
    shared = [[len(set(a) & set(b)) for b in sim.EIGHTS] for a in sim.EIGHTS]
    covariance = 0.15**2 * np.array(shared) + 0.25**2
    mean = np.full(3, -1 + 8 * 3 / 32)
    exact = multivariate_normal(-mean, covariance).cdf(np.zeros(3))
    e = found.estimate("published:any")
    assert e.low <= exact <= e.high and e.n == 400


def test_one_pair_shows_each_claim(found):
    """Nothing counts heads, yet each claim is found; in the shares reported, with their intervals."""
    for claim, least in {"any": 0.6, "exactly": 0.4, "seven": 0.2, "threshold": 0.85}.items():
        here, searched = found.estimate(f"published:{claim}"), found.estimate(f"searched:{claim}")
        assert 0 < here.value < searched.value and searched.low > least, claim
        assert binomtest(round(searched.value * searched.n), searched.n).proportion_ci().low == pytest.approx(
            searched.low
        )
    assert found.estimate("searched:all").high < 0.1, "all three together in one layer are rare, and that is reported"


# -- the honest readout -------------------------------------------------------------------------------------


def test_the_honest_readout_never_finds_a_step(found):
    honest = found.tables["honest"]
    assert len(honest) == 100 and not honest["step"].any()
    e = found.estimate("honest:step")
    assert (e.value, e.n) == (0, 100) and e.high < 0.05
    rises = honest[["rate:size", "margin:size", "rate:dose", "margin:dose"]]
    assert rises.max().max() < sim.STEP, "not even the largest rise itself comes near the criterion"


def test_a_true_count_is_found_by_the_same_readout():
    """The positive control: success from 8 heads on, whichever they are; and a dose that acts from .6 on."""
    rng = np.random.default_rng(0)
    offsets = MODEL.offsets(rng, 60)
    count = np.where(np.arange(17) >= 8, 2.0, 0.0)[None, :, None] + np.zeros((20, 1, 1)) + offsets
    gate = offsets[:, None] + np.where(np.array(margin.DOSES) >= 0.6, 2.0, 0.0)
    line_size = margin.chain_margins(MODEL.weights(rng), offsets, MODEL.pool, 20, rng)
    line_dose = margin.dose_margins(np.full(32, 3 / 32), offsets)
    assert sim.finds_a_step(sim.honest_readout(count, line_dose, seed=0))
    assert sim.finds_a_step(sim.honest_readout(line_size, gate, seed=0))
    assert not sim.finds_a_step(sim.honest_readout(line_size, line_dose, seed=0))


def test_the_mean_margin_is_a_straight_line():
    rng = np.random.default_rng(4)
    w = MODEL.weights(rng)
    offsets = MODEL.offsets(rng, 11)
    assert np.ptp(np.diff(margin.dose_margins(w, offsets).mean(0))) < 1e-12
    mean = margin.chain_margins(w, offsets, MODEL.pool, 6000, rng).mean((0, 2))
    line = offsets.mean() + np.arange(17) * w[list(MODEL.pool)].mean()
    assert mean == pytest.approx(line, abs=0.03)


# -- what a page gets ---------------------------------------------------------------------------------------


def test_the_page_material(found):
    from headlab.report import chart

    figures, sections, estimates = found.figures, found.sections, found.estimates
    assert {f.name for f in figures} == {"size", "margin", "dose", "claims"}
    for f in figures:
        assert chart(Figure.from_plain(f.plain())) is not None
    assert [s["heading"] for s in sections] == ["The illusion", "Read honestly", "When this misleads"]
    assert all(Estimate.from_dict(e.estimate).n > 0 for e in estimates)
    assert set(found.tables) == {"published", "honest", "curves"} and len(found.tables["published"]) == 400
    curves = found.tables["curves"]
    one = curves[curves["series"] == "one pair, the published sets"].set_index("x")["y"]
    assert (one[[1, 2, 4, 6, 7]] == 0).all() and one[8] == 1, "the model that is drawn shows exactly 8"
    dose = curves[curves["series"] == "one pair, the published doses"]["y"]
    assert dose.tolist() == [0, 0, 1, 1, 1], "and the one beside it the threshold"


def test_the_same_seed_gives_the_same_numbers():
    small = {"models": 30, "layers": 4, "honest_models": 5, "pairs": 20, "chains": 7}
    a, b, c = (sim.simulate(seed=s, **small) for s in (1, 1, 2))
    assert a.estimates == b.estimates and a.tables["honest"].equals(b.tables["honest"])
    assert not a.tables["honest"].equals(c.tables["honest"])


def test_it_is_stored_and_repeated(tmp_path):
    from headlab.experiments import repeat

    result = sim.simulated(seed=1, store=tmp_path)
    assert (
        result.record.slug == "simulator"
        and not result.record.readings
        and set(result.tables) >= {"published", "honest"}
    )
    again = repeat(result.record, store=tmp_path)
    assert again.tables["published"].equals(result.tables["published"])
