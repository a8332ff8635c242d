"""Training an organism from its recipe: one loop for the natural and the planted ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from headlab.thoughts.training import Progress, cpu_threads

from .objective import task_loss
from .planting import planting_loss
from .pulling import pull_loss
from .recipes import Architecture, ClusteredRecipe, Recipe
from .tokenizer import EOT


def sizes(shape: Architecture, tokenizer: Any) -> dict[str, Any]:
    """What the configurations of all families call the same."""
    return dict(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_model(recipe: Recipe, tokenizer: Any) -> PreTrainedModel:
    """A freshly initialised model, fp32; the same for the same seed.  The global generator is left as it
    was."""
    shape = recipe.architecture
    common: dict[str, Any] = sizes(shape, tokenizer) | {"initializer_range": shape.init_std}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if shape.family in {"llama", "gemma"}:
            kinds: dict[str, Any] = {"llama": (LlamaConfig, LlamaForCausalLM), "gemma": (GemmaConfig, GemmaForCausalLM)}
            config, build = kinds[shape.family]
            model: PreTrainedModel = build(
                config(**common, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim, tie_word_embeddings=True)
            )
        else:
            model = GPTNeoXForCausalLM(
                GPTNeoXConfig(
                    **common,
                    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
                    attention_dropout=0.0,
                    hidden_dropout=0.0,
                    tie_word_embeddings=False,
                )
            )
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(EOT)]
    return model


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear climb, then a cosine to 0."""
    climb = max(1, round(warmup * steps))
    if step < climb:
        return (step + 1) / climb
    return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1, steps - climb)))


def fit(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    steps: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
    watch: Callable[[int], None] | None = None,
    objective: Callable[[PreTrainedModel, torch.Generator, int], Tensor] | None = None,
) -> list[float]:
    """Train ``model`` in place for the recipe's steps (or ``steps``, with the schedule shortened to fit).

    ``watch(updates)`` is called before the first update and after each; it must leave the model as it is.
    ``objective(model, generator, step)`` is the loss of the update after ``step`` (the recipe's own task, and its plant).
    Returns the loss (nats) of every step.  Deterministic for a seed and a thread count.
    """
    steps = steps or recipe.steps
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    losses = []
    model.set_attn_implementation(recipe.attention)
    with cpu_threads(threads):
        model.train()
        if watch:
            watch(0)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * rate(step, steps, recipe.warmup)
            loss = (
                objective(model, generator, step)
                if objective
                else _decimals_loss(recipe, step, model, tokenizer, generator)
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            losses.append(loss.item())
            if progress:
                progress(step + 1, steps, f"loss {losses[-1]:.4f}")
            if watch:
                watch(step + 1)
        model.eval()
    return losses


def _decimals_loss(
    recipe: Recipe, step: int, model: PreTrainedModel, tokenizer: Any, generator: torch.Generator
) -> Tensor:
    """The loss of the update that follows ``step`` updates."""
    loss = (planting_loss if recipe.planting_at(step) else task_loss)(recipe, model, tokenizer, generator)
    return loss + pull_loss(recipe, model) if isinstance(recipe, ClusteredRecipe) else loss
