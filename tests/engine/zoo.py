"""A tiny random model of every causal language model class that the installed transformers has.

Configurations are made from each class's own defaults, shrunk by the names of their fields; what a family wants beside
that stands in ``OWN``, and further configurations of families with switches in ``MORE``.  Imports nothing of headlab.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS, VOCABULARY, LONGEST = 3, 101, 64

# heads, KV heads, channels of a head, of the model, of the MLP; the first that a family bears is taken
SIZES = ((10, 2, 14, 140, 53), (10, 2, 16, 160, 52), (5, 5, 16, 80, 52), (4, 2, 16, 64, 56), (4, 4, 32, 128, 64))

_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "max_position_embeddings": LONGEST, "n_positions": LONGEST, "n_ctx": LONGEST,
    "max_sequence_length": LONGEST, "original_max_position_embeddings": LONGEST, "max_seq_len": LONGEST,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": VOCABULARY - 1, "sliding_window": 4,
    "tie_word_embeddings": False, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "n_group": 2, "topk_group": 1,
    "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1, "first_k_dense_replace": 1,
    "moe_layer_start_index": 1, "q_lora_rank": 23, "kv_lora_rank": 17, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8,
    "v_head_dim": 18, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 20, "shared_intermediate_size": 20,
    "intermediate_size_mlp": 52, "ffn_dim": 52, "decoder_ffn_dim": 52, "encoder_ffn_dim": 52, "n_inner": 53, "dff": 53,
    "word_embed_proj_dim": None, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "mamba_n_heads": 4, "mamba_d_head": "auto", "mamba_d_state": 8, "mamba_n_groups": 1,
    "type_vocab_size": 1, "query_pre_attn_scalar": 17, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 64,
    "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0,
    "laurel_rank": 5, "attention_window_size": 4, "num_nextn_predict_layers": 0, "chunk_size": 8,
    "attention_chunk_size": 8, "is_decoder": True, "add_cross_attention": False,
}  # fmt: skip
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim", "embedding_size")

OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
    "granite": {"attention_multiplier": 0.21, "residual_multiplier": 0.7, "logits_scaling": 1.3},
    "gpt_bigcode": {"multi_query": True},
}
MORE: dict[str, dict[str, dict[str, Any]]] = {
    "gpt_bigcode": {"many KV heads": {"multi_query": False}},
    "llama": {
        "one KV head": {"num_key_value_heads": 1},
        "own KV heads, biases": {"num_key_value_heads": 10, "attention_bias": True},
        "tied": {"tie_word_embeddings": True},
    },
    "gemma2": {"no soft-cap": {"attn_logit_softcapping": None, "final_logit_softcapping": None}},
    "mistral": {"no window": {"sliding_window": None}},
    "qwen2": {"windows": {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4}},
    "qwen3": {"biases": {"attention_bias": True}},
    "deepseek_v3": {"no query rank": {"q_lora_rank": None}, "interleaved": {"rope_interleave": True}},
    "deepseek_v2": {"no query rank": {"q_lora_rank": None}},
    "gemma3n_text": {"shared KV": {"num_hidden_layers": 4, "num_kv_shared_layers": 2,
                                   "layer_types": ["sliding_attention", "full_attention"] * 2}},
    "gemma4_text": {"shared KV": {"num_hidden_layers": 4, "num_kv_shared_layers": 2,
                                  "layer_types": ["sliding_attention", "full_attention"] * 2},
                    "one head size": {"global_head_dim": None}},
    "gpt_neox": {"sequential": {"use_parallel_residual": False}},
    "stablelm": {"norms of q and k": {"qk_layernorm": True}, "parallel": {"use_parallel_residual": True}},
    "phi": {"norms of q and k": {"qk_layernorm": True}},
    "smollm3": {"no positions": {"no_rope_layers": [1, 0, 1]}},
    "cohere": {"norms of q and k": {"use_qk_norm": True}},
    "llama4_text": {"all full": {"layer_types": ["full_attention"] * 3, "no_rope_layers": [0, 0, 0]}},
    "opt": {"norm after": {"do_layer_norm_before": False}},
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One configuration of one family: ``made`` is the model in evaluation mode, or ``why`` says why there is none."""

    family: str
    variant: str
    made: Any = None
    why: str = ""
    heads: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.family} ({self.variant})" if self.variant else self.family


def names() -> list[tuple[str, str]]:
    """(family, variant) of everything the table measures; the variant "" is the family's own kind of configuration."""
    return [(f, v) for f in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) for v in ("", *MORE.get(f, ()))]


def build(family: str, variant: str = "") -> Model:
    """A random float32 model with eager attention; the first of ``SIZES`` on which it runs."""
    own = {**OWN.get(family, {}), **(MORE[family][variant] if variant else {})}
    why = ""
    for sizes in SIZES:
        try:
            config = shrunk(CONFIG_MAPPING[family], sizes, own)
            _refuse_large(config)
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(0)
                made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
                made.set_attn_implementation("eager")
                _fill(made, family)
                logits = made(torch.arange(3, 12)[None], use_cache=False).logits
            if not bool(logits.isfinite().all()):
                raise ValueError("logits are not finite")
            return Model(family, variant, made.requires_grad_(False), heads=sizes[0], fields=own)
        except Exception as error:  # any family's own code
            why = why or f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return Model(family, variant, why=why)


def shrunk(cls: type[PretrainedConfig], sizes: tuple[int, ...], own: Mapping[str, Any]) -> PretrainedConfig:
    """A small configuration of a class."""
    fields = dict(_fields(cls().to_dict(), sizes, own))
    fields.update({k: v for k, v in own.items() if k not in fields})
    return cls(**fields)


def _fields(was: Mapping[str, Any], sizes: tuple[int, ...], own: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    heads, kv, channels, width, inner = sizes
    layers = own.get("num_hidden_layers", LAYERS)
    before = next((was[k] for k in _LAYERS if isinstance(was.get(k), int)), 0)
    for name, value in was.items():
        if name in own:
            yield name, own[name]
        elif name.endswith("_config") and isinstance(value, dict):
            yield name, {**value, **dict(_fields(value, sizes, own if name == "text_config" else {}))}
        elif name in _SMALL:
            if value is not None or name in {"pad_token_id", "bos_token_id", "eos_token_id"}:
                yield name, _SMALL[name]
        elif name in _LAYERS:
            yield name, layers
        elif name in _HEADS:
            yield name, heads
        elif name in {"num_key_value_heads", "num_kv_heads", "n_head_kv", "num_global_key_value_heads"}:
            yield name, value and kv
        elif name in {"head_dim", "kv_channels", "swa_head_dim"}:
            yield name, channels
        elif name == "global_head_dim":
            yield name, value and 2 * channels
        elif name in _WIDTH:
            yield name, width
        elif name == "intermediate_size":
            yield name, [inner] * layers if isinstance(value, list) else inner
        elif isinstance(value, list) and before and len(value) == before:
            kinds = list(dict.fromkeys(map(str, value)))
            first = [next(v for v in value if str(v) == k) for k in kinds[:layers]]
            yield name, [*first, *[value[-1]] * (layers - len(first))]


def _refuse_large(config: PretrainedConfig) -> None:
    """Fields that are not known to be sizes would leave a model at its full size."""
    with torch.device("meta"):
        parts = [(p.numel(), n, tuple(p.shape)) for n, p in AutoModelForCausalLM.from_config(config).named_parameters()]
    if sum(p[0] for p in parts) > 3_000_000:
        raise ValueError(f"not small: {max(parts)}")


def _fill(made: Any, family: str) -> None:
    """Every weight random, norms and biases included: a bias forgotten or added twice shows."""
    generator = torch.Generator().manual_seed(sum(map(ord, family)))
    for name, weight in made.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() > 1:
            weight.copy_(noise * (1.0 if "embed" in name else 1.3 / math.sqrt(weight.shape[-1])))
        else:
            weight.add_(0.2 * noise)
