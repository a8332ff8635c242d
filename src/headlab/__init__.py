"""headlab puts claims about attention heads on trial.

>>> import headlab
>>> result = headlab.trial("parity", "decimals-planted-even")      # doctest: +SKIP
>>> print(result.verdict.sentence)                                 # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlab.claims import Claim, Control, Prediction, Verdict, decide
    from headlab.engine.decode import generate
    from headlab.engine.run import capture, sweep
    from headlab.experiments import Result, catalogue, demo, repeat, run, trial
    from headlab.heads import Grid, Head, Heads, KVHeads
    from headlab.interventions import Intervention, World
    from headlab.looking import (
        Look,
        Text,
        direct_effects,
        head_scores,
        heatmap,
        logit_lens,
        ov_circuit,
        paths,
        probe,
        read,
        show_attention,
        steer,
        tokens,
    )
    from headlab.looking.lab import Lab, load
    from headlab.prompts import Pair, Prompt, PromptSet, encode
    from headlab.stats import Estimate, Rank
    from headlab.store import Record, Store
    from headlab.trials.document import Document
    from headlab.trials.loading import load_thinker

_ROOMS = {
    "headlab.heads": ("Grid", "Head", "Heads", "KVHeads"),
    "headlab.prompts": ("Pair", "Prompt", "PromptSet", "encode"),
    "headlab.interventions": ("Intervention", "World"),
    "headlab.claims": ("Claim", "Control", "Prediction", "Verdict", "decide"),
    "headlab.stats": ("Estimate", "Rank"),
    "headlab.store": ("Record", "Store"),
    "headlab.engine.run": ("capture", "sweep"),
    "headlab.engine.decode": ("generate",),
    "headlab.trials.document": ("Document",),
    "headlab.trials.loading": ("load_thinker",),
    "headlab.looking": (
        "Look",
        "Text",
        "direct_effects",
        "head_scores",
        "heatmap",
        "logit_lens",
        "ov_circuit",
        "paths",
        "probe",
        "read",
        "show_attention",
        "steer",
        "tokens",
    ),
    "headlab.looking.lab": ("Lab", "load"),
    "headlab.experiments": ("Result", "catalogue", "repeat", "run"),
    "headlab.experiments.demo": ("demo",),
    "headlab.experiments.trial": ("trial",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = [
    "Claim",
    "Control",
    "Document",
    "Estimate",
    "Grid",
    "Head",
    "Heads",
    "Intervention",
    "KVHeads",
    "Lab",
    "Look",
    "Pair",
    "Prediction",
    "Prompt",
    "PromptSet",
    "Rank",
    "Record",
    "Result",
    "Store",
    "Text",
    "Verdict",
    "World",
    "capture",
    "catalogue",
    "decide",
    "demo",
    "direct_effects",
    "encode",
    "generate",
    "head_scores",
    "heatmap",
    "load",
    "load_thinker",
    "logit_lens",
    "ov_circuit",
    "paths",
    "probe",
    "read",
    "repeat",
    "run",
    "show_attention",
    "steer",
    "sweep",
    "tokens",
    "trial",
]


def __getattr__(name: str) -> Any:
    """Rooms are opened when first asked for: importing headlab loads no torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("headlab")
    if name not in _HOME:
        from headlab.reading import expected_one_of

        raise AttributeError(f"module 'headlab' has no attribute {name!r}; {expected_one_of(name, __all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
