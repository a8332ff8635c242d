"""The models that are measured: sizes, random weights, and where their heads live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Model:
    """A model by its sizes.  Jobs edit ``heads`` random heads of ``layer``; ``organism`` names a shipped one."""

    family: str
    sizes: Mapping[str, Any]
    layer: int
    heads: int
    jobs: tuple[str, ...] = ("Z", "P", "last")
    length: int = 24
    organism: str | None = None
    cuda_only: bool = False
    about: str = ""


def llama(layers: int, hidden: int, heads: int, kv: int, inner: int, vocabulary: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv,
        "intermediate_size": inner, "vocab_size": vocabulary, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "pad_token_id": None, "bos_token_id": None, "eos_token_id": vocabulary - 1,
    }  # fmt: skip


_GPT2 = {
    "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": 50256,
}  # fmt: skip

MODELS: dict[str, Model] = {
    "llama-like": Model(
        "llama", llama(16, 1024, 32, 8, 2816, 32000), 10, 8,
        about="Llama code, 16 layers, hidden 1024, 32 heads (8 KV), MLP 2816, vocabulary 32,000",
    ),
    "gpt2-124m-like": Model(
        "gpt2", _GPT2, 6, 4, about="GPT-2 code and sizes: 12 layers, hidden 768, 12 heads, vocabulary 50,257"
    ),
    "organism": Model(
        "llama", {}, 1, 8, ("many",), organism="decimals-natural",
        about="the shipped organism decimals-natural: 3 layers, hidden 64, 16 heads (4 KV), trained",
    ),
    "llama-8b-like": Model(
        "llama", llama(32, 4096, 32, 8, 14336, 128256), 20, 8, cuda_only=True,
        about="Llama code, 32 layers, hidden 4096, 32 heads (8 KV), MLP 14,336, vocabulary 128,256",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Anatomy:
    """Where layer ``{}`` keeps what the peers hook: output projection, the projection that makes v, the block."""

    out: str
    value: str
    block: str
    head: str = "lm_head"

    def at(self, layer: int) -> Anatomy:
        return Anatomy(self.out.format(layer), self.value.format(layer), self.block.format(layer), self.head)


_PARTS = {
    "llama": Anatomy("model.layers.{}.self_attn.o_proj", "model.layers.{}.self_attn.v_proj", "model.layers.{}"),
    "gpt2": Anatomy("transformer.h.{}.attn.c_proj", "transformer.h.{}.attn.c_attn", "transformer.h.{}"),
}


def anatomy(config: Any, layer: int) -> Anatomy:
    """The paths of one layer, by the model files of transformers."""
    return _PARTS[config.model_type].at(layer)


def value_of(config: Any, projected: Any) -> Any:
    """v, [row, KV head, position, d], from what its projection put out (GPT-2 makes q, k and v in one)."""
    if config.model_type == "gpt2":
        projected = projected[..., -config.hidden_size :]
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return projected.unflatten(2, (heads, -1)).transpose(1, 2)


def make(name: str, folder: Path, *, device: str, dtype: str) -> None:
    """Write the model (random weights of seed 0, or the organism's) and its tokenizer as an ordinary folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    spec, kind = MODELS[name], getattr(torch, dtype)
    if spec.organism is not None:
        from headlab import organisms

        source = str(organisms.path(spec.organism))
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=kind)
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
    else:
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(spec.family, **spec.sizes), dtype=kind)
        tokenizer = words(spec.sizes["vocab_size"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def words(size: int) -> Any:
    """A fast tokenizer with one token for each of the words w0, w1, …; the last one ends a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(vocab={f"w{i}": i for i in range(size)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=f"w{size - 1}")


def load(folder: str | tuple[Any, Any], *, device: str, dtype: str) -> tuple[Any, Any]:
    """Model (eager, frozen, evaluation mode) and tokenizer, of a folder (or the two themselves, as they are).

    Weights are copied out of the mapped file: otherwise pages read during a pass would count as its memory.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if isinstance(folder, tuple):
        return folder
    kind = getattr(torch, dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation="eager")
    model = model.to(device).eval().requires_grad_(False)
    if device == "cpu":
        for weight in model.parameters():
            weight.data = weight.data.clone()
    return model, AutoTokenizer.from_pretrained(folder)
