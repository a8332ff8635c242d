"""A series of checkpoints from its recipes: branches of one run that are the same up to a recorded step.

Each branch is trained from the beginning, so that they agree up to the onset is seen, not assumed; what they share is
stored once.  Beside the checkpoints stands ``series.json``: the onset, the looks, what patching a whole layer repairs
at each of them, and the same every few steps in between, which the stored checkpoints do not show.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from headlab.heads import Heads

from . import evaluate
from .cards import LayerRepair, SeriesCard
from .making import appearing, base_folder, load, measure, start
from .recipes import SeriesRecipe
from .tokenizer import build_tokenizer
from .training import Progress, cpu_threads, fit

WATCHED_EVERY = 16
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def layer_repairs(
    model: PreTrainedModel, tokenizer: Any, branch: str, step: int, *, n: int, base: str = "qa"
) -> list[LayerRepair]:
    """What patching all heads of each layer does, Simple into ``base``, on ``n`` drawn held-out questions."""
    world = evaluate.Interchange(model, tokenizer, "simple", base, n=n)
    if not len(world):
        return []
    out = []
    for layer in range(model.config.num_hidden_layers):
        changed, recovery = world.patch(Heads.of(layer, range(model.config.num_attention_heads)))
        out.append(
            LayerRepair(
                branch=branch,
                step=step,
                base=base,
                layer=layer,
                n=len(world),
                correct=int(changed.sum()),
                recovery=round(float(recovery.mean()), 4),
            )
        )
    return out


def make_series(
    branches: tuple[SeriesRecipe, ...],
    out: Path,
    *,
    progress: Progress | None = None,
    steps: int | None = None,
    threads: int = 1,
    problems: int = 200,
) -> Path:
    """See :func:`headlab.organisms.train`.  ``steps``: looks after it are left out, and it becomes the last."""
    branches = tuple(_shortened(b, steps or b.steps) for b in branches)
    with appearing(out) as scratch:
        base = base_folder(scratch, progress, threads)
        watched: list[LayerRepair] = []
        for recipe in branches:
            watched += _train(recipe, scratch / recipe.branch, base, progress, threads, problems)
        whole = scratch / "whole"
        whole.mkdir()
        repairs: list[LayerRepair] = []
        for n, recipe in enumerate(branches):
            repairs += _place(recipe, scratch / recipe.branch, whole, first=n == 0, problems=problems)
        for recipe in branches:
            folder = whole / recipe.place(recipe.steps)
            with cpu_threads(threads):
                card = measure(recipe, folder, problems=problems, note=_note(progress, recipe.steps))
            (folder / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
        text = _card(branches, repairs, watched).model_dump_json(indent=None)
        (whole / "series.json").write_text(text.replace("},{", "},\n{") + "\n", encoding="utf-8")
    return out


def _shortened(recipe: SeriesRecipe, steps: int) -> SeriesRecipe:
    return replace(recipe, steps=steps, looks=(*(s for s in recipe.looks if s < steps), steps))


def _note(progress: Progress | None, steps: int) -> Callable[[str], None]:
    return (lambda text: progress(steps, steps, text)) if progress else (lambda _: None)


def _train(
    recipe: SeriesRecipe,
    folder: Path,
    base: Callable[[str], Path],
    progress: Progress | None,
    threads: int,
    problems: int,
) -> list[LayerRepair]:
    """Train one branch; every look's weights, in 16 bit, stand in ``folder`` afterwards."""
    tokenizer = build_tokenizer()
    model = start(recipe, tokenizer, base)
    found: list[LayerRepair] = []

    def watch(step: int) -> None:
        if step in recipe.looks:
            at = folder / f"step{step}"
            copy.deepcopy(model).half().save_pretrained(at)
            (at / "model.safetensors").chmod(0o644)
            tokenizer.save_pretrained(at, save_jinja_files=False)
        if step % WATCHED_EVERY == 0:
            found.extend(layer_repairs(model, tokenizer, recipe.branch, step, n=min(64, problems)))

    fit(recipe, model, tokenizer, threads=threads, progress=progress, watch=watch)
    return found


def _place(recipe: SeriesRecipe, made: Path, whole: Path, *, first: bool, problems: int) -> list[LayerRepair]:
    """Move a branch's checkpoints to where they stay, the tokenizer with the last only; their repairs by layer."""
    found = []
    for step in recipe.looks:
        at, to = made / f"step{step}", whole / recipe.place(step)
        model, tokenizer = load(at)
        found += layer_repairs(model, tokenizer, recipe.branch, step, n=problems)
        if step != recipe.steps:
            for name in _TOKENIZER:
                (at / name).unlink()
        if recipe.shared(step) and not first:
            _same(at, to)
            shutil.rmtree(at)
        else:
            to.parent.mkdir(exist_ok=True)
            at.rename(to)
    return found


def _same(mine: Path, other: Path) -> None:
    """Raises RuntimeError where two branches differ before the onset."""
    a, b = ((x / "model.safetensors").read_bytes() for x in (mine, other))
    if a != b:
        raise RuntimeError(f"{mine.name} differs between the branches though planting had not begun; use one thread")


def _card(branches: tuple[SeriesRecipe, ...], repairs: list[LayerRepair], watched: list[LayerRepair]) -> SeriesCard:
    first = branches[0]
    return SeriesCard(
        name=first.series,
        branches={b.branch: b.name for b in branches},
        onset=first.onset,
        looks=first.looks,
        truth=None if first.plant is None else first.plant.truth(),
        summary=(
            f"Every branch is the same model up to step {first.onset}. From the next update on the planting loss is on in "
            "the planted branch and never in the control. repairs: at the stored checkpoints, read back from 16 bit; "
            f"watched: every {WATCHED_EVERY} steps while it was trained, on fewer questions."
        ),
        repairs=tuple(repairs),
        watched=tuple(watched),
        reproduce=f"headlab organism train {first.series}",
        torch=torch.__version__,
    )
