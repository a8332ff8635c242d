"""Measuring a word organism with plain hooks: what it says, what each head's removal costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headlab.heads import Head

from .planting import keep_z, output_projections
from .word_cards import Removal, Score
from .word_recipes import WordRecipe
from .words import TEMPLATES, Prompts, ioi, repeats, scored


@dataclass(frozen=True)
class Asked:
    """Held-out predictions: ``ids`` [row, position]; of each, its ``row`` and position ``at``, the ``right`` token and its
    rival ``wrong``, and the positions that heads might attend to, by name."""

    ids: Tensor
    row: Tensor
    at: Tensor
    right: Tensor
    wrong: Tensor
    to: dict[str, Tensor]

    def answers(self, model: PreTrainedModel) -> tuple[Tensor, Tensor]:
        """[prediction]: the gap between right and rival, in logits, and whether the likeliest token is right."""
        logits = model(self.ids).logits[self.row, self.at]
        n = torch.arange(len(logits))
        return logits[n, self.right] - logits[n, self.wrong], logits.argmax(-1) == self.right


def asked_repeats(n: int, seed: int = 7) -> Asked:
    """``n`` rows of repeats; the rival of the next word is the word after it."""
    ids, source = repeats(n, torch.Generator().manual_seed(seed))
    labels = scored(ids, source)
    row, at = (labels != -100).nonzero(as_tuple=True)
    after = source[row, at]
    to = {"previous": at - 1, "same": after - 1, "after": after}
    return Asked(ids, row, at, labels[row, at], ids[row, after + 1], to)


def asked_ioi(p: Prompts) -> Asked:
    """Prompts with two names, asked at their last token."""
    row = torch.arange(len(p.ids))
    first = [(p.ids == x[:, None]).float().argmax(1) for x in (p.right, p.wrong)]
    return Asked(p.ids, row, p.last, p.right, p.wrong, {"right": first[0], "wrong": first[1], "second subject": p.s})


def held_out(recipe: WordRecipe, n: int, seed: int = 7) -> dict[str, Asked]:
    """What the card measures, by name: about ``n`` prompts each."""
    if recipe.behaviour == "induction":
        return {"repeats": asked_repeats(n, seed)}
    p = ioi(max(1, n // 16), torch.Generator().manual_seed(seed), test=True, templates=16)
    order = asked_ioi(p).to
    turn = order["wrong"] < order["right"]  # the second subject is the name that came first
    parts = {
        name: asked_ioi(Prompts(*(getattr(p, f.name)[rows] for f in fields(p))))
        for name, rows in {"ioi, ABA": turn, "ioi, ABB": ~turn}.items()
    }
    return parts | {"ioi": asked_ioi(p)}


@torch.no_grad()
def scores(model: PreTrainedModel, recipe: WordRecipe, n: int) -> tuple[Score, ...]:
    """Right answers on held-out prompts of each kind."""
    out = []
    for name, asked in held_out(recipe, n).items():
        right = asked.answers(model)[1]
        out.append(Score(prompts=name, n=len(right), correct=int(right.sum())))
    return tuple(out)


@contextmanager
def without(model: PreTrainedModel, layer: int, columns: slice, value: Tensor | float) -> Iterator[None]:
    """z of one head replaced by ``value`` ([row, position, head_dim] or a number)."""

    def write(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        z = args[0].clone()
        z[..., columns] = value
        return (z,)

    handle = output_projections(model)[layer].register_forward_pre_hook(write)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def removals(model: PreTrainedModel, recipe: WordRecipe, n: int) -> tuple[Removal, ...]:
    """Each head removed by itself, on held-out prompts; means are taken over other prompts, of the same sentence."""
    asked, other = (list(held_out(recipe, n, seed).values())[-1] for seed in (7, 8))
    model.set_attn_implementation("eager")
    patterns = model(asked.ids, output_attentions=True).attentions
    gap, _ = asked.answers(model)
    with keep_z(model) as z:
        model(other.ids)
    size, out = recipe.architecture.head_dim, []
    sentences = 1 if recipe.behaviour == "induction" else len(TEMPLATES)
    for layer in range(recipe.architecture.layers):
        by_sentence = z[layer].unflatten(0, (sentences, -1)).mean(1)
        mean = by_sentence.repeat_interleave(len(asked.ids) // sentences, 0)
        for head in range(recipe.architecture.heads):
            columns = slice(head * size, (head + 1) * size)
            with without(model, layer, columns, mean[..., columns]):
                by_mean, right = asked.answers(model)
            with without(model, layer, columns, 0.0):
                by_zero, _ = asked.answers(model)
            seen = patterns[layer][:, head][asked.row, asked.at]
            attends = {k: seen.gather(1, to[:, None]).mean().item() for k, to in asked.to.items()}
            cost = [1 - (x.mean() / gap.mean()).item() for x in (by_mean, by_zero)]
            out.append(
                Removal(
                    head=str(Head(layer, head)),
                    n=len(gap),
                    mean=round(cost[0], 4),
                    zero=round(cost[1], 4),
                    accuracy=round(right.float().mean().item(), 4),
                    attends={k: round(v, 4) for k, v in attends.items()},
                )
            )
    return tuple(out)
