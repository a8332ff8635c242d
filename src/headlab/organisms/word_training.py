"""What word organisms minimise: the next word where it can be known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from .word_recipes import WordRecipe
from .words import build_word_tokenizer, ioi, repeats, scored

SENTENCE = 0.1
"""Weight of the words of an ioi sentence beside its answer."""


def word_loss(recipe: WordRecipe, model: PreTrainedModel, generator: torch.Generator, step: int) -> Tensor:
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
