"""Reading GSM8K (arXiv 2110.14168) and its augmented form (arXiv 2405.14838; the training data of CODI).

The steps of a problem are the annotations ``<<16-3-4=9>>`` of its solution; the answer is what follows ``####``.
Double spaces in questions are collapsed once, as the published inference does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from headlab.prompts import PromptError
from headlab.reading import brief, read_document
from headlab.tasks.word_problems.problems import Problem, ProblemSet, parse_answer

_STEP = re.compile(r"<<([^<>]*)>>")
_GOLD = re.compile(r"\s*-?\d[\d,]*(?:\.\d+)?\s*")


def read_gsm8k(path: str | Path) -> ProblemSet:
    """Problems of a JSON-lines file with ``question`` and ``answer`` (steps in ``<<…>>``, the result after ``####``).

    Ids are the file's stem and the line number.  Raises PromptError with the line number and the reason.
    """

    def problem(line: str, name: str) -> Problem:
        row = read_document(line, "json", name="the line", error=PromptError)[0]
        if not isinstance(row, dict):
            raise PromptError(f"expected an object with 'question' and 'answer', given {type(row).__name__}")
        for key in ("question", "answer"):
            if not isinstance(row.get(key), str):
                raise PromptError(f"{key!r} is {brief(row.get(key))}; expected text")
        return _problem(name, row["question"], row["answer"])

    return _read(Path(path), problem)


def read_gsm8k_aug(path: str | Path) -> ProblemSet:
    """Problems of a text file with ``question||<<16-3-4=9>> <<9*2=18>> #### 18`` on each line.

    Ids are the file's stem and the line number.  Raises PromptError with the line number and the reason.
    """

    def problem(line: str, name: str) -> Problem:
        parts = line.split("||")
        if len(parts) != 2:
            raise PromptError(f"holds '||' {len(parts) - 1} times; expected once: 'question||<<a+b=c>> #### c'")
        return _problem(name, *parts)

    return _read(Path(path), problem)


def _problem(name: str, question: str, solution: str) -> Problem:
    thoughts, mark, gold = solution.rpartition("####")
    if not mark:
        raise PromptError("the solution has no '####'; expected the answer after it")
    if not _GOLD.fullmatch(gold):
        raise PromptError(f"the answer after '####' is {brief(gold.strip())}; expected one number")
    steps = tuple(re.sub(r"\s+", "", s) for s in _STEP.findall(thoughts))
    if not thoughts.count("<<") == thoughts.count(">>") == len(steps):
        raise PromptError("a step is not closed; expected every '<<' to have its '>>'")
    answer = parse_answer(gold)
    assert answer is not None  # _GOLD holds a digit
    return Problem(name, question.strip().replace("  ", " "), steps, answer)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers (only a newline parts lines: questions may hold U+2028)."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise PromptError(f"{path.name}, line {number}: not UTF-8 ({error.reason})") from error
            if line.strip():
                yield number, line


def _read(path: Path, problem: Callable[[str, str], Problem]) -> ProblemSet:
    if not path.is_file():
        raise PromptError(f"no such problem file: {path}; expected GSM8K (.jsonl) or GSM8K-Aug (.txt)")
    made = []
    first: dict[str, int] = {}
    for number, line in _lines(path):
        try:
            made.append(problem(line, f"{path.stem}-{number}"))
            if (other := first.setdefault(made[-1].question, number)) != number:
                raise PromptError(f"it asks what line {other} asks; give each problem once")
        except PromptError as error:
            raise PromptError(f"{path.name}, line {number}: {error}") from error
    if not made:
        raise PromptError(f"{path.name} holds no problems; expected at least one line")
    return ProblemSet(tuple(made), path.stem)
