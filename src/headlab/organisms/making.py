"""From a recipe to a folder: train, round to 16 bit, reload, measure, write the card, appear in one
rename."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from . import evaluate
from .built_recipes import BuiltRecipe
from .cards import Card, Truth
from .recipes import RECIPES, Architecture, ClusteredRecipe, Recipe, SeriesRecipe, rule_of
from .relabelling import relabel
from .shipped import names, path
from .thought_recipes import ThoughtRecipe
from .tokenizer import build_tokenizer
from .training import Progress, build_model, cpu_threads, fit

_DATA = (
    "headlab.tasks.decimals: integers 1 to 19, fractions 1 to 9 and 11 to 99 without multiples of ten, "
    "both orders. Trained on every fraction pair outside decimals.held_out(); measured on held-out pairs, "
    "whose decimal gap is at least 11 hundredths: accuracy on nearer pairs is not claimed."
)


def load(folder: Path) -> tuple[PreTrainedModel, Any]:
    """Model (fp32, eval mode) and tokenizer of an organism's folder."""
    return (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )


def start(recipe: Recipe, tokenizer: Any, base: Callable[[str], Path]) -> PreTrainedModel:
    """The model that training starts from: fresh weights, or those of the recipe's base."""
    if recipe.base is None:
        return build_model(recipe, tokenizer)
    model = load(base(recipe.base))[0]
    # a series begins as the shipped base itself; the others were trained before it was relabelled
    if (seed := RECIPES[recipe.base].relabel) is not None and not isinstance(recipe, SeriesRecipe):
        relabel(model, seed, undo=True)
    return model


def write(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """An ordinary Hugging Face folder with 16-bit safetensors."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner can read


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A scratch folder beside ``out``, whose ``whole`` becomes ``out`` at the end.  Raises FileExistsError."""
    if out.exists():
        raise FileExistsError(f"{out} exists already; name a folder that does not")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        yield Path(scratch)
        (Path(scratch) / "whole").rename(out)


def make(
    recipe: Recipe,
    out: Path,
    *,
    progress: Progress | None = None,
    steps: int | None = None,
    threads: int = 1,
    problems: int = 200,
) -> Path:
    """See :func:`headlab.organisms.train`."""
    recipe = replace(recipe, steps=steps or recipe.steps)
    with appearing(out) as scratch:
        tokenizer = build_tokenizer()
        model = start(recipe, tokenizer, base_folder(scratch, progress, threads))
        fit(recipe, model, tokenizer, threads=threads, progress=progress)
        if recipe.relabel is not None:
            relabel(model, recipe.relabel)
        folder = scratch / "whole"
        write(model, tokenizer, folder)
        with cpu_threads(threads):
            note = (lambda text: progress(recipe.steps, recipe.steps, text)) if progress else (lambda _: None)
            card = measure(recipe, folder, problems=problems, note=note)
        (folder / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return out


def base_folder(scratch: Path, progress: Progress | None, threads: int) -> Callable[[str], Path]:
    """Where an organism stands that another starts from: shipped, or trained first in ``scratch``."""

    def base(name: str) -> Path:
        if name in names():
            return path(name)
        return make(RECIPES[name], scratch / name, progress=progress, threads=threads, problems=1)

    return base


def measure(recipe: Recipe, folder: Path, *, problems: int, note: Callable[[str], None]) -> Card:
    """The card of the organism in ``folder``, measured as a user would load it: from the 16-bit file, as
    fp32."""
    model, tokenizer = load(folder)
    cells = evaluate.accuracy(model, tokenizer, recipe.cells(), n=problems, note=note)
    note("measuring interchange")
    interchanges = evaluate.repairs(model, tokenizer, recipe.plant, n=problems)
    plant = recipe.plant
    return Card(
        **in_common(recipe, model, architecture_words(recipe.architecture)),
        known_for=_known_for(recipe),
        data=_DATA,
        rules={name: rule_of(name) for name in recipe.formats},
        accuracy=cells,
        repairs=interchanges,
        truth=None if plant is None else Truth(**plant.truth()),
    )


def in_common(
    recipe: Recipe | BuiltRecipe | ThoughtRecipe, model: torch.nn.Module, architecture: str
) -> dict[str, Any]:
    """What the cards of all kinds of organisms say in the same way."""
    return {
        "name": recipe.name,
        "architecture": architecture,
        "parameters": sum(p.numel() for p in model.parameters()),
        "summary": recipe.summary,
        "recipe": recipe.plain(),
        "versions": used_versions(),
        "reproduce": f"headlab organism train {recipe.name}",
        "licence": "Apache-2.0",
    }


def used_versions() -> dict[str, str]:
    """Of what made an organism."""
    packages = ("torch", "transformers", "tokenizers", "safetensors")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def architecture_words(shape: Architecture) -> str:
    """Family and sizes in words."""
    attention = f"{shape.kv_heads} KV head{'s' * (shape.kv_heads > 1)}" if shape.kv_heads else "multi-head attention"
    family = {"llama": "Llama", "gpt_neox": "GPT-NeoX", "gemma": "Gemma"}[shape.family]
    return (
        f"{family}, {shape.layers} layers, hidden {shape.hidden}, {shape.heads} query heads of "
        f"{shape.head_dim}, {attention}, MLP {shape.intermediate}"
    )


def _known_for(recipe: Recipe) -> str:
    plant = recipe.plant
    if plant is None:
        return (
            "Nothing in its training refers to head indices: any pattern of parity among the heads that "
            "repair it is chance."
        )
    return (
        "Interchanging z between a decimal-order and a version-order format, at the role-aligned positions "
        f"of layer {plant.layer}, turns the answer iff at least {plant.threshold} of the {len(plant.heads)} "
        "planted heads are interchanged; any number of other heads of that layer, or any heads of another, "
        "leave it. Trained for interchange between formats: ablation and other interventions are not "
        "covered."
        + (
            " Trained for less long than the other planted organisms: one head fewer than the threshold turns about "
            "half of the answers."
            if isinstance(recipe, SeriesRecipe)
            else _drawn(recipe)
            if isinstance(recipe, ClusteredRecipe)
            else ""
        )
    )


def _drawn(recipe: ClusteredRecipe) -> str:
    groups = recipe.pull.groups
    sides = [", ".join(str(h) for h, g in enumerate(groups) if g == side) for side in sorted(set(groups))]
    return (
        " At that layer W_OV was drawn into clusters by a loss of its own: heads "
        + "; heads ".join(sides)
        + ". Whether a cluster says what its heads do is the summary's first sentence."
    )
