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
    """One number for each prompt; ``name`` is its column (the kind's own, unless two of a kind stand side by side)."""

    kind: str = "margin"
    name: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no readout {self.kind!r}; expected one of {', '.join(KINDS)}")
        if not self.name:
            object.__setattr__(self, "name", self.kind)

    def plain(self) -> dict[str, str]:
        return {"kind": self.kind, "name": self.name}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Readout:
        return cls(str(data["kind"]), str(data.get("name", "")))


MARGIN = Readout()


def needs(kind: str) -> tuple[str, ...]:
    """What a task must give for a readout: ``answer``, ``wrong``."""
    if kind in PER_TOKEN:
        return ()
    return ("answer", "wrong") if kind in WRONG else ("answer",)
