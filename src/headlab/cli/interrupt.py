"""Ctrl-C that cannot get lost; SIGTERM and SIGHUP (a job that is ended, a terminal that goes away) count as Ctrl-C.

Python raises KeyboardInterrupt wherever the program stands, also inside a callback or a destructor, where it is
printed and dropped.  Here it is remembered too, and the next report of progress raises it again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()
_ENDINGS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def listening() -> Iterator[None]:
    """Remember Ctrl-C inside (main thread only; a signal that is ignored, as under nohup, stays ignored)."""
    _asked.clear()
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _ENDINGS if main}
    heard = {number: handler for number, handler in before.items() if handler not in {signal.SIG_IGN, None}}
    try:
        for number in heard:
            signal.signal(number, _remember)
        yield
    finally:
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
