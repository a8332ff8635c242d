"""Tiny random models of many families, a tokenizer for them, and prompts: what the engine's tests run on.

Axes have distinct sizes, prime where a family allows it, so that a swapped axis cannot pass: 3 layers, 5 heads (or 10
that share 2 KV heads), 14 channels a head, a vocabulary of 101, prompts of 7, 11 and 13 tokens.  Every weight is
random, biases and norms included: a bias forgotten or added twice shows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headlab.engine.model import Lab, open_model
from headlab.engine.selfcheck import prove
from headlab.heads import Heads, KVHeads
from headlab.interventions import Intervention
from headlab.prompts import Encoded, EncodedPair, Pair, Prompt, Span

LAYERS, VOCABULARY, HEAD_DIM = 3, 101, 14
EOS = VOCABULARY - 1

_SIZES = {"num_hidden_layers": LAYERS, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "tie_word_embeddings": False,
          "pad_token_id": None, "bos_token_id": None, "eos_token_id": EOS}  # fmt: skip
_MHA = {"num_attention_heads": 5, "num_key_value_heads": 5, "hidden_size": 70, "intermediate_size": 53}
_GQA = {"num_attention_heads": 10, "num_key_value_heads": 2, "hidden_size": 110, "intermediate_size": 53,
        "head_dim": HEAD_DIM}  # fmt: skip
_GQA_PLAIN = {"num_attention_heads": 10, "num_key_value_heads": 2, "hidden_size": 140, "intermediate_size": 53}
_PARTIAL = {**_MHA, "hidden_size": 80}  # 16 channels a head: rotary on a part of them needs an even number
_WIDE = {**_GQA, "hidden_size": 120}  # grouped matrix products of experts want multiples of 4
_MQA = {**_GQA, "num_attention_heads": 5, "num_key_value_heads": 1, "hidden_size": 65}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4}
_GPT2 = {"n_layer": LAYERS, "n_head": 5, "n_embd": 70, "n_inner": 53, "n_positions": 64, "num_hidden_layers": LAYERS}
_MLA = {"q_lora_rank": 23, "kv_lora_rank": 17, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 18,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "first_k_dense_replace": 1,
        "n_group": 2, "topk_group": 1, "n_shared_experts": 1}  # fmt: skip

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _GQA,
    "gpt_neox": _PARTIAL,
    "gpt2": _GPT2,
    "gemma": _MQA,
    "gemma2": {**_GQA, **_SLIDING, "query_pre_attn_scalar": 17, "attn_logit_softcapping": 3.0,
               "final_logit_softcapping": 5.0},
    "qwen3": _GQA,
    "mistral": {**_GQA, "sliding_window": 4},
    "mixtral": {**_WIDE, "intermediate_size": 52, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
    "qwen2": _GQA_PLAIN,
    "qwen3_moe": {**_WIDE, **_MOE},
    "qwen3_next": {**_WIDE, **_MOE, "layer_types": ["linear_attention", "full_attention", "full_attention"],
                   "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
                   "linear_value_head_dim": 8, "shared_expert_intermediate_size": 20, "decoder_sparse_step": 1},
    "gemma3_text": {**_GQA, **_SLIDING, "query_pre_attn_scalar": 17},
    "gpt_bigcode": {**_GPT2, "multi_query": True},
    "phi": _PARTIAL,
    "phi3": {**_GQA_PLAIN, "original_max_position_embeddings": 64},
    "olmo": _MHA,
    "olmo2": _GQA_PLAIN,
    "olmo3": {**_GQA_PLAIN, **_SLIDING},
    "cohere": _GQA_PLAIN,
    "cohere2": {**_GQA, **_SLIDING},
    "starcoder2": {**_GQA_PLAIN, "sliding_window": 4},
    "stablelm": _PARTIAL,
    "opt": {"num_attention_heads": 5, "hidden_size": 70, "ffn_dim": 53, "word_embed_proj_dim": 70},
    "granite": {**_GQA_PLAIN, "attention_multiplier": 0.21, "residual_multiplier": 0.7, "logits_scaling": 1.3},
    "gpt_oss": {**_WIDE, "intermediate_size": 52, **_SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {**_MHA, "hidden_size": 60, **_MLA},
    "smollm3": {**_GQA_PLAIN, "no_rope_layers": [1, 0, 1]},
    "nemotron": _GQA,
    "glm4": {**_GQA, "partial_rotary_factor": 1.0},
    "bitnet": _GQA_PLAIN,
}  # fmt: skip

# what an oracle or law is tried on when one family of each kind is enough: GQA, fused MHA, Conv1D, soft-cap and window
CORE = ("llama", "gpt_neox", "gpt2", "gemma2")
SIX = (*CORE, "gemma", "qwen3")


def hf_model(family: str, sizes: Mapping[str, Any] | None = None) -> Any:
    """A random model of a family, eager, float32, in evaluation mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**_SIZES, **(FAMILIES.get(family, _MHA) if sizes is None else sizes)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(sum(map(ord, family)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(noise * (1.3 / math.sqrt(weight.shape[-1]) if "embed" not in name else 1.0))
            else:
                weight.copy_(weight + 0.2 * noise)
    return model.requires_grad_(False)


@cache
def lab(family: str) -> Lab:
    """A loaded and proved random model; the tests leave it as it was."""
    return proved(hf_model(family))


def proved(model: Any) -> Lab:
    made = open_model(model, tokenizer=words())
    prove(made)
    return made


@cache
def words() -> Any:
    """A fast tokenizer with one token for each of the words ``w0`` … ``w99``, and an end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(EOS)} | {"<eos>": EOS}
    backend = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", clean_up_tokenization_spaces=False)


def save(model: Any, folder: Path) -> Path:
    """Model and tokenizer as an ordinary folder."""
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


def word_rows(n: int) -> list[dict[str, str]]:
    """Pairs of four words that differ in the first, with answers of one word."""
    return [
        {
            "clean": f"w{3 + i} w7 w{11 + i} w5",
            "corrupted": f"w{30 + i} w7 w{11 + i} w5",
            "answer": f" w{40 + i}",
            "wrong": f" w{60 + i}",
        }
        for i in range(n)
    ]


def encoded(ids: Sequence[int], *, forced: int = 0, roles: Mapping[str, Sequence[int]] | None = None) -> Encoded:
    """A prompt given as tokens: the last ``forced`` are the shared start of the answer; w1 is right, w2 wrong."""
    n = len(ids) - forced
    named = {"last": (n - 1,), **{r: tuple(p) for r, p in (roles or {}).items()}}
    return Encoded(tuple(ids), n, named, frozenset(), 1, 2, "")


def pair(name: str, clean: Encoded, corrupted: Encoded) -> EncodedPair:
    return EncodedPair(Pair(name, Prompt("clean"), Prompt("corrupted"), "w1", "w2"), clean, corrupted)


def prompts(n: int, length: int, seed: int = 0, first: int = 3) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(first, EOS) for _ in range(length)] for _ in range(n)]


def equal_pairs(n: int = 4, length: int = 11, seed: int = 0) -> list[EncodedPair]:
    """Pairs without roles whose prompts have one length; the first two tokens agree."""
    out = []
    for i, ids in enumerate(prompts(2 * n, length, seed)[::2]):
        other = prompts(1, length, 1000 + seed * 100 + i)[0]
        out.append(pair(f"p{i}", encoded(ids), encoded([*ids[:2], *other[2:]])))
    return out


LENGTHS = ((7, 11), (11, 7), (11, 11), (7, 11), (13, 7), (11, 13), (7, 7), (13, 13))


def mixed_pairs(seed: int = 0) -> list[EncodedPair]:
    """Pairs of three lengths, clean and corrupted of different length too, with two roles that match."""
    spans, out = (Span("a", 0, 1), Span("b", 1, 2)), []
    for i, (n_clean, n_corrupted) in enumerate(LENGTHS):
        clean, corrupted = prompts(1, n_clean, seed + 10 * i)[0], prompts(1, n_corrupted, seed + 10 * i + 5)[0]
        out.append(
            EncodedPair(
                Pair(f"m{i}", Prompt("xx", spans), Prompt("xx", spans), "w1", "w2"),
                encoded(clean, roles={"a": (1, 2), "b": (n_clean - 3,)}),
                encoded(corrupted, roles={"a": (2, 3), "b": (n_corrupted - 2,)}),
            )
        )
    return out


def some(made: Lab, layer: int, site: str, indices: Sequence[int]) -> Heads | KVHeads:
    """Heads of a layer, on the axis that the site has."""
    if site in {"k", "v"}:
        return KVHeads(layer, tuple(i for i in indices if i < made.grid.n_kv_heads) or (0,))
    return Heads.of(layer, indices)


def edit(made: Lab, layer: int, site: str, indices: Sequence[int] = (0, 3), **fields: Any) -> Intervention:
    return Intervention(some(made, layer, site, indices), site, **fields)  # type: ignore[arg-type]


def softmax_layer(made: Lab, at: int = 1) -> int:
    """A layer with softmax attention (hybrids have others)."""
    return sorted(made.attentions)[min(at, len(made.attentions) - 1)]


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest logit."""
    return ((a - b).abs().max() / b.abs().max()).item()
