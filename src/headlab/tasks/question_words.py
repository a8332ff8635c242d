"""Classes of the words of a word problem: numbers, operations, entities, other; by rule, documented and tested.

1. A **number** holds a digit or is a number word (one … twelve, twenty, hundred, half, twice, dozen).
2. An **operation** is a word of :data:`OPERATIONS`: what the generator's sentences say for each operator, and the common
   verbs and quantifiers of GSM8K.  Its operator stands beside it.
3. An **entity** is a capitalised word that is not the first of its sentence, or a known name or thing of the generator, or
   a word of four and more letters that recurs in the question and is none of the above (the thing that is counted).
4. Everything else, punctuation too, is **other**.
"""

from __future__ import annotations

import re
from typing import Any

from headlab.tasks.word_problems.generator import ITEMS, NAMES

CLASSES = ("numbers", "operations", "entities", "other")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NUMBER_WORDS = frozenset(
    _words(
        "one two three four five six seven eight nine ten eleven twelve "
        "twenty thirty fifty hundred thousand half twice dozen"
    )
)
OPERATIONS: dict[str, tuple[str, ...]] = {
    "+": _words("buys finds picks brings more adds gets earns receives gains total altogether"),
    "-": _words("loses sells gives away takes left less fewer spends eats uses remaining remain"),
    "*": _words("boxes times multiplies each every per double doubles triple"),
    "/": _words("equal parts part remains splits shares divides divided quarter third equally"),
}
_SIGN = {word: sign for sign, words in OPERATIONS.items() for word in words}
_KNOWN = frozenset(w.lower() for w in (*NAMES, *ITEMS))
_WORD = re.compile(r"\d[\d,.]*\d|\d|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\w\s]")


def words_of(question: str) -> list[tuple[int, int, str, str]]:
    """Words of a question in order: (start, end, class, operator or "")."""
    found = [(m.start(), m.end(), m.group()) for m in _WORD.finditer(question)]
    plain = [w.lower() for _, _, w in found]
    out, begins = [], True
    for (start, end, word), low in zip(found, plain, strict=True):
        sign = _SIGN.get(low, "")
        if any(c.isdigit() for c in word) or low in NUMBER_WORDS:
            kind = "numbers"
        elif sign:
            kind = "operations"
        elif (
            low in _KNOWN
            or (word[0].isupper() and not begins)
            or (word.isalpha() and len(word) > 3 and plain.count(low) > 1)
        ):
            kind = "entities"
        else:
            kind = "other"
        out.append((start, end, kind, sign if kind == "operations" else ""))
        begins = word in ".?!"
    return out


def token_classes(tokenizer: Any, question: str) -> tuple[list[str], list[str]]:
    """Class and operator of each token: those of the word in which it stands (the first of several; other where none).

    Raises ValueError for a tokenizer that does not say where its tokens stand.
    """
    text = question.strip().replace("  ", " ")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("attribution by word needs a fast tokenizer, which says where its tokens stand in the text")
    places = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    words, kinds, signs = words_of(text), [], []
    for start, end in places:
        inside = next(((k, s) for a, b, k, s in words if a < end and start < b), ("other", ""))
        kinds.append(inside[0])
        signs.append(inside[1])
    return kinds, signs
