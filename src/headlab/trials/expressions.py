"""What a claim may predict, as text: sums of named measurements, read once and refused where they mean nothing.

    [rank:] [mean: | least: | most: | share:] TERM [ + TERM | - TERM …] [ / TERM [ + TERM …]]

A TERM is ``word:WORLD[/cell][@readout]``.  Plus, minus and the one division stand between spaces, so that names may
hold ``-`` in cells; ``rank:`` and the word for a family stand in front of the whole expression and mean all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from headlab.reading import expected_one_of

WORDS: dict[str, str] = {
    "value": "the mean readout in a world, in the readout's unit",
    "drop": "how much worse the readout is than without the edit, in its unit, positive when worse",
    "lost": "the share of the clean run's lead over the corrupted one that the edit takes away (edit: clean)",
    "recovery": "the share of the clean run's lead over the corrupted one that the edit gives back (edit: corrupted)",
    "repair": "the share of pairs, right from the clean prompt and wrong from the corrupted one, that the edit makes right",
    "slope": "the least-squares slope of each pair's readout on the dose, averaged over pairs",
    "dose50": "the first dose, interpolated, at which half of the pairs are right",
    "location": "the dose at which half of the pairs are right, by a logistic curve fitted to all doses",
    "width": "how much dose that curve takes from a tenth to nine tenths of the pairs",
    "steepness": "each pair's slope where its margin crosses zero, relative to a margin that moves in proportion to the dose",
    "spearman": "rank correlation over heads of a score (selection prompts) with an effect (test prompts)",
}
FAMILY: dict[str, str] = {
    "mean": "the mean over the family's members",
    "least": "the member with the smallest value",
    "most": "the member with the largest value",
    "share": "the share of members that satisfy `where`",
}
RATIOS = frozenset({"lost", "recovery"})
RATES = frozenset({"repair"})
CURVES = frozenset({"location", "width", "steepness"})
"""Words that are fitted to all doses at once: alone, without a rank."""
DOSED = frozenset({"slope", "dose50"}) | CURVES
NAME = r"[a-z][a-z0-9_]*"
_TERM = re.compile(
    rf"(?P<word>[a-z0-9]+):(?P<world>{NAME})(?P<cell>(?:/[A-Za-z0-9_.\-]+)*)(?::(?P<score>{NAME}))?(?:@(?P<readout>{NAME}))?"
)


class ExpressionError(ValueError):
    """A statistic that cannot be read: what was given, what was expected."""


@dataclass(frozen=True)
class Term:
    """One measurement: ``sign`` · ``word`` of ``world`` (in ``cell``, or in every cell) read by ``readout``."""

    word: str
    world: str
    cell: tuple[str, ...] = ()
    readout: str = ""
    score: str = ""
    sign: int = 1

    def __str__(self) -> str:
        parts = [self.world, *self.cell]
        score = f":{self.score}" if self.score else ""
        return f"{self.word}:{'/'.join(parts)}{score}" + (f"@{self.readout}" if self.readout else "")


@dataclass(frozen=True)
class Expression:
    """A sum of terms, or one sum over another; ``rank``: its place among redrawn sets; ``family``: over members."""

    top: tuple[Term, ...]
    bottom: tuple[Term, ...] = ()
    family: str = ""
    rank: bool = False

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.top + self.bottom

    @property
    def single(self) -> Term | None:
        """The one term that the whole expression is, or None."""
        alone = len(self.top) == 1 and not self.bottom and self.top[0].sign == 1
        return self.top[0] if alone else None

    def mapped(self, change: object) -> Expression:
        """The same expression with each term replaced by ``change(term)``."""
        assert callable(change)
        return replace(self, top=tuple(map(change, self.top)), bottom=tuple(map(change, self.bottom)))

    def __str__(self) -> str:
        head = ("rank:" if self.rank else "") + (f"{self.family}:" if self.family else "")
        return head + _sum(self.top) + (f" / {_sum(self.bottom)}" if self.bottom else "")


def _sum(terms: tuple[Term, ...]) -> str:
    first, *rest = terms
    lead = "" if first.sign == 1 else "- "
    return lead + str(first) + "".join(f" {'+' if t.sign == 1 else '-'} {t}" for t in rest)


def parse(text: str) -> Expression:
    """The expression that ``text`` writes.  Raises ExpressionError that names the part that cannot be read."""
    rest, rank, family = text.strip(), False, ""
    if len(rest) > 400:
        raise ExpressionError(f"a statistic of {len(rest)} characters; expected at most 400")
    if rest.startswith("rank:"):
        rest, rank = rest[5:], True
    for word in FAMILY:
        if rest.startswith(f"{word}:"):
            rest, family = rest[len(word) + 1 :], word
            break
    sums = rest.split(" / ")
    if len(sums) > 2:
        raise ExpressionError(f"{text!r} divides {len(sums) - 1} times; expected at most one ' / '")
    top, *bottom = (tuple(_terms(part, text)) for part in sums)
    return Expression(top, bottom[0] if bottom else (), family, rank)


def _terms(part: str, whole: str) -> Iterator[Term]:
    pieces = re.split(r" ([+-]) ", f" + {part.strip()}" if not part.strip().startswith("- ") else f" {part.strip()}")
    for sign, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        yield _term(piece.strip(), 1 if sign == "+" else -1, whole)


def _term(piece: str, sign: int, whole: str) -> Term:
    found = _TERM.fullmatch(piece)
    if not found:
        inside = f" in {whole!r}" if piece != whole else ""
        raise ExpressionError(
            f"cannot read {piece!r}{inside}; expected word:WORLD[/cell][@readout], such as drop:ablated/mean@margin"
        )
    word = found["word"]
    if word in FAMILY or word == "rank":
        raise ExpressionError(f"{word!r} in {whole!r} stands inside; it comes first and means the whole expression")
    if word not in WORDS:
        raise ExpressionError(f"no statistic {word!r} in {whole!r}; {expected_one_of(whole, WORDS)}")
    if bool(found["score"]) != (word == "spearman"):
        raise ExpressionError(f"{piece!r}: spearman, and only spearman, names a score (spearman:WORLD:SCORE)")
    cell = tuple(c for c in found["cell"].split("/") if c)
    return Term(word, found["world"], cell, found["readout"] or "", found["score"] or "", sign)
