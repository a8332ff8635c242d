"""The rules of ranks and controls for every claim of the docket and the library, by `decide` on findings made here.

An example stands for its kind: each rule is tried on all claims that it could concern, none picked.
"""

from __future__ import annotations

import json
from typing import Any

import golden
import numpy as np
import pytest

from headlab.claims import Control, decide
from headlab.experiments import builtin_claims
from headlab.stats import Estimate, rank
from headlab.stats.of_means import bootstrap_of_means, rank_over_draws
from headlab.trials import registry

CLAIMS: dict[str, Any] = {**builtin_claims(), **registry.library()}
RANKED = {name: c for name, c in CLAIMS.items() if any(p.op == "rank<" for p in c.predictions)}
PASSED = Control(name="", kind="negative", passed=True, words="")


def findings(claim: Any, place: Any) -> dict[str, Any]:
    """What upholds every estimate of a claim, and one place for all of its ranks."""
    out: dict[str, Any] = {}
    for p in claim.predictions:
        if p.op == "rank<":
            out[p.statistic] = place
            continue
        low, high = p.threshold if isinstance(p.threshold, tuple) else (p.limit, p.limit)
        at = {">": high + 0.1, "<": low - 0.1, "within": (low + high) / 2}[p.op]
        before = out.get(p.statistic)
        at = (before.value + at) / 2 if before is not None else at  # two sides of one number: between them
        out[p.statistic] = Estimate(at, at, at, 100, "pairs", "made here")
    return out


def ruled(claim: Any, place: Any, controls: Any = None) -> Any:
    passed = [PASSED.model_copy(update={"name": n}) for n in claim.controls] if controls is None else controls
    return decide(claim, findings(claim, place), passed)


def level_of(claim: Any) -> float:
    return max(p.limit for p in claim.predictions if p.op == "rank<")


def ranks_of(verdict: Any) -> set[str]:
    return {r.outcome for r in verdict.rulings if r.prediction.op == "rank<"}


@pytest.mark.parametrize("name", RANKED)
def test_where_nothing_can_be_upheld_nothing_is_refuted(name: str) -> None:
    """16 halves, all run, wherever the named one stands; and too few that were drawn."""
    claim = RANKED[name]
    most = round(1 / level_of(claim))
    for n, exact in ((min(16, most), True), (most - 1, False)):
        for at in (0, 1, n // 2, n - 1):
            null = np.arange(n, dtype=float)
            verdict = ruled(claim, rank(float(n - 1 - at), null, enumerated=exact, alpha=0.05))
            assert ranks_of(verdict) == {"untestable"} and verdict.outcome == "untestable"


@pytest.mark.parametrize("name", RANKED)
def test_enumerated_sets_know_undecided(name: str) -> None:
    """70 sets of which the named one is best or last, over prompts that agree and over prompts that do not."""
    rng = np.random.default_rng(0)
    sets, steady, wild = np.linspace(-1, 1, 70), rng.normal(0, 0.001, (40, 71)), rng.normal(0, 8, (40, 71))
    for own, noise, wanted in ((1.0, steady, "upheld"), (-1.0, steady, "refuted"), (1.0, wild, "undecided")):
        table = np.concatenate([[own], sets]) + noise - noise.mean(0)
        table[:, np.flatnonzero(sets == own)[0] + 1] = table[:, 0]  # it is among them
        found = bootstrap_of_means(table, lambda means: means, unit="pairs", seed=0)
        place = rank_over_draws(found, enumerated=True, alpha=level_of(RANKED[name]))
        assert ranks_of(ruled(RANKED[name], place)) == {wanted}


@pytest.mark.parametrize("name", RANKED)
def test_a_rank_is_decided_at_its_predictions_own_threshold(name: str) -> None:
    """p = .021 of 999 drawn sets: upheld at .05, not at .001, whatever alpha the claim has."""
    place = rank(0.0, np.r_[np.ones(20), -np.ones(979)], enumerated=False, alpha=0.05)
    assert place.p == 0.021
    assert ranks_of(ruled(RANKED[name], place)) == {"upheld"}
    strict = [p.model_copy(update={"threshold": 0.001}) if p.op == "rank<" else p for p in RANKED[name].predictions]
    claim = RANKED[name].model_copy(update={"predictions": tuple(strict)})
    assert ranks_of(ruled(claim, place)) <= {"refuted", "undecided", "untestable"}


@pytest.mark.parametrize("name", CLAIMS)
def test_only_controls_that_a_claim_names_void_it(name: str) -> None:
    claim, place = CLAIMS[name], rank(1.0, -np.ones(999), enumerated=False, alpha=0.05)
    named = [PASSED.model_copy(update={"name": n}) for n in claim.controls]
    stranger = PASSED.model_copy(update={"name": "not named", "passed": False})
    without, beside = ruled(claim, place, named), ruled(claim, place, [*named, stranger])
    assert beside.outcome == without.outcome == "upheld" and stranger in beside.controls
    for n in range(len(named)):
        failed = [c.model_copy(update={"passed": i != n}) for i, c in enumerate(named)]
        assert ruled(claim, place, failed).outcome == "void"
        assert ruled(claim, place, [c for i, c in enumerate(named) if i != n]).outcome == "void"


def test_no_kept_trial_refutes_by_sets_of_which_none_could_be_upheld() -> None:
    """Every rank that was ruled in the kept trials of the docket: among 20 sets or fewer, it is untestable."""
    seen, threshold = 0, 0.05
    for case in golden.cases():
        tables = golden.read(case)
        if not {"rulings", "estimates"} <= set(tables):
            continue
        head, *rows = tables["estimates"]
        counts = {(r["reading"], r["name"]): r for r in (dict(zip(head, row, strict=True)) for row in rows)}
        head, *rows = tables["rulings"]
        for one in (dict(zip(head, row, strict=True)) for row in rows):
            told = counts.get((one["reading"], one["statistic"]))
            if one["op"] != "rank<" or told is None or "hypergeometric" in told["method"]:
                continue
            if 1 / (float(told["n"]) + (told["method"] != "enumeration")) >= threshold:
                seen += 1
                assert one["outcome"] == "untestable", (case, json.dumps(one))
    assert seen >= 5
