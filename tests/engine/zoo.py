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
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": VOCABULARY - 1, "sliding_window": 4, "sliding_window_size": 4,
    "tie_word_embeddings": False, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "n_group": 2, "topk_group": 1,
    "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1, "first_k_dense_replace": 1,
    "moe_layer_start_index": 1, "q_lora_rank": 22, "kv_lora_rank": 18, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8,
    "v_head_dim": 18, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 20, "shared_intermediate_size": 20,
    "intermediate_size_mlp": 52, "ffn_dim": 52, "decoder_ffn_dim": 52, "encoder_ffn_dim": 52, "n_inner": 53, "dff": 53,
    "word_embed_proj_dim": None, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "mamba_n_heads": 4, "mamba_d_head": "auto", "mamba_d_state": 8, "mamba_n_groups": 1,
    "type_vocab_size": 1, "query_pre_attn_scalar": 17, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 5,
    "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0,
    "laurel_rank": 5, "attention_window_size": 4, "num_nextn_predict_layers": 0, "chunk_size": 8,
    "attention_chunk_size": 8, "is_decoder": True, "add_cross_attention": False, "rotary_dim": 8, "num_expert_group": 2,
    "zero_expert_num": 2, "expert_ffn_hidden_size": 20, "ffn_hidden_size": 52, "linear_head_dim": 8,
    "linear_num_heads": 4, "n_groups": 2, "state_size": 8, "model_max_length": LONGEST, "dim_ff": 52,
    "router_hidden_size": 12, "ngram_vocab_size_base": 50,
}  # fmt: skip
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers",
           "num_decoder_layers", "num_encoder_layers")  # fmt: skip
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads",
          "num_decoder_attention_heads", "num_encoder_attention_heads",
          "swa_num_attention_heads")  # fmt: skip
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "emb_dim", "adapter_in_dim",
          "adapter_input_size", "adapter_out_dim")  # fmt: skip
_KV = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "num_global_key_value_heads", "swa_num_key_value_heads")
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")

_DOTS3_SLIDING = {
    "num_attention_heads": 10, "num_key_value_heads": 10, "q_lora_rank": 22, "kv_lora_rank": 18, "head_dim": 14,
    "qk_nope_head_dim": 6, "v_head_dim": 18,
}  # fmt: skip

_QWEN4_INDEX = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 4,
                "indexer_compress_ratio": 2, "hc_lowrank": 12}  # fmt: skip

OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
    "granite": {"attention_multiplier": 0.21, "residual_multiplier": 0.7, "logits_scaling": 1.3},
    "dory": {"n_input_layers": 1, "n_output_layers": 1,
             "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gpt_bigcode": {"multi_query": True},
    "bamba": {"attn_layer_indices": [1, 2]},
    "cohere_compass_text": {"rope_parameters": {k: {"rope_type": "default", "rope_theta": 1e4}
                                                for k in ("full_attention", "sliding_attention")}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
             "ffn_config": {"ffn_hidden_size": 52, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 140}},
    "dots3_note": {f"swa_{k}": v for k, v in _DOTS3_SLIDING.items()},
    "dots3_note_text": {f"swa_{k}": v for k, v in _DOTS3_SLIDING.items()},
    "gemma4_text": {"global_head_dim": 32}, "gemma4": {"global_head_dim": 32}, "gemma4_unified": {"global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"]},
    "mamba2": {"num_heads": 10, "head_dim": 28, "hidden_size": 140},
    "qwen4_exp": _QWEN4_INDEX, "qwen4_exp_text": _QWEN4_INDEX,
    "reformer": {"axial_pos_embds_dim": [40, 100], "axial_pos_shape": [8, 8], "attention_head_size": 14},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
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
    "gemma4_text": {"shared KV": {"global_head_dim": 16, "head_dim": 16, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
                                  "layer_types": ["sliding_attention", "full_attention"] * 2},
                    "one head size": {"global_head_dim": 16, "head_dim": 16}},
    "mimo_v2_flash": {"windows alone": {"layer_types": ["sliding_attention"] * 3}},
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


NOT_BUILT = {
    "gemma3n": "its vision tower needs the timm library, which is not installed",
    "gemma4_assistant": "a draft model: it has no keys and values of its own and reads the cache of another model",
    "gemma4_unified_assistant": "a draft model: it has no keys and values of its own and reads the cache of another model",
    "musicgen": "AutoModelForCausalLM gives its class the whole configuration, of which it takes the decoder's alone",
    "musicgen_melody": "AutoModelForCausalLM gives its class the whole configuration, of which it takes the decoder's alone",
}
"""Families of which no model can be made here, and why."""


def names() -> list[tuple[str, str]]:
    """(family, variant) of everything the table measures; the variant "" is the family's own kind of configuration."""
    return [(f, v) for f in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) for v in ("", *MORE.get(f, ()))]


def build(family: str, variant: str = "") -> Model:
    """A random float32 model with eager attention; the first of ``SIZES`` on which it runs."""
    if family in NOT_BUILT:
        return Model(family, variant, why=NOT_BUILT[family])
    own = {**OWN.get(family, {}), **(MORE[family][variant] if variant else {})}
    why = ""
    for sizes, more in ((s, m) for m in _MORE_AND_MORE for s in SIZES):
        try:
            config = shrunk(CONFIG_MAPPING[family], sizes, own, **more)
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
            why = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    return Model(family, variant, why=why)


_MORE_AND_MORE = (
    {},
    {"tokens": True},
    {"tokens": True, "nothing": True},
    {"tokens": True, "nothing": True, "large": True},
)


def shrunk(
    cls: type[PretrainedConfig], sizes: tuple[int, ...], own: Mapping[str, Any], **more: bool
) -> PretrainedConfig:
    """A small configuration of a class; ``more`` as in :func:`_fields`."""
    fields = dict(_fields(cls().to_dict(), sizes, own, **more))
    fields.update({k: v for k, v in own.items() if k not in fields})
    return cls(**fields)


def _fields(
    was: Mapping[str, Any], sizes: tuple[int, ...], own: Mapping[str, Any], *, tokens: bool = False,
    nothing: bool = False, large: bool = False,
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """The fields that change.  ``tokens``: special tokens are numbers; ``nothing``: a size of None is given; ``large``:
    numbers whose meaning is not known become small."""
    more = {"tokens": tokens, "nothing": nothing, "large": large}
    heads, kv, channels, width, inner = sizes
    if "qk_rope_head_dim" in was:  # MLA: the rotary part, and as many keys as queries
        channels, kv = _SMALL["qk_rope_head_dim"], heads
    layers = own.get("num_hidden_layers", LAYERS)
    before = next((was[k] for k in _LAYERS if isinstance(was.get(k), int)), 0)
    for name, value in was.items():
        if name in own:
            yield name, own[name]
        elif name == "per_layer_config":  # made anew from the kinds of layers
            continue
        elif name.endswith("_config") and isinstance(value, dict):
            part = dict(_fields(value, sizes, own if name == "text_config" else {}, **more))
            if name == "text_config":
                part.update({k: v for k, v in own.items() if k not in was})
            yield name, {k: v for k, v in {**value, **part}.items() if k != "per_layer_config"}
        elif name in _TOKENS and tokens:
            yield name, 1 if name != "eos_token_id" else VOCABULARY - 1
        elif name in _SMALL:
            if value is not None or name in _TOKENS or nothing:
                yield name, _SMALL[name]
        elif name in _LAYERS:
            yield name, layers
        elif name in _HEADS:
            yield name, heads
        elif name in _KV:
            yield name, kv if nothing else value and kv
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
        elif large and isinstance(value, int) and value >= 512:
            yield name, VOCABULARY if "vocab" in name else 64


def _refuse_large(config: PretrainedConfig) -> None:
    """Fields that are not known to be sizes would leave a model at its full size."""
    with torch.device("meta"):
        parts = [(p.numel(), n, tuple(p.shape)) for n, p in AutoModelForCausalLM.from_config(config).named_parameters()]
    if sum(p[0] for p in parts) > 12_000_000:
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
