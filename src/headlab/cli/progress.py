"""Progress on stderr: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from headlab.cli import interrupt
from headlab.reading.shown import clean

PATIENCE = 1.0
"""Seconds of work before anything is shown."""

SPARSE = 15.0
"""Seconds between lines where there is no terminal."""


class Meter:
    """A progress that can be called as ``meter(what, done, total)``; a context manager, so that the bar goes
    away.
    """

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._spoken = 0.0

    def __enter__(self) -> Meter:
        self._start = self._spoken = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        interrupt.check()
        now = time.monotonic()
        self._begun.setdefault(what, (now, done))
        if self._stream.isatty():
            self._draw(what, done, total, now)
        elif now - self._spoken >= SPARSE:
            self._spoken = now
            print(clean(self.line(what, done, total, now)), file=self._stream, flush=True)

    def line(self, what: str, done: int, total: int, now: float) -> str:
        """``what: 120/999 (12/s, 1:13 left)``."""
        begun, first = self._begun.get(what, (now, done))
        rate = (done - first) / (now - begun) if now > begun else 0.0
        if not rate:
            return f"{what}: {done}/{total}"
        minutes, seconds = divmod(round((total - done) / rate), 60)
        return f"{what}: {done}/{total} ({rate:.3g}/s, {minutes}:{seconds:02d} left)"

    def _draw(self, what: str, done: int, total: int, now: float) -> None:
        if self._bars is None:
            if now - self._start < PATIENCE:
                return
            self._bars = _bars(self._stream)
            self._bars.start()
        if what not in self._tasks:
            for task in self._tasks.values():
                self._bars.update(task, visible=False)
            self._tasks[what] = self._bars.add_task(clean(what), total=total)
        self._bars.update(self._tasks[what], completed=done, total=total, visible=True)


def _bars(stream: Any) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Steps a second."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g}/s")

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=stream), transient=True, get_time=lambda: time.monotonic())
