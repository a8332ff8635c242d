"""Docstrings (Heimersheim and Janiak 2023): after the lines of two arguments of a function, that of its next one follows.

    def port(self, oil, load, size, files, last, unit):
        '''column piece

        :param size: crime
        :param files: dark
        :param

goes on with ``last``.  Roles: ``a_def``, ``b_def``, ``c_def``, the arguments in the definition (``c_def`` is the answer);
``a_doc``, ``b_doc`` in the docstring; ``x``, ``y``, ``z``, the arguments that it does not treat.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from headlab.prompts import Pair, PromptSet
from headlab.tasks.building import choice, enough, fill, keep, one_token
from headlab.tasks.words import COMMON

CORRUPTIONS = {"random-answer": ("c_def",), "random-def": ("a_def", "b_def"), "random-doc": ("a_doc", "b_doc")}
"""Which words give way to others in the corrupted prompt."""
TEMPLATE = (
    "\ndef{name}(self,{x},{y},{a_def},{b_def},{c_def},{z}):\n"
    '    """{one}{two}\n\n    :param{a_doc}:{three}\n    :param{b_doc}:{four}\n    :param'
)


def docstring(n: int, *, seed: int, tokenizer: Any, corruption: str = "random-answer") -> PromptSet:
    """At most ``n`` pairs, each of other words; the wrong answers are the five other arguments.

    ``corruption``: other words stand for the answer in the definition ("random-answer"), for the two arguments before
    it there ("random-def"), or for these in the docstring ("random-doc").

    Raises PromptError for an unknown value, or a tokenizer with too few words that are one token.
    """
    choice("docstring", "corruption", corruption, CORRUPTIONS)
    words = enough(one_token(COMMON, tokenizer), 40, "words", "docstring")
    return keep(_drawn(words, corruption, random.Random(f"docstring {seed}")), n, tokenizer, task="docstring")


def _drawn(words: Sequence[str], corruption: str, rng: random.Random) -> Iterator[Pair]:
    slots = ("name", "x", "y", "z", "a_def", "b_def", "c_def", "one", "two", "three", "four")
    while True:
        drawn = [f" {w}" for w in rng.sample(words, len(slots) + 2)]
        said = dict(zip(slots, drawn, strict=False))
        said |= {"a_doc": said["a_def"], "b_doc": said["b_def"]}
        other = dict(zip(CORRUPTIONS[corruption], drawn[-2:], strict=False))
        arguments = [said[x].strip() for x in ("a_def", "b_def", "x", "y", "z")]
        name = "|".join(x.strip() for x in (said["a_def"], said["b_def"], said["c_def"]))
        yield Pair(
            id=name,
            clean=fill(TEMPLATE, said),
            corrupted=fill(TEMPLATE, said | other),
            answer=said["c_def"].strip(),
            wrong=arguments[0],
            cluster=name,
            category=corruption,
            labels=(("corruption", corruption),),
            more_wrongs=tuple(arguments[1:]),
        )
