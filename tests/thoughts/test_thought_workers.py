"""Thinking in Ray workers: the same answers, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import thinkers

from headlab.engine import scale
from headlab.engine.scale import ray as hands_of
from headlab.engine.scale import replica as replicas
from headlab.heads import Head, Heads
from headlab.interventions import Write
from headlab.thoughts.loop import think
from headlab.thoughts.worlds import Replace, ThoughtWorld, ablation

pytest.importorskip("ray", reason="the extra headlab[ray] is not installed")

HEADS = Heads([Head(0, 1), Head(2, 5)])
WRITES: tuple[Write, ...] = ("zero", "mean", "resample")
WORLDS = [
    ThoughtWorld("baseline"),
    *(ablation(write, HEADS, write) for write in WRITES),
    ThoughtWorld("lent", replaced=(Replace((1,), "resample", seed=3),)),
]


class Kept(dict[str, pd.DataFrame]):
    """Parts in memory."""

    def stored(self, name: str) -> pd.DataFrame | None:
        return self.get(name)

    def store(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        assert name not in self
        return self.setdefault(name, frame)

    def warn(self, text: str) -> None:
        raise AssertionError(text)


def fragile(file: Path) -> type[replicas.Replica]:
    """Workers of which the first that is given a part is killed at it."""

    class Fragile(replicas.Replica):
        def run(self, number: int) -> tuple[str, Any]:
            if not file.exists():
                file.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().run(number)

    return Fragile


def test_a_thinking_model_thinks_the_same_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem in every world, in parts: bit for bit with one worker and with two, with a filler twin's constants, after
    a worker was killed; what is stored is not run again.  Means and other problems' activations are lent in workers too."""
    monkeypatch.setattr(hands_of, "PATIENCE", 600.0)
    asked, names = thinkers.questions(12)
    for mode, workers in (("codi", 2), ("filler", 1)):
        model = thinkers.thinker("llama", tmp_path, mode)
        how: dict[str, Any] = {"batch": 8, "max_new_tokens": 3}
        wanted = think(model, asked, names, WORLDS, **how)
        assert len(set(wanted["text"])) > 3 and len(wanted) == len(asked) * len(WORLDS)
        seen: list[int] = []
        kept = Kept()
        with scale.Ray(workers=workers) as engine:
            engine.kind = fragile(tmp_path / f"killed-{mode}")
            made = think(
                model, asked, names, WORLDS, **how, engine=engine, keep=kept,
                progress=lambda what, done, _n, seen=seen: seen.append(done) if what == "thinking" else None,
            )  # fmt: skip
            pids = {hand.pid for hand in engine.hands}
        assert (tmp_path / f"killed-{mode}").exists() and len(pids) == workers and os.getpid() not in pids
        pd.testing.assert_frame_equal(made, wanted, check_exact=True)
        assert seen == sorted(seen) and seen[-1] == len(wanted) and len(kept) > 5
        idle = lambda *_: iter(())  # noqa: E731
        pd.testing.assert_frame_equal(
            think(model, asked, names, WORLDS, **how, engine=idle, keep=kept), wanted, check_exact=True
        )
