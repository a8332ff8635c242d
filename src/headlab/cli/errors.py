"""Exceptions as one line: what was given, what was expected, what to do.  And the exit code that goes with
it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import typer

from headlab.reading import expected_one_of, one_line

INPUT, FAILURE, DIFFERENT, INTERRUPTED, UNREAD = 2, 1, 3, 130, 141
"""Exit codes: bad input, another failure, a repeat that differs, Ctrl-C (or SIGTERM, SIGHUP), output that nobody reads
any more.  0: the trial ran, whatever the verdict.
"""

_INPUT_ERRORS = {"headlab.engine.model": ("ModelError",), "headlab.store": ("StoreLookupError",)}
"""Errors of rooms that need not be loaded when one is raised elsewhere; ValueErrors (ClaimError, PromptError,
UnknownOrganism among them) and KeyErrors are bad input without standing here."""

_USAGE = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class BadInput(ValueError):
    """What the user gave cannot be used; the message is shown as it is."""


class Interrupted(Exception):
    """Ctrl-C, on its way past the argument parser (which would print a line of its own)."""


def one_of(given: str, known: Iterable[str], what: str) -> str:
    """``given`` when it is known.  Raises BadInput that lists what is, with a suggestion."""
    names = list(known)
    if given not in names:
        raise BadInput(f"no {what} {given!r}; {expected_one_of(given, names)}")
    return given


def explain(error: BaseException) -> tuple[str, int]:
    """The line for an exception, and its exit code."""
    if isinstance(error, Interrupted | KeyboardInterrupt | typer.Abort):
        return "interrupted; what was computed is kept, and the same command takes it up again", INTERRUPTED
    if isinstance(error, _USAGE):
        return _usage(error), INPUT
    if isinstance(error, KeyError):
        return _line(error.args[0] if error.args else error), INPUT
    if isinstance(error, ValueError) or _is_input_error(error):
        return _line(error), INPUT
    if isinstance(error, FileExistsError):
        return _line(error), INPUT
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory: {_line(error)}; give a smaller --memory or fewer --pairs", FAILURE
    own = type(error).__module__.startswith("headlab.")
    kind, hint = ("", "") if own else (f"{type(error).__name__}: ", " (--debug shows where)")
    return f"{kind}{_line(error)}{hint}", FAILURE


def _is_input_error(error: BaseException) -> bool:
    for module, names in _INPUT_ERRORS.items():
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(error, tuple(getattr(loaded, name) for name in names)):
            return True
    return False


def _usage(error: BaseException) -> str:
    """A parser's complaint, with the command whose --help says more."""
    text = getattr(error, "format_message", lambda: str(error))()
    path = getattr(getattr(error, "ctx", None), "command_path", None) or "headlab"
    return f"{_line(text).rstrip('.')}; see {path} --help"


MOST = 380
"""Characters of what went wrong, at most: with the program's name before and a hint behind, a line has fewer than 500."""


def _line(text: object) -> str:
    return one_line(text, MOST) or type(text).__name__
