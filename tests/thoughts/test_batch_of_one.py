"""Batching never changes an answer: 500 problems one by one and 64 at a time, on the shipped students."""

from __future__ import annotations

import numpy as np
import pytest

from headlab import organisms
from headlab.experiments.trial import load_thinker
from headlab.tasks.word_problems import word_problems
from headlab.thoughts.loop import think
from headlab.trials.thinking import BASE


@pytest.mark.accept
@pytest.mark.parametrize("name", ["thoughts-gpt2", "thoughts-llama"])
def test_batch_1_and_batch_64_answer_alike(name: str) -> None:
    if name not in organisms.names("thoughts"):
        pytest.skip(f"{name} is not among the shipped organisms")
    thinker = load_thinker(name)
    problems = word_problems(500, split="test", seed=11, **thinker.lab.info["problems"])
    asked, names = [p.question for p in problems], [p.id for p in problems]
    one, many = (think(thinker, asked, names, [BASE], batch=size) for size in (1, 64))
    assert len(one) == 500 and one["text"].tolist() == many["text"].tolist()
    assert one["stopped"].tolist() == many["stopped"].tolist()
    gap = np.abs(one["logprob"].to_numpy() - many["logprob"].to_numpy()).max()
    assert gap < 1e-3, f"largest change of an answer's log-probability {gap:.2g}"
