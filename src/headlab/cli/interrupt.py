"""Ctrl-C that cannot get lost.

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


@contextmanager
def listening() -> Iterator[None]:
    """Remember Ctrl-C inside (main thread only; a SIGINT that the shell told us to ignore stays ignored)."""
    _asked.clear()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in {signal.SIG_IGN, None}:
        yield
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _asked.clear()


def _remember(_signal: int, _frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed inside :func:`listening`."""
    if _asked.is_set():
        raise KeyboardInterrupt
