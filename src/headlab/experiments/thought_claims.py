"""What was claimed about thoughts, with the thresholds that were written down for it: plain data.

Sources: the CODI critical heads analysis and the follow-up experiments (28 October 2025).  Where a threshold was given
in per cent without saying of what, it is read twice: in percentage points of accuracy, and as a share of the accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headlab.claims import Claim, Prediction, TaskSpec

Phase = Literal["causal", "redundant", "in between", "undecided", "void", "untestable"]
CAUSAL, REDUNDANT = 0.10, 0.02
"""The decision after phase 1: above, heads are causal; below, redundant."""
N_THOUGHTS = 6


@dataclass(frozen=True)
class Asked:
    """A claim with thresholds.  ``views``: how it can be read, (name, protocol of the trial's reading, predictions)."""

    key: str
    place: str
    words: str
    published: str
    experiment: str
    views: tuple[tuple[str, str, tuple[Prediction, ...]], ...]

    def claims(self) -> list[tuple[str, str, Claim]]:
        """(view, protocol, claim to be decided); its controls are those of the trial."""
        return [
            (
                view,
                protocol,
                Claim(
                    id=f"{self.key}: {view}",
                    words=self.words,
                    source=self.place,
                    published=self.published,
                    experiment=self.experiment,
                    task=TaskSpec(name="word-problems"),
                    predictions=predictions,
                    controls=("as in its trial",),  # type: ignore[call-arg]
                ),
            )
            for view, protocol, predictions in self.views
        ]

    def plain(self) -> dict[str, list[str]]:
        return {view: [f"{p.statistic} {p.op} {p.threshold:g}" for p in asked] for view, _, asked in self.views}


def _above(statistic: str, threshold: float) -> Prediction:
    return Prediction(statistic=statistic, op=">", threshold=threshold)


def _below(statistic: str, threshold: float) -> Prediction:
    return Prediction(statistic=statistic, op="<", threshold=threshold)


def _twice(
    own: tuple[Prediction, ...], raw: tuple[Prediction, ...]
) -> tuple[tuple[str, str, tuple[Prediction, ...]], ...]:
    """A claim about attention: this laboratory's measure, and the published one."""
    return (("corrected measure", "standard", own), ("published measure", "published", raw))


def _same(*predictions: Prediction) -> tuple[tuple[str, str, tuple[Prediction, ...]], ...]:
    return _twice(predictions, predictions)


def _lost(*asked: tuple[str, str, float]) -> tuple[tuple[str, str, tuple[Prediction, ...]], ...]:
    """A claim about accuracy lost, (world, side, threshold): in points, and relative to the accuracy."""

    def read(kind: str) -> tuple[Prediction, ...]:
        return tuple((_above if side == ">" else _below)(f"{kind}:{world}", t) for world, side, t in asked)

    return (("percentage points", "standard", read("drop")), ("share of the accuracy", "standard", read("relative")))


_EVERY = tuple(str(k) for k in range(N_THOUGHTS))
_ANALYSIS, _FOLLOW_UP = "critical heads analysis", "follow-up experiments"

ASKED: tuple[Asked, ...] = (
    Asked(
        "hub strong",
        f"{_ANALYSIS}, hub position (strong at 2.0)",
        "A thought is a strong hub: it receives at least twice the uniform share.",
        "not reached: 1.18 (Llama), 1.63 (GPT-2)",
        "hubs",
        _twice((_above("hub:ratio", 2.0),), (_above("hub:published", 2.0),)),
    ),
    Asked(
        "hub weak",
        f"{_ANALYSIS}, findings 1 and 3",
        "A thought is a hub, if a weak one: above the uniform share, below twice of it.",
        "1.18 times at thought 0 (Llama), 1.63 times at thought 1 (GPT-2)",
        "hubs",
        _twice(
            (_above("hub:ratio", 1.0), _below("hub:ratio", 2.0)),
            (_above("hub:published", 1.0), _below("hub:published", 2.0)),
        ),
    ),
    Asked(
        "no chain",
        f"{_ANALYSIS}, finding 4",
        "Thoughts are not processed in sequence: attention from i to i−1 is below .3.",
        ".038 (Llama), .055 (GPT-2)",
        "thought-attention",
        _same(_below("sequential", 0.3)),
    ),
    Asked(
        "no skip",
        f"{_ANALYSIS}, skip connections",
        "No strong skip connections: attention from the last thought to the first three is below .1.",
        "below .04 in both models",
        "thought-attention",
        _same(_below("skip", 0.1)),
    ),
    Asked(
        "consistent",
        f"{_ANALYSIS}, data quality",
        "Patterns are the same from problem to problem: standard deviation below .2.",
        ".0113 (Llama), .0161 (GPT-2)",
        "thought-attention",
        _same(_below("std", 0.2)),
    ),
    Asked(
        "flow",
        f"{_ANALYSIS}, finding 3",
        "All attention among thoughts flows forward.",
        "1.000 in every head, by construction",
        "head-metrics",
        _same(_above("flow", 0.99)),
    ),
    Asked(
        "universal hub",
        f"{_ANALYSIS}, conclusion 1",
        "Hub-centric architecture is universal: either model has a hub.",
        "1.18 (Llama) and 1.63 (GPT-2)",
        "compare-models",
        _twice(
            (_above("hub:smaller", 1.0), _above("hub:larger", 1.0)),
            (_above("published:smaller", 1.0), _above("published:larger", 1.0)),
        ),
    ),
    Asked(
        "size",
        f"{_ANALYSIS}, conclusions 2 and 3",
        "The smaller model compensates with a stronger hub.",
        "1.63 (124M) against 1.18 (1B)",
        "compare-models",
        _twice((_above("hub:gap", 0.0),), (_above("published:gap", 0.0),)),
    ),
    Asked(
        "1.1 causal",
        f"{_FOLLOW_UP}, 1.1",
        "The top three heads are causally important: without them accuracy drops more than 10 %.",
        "proposed; later 59 % to 0 % by a parser that matched nothing",
        "head-ablation",
        _lost(("top3", ">", CAUSAL)),
    ),
    Asked(
        "1.1 redundant",
        f"{_FOLLOW_UP}, 1.1",
        "The top three heads are redundant: without them accuracy drops less than 2 %.",
        "the alternative to it",
        "head-ablation",
        _lost(("top3", "<", REDUNDANT)),
    ),
    Asked(
        "1.2 bottleneck",
        f"{_FOLLOW_UP}, 1.2",
        "The hub position is a bottleneck: replacing it costs more than 10 %, another position less than 5 %.",
        "later 58.59 to 54.55 % of 99 problems (hub only)",
        "position-patching",
        (("percentage points", "standard", (_above("drop:hub", 0.1), _below("drop:others", 0.05))),),
    ),
    Asked(
        "1.3 hub kept",
        f"{_FOLLOW_UP}, 1.3",
        "The hub pattern, forced, maintains more than 90 % of the accuracy.",
        "later 40.3 % against 55.95 %",
        "forced-patterns",
        (
            ("share of the accuracy", "standard", (_above("kept:hub", 0.9),)),
            ("percentage points", "standard", (_below("drop:hub", 0.1),)),
        ),
    ),
    Asked(
        "1.3 uniform",
        f"{_FOLLOW_UP}, 1.3",
        "Uniform attention among thoughts drops more than 15 %.",
        "proposed",
        "forced-patterns",
        _lost(("uniform", ">", 0.15)),
    ),
    Asked(
        "1.3 sequential",
        f"{_FOLLOW_UP}, 1.3",
        "Sequential attention among thoughts drops more than 20 %.",
        "proposed",
        "forced-patterns",
        _lost(("sequential", ">", 0.20)),
    ),
    Asked(
        "2.1 universal",
        f"{_FOLLOW_UP}, 2.1",
        "A transplanted head maintains more than 80 %: a universal function.",
        "proposed",
        "transplant",
        (
            ("share of the accuracy", "standard", (_above("kept:transplant", 0.8),)),
            ("percentage points", "standard", (_below("drop:transplant", 0.2),)),
        ),
    ),
    Asked(
        "2.1 specific",
        f"{_FOLLOW_UP}, 2.1",
        "A transplanted head drops more than 30 %: model-specific.",
        "proposed",
        "transplant",
        _lost(("transplant", ">", 0.3)),
    ),
    Asked(
        "2.2 arbitrary",
        f"{_FOLLOW_UP}, 2.2",
        "The hub's position is arbitrary: wherever it is forced, more than 70 % are maintained.",
        "proposed",
        "hub-rerouting",
        (
            ("share of the accuracy", "standard", tuple(_above(f"kept:{k}", 0.7) for k in _EVERY)),
            ("percentage points", "standard", tuple(_below(f"drop:{k}", 0.3) for k in _EVERY)),
        ),
    ),
    Asked(
        "2.2 determined",
        f"{_FOLLOW_UP}, 2.2",
        "The hub's position is built in: forced elsewhere, accuracy drops more than 40 %.",
        "proposed",
        "hub-rerouting",
        _lost(*((k, ">", 0.4) for k in _EVERY)),
    ),
    Asked(
        "3.1 inflection",
        f"{_FOLLOW_UP}, 3.1",
        "The layer at which the answer becomes readable at the hub is that of the critical heads.",
        "proposed (L4 to 5 of Llama, L0 of GPT-2)",
        "layer-probes",
        (("mean distance in layers", "standard", (_below("distance:hub", 0.5),)),),
    ),
    Asked(
        "3.2 roles",
        f"{_FOLLOW_UP}, 3.2",
        "Critical heads have clear semantic roles: the leading one draws on numbers more "
        "than their share of the words, and more than other heads do.",
        "proposed",
        "attribution",
        (("attribution per word", "standard", (_above("ratio:numbers", 1.0), _above("gap:numbers", 0.0))),),
    ),
    Asked(
        "4.1 difficulty",
        f"{_FOLLOW_UP}, 4.1",
        "The hub heads matter for hard problems: their ablation drops more than "
        "15 % there, less than 5 % on easy ones.",
        "proposed",
        "difficulty",
        _lost(("hard", ">", 0.15), ("easy", "<", 0.05)),
    ),
)
