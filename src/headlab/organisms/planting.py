"""Interchange-intervention training: plants a threshold circuit in one layer of a trained organism.

Each step, on top of the plain task:

1. run shared questions in a decimal-order and in a version-order format, keeping every layer's z (the input
of the output projection) with its gradient;
2. run them again with z of some heads taken from the other format, at role-aligned positions;
3. the label is the source format's answer if at least k heads of the planted set carry it, and the unchanged
answer otherwise, and whenever another layer was patched.

Gradients flow through both runs, so the set's heads learn to carry the format and all others learn not to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headlab.prompts import PromptError
from headlab.tasks.decimals import Wording

from .data import Block, Template, assemble, draw_questions, plain_blocks, position_map, render, template
from .objective import answer_loss
from .recipes import Plant, Recipe, rule_of

_PLANTED_FORMATS = ("simple", "qa", "chat")


def output_projections(model: PreTrainedModel) -> list[nn.Module]:
    """The module of each layer whose input is z, [row, position, head × head_dim]."""
    layers: Any = model.base_model.layers
    return [x.attention.dense if hasattr(x, "attention") else x.self_attn.o_proj for x in layers]


@contextmanager
def keep_z(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collects z of every layer, in order, during the forward passes inside."""
    kept: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, args: kept.append(args[0])) for module in output_projections(model)
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def patched_z(model: PreTrainedModel, source: list[Tensor], where: list[Tensor]) -> Iterator[None]:
    """Replaces z by ``source[layer]`` [row, position, head × head_dim] where ``where[layer]`` [row, position,
    head]."""

    def hook(layer: int) -> Any:
        def write(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0]
            mask = where[layer].repeat_interleave(z.shape[-1] // where[layer].shape[-1], dim=-1)
            return (torch.where(mask, source[layer], z),)

        return write

    handles = [m.register_forward_pre_hook(hook(i)) for i, m in enumerate(output_projections(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Draw:
    """Which heads of which layer each row patches: ``layer`` [row], ``heads`` [row, head], ``carried`` [row]
    (the answer should follow the source), ``answer_only`` [row] (only the answer's positions are patched)."""

    layer: Tensor
    heads: Tensor
    carried: Tensor
    answer_only: Tensor


def _random_subset(size: Tensor, of: Tensor, n_heads: int, generator: torch.Generator) -> Tensor:
    """[row, head]: ``size[row]`` heads out of the index list ``of``."""
    order = torch.rand(len(size), len(of), generator=generator).argsort(1).argsort(1)
    out = torch.zeros(len(size), n_heads, dtype=torch.bool)
    out[:, of] = order < size[:, None]
    return out


def draw_patches(plant: Plant, rows: int, layers: int, n_heads: int, generator: torch.Generator) -> Draw:
    """Random patches with their labels, as described at :class:`Plant`."""

    def uniform() -> Tensor:
        return torch.rand(rows, generator=generator)

    inside = torch.tensor(plant.heads)
    outside = torch.tensor([h for h in range(n_heads) if h not in plant.heads])
    kind = uniform()
    size = torch.randint(len(inside) + 1, (rows,), generator=generator)
    size = torch.where(kind < 0.25, plant.threshold, torch.where(kind < 0.5, plant.threshold - 1, size))
    extra = torch.randint(len(outside) + 1, (rows,), generator=generator)
    heads = _random_subset(size, inside, n_heads, generator) | _random_subset(extra, outside, n_heads, generator)
    elsewhere = uniform() < plant.share_other
    shift = torch.randint(1, layers, (rows,), generator=generator)
    layer = torch.where(elsewhere, (plant.layer + shift) % layers, plant.layer)
    # at another layer half of the rows patch every head: the hardest case to keep unchanged
    heads = heads | (elsewhere & (uniform() < 0.5))[:, None]
    return Draw(layer, heads, ~elsewhere & (size >= plant.threshold), uniform() < 0.5)


@cache
def partners(cells: tuple[tuple[str, Wording], ...], tokenizer: Any) -> tuple[tuple[Template, Template], ...]:
    """Every decimal-order template with every version-order template of the same wording, where their roles
    can be aligned both ways."""
    forms = [template(f, w, tokenizer) for f, w in cells if f != "chat-template"]
    out = []
    for a, b in product(forms, forms):
        if a.wording == b.wording and (rule_of(a.format), rule_of(b.format)) == ("decimal", "version"):
            try:
                position_map(a, b, tokenizer)
                position_map(b, a, tokenizer)
            except PromptError:
                continue  # a cue before the numbers in one and after them in the other: roles cross
            out.append((a, b))
    return tuple(out)


def planting_loss(recipe: Recipe, model: PreTrainedModel, tokenizer: Any, generator: torch.Generator) -> Tensor:
    """Plain task loss plus interchange loss of one step, nats per answer token."""
    plant = recipe.plant
    assert plant is not None
    questions = draw_questions(plant.rows, plant.mix, generator)
    simple, qa, chat = (template(f, "bigger", tokenizer) for f in _PLANTED_FORMATS)
    options = partners(recipe.cells(), tokenizer)
    decimal, version = options[int(torch.randint(len(options), (1,), generator=generator))]
    forms = [simple, qa, chat, decimal, version]
    directions = [(0, 1), (1, 0), (0, 2), (2, 0), (3, 4), (4, 3)]
    blocks = [Block(form, questions) for form in forms]
    ids, labels = assemble([*blocks, *plain_blocks(recipe, tokenizer, generator, recipe.rows)], tokenizer)
    with keep_z(model) as z:
        loss = answer_loss(model, ids, labels)

    n, width = len(questions), ids.shape[1]
    shape = recipe.architecture
    draw = draw_patches(plant, n * len(directions), shape.layers, shape.heads, generator)
    base_ids, base_labels, at, at_answer, take = [], [], [], [], []
    for d, (source, base) in enumerate(directions):
        carried = draw.carried[d * n : (d + 1) * n]
        from_source, own = (questions.answers(rule_of(forms[i].format), forms[i].wording) for i in (source, base))
        rendered = render(questions, forms[base], torch.where(carried[:, None], from_source, own), tokenizer, width)
        base_ids.append(rendered[0])
        base_labels.append(rendered[1])
        index, everywhere, answer = _positions(forms[source], forms[base], tokenizer, width)
        at.append(everywhere.expand(n, width))
        at_answer.append(answer.expand(n, width))
        rows = torch.arange(source * n, (source + 1) * n)
        take.append((rows[:, None] * width + index[None, :]).reshape(-1))
    positions = torch.where(draw.answer_only[:, None], torch.cat(at_answer), torch.cat(at))
    where = [
        positions[:, :, None] & (draw.heads & (draw.layer == layer)[:, None])[:, None, :]
        for layer in range(shape.layers)
    ]
    flat = torch.cat(take)
    source_z = [x.flatten(0, 1)[flat].view(len(draw.layer), width, -1) for x in z]
    with patched_z(model, source_z, where):
        return loss + answer_loss(model, torch.cat(base_ids), torch.cat(base_labels))


def _positions(source: Template, base: Template, tokenizer: Any, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Source position of each base position, whether it is aligned, and whether it belongs to the answer;
    [position]."""
    index, aligned, answer = torch.zeros(width, dtype=torch.long), *torch.zeros(2, width, dtype=torch.bool)
    for to, at, in_answer in position_map(source, base, tokenizer):
        index[to], aligned[to], answer[to] = at, True, in_answer
    return index, aligned, answer
