"""The published measures and the honest ones, against numbers worked out by hand, theorems and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from headlab.stats.intervals import bootstrap_means
from headlab.stats.of_means import bootstrap_of_means
from headlab.thoughts import hubs, metrics
from headlab.thoughts.profiles import BY_HEAD, profile
from headlab.thoughts.published_heads import MAXIMA, PRINTED, PUBLISHED

H6 = 1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6


def rows(shape: tuple[int, ...], seed: int = 0, n: int = 6, mass: float = 0.2) -> np.ndarray:
    """Random rows of that mass over the visible thoughts, [*shape, n, n]."""
    rng = np.random.default_rng(seed)
    out = rng.gamma(1.0, size=(*shape, n, n)) * np.tri(n)
    return mass * out / out.sum(-1, keepdims=True)


def peaked(j: int, problems: int = 40, heads: int = 3, share: float = 0.8, seed: int = 1) -> np.ndarray:
    """Rows that see thought ``j`` put ``share`` of their mass on it, besides what chance does."""
    out = rows((problems, heads), seed)
    for i in range(max(j, 1), 6):
        out[..., i, : i + 1] *= 1 - share
        out[..., i, j] += share * 0.2
    return out


# -- the published measures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["Llama", "GPT-2"])
def test_published_values_give_published_composites_and_types(model: str) -> None:
    """Flow, hub and skip as printed for the first three heads, with the printed maxima over all heads."""
    hub, skip = MAXIMA[model]
    found = metrics.composite(
        [r[1] for r in PUBLISHED[model]] + [1.0, 1.0], [r[2] for r in PUBLISHED[model]] + [0.0, hub],
        [r[3] for r in PUBLISHED[model]] + [0.0, skip],
    )  # fmt: skip
    printed = {"Llama": (0.528, 0.449, 0.434), "GPT-2": (0.600, 0.425, 0.417)}[model]
    assert np.abs(found.score[:3] - printed).max() < PRINTED == 0.0015
    types = {
        "Llama": ["Hub Aggregator", "Hub Aggregator", "Skip Connection"],
        "GPT-2": ["Multi-Purpose", "Hub Aggregator", "Hub Aggregator"],
    }[model]
    assert found.types[:3] == types == [r[5] for r in PUBLISHED[model]]
    assert found.constant == ("flow",) and "dead" in found.warning and "0.6" in found.warning
    assert (MAXIMA["Llama"], MAXIMA["GPT-2"]) == ((0.300, 0.252), (0.266, 0.153))


def test_another_normalisation_would_not_give_them() -> None:
    """Scaled by the maximum alone with the least hub above zero, or with equal weights, the printed values are missed."""
    found = metrics.composite([1, 1, 1, 1], [0.300, 0.246, 0.196, 0.1], [0.162, 0.153, 0.218, 0.252])
    assert abs(found.score[1] - 0.449) > PRINTED


def test_uniform_attention_by_hand() -> None:
    even = hubs.even_rows(6)
    harmonic = [H6, H6 - 1, H6 - 1.5, H6 - 1.5 - 1 / 3, 1 / 5 + 1 / 6, 1 / 6]
    assert np.allclose(metrics.incoming(even), harmonic) and round(H6, 2) == 2.45
    assert metrics.flow(even) == pytest.approx((1 / 2 + 2 / 3 + 3 / 4 + 4 / 5 + 5 / 6) / 6)  # .592
    assert metrics.hub_variance(even) == pytest.approx(0.592, abs=5e-4)
    assert metrics.skip(even) == pytest.approx(1 / 6)
    assert metrics.published_ratio(even).max() == pytest.approx(14.7)
    assert metrics.sequential(even) == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6]))
    assert np.allclose(hubs.corrected(even), 1) and np.allclose(hubs.by_offset(even), 1)
    strict = hubs.corrected(even, strict=True)
    assert np.allclose(strict[:5], 1) and np.isnan(strict[5])


def test_column_shares_of_a_uniform_lower_triangle() -> None:
    """Row s even over the thoughts before it: .457 .257 .157 .090 .040 0, in a matrix without a diagonal."""
    strict = np.tri(6, k=-1) / np.maximum(np.arange(6), 1)[:, None]
    assert np.allclose(metrics.incoming(strict) / 5, [0.457, 0.257, 0.157, 0.090, 0.040, 0], atol=6e-4)


def test_the_largest_hub_variance_of_the_published_view() -> None:
    one = np.zeros((6, 6))
    one[1:, 0] = 1
    assert metrics.hub_variance(one) == pytest.approx(125 / 36)  # 3.47, where "a range of 0 to .3" was published


def test_flow_of_the_published_view_is_one_whatever_the_attention() -> None:
    view = metrics.published_view(rows((5, 7)))
    assert np.allclose(metrics.flow(view), 1)
    assert (metrics.flow(rows((5, 7))) < 0.95).all()
    assert (view[..., 0, :] == 0).all() and (view[..., 5] == 0).all()
    found = metrics.composite(metrics.flow(view[0]), metrics.hub_variance(view[0]), metrics.skip(view[0]))
    assert found.constant == ("flow",) and found.score.max() <= 0.6 + 1e-9
    assert "Forward Flow" not in found.types
    free = metrics.composite(*(m(rows((7,))) for m in (metrics.flow, metrics.hub_variance, metrics.skip)))
    assert free.constant == () and free.warning == ""


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        ((0.0, 0.7, 0.69), "Hub Aggregator"),
        ((0.0, 0.71, 0.71), "Multi-Purpose"),
        ((0.9, 0.1, 0.2), "Forward Flow"),
        ((0.1, 0.2, 0.3), "Skip Connection"),
        ((0.8, 0.75, 0.9), "Multi-Purpose"),
    ],
)
def test_types(scores: tuple[float, float, float], kind: str) -> None:
    assert metrics.functional_types(*([s] for s in scores)) == [kind]


def test_layer_thirds_by_the_published_rule() -> None:
    assert [metrics.layer_third(at, 16) for at in (0, 4, 5, 9, 10, 15)] == [
        "early",
        "early",
        "middle",
        "middle",
        "late",
        "late",
    ]
    assert [metrics.layer_third(at, 12) for at in (3, 4, 7, 8)] == ["early", "middle", "middle", "late"]
    assert [metrics.layer_third(at, 2) for at in (0, 1)] == ["middle", "late"]
    with pytest.raises(ValueError, match="not one of 3"):
        metrics.layer_third(3, 3)


def test_ranks() -> None:
    assert metrics.ranking([0.2, 0.9, 0.2, 0.5]).tolist() == [3, 1, 4, 2]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="thought, thought"):
        metrics.flow(np.zeros((6, 5)))
    with pytest.raises(ValueError, match="at least 2 heads"):
        metrics.composite([1.0], [1.0], [1.0])
    with pytest.raises(ValueError, match="finite"):
        metrics.composite([np.nan, 1.0], [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least 4"):
        metrics.skip(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="at least as many chains"):
        hubs.problem_sets(["a"] * 30, 2, 0)


# -- exposure and the null ----------------------------------------------------------------------------------


def test_the_corrected_ratio_by_hand() -> None:
    a = np.zeros((3, 3))
    a[0, 0], a[1, :2], a[2] = 0.5, (0.3, 0.1), (0.1, 0.1, 0.2)
    # row 0 has no choice; rows 1 and 2 normalised: .75 .25 and .25 .25 .5; uniform gives 5/6, 5/6, 1/3
    assert np.allclose(hubs.corrected(a), [1.0 / (5 / 6), 0.5 / (5 / 6), 0.5 / (1 / 3)])
    assert np.allclose(hubs.corrected(a, strict=True)[:2], [1, 1])
    assert np.allclose(hubs.per_available_row(a), [0.9 / 3, 0.2 / 2, 0.2])
    assert np.allclose(hubs.by_offset(a), [(0.25 + 0.5) / (5 / 6), (0.75 + 0.25) / (5 / 6), 0.25 / (1 / 3)])
    assert np.allclose(hubs.answer_ratio(np.array([0.1, 0.1, 0.2])), [0.75, 0.75, 1.5])


def test_mass_on_thoughts_does_not_matter_and_a_row_without_any_is_left_out() -> None:
    a = rows((4,), 3)
    scaled = a * np.array([1, 0.1, 3, 0.01, 2, 0.5])[:, None]
    assert np.allclose(hubs.corrected(a), hubs.corrected(scaled))
    a[0, 4] = 0
    left = hubs.corrected(a)[0]
    w = hubs.within(a)[0][[1, 2, 3, 5]]
    u = hubs.even(6)[[1, 2, 3, 5]]
    assert np.allclose(left, w.sum(0) / u.sum(0))


def test_recency_imitates_a_late_hub() -> None:
    """A head that only reads itself: 1/u at the last thought; distance shows it, and from later thoughts nothing is read."""
    own = np.broadcast_to(0.999 * np.eye(6) + 0.001 * hubs.even_rows(6), (1, 6, 6))
    assert hubs.corrected(own)[0, 5] > 5.9
    assert hubs.by_offset(own)[0, 0] > 3 and hubs.by_offset(own)[0, 1:].max() < 0.01
    assert np.allclose(hubs.corrected(own, strict=True)[0, :5], 1)


def test_the_permutation_p_against_enumeration() -> None:
    """Three thoughts, two sets: (2 · 6)² arrangements of the set means, all of them."""
    a = rows((8, 1), 5, n=3)
    clusters = [f"c{i}" for i in range(8)]
    found = hubs.shuffled_thoughts(a, clusters, seed=2, sets=2, draws=20_000)
    which = hubs.problem_sets(clusters, 2, 2)
    w = hubs.within(a)[:, 0]
    means = np.stack([w[which == s].mean(0) for s in (0, 1)])
    unit = np.nansum(hubs.even(3), 0) * 2
    one = [
        np.array([x[0] + y[0], x[1] + y[1], y[2]])
        for s in (0, 1)
        for x in itertools.permutations(means[s, 1, :2])
        for y in itertools.permutations(means[s, 2])
    ]
    all_of_them = np.array([(x + y) / unit for x in one[:12] for y in one[12:]])
    seen = (np.nansum(means[:, 1:], (0, 1))) / unit
    exact = (all_of_them >= seen - 1e-9).mean(0)
    assert len(all_of_them) == 144 and np.allclose(found.observed[0], seen)
    assert np.abs(found.p[0] - exact).max() < 0.012  # three standard errors of 20,000 draws
    assert np.allclose(found.sd[0], all_of_them.std(0), rtol=1e-9)
    top = ((all_of_them - 1) / all_of_them.std(0)).max(1)
    assert found.any[0] == pytest.approx((top >= ((seen - 1) / all_of_them.std(0)).max() - 1e-9).mean(), abs=0.012)


def test_p_is_uniform_where_nothing_is_there_and_no_head_has_a_hub() -> None:
    a = rows((40, 60), 7)
    clusters = [f"c{i}" for i in range(40)]
    found = hubs.find_hubs(a, clusters, seed=0, draws=8000)
    p = found.shuffled.p.ravel()
    assert 0.42 < p.mean() < 0.58 and (p < 0.05).mean() < 0.10
    assert (found.hub == -1).all()
    raw = metrics.incoming(metrics.published_view(a).mean(0)).argmax(-1)
    assert (raw == 0).mean() > 0.95  # what the published rule makes of the same rows


@pytest.mark.parametrize("j", range(6))
def test_a_constructed_hub_is_found_where_it_is(j: int) -> None:
    found = hubs.find_hubs(peaked(j), [f"c{i}" for i in range(40)], seed=0)
    assert (found.hub == j).all()
    assert found.share == 1 and (found.p_holm[:, j] < 0.05).all()
    assert found.estimate(0, j).above(hubs.ABOVE) == "yes"


def test_a_preference_that_is_real_but_small_is_no_hub() -> None:
    """p alone would call it one: hence the interval above 1.25."""
    small = 0.95 * np.broadcast_to(0.2 * hubs.even_rows(6), (40, 2, 6, 6)) + 0.05 * peaked(0, heads=2, seed=3)
    found = hubs.find_hubs(small, [f"c{i}" for i in range(40)], seed=0)
    assert (found.p_holm[:, 0] < 0.05).all() and (found.hub == -1).all()
    assert 1 < found.shuffled.observed[0, 0] < 1.25


def test_every_test_can_pass_holm() -> None:
    found = hubs.shuffled_thoughts(peaked(0, heads=7), [f"c{i}" for i in range(40)], seed=0)
    assert 7 * 6 / (1 + found.draws) < hubs.ALPHA


def test_problems_of_one_chain_stay_in_one_set() -> None:
    clusters = [f"c{i % 13}" for i in range(60)]
    sets = hubs.problem_sets(clusters, 5, 3)
    assert all(len({int(s) for s, c in zip(sets, clusters, strict=True) if c == one}) == 1 for one in set(clusters))
    assert set(sets.tolist()) == set(range(5))


def test_shuffled_matrices_keep_mass_and_mask() -> None:
    a = peaked(1, heads=2)
    drawn = np.concatenate(list(hubs.shuffled_matrices(a, [f"c{i}" for i in range(40)], seed=0, draws=70, block=30)))
    assert drawn.shape == (70, 2, 6, 6) and np.triu(drawn, 1).max() == 0
    assert np.allclose(drawn.sum(-1), a.mean(0).sum(-1))
    spread = a.mean(0).sum(-1, keepdims=True) * hubs.even_rows(6)
    assert np.abs(drawn.mean(0) - spread).max() < 0.02  # on average even over the visible thoughts
    assert np.array_equal(
        drawn, np.concatenate(list(hubs.shuffled_matrices(a, [f"c{i}" for i in range(40)], seed=0, draws=70, block=30)))
    )


# -- intervals of functions of means ------------------------------------------------------------------------


def test_functions_of_means_agree_with_the_bootstrap_of_means_and_ratios() -> None:
    from headlab.stats import bootstrap_ratio

    rng = np.random.default_rng(0)
    x, clusters = rng.normal(3, 1, (47, 3)), [f"c{i % 19}" for i in range(47)]
    told = {"unit": "problems", "seed": 4, "draws": 700}
    same = bootstrap_of_means(x, lambda m: m, clusters, **told, block=13)
    plain = bootstrap_means(x, clusters, **told)
    for k in range(3):
        a, b = same.estimate(k), plain[k]
        assert (a.value, a.low, a.high, a.n, a.seed) == pytest.approx((b.value, b.low, b.high, b.n, b.seed))
    ratio = bootstrap_of_means(x, lambda m: m[:, :1] / m[:, 1:2], clusters, **told).estimate(0)
    known = bootstrap_ratio(x[:, 0], x[:, 1], clusters, **told)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((known.value, known.low, known.high))
    assert not bootstrap_of_means(x, lambda m: m, ["one"] * 47, **told).estimate(0).defined
    assert not bootstrap_of_means(x, lambda m: np.where(m > 3, m, np.nan), clusters, **told).estimate(0).defined
    with pytest.raises(ValueError, match="NaN"):
        bootstrap_of_means([[np.nan]], lambda m: m, unit="problems", seed=0)


def test_the_interval_of_a_function_covers() -> None:
    """Variance of four means, the truth known: covered in about 95 % of repetitions (it is biased up, so rather less)."""
    rng, truth, hits = np.random.default_rng(1), np.var([0.0, 1.0, 2.0, 3.0]), 0
    for seed in range(120):
        x = rng.normal([0, 1, 2, 3], 1, (60, 4))
        e = bootstrap_of_means(x, lambda m: m.var(-1, keepdims=True), unit="rows", seed=seed, draws=300).estimate(0)
        assert e.low is not None and e.high is not None
        hits += e.low <= truth <= e.high
    assert 0.86 <= hits / 120 <= 1.0


def test_a_profile_is_the_measures_of_the_mean_matrix() -> None:
    a, clusters = rows((30, 10), 9), [f"c{i % 17}" for i in range(30)]
    found = profile(a, clusters, (2, 5), seed=0, draws=200)
    mean = a.mean(0)
    assert np.allclose(found.numbers("flow"), metrics.flow(mean))
    assert np.allclose(found.numbers("hub_variance"), metrics.hub_variance(mean))
    scores = metrics.composite(metrics.flow(mean), metrics.hub_variance(mean), metrics.skip(mean))
    assert np.allclose(found.numbers("composite"), scores.score)
    assert found.names[found.ranked[0]] == f"L{scores.score.argmax() // 5}H{scores.score.argmax() % 5}"
    table = found.table()
    assert table["rank"].tolist() == list(range(1, 11)) and table["composite"].is_monotonic_decreasing
    assert all((table[f"{m}_low"] <= table[f"{m}_high"]).all() for m in BY_HEAD)
    assert table["layer_third"].tolist() == ["middle" if at == 0 else "late" for at in table["layer"]]
    first, second = sorted(scores.score)[::-1][:2]
    assert found.lead().value == pytest.approx(first - second)
    assert sum(found.count(k).value or 0 for k in metrics.KINDS) == 10
    assert sum(found.count(k).value or 0 for k in metrics.THIRDS) == 10
    assert found.std == pytest.approx(a.std(0).mean((-2, -1)))
    with pytest.raises(ValueError, match="do not make"):
        profile(a, clusters, (3, 5), seed=0)


def test_top_heads_are_the_first_twenty() -> None:
    a = rows((25, 30), 2)
    found = profile(a, [f"c{i}" for i in range(25)], (3, 10), seed=0, draws=100)
    order = found.ranked[:20]
    late = sum(h // 10 == 2 for h in order)
    assert found.count("late").value == late and sum(found.count(k).value or 0 for k in metrics.THIRDS) == 20
