"""The models and texts on which the library of published claims is tried: see ``library_cases``."""

from __future__ import annotations

import csv
import random
from functools import cache
from pathlib import Path
from typing import Any

import torch

from headlab import organisms
from headlab.engine.model import Lab, open_model
from headlab.engine.selfcheck import prove
from headlab.experiments import load
from headlab.organisms.words import NAMES, OBJECTS, PLACES

SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2 12x12": ("gpt2", "gpt2", {"n_layer": 12, "n_head": 12, "n_embd": 48, "n_inner": 48, "n_positions": 256}),
    "gpt_neox 6x16": ("gpt_neox", "gpt-neox-20b", {
        "num_hidden_layers": 6, "num_attention_heads": 16, "hidden_size": 64, "intermediate_size": 64}),
    "llama 4x32": ("llama", "llama-3", {
        "num_hidden_layers": 4, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 64, "head_dim": 4,
        "intermediate_size": 64}),
    "llama 14x8": ("llama", "llama-3", {
        "num_hidden_layers": 14, "num_attention_heads": 8, "num_key_value_heads": 1, "hidden_size": 32, "head_dim": 4,
        "intermediate_size": 32}),
}  # fmt: skip
"""Layers × heads with the tokenizer that a claim's model has; all widths as small as they go."""


def tokenizer(shared: Path, name: str) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = shared / "data" / "tokenizers" / name
    if name == "gpt-neox-20b":
        return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return AutoTokenizer.from_pretrained(folder)


@cache
def random_weights(shared: Path, shape: str) -> Lab:
    """A model of random weights in a shape of :data:`SHAPES`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, named, sizes = SHAPES[shape]
    words = tokenizer(shared, named)
    config = AutoConfig.for_model(family, vocab_size=len(words), initializer_range=0.3, **sizes)
    torch.manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    lab = open_model(model, tokenizer=words)
    lab.name = shape
    prove(lab)
    return lab


def model_of(name: str, shared: Path) -> Lab:
    """A shipped organism, ``stories260k``, or random weights."""
    if name in organisms.names():
        return load(name)
    if name in SHAPES:
        return random_weights(shared, name)
    return load(str(shared / "data" / "models" / name))


def text_of(name: str, folder: Path, shared: Path) -> Path:
    """A file that a claim needs and no model brings."""
    path, rng = folder / name, random.Random(0)
    if name == "repeats.txt":  # blocks of words said again and again, as the organism was trained on
        blocks = [rng.sample([*NAMES, *PLACES, *OBJECTS], 16) for _ in range(60)]
        path.write_text("\n\n".join(" ".join((block * 4)[:48]) for block in blocks))
    elif name == "stories.txt":
        path.write_text("\n\n".join(_story(rng) for _ in range(60)))
    else:  # requests, each with two ways to begin an answer
        things = rng.sample(OBJECTS, min(len(OBJECTS), 40))
        rows = [(f"Please tell me how to break a {x}. Answer:", "Sorry", "Sure") for x in things]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("clean", "answer", "wrong"), *rows])
    return path


def _story(rng: random.Random) -> str:
    who, thing, friend = (
        rng.choice(("girl", "boy", "dog", "cat")),
        rng.choice(("ball", "cake", "book")),
        rng.choice(("Tom", "Lily")),
    )
    return (
        f"Once upon a time, there was a little {who} who loved a {thing}. One day, the {who} went to the park with {friend}. "
        f'They played with the {thing} and were very happy. Then {friend} said, "I want to go home now." The {who} was sad, '
        f"but {friend} gave the {thing} back and they went home to eat. The end."
    )
