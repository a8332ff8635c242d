"""Walks through alternatives: bounds against scipy, error by exact enumeration of every path, agreement with a fixed number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom, hypergeom

from headlab.stats.of_means import OfMeans, rank_over_draws
from headlab.stats.sequential import Looks, enough, fixed, looks, rank_at, walk
from headlab.stats.tails import tail_bounds, tail_of

ALPHA, TAIL = 0.05, 0.025


def found_of(value: np.ndarray, draws: np.ndarray) -> OfMeans:
    return OfMeans(value, draws, 40, 40, "pairs", "given", 0.95, 0)


def stops(plan: Looks, extreme: float, total: int | None = None) -> tuple[float, float, float]:
    """The chance that p is ever bounded under α, that it is ever bounded over it, and the mean number drawn until either:
    exact, by carrying the chance of every count from look to look.  ``extreme``: p, or how many of ``total`` others are."""
    alive, n, under, over, mean = np.array([1.0]), 0, 0.0, 0.0, 0.0
    for at, share in zip(plan.at, plan.shares, strict=True):
        step, m = at - n, plan.planned if total is not None else None
        grown = np.zeros(at + 1)
        for c, chance in enumerate(alive):
            if chance > 0:
                k = np.arange(step + 1)
                p = (
                    binom.pmf(k, step, extreme)
                    if total is None
                    else hypergeom.pmf(k, total - n, int(extreme) - c, step)
                    if int(extreme) >= c
                    else np.zeros(step + 1)
                )
                grown[c : c + step + 1] += chance * np.nan_to_num(p)
        n, counts = at, np.arange(at + 1)
        is_under = tail_of(counts, n, ALPHA, None if m is None else total + 1, above=False) < TAIL * share
        is_over = tail_of(counts, n, ALPHA, None if m is None else total + 1, above=True) < TAIL * share
        under, over = under + float(grown[is_under].sum()), over + float(grown[is_over].sum())
        mean += at * float(grown[is_under | is_over].sum())
        alive = np.where(is_under | is_over, 0.0, grown)
    return under, over, mean + plan.planned * float(alive.sum())


def test_the_bounds_of_a_look_are_scipys() -> None:
    for n, total in ((50, None), (131, None), (50, 200), (131, 192)):
        for c in (0, 1, 3, 9):
            if total is None:
                assert tail_of(np.array(c), n, ALPHA, above=True) == pytest.approx(binom.sf(c - 1, n, ALPHA))
                assert tail_of(np.array(c), n, ALPHA, above=False) == pytest.approx(binom.cdf(c, n, ALPHA))
                low, high = tail_bounds(c, n, 0.002)
                assert high == pytest.approx(beta.ppf(0.998, c + 1, n - c))
                assert low == pytest.approx(beta.ppf(0.002, c, n - c + 1) if c else 0)
                continue
            others, every = total - 1, np.arange(total)
            most = max(k for k in every if (1 + k) / total <= ALPHA + 1e-12)
            least = min(k for k in every if (1 + k) / total >= ALPHA - 1e-12)
            assert tail_of(np.array(c), n, ALPHA, total, above=True) == pytest.approx(
                hypergeom.sf(c - 1, others, most, n)
            )
            assert tail_of(np.array(c), n, ALPHA, total, above=False) == pytest.approx(
                hypergeom.cdf(c, others, least, n)
            )
            may = [
                k
                for k in every
                if hypergeom.sf(c - 1, others, k, n) >= 0.002 and hypergeom.cdf(c, others, k, n) >= 0.002
            ]
            assert tail_bounds(c, n, 0.002, total) == pytest.approx(((1 + may[0]) / total, (1 + may[-1]) / total))


@pytest.mark.parametrize("n", [199, 499, 999])
def test_a_sample_errs_no_oftener_than_a_fixed_number(n: int) -> None:
    """Exact: at p = α (the worst) each side errs in at most 2.5 %; p = 0 is told after 138 of 999, p = .5 after 21.  A plan
    with the whole tail at every look fails."""
    plan = looks(n)
    assert sum(plan.shares) == pytest.approx(1) and plan.planned == n
    under, over, _ = stops(plan, ALPHA)
    assert under <= TAIL and over <= TAIL
    assert stops(plan, 0.0)[0] == pytest.approx(1) and stops(plan, 0.5)[1] == pytest.approx(1)
    assert stops(plan, 0.0)[2] <= 138 and stops(plan, 0.5)[2] < 22
    greedy = Looks(plan.at, (1.0,) * len(plan.at))
    assert stops(greedy, ALPHA)[1] > TAIL


@pytest.mark.parametrize("total", [70, 192, 784])
def test_a_walk_through_every_set_errs_no_oftener(total: int) -> None:
    """Exact: where p is just α or more no walk says under in more than 2.5 %, where it is α or less none says over."""
    plan = looks(total, every=True)
    early = Looks(tuple(n - 1 for n in plan.at[:-1]), plan.shares[:-1])  # the first of a walk is the named set itself
    for k in range(total):
        p = (1 + k) / total
        if abs(p - ALPHA) < 0.03:
            under, over, _ = stops(early, k, total - 1)
            assert p < ALPHA or under <= TAIL, (total, k)
            assert p > ALPHA or over <= TAIL, (total, k)


def test_a_fixed_plan_is_the_rank_of_before() -> None:
    rng = np.random.default_rng(5)
    found = found_of(rng.normal(size=60), rng.normal(size=(200, 60)))
    place, done = rank_at(found, fixed(59), 0, alpha=ALPHA)
    assert done and place == rank_over_draws(found, enumerated=False, alpha=ALPHA)
    doubled = found_of(np.append(found.value, found.value[0]), np.append(found.draws, found.draws[:, :1], 1))
    place, done = rank_at(doubled, fixed(60, every=True), 0, alpha=ALPHA)
    assert done and place == rank_over_draws(doubled, enumerated=True, alpha=ALPHA)


def walked(value: np.ndarray, draws: np.ndarray, plan: Looks, tests: int = 1) -> tuple[object, int]:
    def place(_: str, look: int):
        n = plan.at[look]
        return rank_at(found_of(value[: n + 1], draws[:, : n + 1]), plan, look, alpha=ALPHA, tests=tests)

    found, path = walk(plan, ["it"], place)
    return found["it"], path.drawn


def test_prompts_that_disagree_end_a_walk_and_settle_nothing() -> None:
    """By hand: half of the resamples put the set first and half last, so no number of alternatives decides."""
    value = np.append(1.0, np.zeros(999))
    draws = np.zeros((400, 1000))
    draws[:200, 0], draws[200:, 0] = 1.0, -1.0
    place, n = walked(value, draws, looks(999))
    assert place.outcome == "undecided" and n == 138 and place.under == place.over == 0.5
    assert walked(value, np.abs(draws), looks(999))[0].outcome == "upheld"


def test_a_refutation_among_many_predictions_takes_more() -> None:
    """A quarter of all are as extreme: one prediction of 40 is refuted later than one alone."""
    value = np.append(0.5, np.tile([1.0, 0.0, 0.0, 0.0], 250)[:999])
    draws = np.tile(value, (100, 1))
    one, many = walked(value, draws, looks(999)), walked(value, draws, looks(999), tests=40)
    assert one[0].outcome == many[0].outcome == "refuted" and one[1] < many[1]
    assert many[0].against(ALPHA, 1 - 2 * TAIL / 40) == "refuted"


def test_what_cannot_come_under_the_level_is_raised() -> None:
    assert (enough(20, [0.05]), enough(80, [0.05]), enough(999, [0.05]), enough(80, [])) == (199, 199, 999, 80)
    assert looks(19) == fixed(19) and looks(24, every=True) == fixed(24, every=True)
    assert tail_bounds(0, 199, TAIL * looks(199).shares[-1])[1] < 0.05 < tail_bounds(0, 70, TAIL * 0.7)[1]
