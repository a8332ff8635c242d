"""Which step of training a checkpoint's name says, and the order of a list of names.

Names in use: ``step1000`` and ``step-50K-105b`` (a thousand, tokens), ``stage1-step101000-tokens424B``, ``checkpoint-500``,
``checkpoint-1000-v2``, ``global_step143000``, ``iter_0001000``, ``ckpt-30k``, ``model-7b-2000``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from headlab.reading import brief, some

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_NUMBER = r"(\d+(?:\.\d+)?)([kmb]?)(?![a-z0-9])"
_AFTER_WORD = [
    re.compile(rf"(?<![a-z]){words}[-_= ]?{_NUMBER}", re.IGNORECASE)
    for words in (r"(?:global[-_]?)?steps?", r"iter(?:ation)?s?", r"(?:checkpoint|ckpt|chkpt)", r"(?:epoch|update)s?")
]
"""The number after one of these words is the step; the first word that has one counts."""
_BARE = re.compile(rf"(?<![\d.]){_NUMBER}", re.IGNORECASE)
_STAGE = re.compile(r"(?<![a-z])(stage|phase|ingredient|part|run|seed|soup)[-_= ]?(\d+)", re.IGNORECASE)


class SeriesError(ValueError):
    """A list of checkpoints that makes no series: what was given, what was expected."""


def steps_of(names: Sequence[str]) -> list[int]:
    """The step that each name says, in the order given.

    The number after ``step``, ``global_step``, ``iter``, ``checkpoint`` or ``ckpt``, with k, M or B for thousands, millions,
    billions.  Without such a word: the only number of a name, or the one that differs between the names.

    Raises SeriesError: no number, several that could be meant, names of several stages, whose steps begin anew.
    """
    stages = {tuple((w.lower(), int(n)) for w, n in _STAGE.findall(name)) for name in names}
    if len(stages) > 1:
        said = sorted(" ".join(f"{w}{n}" for w, n in stage) or "none" for stage in stages)
        raise SeriesError(f"the names are of several stages ({some(said)}), whose steps begin anew; give those of one")
    worded = [_after_word(name) for name in names]
    if all(step is not None for step in worded):
        return [s for s in worded if s is not None]
    if any(step is not None for step in worded):
        without = next(name for name, step in zip(names, worded, strict=True) if step is None)
        raise SeriesError(
            f"{brief(without)} does not say its step as the others do; name all as step1000 or checkpoint-500"
        )
    bare = [[_value(*m) for m in _BARE.findall(name)] for name in names]
    for name, numbers in zip(names, bare, strict=True):
        if not numbers:
            raise SeriesError(
                f"{brief(name)} names no step; expected a number in it, such as step1000 or checkpoint-500"
            )
    if len({len(numbers) for numbers in bare}) == 1:
        moving = [i for i, column in enumerate(zip(*bare, strict=True)) if len(set(column)) > 1]
        if len(bare[0]) == 1 or len(moving) == 1:
            return [numbers[moving[0] if len(bare[0]) > 1 else 0] for numbers in bare]
    raise SeriesError(
        f"which number of {brief(names[0])} is the step? name it as step1000 or checkpoint-500, or rename the folders"
    )


def _after_word(name: str) -> int | None:
    for pattern in _AFTER_WORD:
        found = {_value(*m) for m in pattern.findall(name)}
        if len(found) > 1:
            raise SeriesError(f"{brief(name)} says several steps ({some(sorted(found))}); name one")
        if found:
            return found.pop()
    return None


def _value(number: str, unit: str) -> int:
    value = float(number) * _UNITS[unit.lower()] if "." in number else int(number) * _UNITS[unit.lower()]
    if value != int(value) or value >= 2**63:
        raise SeriesError(f"{brief(number + unit)} is no step; expected a whole number")
    return int(value)


def ordered(names: Sequence[str], steps: Sequence[int]) -> str:
    """The order of a series as a record says it: each name with the step that was read."""
    pairs = sorted(zip(steps, names, strict=True))
    return some((f"{name} = {step}" for step, name in pairs), most=12)
