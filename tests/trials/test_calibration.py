"""How often documents are upheld where nothing is to be found, and where something was planted.

Null: heads of models in which nothing was planted are numbered anew, so a claim about fixed numbers is a claim about a
random set: `rank:` may be upheld in 5 % of trials.  Nothing is excused: void, undecided and untestable trials are counted.
Planted over two layers: four heads, all of them needed.  What runs daily is a sample; figures are in docs/acceptance.md.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from remembering import Bench, bench, document

from headlab.engine.reindexing import random_relabelling
from headlab.heads import Grid, Head, Heads
from headlab.organisms.built import build
from headlab.organisms.built_recipes import BUILT_RECIPES, BuiltRecipe
from headlab.organisms.tokenizer import build_tokenizer
from headlab.trials.loading import load

ALPHA = 0.05
NULL = Grid(2, 8, 4)
SHAPES = {"one layer": Heads.parse("L0H0 L0H1 L0H2 L0H4"), "two layers": Heads.parse("L0H0 L0H2 L1H1")}
SETS = {"one layer": 48, "two layers": 192}
RECIPE = BUILT_RECIPES["heads-planted-two-layers"]


def outcome(at: Bench, data: dict[str, Any]) -> str:
    found = at.tried(data)
    assert found.eligibility["ok"], found.eligibility["reason"]
    return found.readings[0].verdict.outcome


def null_outcomes(model: str, trials: int, tmp: Path, shapes: tuple[str, ...], pairs: int = 100) -> list[str]:
    """The outcomes of ``trials`` renumberings of each shape in one null model.  All sets that match are listed (n = 99),
    or 90 of 192 are drawn (every other trial over two layers)."""
    out = []
    with bench(model, tmp / model) as at:
        for shape in shapes:
            for trial in range(trials):
                heads = random_relabelling(NULL, seed=trial * 10 + int(model[-1])).image(SHAPES[shape])
                n = 90 if shape == "two layers" and trial % 2 else 99
                data = document(
                    heads,
                    n=n,
                    pairs=pairs,
                    predicted=[{"statistic": "rank:recovery:named", "op": "rank<", "threshold": ALPHA}],
                )
                out.append(outcome(at, data))
    return out


def planted_outcomes(
    recipe: BuiltRecipe, seeds: range, tmp: Path, n: int = 99, pairs: int = 100
) -> tuple[list[str], list[str]]:
    """Outcomes of the claim about all members, and of claims about all but one and a stranger of the same layer."""
    members, whole, fewer = [Head.parse(h) for h in recipe.members], [], []
    predicted = [
        {"statistic": "recovery:named", "op": ">", "threshold": 0.5},
        {"statistic": "rank:recovery:named", "op": "rank<", "threshold": ALPHA},
        {"statistic": "most:recovery:less", "op": "<", "threshold": 0.2, "words": "none can be left out"},
    ]
    tokenizer = build_tokenizer()
    lab = load(build(recipe, tokenizer), tokenizer=tokenizer)
    with bench(lab, tmp / f"planted {recipe.seed}") as at:
        for seed in seeds:
            data = document(
                Heads(members), n=n, seed=seed, pairs=pairs, predicted=predicted, less={"leave_one_out": "named"}
            )
            whole.append(outcome(at, data))
            for out in members[seed % 2 :: 2]:
                strangers = [h for i in range(8) if (h := Head(out.layer, i)) not in members]
                other = random.Random(f"{seed} {out}").choice(strangers)
                some = Heads([other, *(h for h in members if h != out)])
                fewer.append(
                    outcome(
                        at,
                        document(
                            some, n=n, seed=seed, pairs=pairs, predicted=predicted, less={"leave_one_out": "named"}
                        ),
                    )
                )
    return whole, fewer


def test_a_sample_of_the_null_and_of_the_planted(tmp_path: Path) -> None:
    """Of twelve renumberings more than three upheld have p < .003; the planted set is upheld, three of four are not."""
    null = null_outcomes("decimals-null-3", 12, tmp_path, ("one layer",), pairs=40)
    assert null.count("upheld") <= 3, null
    whole, fewer = planted_outcomes(RECIPE, range(1), tmp_path, n=75, pairs=40)
    assert whole == ["upheld"] and "upheld" not in fewer, (whole, fewer)


def test_renumbering_leaves_as_many_alternatives_as_said() -> None:
    """By hand: 4 ways for the whole group, times C(3, 2) groups of the two others, times 2 heads in each; 6 pairs of groups
    times 4, times 8."""
    from headlab.trials.references import Matching, redrawn

    for shape, heads in SHAPES.items():
        matched = redrawn(NULL, heads, Matching(frozenset({"layer", "sharing"})), n=99, seed=0)
        assert matched.enumerated and len(matched.sets) == SETS[shape]
        assert random_relabelling(NULL, seed=3).image(heads) in matched.sets


@pytest.mark.accept
def test_the_null_is_upheld_in_five_percent(tmp_path: Path) -> None:
    """10 null models × 22 renumberings × references over one layer and over two: 440 trials."""
    found = {}
    for shape in SHAPES:
        found[shape] = [
            o for i in range(10) for o in null_outcomes(f"decimals-null-{i}", 22, tmp_path / shape, (shape,))
        ]
    every = [o for some in found.values() for o in some]
    print({shape: {o: some.count(o) for o in sorted(set(some))} for shape, some in found.items()})
    assert len(every) >= 400
    for some in (*found.values(), every):
        n = len(some)
        assert some.count("upheld") / n <= ALPHA + 2 * (ALPHA * (1 - ALPHA) / n) ** 0.5


@pytest.mark.accept
def test_the_planted_set_is_upheld_and_fewer_are_not(tmp_path: Path) -> None:
    """Four numberings of the planted heads × 10 draws of prompts: 40 trials of all members, 80 of all but one."""
    whole, fewer = [], []
    for number in range(4):
        rng = random.Random(number)
        members = sorted(Head(at, i) for at in (1, 2) for i in rng.sample(range(8), 2))
        recipe = RECIPE if number == 0 else replace(RECIPE, seed=number, members=tuple(map(str, members)))
        a, b = planted_outcomes(recipe, range(10 * number, 10 * number + 10), tmp_path)
        whole, fewer = whole + a, fewer + b
    print({o: whole.count(o) for o in set(whole)}, {o: fewer.count(o) for o in set(fewer)})
    assert len(whole) >= 40 and whole.count("upheld") / len(whole) >= 0.95
    assert fewer.count("upheld") / len(fewer) <= 0.05
