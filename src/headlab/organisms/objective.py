"""What training minimises: cross-entropy of the answer, from its lead to its end token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from .data import IGNORED, assemble, plain_blocks
from .recipes import Recipe


def answer_loss(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the answer tokens; ``ids`` and ``labels`` [row, position].

    Logits are computed at scored positions only.
    """
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    scored = labels[:, 1:] != IGNORED
    unembed: Any = model.get_output_embeddings()
    return cross_entropy(unembed(hidden[scored]), labels[:, 1:][scored])


def task_loss(recipe: Recipe, model: PreTrainedModel, tokenizer: Any, generator: torch.Generator) -> Tensor:
    """Loss of one batch of fresh questions, ``recipe.rows`` for every trained (format, wording); nats per
    token."""
    return answer_loss(model, *assemble(plain_blocks(recipe, tokenizer, generator, recipe.rows), tokenizer))
