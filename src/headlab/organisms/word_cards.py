"""The card of a word organism, or of one that is written down: what it does, what removing heads did (plain hooks)."""

from __future__ import annotations

from .cards import Repair, _Frozen, _Made


class Removal(_Frozen):
    """One head without its own z, over ``n`` held-out prompts (predictions, for induction).

    ``mean`` and ``zero``: how far the mean gap between the right answer and its rival falls when z is its mean over other
    prompts (of the same sentence) by position, or zero, as a share of the gap (1: all of it).  ``accuracy``: right answers
    left under ``mean``.  ``attends``: mean attention from where the answer is asked.  ioi (rival: the other name): to the
    ``right`` and the ``wrong`` name, to the ``second subject``.  Induction (rival: the word after the next): to the
    ``previous`` token, to the ``same`` word one block earlier, to the word ``after`` that.  Decimals (rival: the other
    number): to ``markers`` of a prompt that has one, and to the ``fractions``.
    """

    head: str
    n: int
    mean: float
    zero: float
    accuracy: float
    attends: dict[str, float]


class Score(_Frozen):
    """``correct`` of ``n`` held-out prompts of one kind, by the likeliest next token."""

    prompts: str
    n: int
    correct: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


class SetTruth(_Frozen):
    """The planted rule: the answer follows another run iff all of ``heads``, in whatever layers, carry that run's z."""

    heads: tuple[str, ...]
    k: int


class WordCard(_Made):
    """Everything a referee needs to use or repeat the organism; ``repairs`` and ``truth`` of planted ones only."""

    accuracy: tuple[Score, ...]
    heads: tuple[Removal, ...]
    repairs: tuple[Repair, ...]
    truth: SetTruth | None
    versions: dict[str, str]
    reproduce: str
    licence: str
