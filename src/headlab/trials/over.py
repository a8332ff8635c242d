"""A document over strata of its prompts: every prediction must hold in each (rule 25).

``over: {stratum: LABEL}`` parts the test prompts by a label (or by ``category``); a prediction ``pooled:…`` is of all
prompts together.  A stratum in which the model is not eligible makes the whole untestable; none is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headlab.claims import ClaimError, Prediction
from headlab.trials.fields import THINKING, Fields
from headlab.trials.sources import Fault

Strata = list[tuple[str, NDArray[np.bool_]]]
LEAST = 2
"""Prompts that a stratum needs: with one there is no interval."""


def faults(doc: Fields) -> Iterator[Fault]:
    """What ``over`` says that is not understood."""
    label = doc.over.get("stratum")
    if doc.task.get("name") == THINKING and (doc.over or doc.as_published is not None):
        yield (
            ("over" if doc.over else "as_published",),
            "is for language models; problems of thinking models have no such reading",
        )
    if doc.over and (set(doc.over) != {"stratum"} or not isinstance(label, str)):
        yield (
            ("over",),
            f"given {', '.join(map(str, doc.over))}; expected {{stratum: LABEL}}, a label of the prompts or category (models, "
            "revisions and settings are tried one at a time)",
        )
    for n, p in enumerate(doc.predictions):
        if p.statistic.startswith(("pooled:", "upheld:")) and (not doc.over or p.statistic.startswith("upheld:")):
            yield (
                ("predictions", n, "statistic"),
                f"{p.statistic!r}: pooled: stands in a document with over: {{stratum: LABEL}}; all strata count otherwise",
            )


def strata(doc: Fields, subject: Any) -> Strata:
    """The strata by name, each with the prompts in it; none without ``over``.  Raises ClaimError for an unknown label."""
    if not doc.over:
        return []
    label, encoded = str(doc.over["stratum"]), subject.encoded
    values = [p.pair.category if label == "category" else dict(p.pair.labels).get(label, "") for p in encoded]
    if "" in values:
        known = sorted({k for p in encoded for k, _ in p.pair.labels} | {"category"})
        raise ClaimError(f"over: some prompts have no label {label!r}; they have {', '.join(known)}")
    found = [(v, np.array([x == v for x in values])) for v in sorted(set(values))]
    if few := [v for v, which in found if which.sum() < LEAST]:
        raise ClaimError(f"over: the stratum {label} = {few[0]} has one prompt; ask for more pairs")
    return found


def each(p: Prediction, parts: Strata) -> list[tuple[str, Prediction]]:
    """A prediction in every stratum it is ruled in, by the stratum's name (empty: all prompts)."""
    if not parts or p.statistic.startswith("pooled:"):
        return [("", p)]
    return [(v, p.model_copy(update={"statistic": within(p.statistic, v), "words": _in(p.words, v)})) for v, _ in parts]


def within(statistic: str, stratum: str) -> str:
    """What a statistic is called in a stratum."""
    return f"{statistic} [{stratum}]"


def _in(words: str, stratum: str) -> str:
    return f"{words} [{stratum}]" if words else ""


def reason(parts: Sequence[tuple[str, Any]]) -> str:
    """Why the model is not eligible in some strata, each named; empty where it is in all."""
    return "; ".join(f"in {name}: {able.reason}" for name, able in parts if able.reason)
