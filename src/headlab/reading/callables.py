"""Modules that bear the name of the function they are for: called like it, and still modules."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def callable_as(module: str, function: Callable[..., Any]) -> None:
    """Let a module be called as one of its functions, so that a package may offer both under one name: ``package.name(…)``
    calls, ``import package.name as m`` gives the module."""

    class Room(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    sys.modules[module].__class__ = Room
