"""A word problem, sets of them, and the one rule that reads an answer out of text.

The rule is the published one (CODI, arXiv 2502.21074, ``test.py``): commas are removed, and the last match of
``-?\\d+\\.?\\d*`` is the answer.  Where the published code goes on with infinity, a text without a number is
*unparsed* here (None): it counts as not right, and the parse rate is reported beside every accuracy.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

from headlab.prompts import PromptError
from headlab.tasks.grading import Graded

OPERATORS = "+-*/"
_NUMBER = re.compile(r"-?\d+\.?\d*")
_OPERATOR = re.compile(r"(?<=[\d.)%])[-+*/]")


def parse_answer(text: str) -> str | None:
    """The last number of a text in canonical form, or None when it holds none: ``"so $1,234.50."`` → ``"1234.5"``.

    Canonical: no thousands commas, no leading or trailing zeros, no point at the end, no ``-0``; equal numbers are
    equal strings, exactly (the published code compares floats, which differ from this past 15 digits).
    Misleads as the published rule does: ``"1e3"`` is 3, ``".5"`` is 5, ``"16-3"`` is −3, ``"1, 2"`` with the space
    left out is 12, and U+2212 (the typographic minus) is no sign.
    """
    found = _NUMBER.findall(text.replace(",", ""))
    return _canonical(found[-1]) if found else None


def _canonical(number: str) -> str:
    if not number.isascii():  # \d also matches the digits of other scripts
        number = "".join(c if c in "-." else str(unicodedata.decimal(c)) for c in number)
    whole, _, fraction = number.removeprefix("-").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    size = f"{whole}.{fraction}" if fraction else whole
    return f"-{size}" if number.startswith("-") and size != "0" else size


def chain_hash(steps: Iterable[str]) -> str:
    """MD5 of a chain of steps: what two problems share when they ask for the same calculation."""
    return hashlib.md5(" ".join(steps).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Problem:
    """A question in words, the steps of its solution (``"16-3-4=9"``) and its answer in canonical form.

    ``steps`` come from the annotations ``<<…>>`` of the solution; a problem may have none.
    """

    id: str
    question: str
    steps: tuple[str, ...]
    answer: str

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise PromptError(f"problem {self.id}: the question is empty")
        if parse_answer(self.answer) != self.answer:
            raise PromptError(
                f"problem {self.id}: the answer is {self.answer!r}; expected a canonical number such as '18', '-2.5' or "
                f"{parse_answer(self.answer)!r} (parse_answer gives it)"
            )
        for step in self.steps:
            if step.count("=") != 1 or step[0] == "=" or step[-1] == "=":
                raise PromptError(f"problem {self.id}: step {step!r} is not of the form 'calculation=result'")

    @property
    def n_steps(self) -> int:
        """The number of annotated steps."""
        return len(self.steps)

    @property
    def results(self) -> tuple[str, ...]:
        """What each step comes to, as written."""
        return tuple(step.rpartition("=")[2] for step in self.steps)

    @property
    def kind(self) -> str:
        """The operation profile: the distinct operators of the steps in the order ``+-*/`` ("" without steps)."""
        used = {sign for step in self.steps for sign in _OPERATOR.findall(step.partition("=")[0])}
        return "".join(sign for sign in OPERATORS if sign in used)

    @property
    def cluster(self) -> str:
        """Problems with one chain of steps are one cluster (a problem without steps is its own)."""
        return chain_hash(self.steps or (self.question,))[:16]

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {"id": self.id, "question": self.question, "steps": list(self.steps), "answer": self.answer}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Problem:
        return cls(data["id"], data["question"], tuple(data["steps"]), data["answer"])


def cot(problem: Problem, drop_last: bool = True) -> str:
    """The chain of thought as text: ``"<<2*3=6>> <<6+4=10>>"``.

    ``drop_last`` leaves out the last step, as the published training does (``include_last_cot False``): with it,
    the token before the answer would only have to copy.
    """
    return " ".join(f"<<{step}>>" for step in (problem.steps[:-1] if drop_last else problem.steps))


def answer_text(answer: str) -> str:
    """The answer as the published models write it: ``"The answer is: 18"``."""
    return f"The answer is: {answer}"


def grade_problem(text: str, problem: Problem) -> Graded:
    """What ``parse_answer`` reads in a text (None: unparsed), and whether it is the problem's answer."""
    found = parse_answer(text)
    return Graded(found, found == problem.answer)


@dataclass(frozen=True)
class ProblemSet:
    """Problems in a fixed order, with unique ids."""

    problems: tuple[Problem, ...]
    name: str = "word-problems"

    def __post_init__(self) -> None:
        doubled = [name for name, times in Counter(p.id for p in self.problems).items() if times > 1]
        if doubled:
            raise PromptError(f"{self.name}: two problems have the id {doubled[0]!r}; ids must be unique")

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    @overload
    def __getitem__(self, i: int) -> Problem: ...
    @overload
    def __getitem__(self, i: slice) -> ProblemSet: ...
    def __getitem__(self, i: int | slice) -> Problem | ProblemSet:
        return self.subset(self.problems[i]) if isinstance(i, slice) else self.problems[i]

    def subset(self, problems: Iterable[Problem]) -> ProblemSet:
        return replace(self, problems=tuple(problems))

    def sample(self, n: int, seed: int) -> ProblemSet:
        """``n`` problems drawn without replacement, in their old order (all of them when there are fewer)."""
        if n >= len(self.problems):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.problems)), n))
        return self.subset(self.problems[i] for i in chosen)

    def split(self, share: float, seed: int) -> tuple[ProblemSet, ProblemSet]:
        """Two disjoint sets that share no chain; the first holds about ``share`` of the chains."""
        clusters = [p.cluster for p in self.problems]
        order = sorted(set(clusters))
        random.Random(seed).shuffle(order)
        first = set(order[: round(share * len(order))])
        inside = [p for p, c in zip(self.problems, clusters, strict=True) if c in first]
        outside = [p for p, c in zip(self.problems, clusters, strict=True) if c not in first]
        return self.subset(inside), self.subset(outside)

    def majority(self) -> tuple[str, float]:
        """The commonest answer and its share: what a model reaches that always says the same."""
        if not self.problems:
            raise PromptError(f"{self.name} is empty, so no answer is the commonest")
        answer, times = Counter(p.answer for p in self.problems).most_common(1)[0]
        return answer, times / len(self.problems)

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "problems": [p.plain() for p in self.problems]}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> ProblemSet:
        return cls(tuple(Problem.from_plain(p) for p in data["problems"]), data["name"])

    def content_hash(self) -> str:
        """SHA-256 of the name and of every id, question, step and answer."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()
