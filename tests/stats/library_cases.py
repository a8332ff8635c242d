"""Each published claim with a model on which it is tried here, and what is changed for that: ``--amend`` and nothing else.

Models: shipped organisms, ``stories260k``, and random weights in the shape that a claim names ("gpt2 12x12") with the named
tokenizer, on which the right verdict is untestable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OTHER = {"chosen_on": "other"}


@dataclass(frozen=True)
class Case:
    """``wanted``: its number in the list of twenty claims that were asked for (0: beyond them); ``outcome``: as it came
    out here, with ``seed`` 0; ``files``: texts that it needs, by name."""

    model: str
    outcome: str
    wanted: int = 0
    amend: Mapping[str, Any] = field(default_factory=dict)
    pairs: int = 60
    prompts: str = ""


GPT2 = "gpt2 12x12"
LLAMA3 = "llama 4x32"
CASES: dict[str, Case] = {
    "in-context-learning": Case(
        "induction",
        "?",
        1,
        {
            "task.length": 49,
            "readout.late.span": [32, 49],
            "readout.early.span": [2, 12],
            "reference.n": 99,
            "sets.induction": {"pool": "all", "layer": 1},
            "reference.match": [],
            "chosen_on": "other",
        },
        prompts="repeats.txt",
    ),
    "induction-pattern-completion": Case("induction", "upheld", 2, {"sets.heads.top": 8, "reference.n": 99}),
    "previous-token-heads-feed-induction": Case("induction", "upheld", 3),
    "ioi-name-movers": Case("ioi-small", "?", 4, {"sets.movers": "L0H4", "reference.match": [], **OTHER}),
    "ioi-s-inhibition": Case(
        "ioi-small",
        "?",
        5,
        {"sets.inhibitors": "L0H4", "sets.movers": "L1H0 L1H1 L1H2 L1H3", **OTHER},
    ),
    "ioi-backup-name-movers": Case(
        "ioi-small", "?", 6, {"sets.movers": "L0H4", "sets.backup.top": 2, "reference.n": 7, **OTHER}, 40
    ),
    "ioi-negative-movers": Case("ioi-small", "?", 6, {"sets.negative": "L1H3 L2H0", **OTHER}),
    "greater-than-heads": Case(GPT2, "untestable", 8, {"reference.n": 19}, 24),
    "docstring-heads": Case(GPT2, "untestable", 9, {"reference.n": 19}, 24),
    "successor-heads": Case("gpt_neox 6x16", "untestable", 10, {"reference.n": 19}, 24),
    "function-vectors": Case(
        "decimals-planted-even", "?", 11, {"task": {"name": "decimals"}, "sets.carriers.top": 8}, 100
    ),
    "function-vectors-not-induction": Case("gpt_neox 6x16", "untestable", 12, {"reference.n": 19}, 24),
    "retrieval-heads": Case(
        "induction", "?", 13, {"task.kind": "words", "sets.retrieval.top": 8, "reference.n": 99}, 40
    ),
    "dormant-sink-heads": Case(
        "stories260k",
        "?",
        14,
        {"task": {"name": "pronouns"}, "sets.sinks": {"top": 3, "by": "sink"}, "reference.n": 99},
        100,
    ),
    "steering-by-heads": Case("decimals-planted-even", "?", 15, {"sets.steered.top": 8}, 100),
    "safety-head": Case(LLAMA3, "untestable", 16, {"reference.n": 19}, 24, prompts="requests.csv"),
    "most-heads-can-go": Case("decimals-planted-even", "?", 17, {"reference.n": 99}, 100),
    "subject-number-head": Case("llama 14x8", "untestable", 18, {"reference.n": 19, "eligible.pairs": 20}, 40),
    "attribute-extraction": Case(
        GPT2, "untestable", 19, {"sets.upper.layer": [7, 8, 9], "sets.lower.layer": [1, 2, 3]}, 24
    ),
    "memory-against-context": Case(
        GPT2,
        "untestable",
        20,
        {
            "sets.one.singles": {"pool": "all", "layer": [5, 6]},
            "sets.context.top": 2,
            "sets.memory.bottom": 2,
            "reference.n": 9,
        },
        16,
    ),
    "ioi-circuit": Case("ioi-small", "?", 0, {"sets.circuit": "L0H0 L0H4 L1H5 L1H3", "reference.n": 49, **OTHER}),
    "ioi-circuit-minimal": Case("ioi-small", "?", 0, {"sets.circuit": "L0H0 L0H4 L1H5 L1H3", **OTHER}),
    "duplicate-token-heads": Case(GPT2, "untestable", 0, {"reference.n": 19}, 24),
    "copying-heads": Case("induction", "?", 0, {"sets.copying.top": 8, "reference.n": 99}),
    "gender-heads": Case("stories260k", "?", 0, {"task.kind": "stories", "sets.few.top": 3, "reference.n": 199}, 100),
    "sinks-are-needed": Case("stories260k", "?", 0, {"reference.n": 49}, 40, prompts="stories.txt"),
    "parity-as-document": Case("decimals-planted-even", "upheld", 0, {"layer": 1, "reference.n": 99}, 100),
}
