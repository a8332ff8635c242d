"""What a document says of where its prompts and the values of its writes come from, against itself.

Tasks with their options; populations, directions, other worlds.  Pure and without a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from headlab.installed import InstalledError
from headlab.reading import brief, expected_one_of, meant
from headlab.trials.fields import Fields, Write, WriteAxes

Place = tuple[Any, ...]
Fault = tuple[Place, str]


def undeclared(what: str, name: str, declared: Iterable[str]) -> str:
    """A name in a document that it declares nowhere, and those that it does."""
    names = list(declared)
    return f"no {what} {name!r}; declared are {', '.join(names)}{meant(name, names)}"


def partnerless(doc: Fields) -> bool:
    """Whether the task is known to have no corrupted prompt: a corpus, or a generator that gives single prompts."""
    from headlab.tasks import TASKS

    if "corpus" in doc.task or doc.thinking:
        return True
    task = TASKS.get(str(doc.task.get("name")))
    return task is not None and not task.partner


def task(doc: Fields) -> Iterator[Fault]:
    """Where the prompts come from (problems of thinking models: :mod:`headlab.trials.thought_worlds`)."""
    if doc.thinking:
        return
    kinds = [k for k in ("name", "file", "corpus") if k in doc.task]
    if len(kinds) != 1:
        yield (("task",), f"expected one of name, file, corpus; given {', '.join(kinds) or 'none'}")
        return
    kind = kinds[0]
    if kind == "name" or not isinstance(doc.task[kind], str):
        yield from _named(doc.task, kind, ("task",))
        return
    texts = {"split": "text", "selection": "text"}
    allowed = texts if kind == "file" else {"length": 128, "context": 0, "documents": 0, "whole": False}
    yield from _options(doc.task, kind, allowed, ("task",))


def _named(given: Mapping[str, Any], kind: str, place: Place) -> Iterator[Fault]:
    """A task by name, with its options."""
    from headlab.tasks import TASKS

    name = given.get(kind)
    if not isinstance(name, str):
        yield ((*place, kind), f"expected text, given {brief(name)}")
    elif name not in TASKS:
        known = ", ".join(sorted(TASKS))
        yield ((*place, kind), f"no task {name!r}; expected one of {known} (or {{file: pairs.csv}})")
    else:
        try:
            yield from _options(given, kind, TASKS[name].options, place)
        except InstalledError as error:
            yield ((*place, kind), str(error))


def _options(given: Mapping[str, Any], kind: str, allowed: Mapping[str, Any], place: Place) -> Iterator[Fault]:
    for key, value in given.items():
        if key == kind:
            continue
        if key not in allowed:
            yield ((*place, key), f"no option {key!r}; {expected_one_of(key, allowed)}")
        elif type(allowed[key]) is not type(value) and not (isinstance(value, int | str) and allowed[key] is None):
            yield ((*place, key), f"given {brief(value)}, expected something like {allowed[key]!r}")


def _donors(doc: Fields, place: Place, one: Write) -> Iterator[Fault]:
    """Whose activations a mean or resample writes."""
    if isinstance(one.mean.over, dict):
        yield from _named(one.mean.over, "name", place)
    if one.mean.run == "other" and one.mean.over == "selection" and partnerless(doc):
        yield (place, "mean: run: other takes the other prompt of each pair, and this task gives single prompts")


def write_of(doc: Fields, place: Place, write: WriteAxes, single: bool) -> Iterator[Fault]:
    """Every cell of a write."""
    for cell in write.cells():
        one = write.at(cell)
        if not math.isfinite(one.amount):
            yield (place, f"amount {one.amount!r}; expected a finite number")
        if single and one.write == "patch" and one.computed_in is None:
            yield (place, "patch takes from the other prompt of a pair, which this task does not have")
        if one.computed_in is not None:
            if one.computed_in not in doc.worlds:
                yield (place, "computed_in: " + undeclared("world", one.computed_in, doc.worlds))
            elif any("computed_in" in w.fixed for w in doc.world_axes()[one.computed_in]):
                yield (place, f"computed_in: {one.computed_in!r} is itself computed in a world; one step is allowed")
            if one.write != "patch" or one.site not in {"q", "k", "v", "z"}:
                yield (place, "computed_in is written by patch, at q, k, v or z")
        if (one.write == "add") != (one.direction is not None):
            yield (place, "write: add needs a direction, and only add has one")
        elif one.direction is not None and not _direction(one.direction):
            yield (
                place,
                f"direction: {brief(one.direction)}; expected other (the other run minus the edited one, at the position "
                "read), {role: NAME} (the same at a role), or {file: NAME}",
            )
        elif one.write == "add" and single and not (isinstance(one.direction, dict) and "file" in one.direction):
            yield (place, "a direction between two runs needs pairs of prompts, and this task gives single ones")
        yield from _donors(doc, place, one)
        if one.keys and one.write not in {"mask", "force", "redistribute"}:
            yield (place, "keys belong to mask, force and redistribute")


def _direction(value: Any) -> bool:
    if isinstance(value, dict):
        return len(value) == 1 and set(value) <= {"role", "file"} and all(isinstance(v, str) for v in value.values())
    return value == "other"
