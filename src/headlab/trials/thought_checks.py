"""Controls of trials on what a thinking model answers: what must change nothing, what must cost something."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.heads import every_head
from headlab.stats import Estimate
from headlab.stats.figures import percent
from headlab.thoughts.loop import touched_by
from headlab.thoughts.worlds import ThoughtWorld, ablation
from headlab.trials.answers import Effect
from headlab.trials.sweeps import Scope, Seen
from headlab.trials.thinking import BASE, FEW, PARSED_AT_LEAST
from headlab.trials.thought_case import ThoughtBench
from headlab.trials.thought_effects import Edits, measured

Check = Callable[[Seen], Control]


def exact(world: Callable[[Scope], ThoughtWorld], words: str) -> Check:
    """This world must equal the baseline item by item and bit for bit, both run through the same kernels and batch shape."""

    def check(scope: Scope) -> Control:
        case, one = scope.case, world(scope)
        few, touched = case.test[: min(FEW, len(case.test))], touched_by([one])
        base = case.think([BASE], "no-op: baseline", problems=few, touched=touched)
        return same_answers(
            "no-op", words, base, case.think([one], f"no-op: {one.name}", problems=few, touched=touched)
        )

    return lambda seen: seen.of_trial(check)


def same_answers(name: str, words: str, base: pd.DataFrame, seen: pd.DataFrame) -> Control:
    """Every answer the same, every log-probability bit for bit."""
    a, b = (t.sort_values("problem") for t in (base, seen))
    texts = int((a["text"].to_numpy() != b["text"].to_numpy()).sum())
    gap = float(np.abs(a["logprob"].to_numpy() - b["logprob"].to_numpy()).max())
    said = f"{words} changes {texts} of {len(a)} answers; largest change of an answer's log-probability {gap:.2g}"
    return Control(name=name, kind="negative", passed=texts == 0 and gap == 0, value=gap, words=said)


written_back = exact(lambda scope: ablation("no-op", every_head(scope.grid), "noop"), "writing every head's own z back")


def parsed(*edits: Edits) -> Check:
    """A number is found in the unedited answers; the lowest share of the worlds of these edits is told beside it."""

    def check(seen: Seen) -> Control:
        tables = [seen.once(e).table for e in edits]
        return parse_control(seen.case.baseline, pd.concat(tables) if tables else None)

    return check


def parse_control(base: pd.DataFrame, others: pd.DataFrame | None = None) -> Control:
    """A number must be found in the unedited answers: an accuracy of zero by a parser that reads nothing says nothing."""
    share = float(base["parsed"].to_numpy(float).mean())
    found = percent(share, PARSED_AT_LEAST)
    words = f"a number is found in {found} of {len(base)} unedited answers (at least {PARSED_AT_LEAST:.0%} needed)"
    if others is not None and len(others):
        least = {w: float(t["parsed"].to_numpy(float).mean()) for w, t in others.groupby("world")}
        worst = min(least, key=lambda w: least[w])
        words += f"; in the edited worlds in {percent(least[worst], PARSED_AT_LEAST)} ({worst}) or more"
    return Control(name="parse-rate", kind="positive", passed=share >= PARSED_AT_LEAST, words=words, value=share)


def lowers(name: str, words: str, e: Estimate) -> Control:
    """Accuracy must fall, the whole interval of the drop above zero."""
    passed = e.above(0) == "yes"
    return Control(name=name, kind="positive", passed=passed, words=f"{words} costs {e} of accuracy", value=e.value)


def silenced(seen: Seen) -> Control:
    """Every head's z replaced by its mean, everywhere: accuracy must fall."""
    return seen.of_trial(_silenced)


def _silenced(scope: Scope) -> Control:
    every = ablation("every head", every_head(scope.grid), "mean", label="every head of every layer, mean")
    cost = measured(scope.case, [every], "silenced").found[every.name].drop
    return lowers("silence-all", "replacing what every head says by its mean", cost)


def could_matter(case: ThoughtBench, cut: Effect, what: str) -> tuple[Control, str]:
    """That something matters could have been seen: with all of it cut, surely less is kept than each ``kept:`` asks for.

    The control is shown and voids nothing; the second value says why the claim is untestable where it fails.
    """
    least = min((p.limit for p in case.claim.predictions if p.statistic.startswith("kept:")), default=1.0)
    passed = cut.kept.below(least) == "yes"
    words = f"with all {what} cut, {cut.kept} of the accuracy is kept (surely less than {least:g} asked)"
    control = Control(name="cut-all", kind="positive", passed=passed, words=words, value=cut.kept.value)
    return control, "" if passed else f"nothing could have mattered: {words}"
