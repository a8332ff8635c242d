"""Probes of the latent loop in a trial: what they read at each place, how far that is from the critical heads, controls."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from headlab.claims import Control
from headlab.stats import Estimate, Rank, bootstrap_mean, rank
from headlab.stats.figures import percent, rounded
from headlab.stats.of_means import bootstrap_of_means
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.probing import Asked, Collected, ask, by_layer, collect, distance, inflection, right, targets
from headlab.trials.sweeps import Seen, Told
from headlab.trials.thinking import BASE, FEW
from headlab.trials.thought_case import ThoughtBench, thoughts_at_least
from headlab.trials.thought_heads import Needed, hub_of, needed_heads

Array = np.ndarray
FOLDS = 4
FOUND = 0.95
"""Accuracy at which a probe has found what is surely there."""
SAID = {
    "gain": "answer read after the last layer, above the commonest answer",
    "accuracy": "answer read after the last layer",
    "inflection": "layer at which accuracy rises most (−1: as fed)",
    "distance": "mean distance of the critical heads from that layer, in layers",
    "selectivity": "accuracy minus that of the control task, where chains recur",
}


def asked_of(case: ThoughtBench) -> list[Asked]:
    """What probes look for: the answer first, then the results of the first steps, where they occur often enough."""
    folds = int(case.claim.options.get("folds", FOLDS))  # type: ignore[call-overload]
    made = (ask(name, values, list(case.test), folds, case.seed) for name, values in targets(case.test).items())
    return [a for a in made if a]


def cannot(case: ThoughtBench) -> str:
    if why := thoughts_at_least(2)(case):
        return why
    found = asked_of(case)
    few = f"too few answers occur often enough among {len(case.test)} problems to be probed for"
    return "" if found and found[0].name == "answer" else few


def asked(seen: Seen) -> list[Asked]:
    return seen.of_case(asked_of)


def hub(seen: Seen) -> int:
    return hub_of(seen.scope, "position")


def needed(seen: Seen) -> Needed:
    return needed_heads(seen.case, seen.scope.options["heads"], seen.scope.options["k"])


def read(case: ThoughtBench, problems: ProblemSet) -> Collected:
    return collect(case.thinker, problems, batch=case.rows, tokens=case.tokens, progress=case.progress)


def collected(case: ThoughtBench) -> Collected:
    return read(case, case.test)


def cells(seen: Seen) -> dict[tuple[str, str], Array]:
    """By target and place, whether the probe is right, [row, layer + 1]."""
    states = seen.of_case(collected).states
    return {(a.name, place): by_layer(x, a, "true") for a in asked(seen) for place, x in states.items()}


def null(seen: Seen) -> dict[str, Array]:
    """The same for shuffled answers, by place."""
    return {place: by_layer(x, asked(seen)[0], "shuffled") for place, x in seen.of_case(collected).states.items()}


def at_places(seen: Seen) -> Iterator[Told]:
    """What is read at the hub and at eot."""
    answer, heads, at = asked(seen)[0], seen.once(needed), seen.once(hub)
    groups, told = answer.groups.tolist(), {"unit": "problems", "seed": seen.case.seed}
    for key, place, words in (("hub", f"thought {at}", f"hub, thought {at}"), ("eot", "eot", "eot")):
        curve = np.concatenate([answer.chance[:, None], seen.once(cells)["answer", place]], 1).astype(float)
        rises: Any = bootstrap_of_means(curve, lambda m: inflection(m)[:, None].astype(float), groups, **told)
        last, some = seen.of_case(collected).states[place][answer.rows, -1], answer.repeated
        gap = right(last, answer, "recurring").astype(float) - right(last, answer, "control").astype(float)
        numbers = {
            "gain": bootstrap_mean(curve[:, -1] - curve[:, 0], groups, **told),
            "accuracy": bootstrap_mean(curve[:, -1], groups, **told),
            "inflection": rises.estimate(0),
            "distance": rises.of(lambda v: distance(heads.layers, v[..., 0])),
            "selectivity": bootstrap_mean(gap[some], answer.groups[some].tolist(), **told)
            if some.sum() > 1
            else Estimate.undefined("problems", int(some.sum()), "no chain of steps occurs twice"),
        }
        yield from (Told(f"{kind}:{key}", f"{words}: {SAID[kind]}", e, "") for kind, e in numbers.items())


def of_shuffled(seen: Seen) -> Estimate:
    each = np.mean([v.mean(1) for v in seen.once(null).values()], 0)
    return bootstrap_mean(each, asked(seen)[0].groups.tolist(), unit="problems", seed=seen.case.seed)


def near(seen: Seen) -> Iterator[Told]:
    """The distance among those of random sets of as many heads of any layer."""
    yield Told("shuffled", "shuffled answers read, mean over places and layers", seen.once(of_shuffled), "")
    if (at := seen.estimate("inflection:hub").value) is not None:
        yield Told("rank:distance", "random sets of as many heads that lie as near", distance_rank(seen, at), "")


def distance_rank(seen: Seen, at: float) -> Rank:
    grid, heads, claim = seen.scope.grid, seen.once(needed), seen.case.claim
    layers, k = np.repeat(np.arange(grid.n_layers), grid.n_heads), len(heads.heads)
    whole, rng = comb(len(layers), k) <= claim.matched_sets, np.random.default_rng(claim.seed)
    sets = (
        [list(s) for s in combinations(range(len(layers)), k)]
        if whole
        else [rng.choice(len(layers), k, replace=False).tolist() for _ in range(claim.matched_sets)]
    )
    others = np.array([distance(layers[s].tolist(), at) for s in sets])
    own = float(distance(heads.layers, at))
    return rank(own, others, enumerated=whole, alpha=claim.alpha, unit="sets of heads", tail="less")


# -- controls -----------------------------------------------------------------------------------------------


def no_op(seen: Seen) -> Control:
    """Reading changes nothing: the answers that were made while the probes' features were taken are the baseline's."""
    case = seen.case
    few = case.test[: min(FEW, len(case.test))]
    base = case.think([BASE], "probes: baseline", problems=few).sort_values("problem")["logprob"].to_numpy(float)
    return judged_no_op(read(case, few).logprob, base)


def judged_no_op(watched: Array, base: Array) -> Control:
    gap = float(np.abs(watched - base).max())
    words = f"reading the residual stream changes the log-probability of {len(base)} answers by at most {gap:.2g}"
    return Control(name="no-op", kind="negative", passed=gap == 0, value=gap, words=words)


def shuffled(seen: Seen) -> Control:
    """Shuffled labels are read no better than the commonest class, on average over all cells."""
    return judged_shuffled(seen.once(of_shuffled), asked(seen)[0].majority)


def judged_shuffled(found: Estimate, majority: float) -> Control:
    words = f"probes for shuffled answers are right in {found}, mean over places and layers; the commonest in {rounded(majority)}"
    passed = found.above(majority) in ("no", "unsure")
    return Control(name="shuffled", kind="negative", passed=passed, value=found.value, words=words)


def token_fed(seen: Seen) -> Control:
    """What is surely there is found: the last token of the answer, after layer 0 where it is fed."""
    found, case = seen.of_case(collected), seen.case
    words = [str(t) if t >= 0 else None for t in found.token.tolist()]
    one = ask("token fed", words, list(case.test), seen.scope.options["folds"], case.seed)
    said = None if one is None else right(found.said[one.rows], one, "true")
    return judged_token(said, 0 if one is None else len(set(one.y.tolist())))


def judged_token(said: Array | None, classes: int) -> Control:
    share = None if said is None else float(said.mean())
    shown = "too few tokens occur often enough" if said is None else f"{percent(share)} of {len(said)} are read right"
    words = f"the last token of the answer, where it is fed ({classes} different ones): {shown}"
    passed, least = share is not None and share >= FOUND, f" (at least {FOUND:.0%} needed)"
    return Control(name="token-fed", kind="positive", passed=passed, value=share, words=words + least)
