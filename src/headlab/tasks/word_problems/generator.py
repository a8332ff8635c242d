"""Generated word problems: two to four steps of arithmetic about one person's things, in a closed vocabulary.

1. Someone has things ("Tom has 7 apples ."), or boxes of things, which is a first step ("Tom has 3 boxes of 4 apples .").
2. Each further sentence adds or takes 2 to 6, multiplies by 2 or 3, or divides by 2 or 3 where that is exact.
   No value leaves 1 … ``values``.
3. The question asks how many there are at the end.

A chain of steps is in the test split when its MD5 is divisible by ten, so no chain is ever in both splits, whatever
the seed.  (Things are always in the plural, also after 1: a second form would only widen the vocabulary.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from headlab.prompts import PromptError
from headlab.tasks.word_problems.problems import Problem, ProblemSet, chain_hash

NAMES = ("Tom", "Anna", "Omar", "Lucy", "Ben", "Mia", "Ivan", "Rosa", "Paul", "Nina", "Hugo", "Emma")
ITEMS = ("apples", "pens", "coins", "books", "shells", "cards", "eggs", "stamps", "nuts", "stones", "cakes", "rings")
START = "{name} has {a} {items} ."
BOXES = "{name} has {a} boxes of {b} {items} ."
SENTENCES: dict[str, tuple[str, ...]] = {
    "+": ("{name} buys {k} more .", "{name} finds {k} more .", "{name} picks {k} more .", "A friend brings {k} more ."),
    "-": ("{name} loses {k} .", "{name} sells {k} .", "{name} gives away {k} .", "A friend takes {k} ."),
    "*": ("There are {k} times as many .", "A machine multiplies them by {k} ."),
    "/": ("One of {k} equal parts remains .", "{name} keeps one part of {k} ."),
}
LATER = "Then "
ENDS = ("How many {items} does {name} have now ?", "How many {items} are there now ?", "How many {items} now ?")
OPERANDS = {"+": range(2, 7), "-": range(2, 7), "*": range(2, 4), "/": range(2, 4)}
BOX_COUNTS = range(2, 5)
BOXED = 0.4
SPLITS = ("train", "test")
MIN_VALUES, MAX_STEPS = 6, 12
_TRIES = 300


@cache
def _moves(values: int) -> tuple[tuple[tuple[str, tuple[tuple[int, int], ...]], ...], ...]:
    """For each value: the operations possible there, each with its (operand, result)."""

    def results(v: int, sign: str) -> tuple[tuple[int, int], ...]:
        made = []
        for k in OPERANDS[sign]:
            exact = sign != "/" or v % k == 0
            r = {"+": v + k, "-": v - k, "*": v * k, "/": v // k}[sign]
            if exact and 1 <= r <= values:
                made.append((k, r))
        return tuple(made)

    return tuple(tuple((s, found) for s in OPERANDS if (found := results(v, s))) for v in range(values + 1))


def in_test(steps: Sequence[str]) -> bool:
    """Whether a chain belongs to the test split: its MD5 is divisible by ten."""
    return int(chain_hash(steps), 16) % 10 == 0


def word_problems(
    n: int, *, split: str = "train", steps: Sequence[int] = (2, 3, 4), values: int = 20, seed: int = 0
) -> ProblemSet:
    """``n`` problems with distinct questions, the same for the same arguments.

    ``split``: ``train`` or ``test``; they share no chain of steps, whatever their seeds.  ``steps``: the numbers of
    steps, each for an equal share of the problems, in random order.  ``values``: no number of a problem or of its
    steps is above it.  Within a split, problems with one chain are one ``cluster``.

    Raises PromptError for a split, a number of steps or a range that does not exist, and when the range is too
    small for ``n`` different questions.
    """
    if split not in SPLITS:
        raise PromptError(f"unknown split {split!r}; expected 'train' or 'test'")
    if n < 1:
        raise PromptError(f"{n} problems asked for; expected at least 1")
    if not steps or not all(1 <= k <= MAX_STEPS for k in steps) or len(set(steps)) != len(steps):
        raise PromptError(f"steps is {tuple(steps)}; expected different numbers from 1 to {MAX_STEPS}")
    if values < MIN_VALUES:
        raise PromptError(f"values is {values}; expected at least {MIN_VALUES}, so that every operation can occur")
    rng = random.Random(f"word problems {split} {tuple(steps)} {values} {seed}")
    lengths = [steps[i % len(steps)] for i in range(n)]
    rng.shuffle(lengths)
    asked: set[str] = set()
    made = []
    for i, length in enumerate(lengths):
        for _ in range(_TRIES):
            chain = _chain(length, values, rng)
            if in_test(chain.steps) == (split == "test") and (question := chain.words(rng)) not in asked:
                break
        else:
            raise PromptError(
                f"after {i} of {n} problems no new {split} question of {length} steps with values to {values} turned up "
                f"in {_TRIES} tries; ask for fewer problems or a wider range"
            )
        asked.add(question)
        made.append(Problem(f"{split}-{seed}-{i}", question, chain.steps, str(chain.answer)))
    return ProblemSet(tuple(made), f"word-problems {split}")


class _Chain:
    """A start (one number, or boxes and their content), then operations with their operands."""

    def __init__(self, start: tuple[int, ...]) -> None:
        self.start = start
        self.operations: list[tuple[str, int]] = []
        self.answer = start[0]
        written: list[str] = []
        if len(start) == 2:
            self.answer = start[0] * start[1]
            written.append(f"{start[0]}*{start[1]}={self.answer}")
        self._written = written

    def then(self, sign: str, k: int, result: int) -> None:
        self.operations.append((sign, k))
        self._written.append(f"{self.answer}{sign}{k}={result}")
        self.answer = result

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(self._written)

    def words(self, rng: random.Random) -> str:
        name, items = rng.choice(NAMES), rng.choice(ITEMS)
        if len(self.start) == 2:
            text = [BOXES.format(name=name, a=self.start[0], b=self.start[1], items=items)]
        else:
            text = [START.format(name=name, a=self.start[0], items=items)]
        for i, (sign, k) in enumerate(self.operations):
            sentence = rng.choice(SENTENCES[sign])
            later = LATER if i and sentence.startswith("{name}") and rng.random() < 0.3 else ""
            text.append(later + sentence.format(name=name, k=k))
        text.append(rng.choice(ENDS).format(name=name, items=items))
        return " ".join(text)


@cache
def _boxes(values: int) -> tuple[tuple[int, int], ...]:
    return tuple((a, b) for a in BOX_COUNTS for b in range(2, values // a + 1))


def _chain(length: int, values: int, rng: random.Random) -> _Chain:
    """A random chain of ``length`` steps: at each, an operation that is possible, then one of its operands."""
    moves = _moves(values)
    boxed = rng.random() < BOXED
    chain = _Chain(rng.choice(_boxes(values)) if boxed else (rng.randint(1, values),))
    for _ in range(length - boxed):
        sign, found = rng.choice(moves[chain.answer])
        chain.then(sign, *rng.choice(found))
    return chain
