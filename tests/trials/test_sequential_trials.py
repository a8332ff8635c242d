"""Trials decided sequentially beside the same trials decided by a fixed number of alternatives.

On models: heads drawn at random in models in which nothing was planted (p is uniform), and planted ones, all of them or all
but one; the worlds of one are those of the other.  By generator: effects of heads on prompts of whole clusters, in the same
statistics and the same verdict.  What runs daily is a sample; figures are in docs/acceptance.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from remembering import bench, document

from headlab.claims import Prediction, decide
from headlab.experiments.trial import repeat, trial
from headlab.heads import Head, Heads
from headlab.organisms.built import build
from headlab.organisms.built_recipes import BUILT_RECIPES
from headlab.organisms.tokenizer import build_tokenizer
from headlab.stats import Rank
from headlab.stats.of_means import OfMeans, bootstrap_of_means
from headlab.stats.sequential import Looks, fixed, looks, rank_at, walk
from headlab.store import Store
from headlab.trials.loading import load
from headlab.trials.subject import Language

ALPHA, FIXED = 0.05, 999
DECIDED = {"upheld", "refuted"}


@dataclass(frozen=True)
class Both:
    """One trial decided twice; ``drawn`` of the ``planned`` alternatives of the fixed one."""

    kind: str
    fixed: str
    sequential: str
    drawn: int
    planned: int
    over: bool
    """Whether its p, of all that the fixed trial drew, is not under α."""


def said(trials: list[Both]) -> str:
    """Agreement, errors and passes by kind, in lines."""
    out = []
    for kind in sorted({t.kind for t in trials}):
        some = [t for t in trials if t.kind == kind]
        drawn = np.array([t.drawn for t in some])
        of_own = np.array([t.drawn / t.planned for t in some])
        decided = [t for t in some if t.fixed in DECIDED]
        false = (
            sum(t.sequential == "upheld" and t.over for t in some),
            sum(t.fixed == "upheld" and t.over for t in some),
        )
        out.append(
            f"{kind}: {len(some)} trials; fixed {counted(t.fixed for t in some)}; sequential "
            f"{counted(t.sequential for t in some)}; same in {sum(t.fixed == t.sequential for t in decided)} of "
            f"{len(decided)} that fixed decides, {sum(t.fixed == t.sequential for t in some)} of all; opposite "
            f"{sum({t.fixed, t.sequential} == DECIDED for t in some)}; upheld with p over {false[0]} (fixed {false[1]}); drawn "
            f"of {FIXED}: median {np.median(drawn) / FIXED:.3f}, mean {drawn.mean() / FIXED:.3f}; of its own plan: median "
            f"{np.median(of_own):.3f}, mean {of_own.mean():.3f}"
        )
    return "\n".join(out)


def counted(outcomes: Any) -> dict[str, int]:
    found = list(outcomes)
    return {o: found.count(o) for o in sorted(set(found))}


def holds(trials: list[Both]) -> None:
    """What must hold of any number of trials: they agree where the fixed number decides, and none is decided against it."""
    decided = [t for t in trials if t.fixed in DECIDED]
    drawn = np.array([t.drawn for t in trials]) / FIXED
    assert {t.fixed for t in trials} >= DECIDED, "nothing to agree on"
    assert sum(t.fixed == t.sequential for t in decided) >= 0.98 * len(decided)
    assert not any(t.sequential == "upheld" and t.over for t in trials)
    assert not any({t.fixed, t.sequential} == DECIDED for t in trials)
    assert np.median(drawn) <= 1 / 5 and drawn.mean() <= 1 / 3


# -- by generator -------------------------------------------------------------------------------------------


def decided(place: Rank) -> str:
    """The verdict of a claim that predicts this rank alone."""

    class Claim:
        predictions = (Prediction(statistic="rank:named", op="rank<", threshold=ALPHA),)
        controls = ()

    return decide(Claim(), {"rank:named": place}, []).outcome


def made(kind: str, seed: int) -> Both:
    """A trial of six heads of 24 (999 of 134,595 others drawn) or four of 16 (all 1,820 listed), on 120 prompts in 60
    clusters; ``planted``: each head of the named set has 0.5 to 3 standard deviations of the heads' effects more."""
    rng, (what, among) = np.random.default_rng([seed, len(kind)]), kind.split(", ")
    heads, size = (24, 6) if among == "sampled" else (16, 4)
    named = tuple(sorted(rng.choice(heads, size, replace=False)))
    effects = rng.normal(size=heads) if rng.random() < 0.5 else rng.exponential(size=heads) ** 2
    if what == "planted":
        effects[list(named)] += rng.uniform(0.5, 3) * effects.std()
    by_prompt = effects + rng.normal(scale=rng.uniform(0.5, 3), size=(60, heads)).repeat(2, 0)
    by_prompt = by_prompt + rng.normal(size=(120, heads))
    every = among == "enumerated"
    if every:
        others = [s for s in combinations(range(heads), size) if s != named]
        rng.shuffle(others)
        sets = [named, *others]
    else:
        seen: dict[tuple[int, ...], None] = {named: None}
        while len(seen) <= FIXED:
            seen[tuple(sorted(rng.choice(heads, size, replace=False)))] = None
        sets = list(seen)[1:]
    columns = np.stack([by_prompt[:, list(s)].sum(1) for s in (named, *sets)], 1)
    whole = bootstrap_of_means(columns, lambda m: m, np.arange(60).repeat(2), unit="pairs", seed=seed)
    return compared(kind, whole, every)


def compared(kind: str, whole: OfMeans, every: bool) -> Both:
    """The trial decided at once, and walked."""
    n = len(whole.value) - 1

    def place(plan: Looks, look: int) -> tuple[Rank, bool]:
        some = slice(plan.at[look] + 1)
        return rank_at(replace(whole, value=whole.value[some], draws=whole.draws[:, some]), plan, look, alpha=ALPHA)

    once, plan = place(fixed(n, every=every), 0)[0], looks(n, every=every)
    found, path = walk(plan, ["it"], lambda _, look: place(plan, look))
    return Both(kind, decided(once), decided(found["it"]), path.drawn, n, once.p >= ALPHA)


KINDS = [f"{what}, {among}" for what in ("null", "planted") for among in ("sampled", "enumerated")]


# -- on models ----------------------------------------------------------------------------------------------


def claim_of(named: Heads, match: list[str], seed: int, pairs: int, decide: str) -> dict[str, Any]:
    predicted = [{"statistic": "rank:recovery:named", "op": "rank<", "threshold": ALPHA}]
    given = {"seed": seed, "pairs": pairs, "predicted": predicted, "match": match}
    return document(named, n=FIXED, fields={"decide": decide}, **given)


def twice(at: Any, kind: str, named: Heads, match: list[str], seed: int, pairs: int) -> Both:
    """One document on a bench, sequential first."""
    both = {how: at.tried(claim_of(named, match, seed, pairs, how)) for how in ("sequential", "fixed")}
    path = both["sequential"].settings["walks"]["alternatives"]
    outcome = {how: f.readings[0].verdict.outcome for how, f in both.items()}
    p = next(e for e in both["fixed"].readings[0].estimates if e.name.startswith("rank:")).estimate["value"]
    return Both(kind, outcome["fixed"], outcome["sequential"], path["drawn"], path["planned"], p >= ALPHA)


def null_trials(model: str, n: int, tmp: Path, sizes: dict[str, int], pairs: int = 40) -> Iterator[Both]:
    """``n`` random sets of each size in a model in which nothing was planted."""
    with bench(model, tmp / model) as at:
        grid = at.lab.grid
        every = [Head(a, i) for a in range(grid.n_layers) for i in range(grid.n_heads)]
        for among, size in sizes.items():
            for trial in range(n):
                heads = Heads(random.Random(f"{model} {among} {trial}").sample(every, size))
                yield twice(at, f"model, null, {among}", heads, [], 0, pairs)


def planted_trials(seeds: range, tmp: Path, ways: dict[str, list[str]], pairs: int = 40) -> Iterator[Both]:
    """Four planted heads of 24, and all but one of them with a stranger of the same layer, on other prompts each time."""
    recipe = BUILT_RECIPES["heads-planted-two-layers"]
    members, tokenizer = [Head.parse(h) for h in recipe.members], build_tokenizer()
    lab = load(build(recipe, tokenizer), tokenizer=tokenizer)
    with bench(lab, tmp / "planted") as at:
        for seed in seeds:
            for among, match in ways.items():
                yield twice(at, f"model, planted, {among}", Heads(members), match, seed, pairs)
                for out in members:
                    other = next(h for i in range(8) if (h := Head(out.layer, (i + seed) % 8)) not in members)
                    some = Heads([other, *(h for h in members if h != out)])
                    yield twice(at, f"model, all but one planted, {among}", some, match, seed, pairs)


# -- the walk in a record -----------------------------------------------------------------------------------


def law_1(one: Any, other: Any) -> None:
    """The same looks, the same tables."""
    assert one.record.settings["walks"] == other.record.settings["walks"]
    assert list(one.tables) == list(other.tables) and one.verdict.outcome == other.verdict.outcome
    for name, frame in one.tables.items():
        pd.testing.assert_frame_equal(frame, other.tables[name], atol=1e-4, rtol=1e-4)


WALKED = claim_of(Heads.parse("L0H12 L0H15 L1H11"), ["layer", "sharing"], 0, 12, "sequential")
"""Of 384 such sets (by hand: 24 ways for two heads of one KV group of four, times 16 of the other layer), some sixty do more."""


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trial(WALKED, "decimals-null-3", store=tmp_path_factory.mktemp("once"))


def test_the_record_says_how_it_was_walked(once: Any) -> None:
    path = once.record.settings["walks"]["alternatives"]
    (stop,) = path["settled"].values()
    assert once.record.settings["decide"] == "sequential" and path["bounds"] == "hypergeometric"
    assert 21 < path["drawn"] == stop["at"] == len(once.tables["alternatives"]) < path["planned"] == 4 * 6 * 16
    assert path["looks"] == [21, 34, 54, 86, 138, 220, 384] and sum(path["shares"]) == pytest.approx(1, abs=1e-5)
    assert once.tables["alternatives"]["heads"][0] == "L0H12 L0H15 L1H11" and "p is over 0.05" in stop["why"]
    assert any(f"{path['drawn']} of 384 planned alternatives were run" in n for n in once.record.notes)


def test_other_batches_and_an_interruption_give_the_same_looks(
    once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 1; Ctrl-C falls where the second look begins, in batches of another shape."""
    real, small = Language.measure, 12_000_000

    def interrupted(self: Language, worlds: Any, readouts: Any, what: str, **told: Any) -> Any:
        if what.endswith("to 34"):
            raise KeyboardInterrupt
        return real(self, worlds, readouts, what, **told)

    with monkeypatch.context() as patch:
        patch.setattr(Language, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trial(WALKED, "decimals-null-3", store=tmp_path, memory=small)
    law_1(once, trial(WALKED, "decimals-null-3", store=tmp_path, memory=small))
    assert len(Store(tmp_path).records()[0]) == 1


@pytest.mark.accept
def test_a_cluster_has_the_same_looks(once: Any, tmp_path: Path) -> None:
    law_1(once, trial(WALKED, "decimals-null-3", store=tmp_path, engine="ray", workers=1))


def test_a_record_from_before_is_repeated_as_it_was_decided(once: Any, tmp_path: Path) -> None:
    """Its settings say nothing of ``decide``: all sets run, under the same claim and its hash."""
    settings = {k: v for k, v in once.record.settings.items() if k not in {"decide", "walks"}}
    again = repeat(once.record.model_copy(update={"settings": settings}), store=tmp_path)
    assert again.record.claim_hash == once.record.claim_hash and again.record.settings["decide"] == "fixed"
    assert (
        len(again.tables["alternatives"]) == 384 and len(again.record.settings["walks"]["alternatives"]["looks"]) == 1
    )


# -- beside a fixed number ----------------------------------------------------------------------------------


def test_a_sample_agrees() -> None:
    """The generator's, seeded; 12 trials."""
    trials = [made(kind, seed) for kind in KINDS for seed in range(3)]
    print(said(trials))
    holds(trials)


@pytest.mark.accept
def test_sequential_and_fixed_agree_by_generator() -> None:
    trials = [made(kind, seed) for kind in KINDS for seed in range(100, 250)]
    print(said(trials))
    holds(trials)


@pytest.mark.accept
def test_sequential_and_fixed_agree_on_models(tmp_path: Path) -> None:
    trials = [
        t for i in range(4) for t in null_trials(f"decimals-null-{i}", 20, tmp_path, {"sampled": 6, "enumerated": 4})
    ]
    trials += planted_trials(range(4), tmp_path, {"sampled": [], "enumerated": ["layer", "sharing"]})
    print(said(trials))
    holds(trials)
