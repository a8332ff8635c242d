"""Reading an answer out of generated text.

One rule for each kind of task, and the published scripts' own, kept apart.  A text from which no answer can be read
is *unparsed*, which is reported beside every accuracy and counts as not right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from headlab.prompts import Pair
from headlab.reading import brief, expected_one_of

_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
Grading = Literal["answer", "published strings"]
RULES = ("exact", "contains", "choice")


@dataclass(frozen=True)
class Graded:
    parsed: str | None
    right: bool


def first_number(text: str) -> str | None:
    """The first number as written, without thousands commas, or None: ``" 9.8 is"`` → ``"9.8"``."""
    match = _NUMBER.search(text)
    return match[0].replace(",", "") if match else None


def by_number(text: str, pair: Pair) -> Graded:
    """Right when the first number in the text equals the answer as a decimal number."""
    found = first_number(text)
    return Graded(found, found is not None and Decimal(found) == Decimal(pair.answer.strip()))


def by_prefix(text: str, pair: Pair) -> Graded:
    """Right when the text begins with the answer, and with the wrong answer only if that is its prefix."""
    given, answer, wrong = text.strip(), pair.answer.strip(), pair.wrong.strip()
    right = given.startswith(answer) and not (len(wrong) > len(answer) and given.startswith(wrong))
    known = right or given.startswith(wrong)
    return Graded(given if known else None, right)


def by_published_strings(text: str, pair: Pair) -> Graded:
    """The published rule (arXiv 2508.19414, the later scripts): the right number is named ("9.8 is bigger", or bare
    "9.8") and none of "9.11 is bigger / larger / greater" is.  Any mention of the right number counts."""
    good, bad = pair.answer.strip(), pair.wrong.strip()
    named = good in text
    denied = any(f"{bad} is {word}" in text for word in ("bigger", "larger", "greater"))
    return Graded(good if named else bad if bad in text else None, named and not denied)


@dataclass(frozen=True)
class Grader:
    """How a document reads an answer out of text; literal words, no patterns.

    ``exact``: the whole text, without space around it and a closing ``.``, is one of the answers;
    ``contains``: an answer occurs as a whole word (not inside a longer one) and no wrong answer does;
    ``choice``: of ``words`` (at least two) exactly one occurs as a whole word, and it is an answer.  The text is
    unparsed where none occurs, or several do.
    ``words``: for ``exact`` and ``contains``, what is right instead of the pair's own answers.
    """

    kind: str = "contains"
    words: tuple[str, ...] = ()
    ignore_case: bool = False

    def __post_init__(self) -> None:
        if self.kind not in RULES:
            raise ValueError(f"unknown grader {self.kind!r}; {expected_one_of(self.kind, RULES)}")
        if not all(isinstance(w, str) and w.strip() for w in self.words):
            raise ValueError(f"the words of a grader are texts that are not empty, given {list(self.words)}")
        if self.kind == "choice" and len({self._plain(w) for w in self.words}) < max(2, len(self.words)):
            raise ValueError(f"the grader 'choice' takes two or more different words, given {list(self.words)}")

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text

    def grade(self, text: str, pair: Pair) -> Graded:
        """What was said, and whether it is right."""
        given = self._plain(text)
        answers = self.words if self.words and self.kind != "choice" else _several(pair, "answer")
        right = [self._plain(a) for a in answers]
        if self.kind == "exact":
            said = given.removesuffix(".").rstrip()
            return Graded(said or None, said in {r.removesuffix(".").rstrip() for r in right})
        options = self.words if self.kind == "choice" else (*answers, *_several(pair, "wrong"))
        found = [o for o in dict.fromkeys(map(self._plain, options)) if _occurs(o, given)]
        found = [o for o in found if not any(o != f and _occurs(o, f) and not _alone(o, f, given) for f in found)]
        if self.kind == "choice":
            return Graded(found[0] if len(found) == 1 else None, len(found) == 1 and found[0] in right)
        return Graded(found[0] if found else None, bool(found) and all(f in right for f in found))

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {**asdict(self), "words": list(self.words)}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Grader:
        """Raises ValueError for an unknown key or kind, and for values of another type."""
        if unknown := sorted(map(str, set(data) - {"kind", "words", "ignore_case"})):
            raise ValueError(f"a grader has no {', '.join(unknown)}; it has kind, words, ignore_case")
        kind, words, folded = (data.get(k, v) for k, v in (("kind", "contains"), ("words", ()), ("ignore_case", False)))
        if not isinstance(kind, str) or not isinstance(words, list | tuple) or not isinstance(folded, bool):
            raise ValueError(
                "a grader takes kind: exact | contains | choice, words: [a list of texts], ignore_case: true | false; "
                f"given {brief(dict(data))}"
            )
        if not all(isinstance(w, str) for w in words):
            raise ValueError(f"the words of a grader are texts that are not empty, given {list(words)}")
        return cls(kind, tuple(words), folded)


def _several(pair: Pair, which: str) -> tuple[str, ...]:
    """All answers of a pair that are accepted (``answer``) or wrong."""
    some = getattr(pair, f"{which}s", None) or (getattr(pair, which),)
    return tuple(a for a in some if a and a.strip())


def _occurs(word: str, text: str) -> bool:
    """Whether ``word`` stands in ``text`` and not inside a longer word."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _alone(word: str, longer: str, text: str) -> bool:
    """Whether ``word`` stands in ``text`` outside every ``longer``, of which it is a part."""
    return _occurs(word, re.sub(rf"(?<!\w){re.escape(longer)}(?!\w)", "\0", text))


def grade(text: str, pair: Pair, grader: str | Grader, rule: Grading = "answer") -> Graded:
    """Grade one text.  ``grader`` is the prompt set's (``number`` or ``prefix``), or a document's own."""
    if isinstance(grader, Grader):
        return grader.grade(text, pair)
    if rule == "published strings":
        return by_published_strings(text, pair)
    return by_number(text, pair) if grader == "number" else by_prefix(text, pair)
