"""Continuous thoughts: CODI models, their latent loop under interventions, published checkpoints, training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlab.thoughts.loading import Thinker, load
    from headlab.thoughts.model import Codi, Spec, ThoughtError

_HOME = {"Codi": "model", "Spec": "model", "ThoughtError": "model", "Thinker": "loading", "load": "loading"}
__all__ = ["Codi", "Spec", "Thinker", "ThoughtError", "load"]


def __getattr__(name: str) -> Any:
    """Models are opened when first asked for: a recipe or a schedule loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"headlab.thoughts.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
