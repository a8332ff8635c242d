"""Tiny random thinking models, and the official loop written out plainly (batch 1, no engine)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from wrappers import CACHE

from headlab.thoughts.loading import Thinker, load
from headlab.thoughts.model import Codi, Spec

WORDS = 53


def tokenizer() -> Any:
    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="w0", eos_token="w1", clean_up_tokenization_spaces=False
    )


def language_model(family: str) -> Any:
    common = {"vocab_size": WORDS + 3, "bos_token_id": 1, "eos_token_id": 1}
    torch.manual_seed(3)
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(n_embd=42, n_layer=3, n_head=7, n_positions=96, initializer_range=0.15, **common)
        )
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=54, intermediate_size=66, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=3,
            head_dim=10, initializer_range=0.15, **common,
        )
    )  # fmt: skip


def thinker(family: str, folder: Path, mode: str = "codi") -> Thinker:
    lm = language_model(family)
    spec = Spec.after(WORDS, 37, mode=mode, n_thoughts=0 if mode == "none" else 6)
    model = Codi(lm, spec)
    model.save(folder / f"{family}-{mode}", tokenizer())
    return load(folder / f"{family}-{mode}")


def questions(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Questions of several lengths, and their names."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(2, WORDS)}" for _ in range(rng.choice((5, 7, 11)))) for _ in range(n)], [
        f"p{i}" for i in range(n)
    ]


@torch.no_grad()
def official(thinker: Thinker, question: str, tokens: int) -> tuple[list[int], float]:
    """Generated ids and the sum of their log-probabilities, by plain Hugging Face calls with a growing cache."""
    model, spec = thinker.model, thinker.spec
    lm, base = model.codi, model.codi.get_decoder()
    ids = thinker.tokenizer(question, return_tensors="pt").input_ids
    out = base(input_ids=torch.cat([ids, torch.tensor([[spec.bot]])], 1), use_cache=True)
    for j in range(spec.n_thoughts):
        fed = model.filler[j][None] if spec.mode == "filler" else model.prj(out.last_hidden_state[:, -1])
        out = base(inputs_embeds=fed[:, None], **{CACHE: out[CACHE]}, use_cache=True)
    token, made, total = spec.eot, [], 0.0
    past = out[CACHE]
    for _ in range(tokens):
        step = lm(input_ids=torch.tensor([[token]]), **{CACHE: past}, use_cache=True)
        chance = step.logits[0, -1, : spec.eot].log_softmax(-1)
        token = int(chance.argmax())
        made.append(token)
        total += float(chance[token])
        if token == thinker.tokenizer.eos_token_id:
            break
    return made, total
