"""What is read of a run: numbers for each prompt, by name.  Plain data; the engine computes them.

``margin``           logsumexp of the right answers' logits minus the largest wrong one, after their shared start
``logprob``          log probability of the right answers together, in nats
``probability``      the same as a probability
``probability-gap``  that minus the probability of the wrong answers
``place``            the vocabulary rank of the best right answer (1: the likeliest token)
``accuracy``         1 where the margin is above zero
``loss``             nats per scored token of the text itself
``kl``               KL(unedited ‖ edited) of the next-token distribution, in nats per scored token
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["margin", "logprob", "probability", "probability-gap", "place", "accuracy", "loss", "kl"]
KINDS: tuple[str, ...] = get_args(Kind)
NARROW = frozenset({"margin", "accuracy"})
"""Kinds that read only the logits of the answers: the rest of the vocabulary need not be computed."""
PER_TOKEN = frozenset({"loss", "kl"})
"""Kinds that are a mean over the scored tokens of a prompt."""
WRONG = frozenset({"margin", "accuracy", "probability-gap"})
"""Kinds that need a wrong answer to compare with."""


@dataclass(frozen=True)
class Readout:
    """One number for each prompt; ``name`` is its column (the kind's own, unless two of a kind stand side by side).

    ``first`` and ``last``: of a mean over tokens, only those from token ``first`` up to but not token ``last`` (0: to the
    end), counted from the window's own first token, which is 0.
    """

    kind: str = "margin"
    name: str = ""
    first: int = 0
    last: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no readout {self.kind!r}; expected one of {', '.join(KINDS)}")
        if (self.first or self.last) and self.kind not in PER_TOKEN:
            raise ValueError(
                f"the readout {self.kind!r} is no mean over tokens; only {' and '.join(sorted(PER_TOKEN))} are"
            )
        if self.first < 0 or (self.last and self.last <= self.first):
            raise ValueError(f"tokens {self.first} to {self.last}; expected a range that holds some")
        if not self.name:
            object.__setattr__(self, "name", self.kind)

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data; a range of tokens is left out where it is all of them."""
        ranged = {"first": self.first, "last": self.last} if self.first or self.last else {}
        return {"kind": self.kind, "name": self.name, **ranged}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Readout:
        return cls(str(data["kind"]), str(data.get("name", "")), int(data.get("first", 0)), int(data.get("last", 0)))

    def scores(self, length: int, scored: int) -> int:
        """How many tokens of a window of ``length``, scored from token ``scored`` on, this is a mean over."""
        return max(0, min(length, self.last or length) - max(scored, self.first))


MARGIN = Readout()


def needs(kind: str) -> tuple[str, ...]:
    """What a task must give for a readout: ``answer``, ``wrong``."""
    if kind in PER_TOKEN:
        return ()
    return ("answer", "wrong") if kind in WRONG else ("answer",)
