"""A document over strata of its prompts, or over models, revisions and settings: every prediction must hold in each (rule 25).

``over: {stratum: LABEL}`` parts the test prompts by a label (or by ``category``); a prediction ``pooled:…`` is of all
prompts together.  A stratum in which the model is not eligible cannot decide: the whole is refuted where another refutes it,
else untestable; none is left out.
What is said ``over`` models, revisions and settings is understood here, and run in :mod:`headlab.experiments.over_models`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headlab.claims import ClaimError, Prediction
from headlab.reading import brief, meant
from headlab.trials.expressions import NAME
from headlab.trials.fields import THINKING, Fields
from headlab.trials.sources import Fault

CELLS = ("models", "revisions", "settings")
"""Axes whose cells are trials of their own; of several at once every combination is one."""
LOADED: Mapping[str, tuple[str, ...]] = {"dtype": ("float32", "bfloat16", "float16"), "device": ()}
"""What a setting may say of how the model is loaded, with the values that there are (none: any)."""
_FIELDS = "seed pairs selection_pairs task edit align layer layer_rule readout scores worlds reference decide"
SETTABLE = (*_FIELDS.split(" "), *LOADED)
"""Fields that a setting may change, whole or by path; what is claimed (heads, predictions, gates) stays as it is."""
EXAMPLE = {"models": "gpt2, distilgpt2", "revisions": "step1000, step143000"}
UPHELD = "upheld:cells"
Strata = list[tuple[str, NDArray[np.bool_]]]
LEAST = 2
"""Prompts that a stratum needs: with one there is no interval."""


def faults(doc: Fields) -> Iterator[Fault]:
    """What ``over`` says that is not understood."""
    of_models = bool(set(doc.over) & set(CELLS))
    if doc.task.get("name") == THINKING and ("stratum" in doc.over or doc.as_published is not None):
        yield (
            ("over" if doc.over else "as_published",),
            "is for language models; problems of thinking models have no such reading",
        )
    if doc.over:
        yield from _axis(doc)
    for n, p in enumerate(doc.predictions):
        place = ("predictions", n, "statistic")
        if p.statistic.startswith("upheld:") and (p.statistic != UPHELD or not of_models or p.op == "rank<"):
            yield (
                place,
                f"{p.statistic!r} with {p.op!r}: upheld:cells, the share of cells in which all else is upheld, stands with >, < "
                "or within in a document with over: {models: [...]} or {settings: {...}}",
            )
        if p.statistic.startswith("pooled:") and not doc.over:
            yield (place, f"{p.statistic!r}: pooled: stands in a document with over: {{stratum: LABEL}} or models")
        if p.statistic.startswith("pooled:rank:") and of_models:
            yield (place, f"{p.statistic!r}: a rank is among the sets of one model; pool the number that is ranked")
    if of_models and not own_predictions(doc):
        yield (("predictions",), "upheld:cells counts the cells in which the other predictions are upheld; give one")


def _axis(doc: Fields) -> Iterator[Fault]:
    """The axes, and what they hold."""
    known = ("stratum", *CELLS)
    strange = next((k for k in doc.over if k not in known), "")
    if strange or ("stratum" in doc.over and len(doc.over) > 1):
        yield (
            ("over",),
            f"given {', '.join(map(str, doc.over))}; expected {{stratum: LABEL}} (a label of the prompts, or category) alone, or "
            f"some of {{models: [NAME, …]}}, {{revisions: [step0, …]}}, {{settings: {{NAME: {{seed: 1}}, …}}}}"
            f"{meant(strange, known)}",
        )
        return
    for axis, value in doc.over.items():
        if axis == "stratum" and not isinstance(value, str):
            yield (("over",), f"stratum: given {brief(value)}; expected a label of the prompts, or category")
        elif axis == "settings":
            yield from _settings(doc, value)
        elif axis in CELLS:
            if (
                not isinstance(value, list | tuple)
                or not value
                or not all(isinstance(v, str) and v.strip() for v in value)
            ):
                yield (("over", axis), f"given {brief(value)}; expected a list of names, such as [{EXAMPLE[axis]}]")
            elif twice := [v for v in value if list(value).count(v) > 1]:
                yield (("over", axis), f"{twice[0]} is named twice; a cell counts once")


def _settings(doc: Fields, value: object) -> Iterator[Fault]:
    """Named settings, each what it changes by path."""
    place = ("over", "settings")
    if not isinstance(value, Mapping) or not value:
        yield (
            place,
            f"given {brief(value)}; expected names, each with the fields that it changes, such as "
            "{as_written: {}, other_draw: {seed: 1}}",
        )
        return
    for name, changes in value.items():
        if not re.fullmatch(NAME, str(name)):
            yield (place, f"{name!r} is no name; expected letters, digits and _, beginning with a small letter")
        elif not isinstance(changes, Mapping):
            yield ((*place, name), f"given {brief(changes)}; expected the fields that it changes, such as {{seed: 1}}")
        else:
            yield from _changes(changes, (*place, name))
    pooled = any(p.statistic.startswith("pooled:") for p in doc.predictions)
    if pooled and any(str(k).split(".")[0] == "readout" for c in value.values() if isinstance(c, Mapping) for k in c):
        yield (("predictions",), "pooled: over settings with other readouts, which have no middle; predict it in each")


def _changes(changes: Mapping[str, object], place: tuple[str, ...]) -> Iterator[Fault]:
    for path, value in changes.items():
        first = str(path).split(".")[0]
        if first not in SETTABLE:
            yield (
                (*place, path),
                f"a setting changes how a claim is tried, and {first!r} "
                f"{'is what it says' if first in Fields.model_fields else 'is no field'}; expected {', '.join(SETTABLE)}"
                f"{meant(first, SETTABLE)}",
            )
        elif first in LOADED and (
            path != first or not isinstance(value, str) or value not in (LOADED[first] or (value,))
        ):
            yield (
                (*place, path),
                f"given {brief(value)}; expected {' or '.join(LOADED[first]) or 'cpu, cuda, cuda:1 …'}",
            )


def own_predictions(doc: Fields) -> list[Prediction]:
    """What is predicted in each cell that is a trial of its own: every prediction but ``upheld:cells``, a pooled one of the cell
    alone, each once."""
    found: dict[str, Prediction] = {}
    for p in sorted(doc.predictions, key=lambda p: p.statistic.startswith("pooled:")):
        if p.statistic != UPHELD:
            one = p.model_copy(update={"statistic": p.statistic.removeprefix("pooled:")})
            found.setdefault(f"{one.statistic} {one.brief}", one)
    return list(found.values())


def strata(doc: Fields, subject: Any) -> Strata:
    """The strata by name, each with the prompts in it; none without ``over``.  Raises ClaimError for an unknown label."""
    if "stratum" not in doc.over:
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
