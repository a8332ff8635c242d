"""Ctrl-C that cannot get lost; SIGTERM and SIGHUP (a job that is ended, a terminal that goes away) count as Ctrl-C.

Python raises KeyboardInterrupt wherever the program stands, also inside a callback or a destructor, where it is
printed and dropped.  Here such a one comes again a moment later, by an alarm (SIGALRM, where there is one); and it is
remembered, for what else may have swallowed it: the next report of progress, or the result, raises it again.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()
_ENDINGS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name)]


@contextmanager
def listening() -> Iterator[None]:
    """Remember Ctrl-C inside (main thread only; a signal that is ignored, as under nohup, stays ignored)."""
    _asked.clear()
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _ENDINGS if main}
    dropped = sys.unraisablehook

    def again(what: sys.UnraisableHookArgs) -> None:
        if main and isinstance(what.exc_value, KeyboardInterrupt) and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            dropped(what)

    heard = {number: handler for number, handler in before.items() if handler not in {signal.SIG_IGN, None}}
    try:
        for number in heard:
            signal.signal(number, _remember)
        sys.unraisablehook = again
        yield
    finally:
        sys.unraisablehook = dropped
        if main and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in heard.items():
            signal.signal(number, handler)
        _asked.clear()


def _remember(_signal: int, _frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed inside :func:`listening`."""
    if _asked.is_set():
        raise KeyboardInterrupt
