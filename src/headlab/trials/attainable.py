"""Predictions that no outcome could uphold at a size, said before anything runs, with the size that suffices.

A rate is upheld above t when its lower bound is: with K clusters of prompts none of which fails, that is tail ** (1 / K),
however many rows they hold.  A trial is at a *dead end* where no outcome could uphold or refute it: eligibility needs more pairs,
or what cannot be upheld cannot be refuted either.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from headlab.claims import Claim, Prediction
from headlab.claims.verdict import REFUTES_AT
from headlab.prompts import PromptError, PromptSet, prompts_of
from headlab.reading.shown import clean
from headlab.stats.figures import rounded
from headlab.tasks.word_problems import ProblemSet
from headlab.trials.case import draw
from headlab.trials.document import Document
from headlab.trials.eligibility import pairs_needed
from headlab.trials.prompts import clusters, split

RATES = ("repair", "repair:*", "break:*", "bug:*", "accuracy:*")
"""Statistics that are rates over prompts."""
TAIL = 0.025
MOST = 4000
"""Pairs up to which a size that suffices is looked for."""


def clusters_needed(prediction: Prediction) -> int:
    """How many clusters of prompts a flawless rate needs to be upheld; 0 where the prediction is of no rate."""
    alone = not re.search(r"\s[-+/]\s", prediction.statistic)  # of a sum of rates no bound is known beforehand
    if (
        not alone
        or not any(fnmatchcase(prediction.statistic, known) for known in RATES)
        or prediction.op not in (">", "<")
    ):
        return 0
    t = prediction.limit if prediction.op == ">" else 1 - prediction.limit
    return math.floor(math.log(TAIL) / math.log(t)) + 1 if 0 < t < 1 else 0


def out_of_reach(predictions: Sequence[Prediction], have: int, drawn: Callable[[int], int] | None) -> Iterator[str]:
    """A line for each prediction that ``have`` clusters of test prompts cannot uphold.

    ``drawn``: the clusters that so many pairs would have (PromptError: there are not so many); None for prompts of one's own.
    """
    for p in predictions:
        if (needed := clusters_needed(p)) > have:
            flawless = TAIL ** (1 / have) if have else 0.0
            end = flawless if p.op == ">" else 1 - flawless
            yield (
                f"{p.statistic} {p.brief}: nothing could uphold it here: {have} clusters of test prompts without a failure give "
                f"a bound of {rounded(end, p.limit)}; {needed} are needed: {_enough(needed, drawn)}"
            )


def refutable(prediction: Prediction, have: int, among: int) -> bool:
    """Whether ``have`` clusters could refute a prediction, as one ``among`` so many; of what is no rate nothing is known."""
    if not clusters_needed(prediction):
        return True
    t = prediction.limit if prediction.op == ">" else 1 - prediction.limit
    return have > 0 and 1 - (REFUTES_AT / among) ** (1 / have) < t


def distinct(items: PromptSet | ProblemSet) -> int:
    """Pairs (problems) that differ in their prompts."""
    if isinstance(items, ProblemSet):
        return len({p.question for p in items})
    return len({prompts_of(p) for p in items})


def too_few(given: int, needed: int, unit: str = "pairs", size: str = "") -> str:
    """That eligibility needs more; empty where it does not.  ``size``: what suffices, where it is known."""
    if given >= needed:
        return ""
    size = size or f"--pairs {needed} suffices"
    return f"this can only end untestable or void: eligibility needs at least {needed} {unit}, given {given}: {size}"


Drawn = Callable[[int], PromptSet | ProblemSet]


def dead_end(
    predictions: Sequence[Prediction],
    test: PromptSet | ProblemSet,
    needed: int,
    drawn: Drawn | None,
    never: Collection[str] = (),
    count: Callable[[PromptSet | ProblemSet], int] = distinct,
) -> str:
    """Why no outcome could uphold or refute these predictions on these prompts, with the size that suffices; empty where one could.

    ``needed``: how many of them eligibility needs; ``drawn``: the prompts of another size (None: they are one's own);
    ``never``: ranks that too few alternatives leave untestable; ``count``: how eligibility counts them.
    """
    unit = "problems" if isinstance(test, ProblemSet) else "pairs"
    if (n := count(test)) < needed:
        size = _enough(needed, drawn and (lambda k: count(drawn(k))), f"give as many {unit} that differ")
        return too_few(n, needed, unit, size)
    have = len(clusters(test))
    short = [p for p in predictions if p.statistic in never or clusters_needed(p) > have]
    if not short or any(refutable(p, have, len(predictions)) for p in predictions if p.statistic not in never):
        return ""
    names = ", ".join(p.statistic for p in short)
    what = f"this can only end undecided, untestable or void: no outcome could uphold or refute {names}"
    least = max(map(clusters_needed, short))
    if least <= have:
        return f"{what}: too few alternatives; match less, name more heads, or use a larger model"
    size = _enough(least, drawn and (lambda k: len(clusters(drawn(k)))))
    return f"{what}: {have} clusters of test prompts are too few; {least} are needed: {size}"


def _enough(
    needed: int, drawn: Callable[[int], int] | None, own: str = "give prompts with as many that share nothing"
) -> str:
    """The size at which there are so many, in words."""
    if drawn is None:
        return own

    def found(pairs: int) -> int:
        try:
            return drawn(pairs)
        except PromptError:
            return -1

    low, high = needed - 1, needed  # as many pairs hold no more than so many
    while 0 <= (got := found(high)) < needed and high < MOST:
        low, high = high, 2 * high
    if got < needed:
        return "the task has not so many in this tokenizer, at any --pairs"
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) >= needed else (middle, high)
    return f"--pairs {high} suffices"


def of_claim(claim: Claim, tokenizer: Any, test: PromptSet | None = None, *, own: bool = False) -> list[str]:
    """What a claim of the docket cannot have upheld: on these test prompts, or on those that its task gives.

    ``own``: they were given, so that no other size can be drawn.  Thinking models' problems are none of this.
    """
    own = own or bool(claim.task.file)

    def drawn(pairs: int) -> int:
        return len(clusters(draw(claim.model_copy(update={"pairs": pairs}), tokenizer, None)[0]))

    if not any(map(clusters_needed, claim.predictions)) or claim.task.name == "word-problems":
        return []
    if test is None:
        test = draw(claim, tokenizer, None)[0]
    return list(out_of_reach(claim.predictions, len(clusters(test)), None if own else drawn))


def of_document(
    doc: Document, tokenizer: Any, folder: Path, test: PromptSet | None = None, *, own: bool = False
) -> list[str]:
    """As :func:`of_claim`, of a document about a language model."""
    own = own or bool({"file", "corpus"} & set(doc.task))

    def drawn(pairs: int) -> int:
        return len(clusters(split(doc.model_copy(update={"pairs": pairs}), tokenizer, None, folder)[0]))

    if doc.thinking or not any(map(clusters_needed, doc.predictions)):
        return []
    if test is None:
        test = split(doc, tokenizer, None, folder)[0]
    return list(out_of_reach(doc.predictions, len(clusters(test)), None if own else drawn))


def dead_end_of_document(
    doc: Document,
    tokenizer: Any,
    folder: Path,
    test: PromptSet | ProblemSet,
    *,
    own: bool = False,
    never: Collection[str] = (),
    problems: Drawn | None = None,
) -> str:
    """As :func:`dead_end`, of a document; ``problems``: those of another size, where it is about a thinking model."""

    def drawn(pairs: int) -> PromptSet | ProblemSet:
        if problems is not None:
            return problems(pairs)
        return split(doc.model_copy(update={"pairs": pairs}), tokenizer, None, folder)[0]

    own = own or bool({"file", "corpus"} & set(doc.task))
    asked = () if doc.thinking else doc.predictions
    count = distinct if doc.thinking and doc.eligible.pairs is None else len
    return dead_end(asked, test, pairs_needed(doc, test), None if own else drawn, never, count)


def said_before(lines: Sequence[str]) -> None:
    """Say them at once, on stderr or wherever the logger ``headlab`` writes; they stand in the record's notes too."""
    for line in lines:
        logging.getLogger("headlab").warning("%s", clean(line))
