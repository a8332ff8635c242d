"""Training a tiny CODI model: first the chain of thought, then self-distillation into thoughts.

Muon moves the matrices, AdamW the embeddings and vectors; a short warm-up, then a cosine to 5 % of the peak.
Without a teacher that already works the second phase gets nowhere, so the first one comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .objective import Batch, Weights, codi_loss, teacher_loss
from .schedule import Phase, aid, rate

Progress = Callable[[int, int, str], None]


def optimizers(model: nn.Module, phase: Phase) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers and the projection, AdamW for everything else.

    Raises RuntimeError where torch has no Muon (it came with 2.9).
    """
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(f"training a CODI model needs torch.optim.Muon: torch >= 2.9, not {torch.__version__}")
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and id(p) not in tables and n != "filler"]
    chosen = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(inside, lr=phase.muon, weight_decay=phase.weight_decay),
        torch.optim.AdamW(rest, lr=phase.adam, betas=(0.9, 0.98), weight_decay=0.0),
    ]


@contextmanager
def cpu_threads(n: int) -> Iterator[None]:
    """Run with ``n`` CPU threads; sums depend on it, so it is part of what makes a run repeatable."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_cot(
    lm: Any, pool: Batch, phase: Phase, *, seed: int, threads: int = 1, progress: Progress | None = None
) -> list[float]:
    """Phase 1, in place: the base model learns to write the chain of thought and the answer.

    Rows are drawn from ``pool`` with replacement.  Returns the loss (nats per token) of every step.
    Deterministic for a seed and a thread count.
    """

    def objective(batch: Batch, _: int) -> tuple[Tensor, str]:
        loss = teacher_loss(lm, batch)
        return loss, f"chain of thought: loss {loss.item():.4f}"

    return _fit(lm, pool, phase, objective, seed=seed, threads=threads, progress=progress)


def train_codi(
    model: Any, pool: Batch, phase: Phase, *, seed: int, threads: int = 1, progress: Progress | None = None
) -> list[float]:
    """Phase 2, in place: ``model`` (a :class:`headlab.thoughts.model.Codi` of any mode) learns to answer after its
    thoughts while it keeps its chain of thought.

    Rows are drawn from ``pool`` with replacement.  Returns the total loss of every step.  Deterministic for a
    seed and a thread count.
    """

    def objective(batch: Batch, step: int) -> tuple[Tensor, str]:
        losses = codi_loss(model, batch, Weights(distil=phase.distil, steps=aid(step, phase)))
        parts = " ".join(
            f"{name} {getattr(losses, name).item():.3f}" for name in ("teacher", "student", "distil", "steps")
        )
        return losses.total, f"{model.spec.mode}: {parts}"

    return _fit(model, pool, phase, objective, seed=seed, threads=threads, progress=progress)


def _fit(
    model: nn.Module,
    pool: Batch,
    phase: Phase,
    objective: Callable[[Batch, int], tuple[Tensor, str]],
    *,
    seed: int,
    threads: int,
    progress: Progress | None,
) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    both = optimizers(model, phase)
    peaks = [(group, group["lr"]) for optimizer in both for group in optimizer.param_groups]
    losses = []
    with cpu_threads(threads):
        model.train()
        for step in range(phase.steps):
            for group, peak in peaks:
                group["lr"] = peak * rate(step, phase)
            batch = pool.take(torch.randint(len(pool), (phase.rows,), generator=generator))
            loss, note = objective(batch, step)
            for optimizer in both:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), phase.clip)
            for optimizer in both:
                optimizer.step()
            losses.append(loss.item())
            if progress:
                progress(step + 1, phase.steps, note)
        model.eval()
    return losses
