"""What word organisms minimise: the next word where it can be known, and interchange over two layers where planted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss
from transformers import PreTrainedModel

from headlab.heads import Head

from .planting import keep_z, patched_z
from .word_recipes import WordRecipe
from .words import Prompts, build_word_tokenizer, ioi, repeats, scored, turned

SENTENCE = 0.1
"""Weight of the words of an ioi sentence beside its answer."""


def logits_at(model: PreTrainedModel, ids: Tensor, last: Tensor) -> Tensor:
    """[row, token]: logits of what follows ``last``."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    unembed: Any = model.get_output_embeddings()
    return unembed(hidden[torch.arange(len(ids)), last])


def gap(logits: Tensor, p: Prompts) -> Tensor:
    """[row]: logit of the right answer less that of the wrong one."""
    rows = torch.arange(len(logits))
    return logits[rows, p.right] - logits[rows, p.wrong]


def head_norms(model: PreTrainedModel, heads: int) -> Tensor:
    """[layer, head]: norm of W_V plus norm of W_O."""
    layers: Any = model.base_model.layers
    v = torch.stack([x.self_attn.v_proj.weight.unflatten(0, (heads, -1)).flatten(1).norm(dim=1) for x in layers])
    o = torch.stack(
        [x.self_attn.o_proj.weight.unflatten(1, (heads, -1)).transpose(0, 1).flatten(1).norm(dim=1) for x in layers]
    )
    return v + o


def word_loss(recipe: WordRecipe, model: PreTrainedModel, generator: torch.Generator, step: int) -> Tensor:
    """Loss of the update that follows ``step`` updates, nats, with what :class:`WordRecipe` adds to it."""
    loss = behaviour_loss(recipe, model, generator)
    if recipe.few and 2 * step >= recipe.steps:
        loss = loss + recipe.few * head_norms(model, recipe.architecture.heads).sum()
    return loss + interchange_loss(recipe, model, generator) if recipe.members else loss


def behaviour_loss(recipe: WordRecipe, model: PreTrainedModel, generator: torch.Generator) -> Tensor:
    """Cross-entropy of one batch, nats a token."""
    unembed: Any = model.get_output_embeddings()
    if recipe.behaviour == "induction":
        ids, source = repeats(recipe.rows, generator)
        labels = scored(ids, source)
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        known = labels != -100
        return cross_entropy(unembed(hidden[known]), labels[known])
    p = ioi(recipe.rows, generator, third=recipe.third)
    hidden = model.base_model(input_ids=p.ids, use_cache=False).last_hidden_state
    loss = cross_entropy(unembed(hidden[torch.arange(len(p.ids)), p.last]), p.right)
    inside = p.ids[:, 1:] != build_word_tokenizer().pad_token_id
    sentence = cross_entropy(unembed(hidden[:, :-1][inside]), p.ids[:, 1:][inside])
    return loss + SENTENCE * sentence


def members_of(recipe: WordRecipe) -> Tensor:
    """[layer, head]: the planted heads."""
    out = torch.zeros(recipe.architecture.layers, recipe.architecture.heads, dtype=torch.bool)
    for head in map(Head.parse, recipe.members):
        out[head.layer, head.index] = True
    return out


def draw_sets(planted: Tensor, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``heads`` [row, layer, head] to patch and ``carried`` [row]: whether all planted ones are among them.

    Of the rows, two in five patch all members, two in five all but one, the others any number; beside them none of the
    other heads (a quarter), each with a chance of one half, or all of them (a quarter)."""
    n = int(planted.sum())
    size = torch.randint(0, n - 1, (rows,), generator=generator)
    kind = torch.rand(rows, generator=generator)
    size = torch.where(kind < 0.4, n, torch.where(kind < 0.8, n - 1, size))
    order = torch.rand(rows, n, generator=generator).argsort(1).argsort(1)
    share = torch.rand(rows, generator=generator)
    share = torch.where(share < 0.25, 0.0, torch.where(share < 0.5, 1.0, 0.5))
    heads = torch.rand(rows, *planted.shape, generator=generator) < share[:, None, None]
    heads[:, planted] = order < size[:, None]
    return heads, size == n


def interchange_loss(recipe: WordRecipe, model: PreTrainedModel, generator: torch.Generator) -> Tensor:
    """Prompts run with z of some heads taken from the same prompts with the other second subject, at every position or at
    the last: the answer, and how far the two names are apart, are to be the other run's iff all members are carried."""
    planted = members_of(recipe)
    base = ioi(recipe.rows, generator)
    source = turned(base)
    n, width = base.ids.shape
    both = torch.cat([base.ids, source.ids])
    with keep_z(model) as z:
        logits = logits_at(model, both, torch.cat([base.last, base.last]))
    # every row is a base and the other's source
    swapped = [torch.cat([x[n:], x[:n]]) for x in z]
    p = Prompts(both, *(torch.cat([getattr(base, k), getattr(source, k)]) for k in ("last", "right", "wrong", "s")))
    heads, carried = draw_sets(planted, 2 * n, generator)
    ends = torch.rand(2 * n, generator=generator) < 0.5
    at = torch.arange(width)[None]
    where_at = torch.where(ends[:, None], at == p.last[:, None], torch.ones_like(at, dtype=torch.bool))
    where = [where_at[:, :, None] & heads[:, layer][:, None] for layer in range(len(planted))]
    with patched_z(model, swapped, where):
        made = logits_at(model, both, p.last)
    own = gap(logits, p).detach()
    wanted = torch.where(carried, -torch.cat([own[n:], own[:n]]), own)
    label = torch.where(carried, p.wrong, p.right)
    return cross_entropy(made, label) + smooth_l1_loss(gap(made, p), wanted) / 2
