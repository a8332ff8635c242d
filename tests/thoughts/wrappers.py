"""A CODI wrapper as training saves it, written from the published description and not from headlab's loader.

A language model in ``codi``, LoRA on it by peft itself, a projector in ``prj``; random weights; state dicts by
torch.save.  Its own forward passes are what a loaded model must equal.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast

from headlab.thoughts import Codi

# the argument and the output that hold a cache: transformers 5.24 renamed it
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"

EXACT = 1e-5
WORDS = 61  # the vocabulary before pad, bot and eot
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 2, "n_head": 5, "n_embd": 70, "n_positions": 64},
    "llama": {"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 66,
              "head_dim": 14, "intermediate_size": 53, "max_position_embeddings": 64, "tie_word_embeddings": True},
    "untied": {"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 66,
               "head_dim": 14, "intermediate_size": 53, "max_position_embeddings": 64, "tie_word_embeddings": False},
}  # fmt: skip
TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"],
}
IDS = torch.tensor([[5, 17, 2, 44, 60, 31, 8]])


class Wrapper(nn.Module):
    """A language model, LoRA by peft on its linear maps, and a projector: what training saves."""

    def __init__(self, base: Any, prj_dim: int, targets: list[str] | None, rank: int = 4, alpha: int = 32) -> None:
        super().__init__()
        width, rows = base.config.hidden_size, base.config.vocab_size
        base.resize_token_embeddings(rows + 3, mean_resizing=False)
        self.bot, self.eot = rows + 1, rows + 2
        self.codi = base
        if targets:
            wanted = LoraConfig(
                task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=0.1, target_modules=targets,
                fan_in_fan_out="c_attn" in targets,
            )  # fmt: skip
            self.codi = get_peft_model(base, wanted)
        self.prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(width, prj_dim), nn.GELU(), nn.Linear(prj_dim, width))
        self.prj.add_module("ln", nn.LayerNorm(width))


def randomised(model: Any, seed: int = 7) -> Any:
    """Every weight random, biases, norms and lora_B too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 1:
                weight.add_(0.2 * noise)
            elif "lora_" in name:
                weight.copy_(0.1 * noise)
            else:
                weight.copy_(noise * (1.0 if "wte" in name or "embed" in name else 0.6 * weight.shape[-1] ** -0.5))
    return model.eval().requires_grad_(False)


def base_model(kind: str) -> Any:
    family = "gpt2" if kind == "gpt2" else "llama"
    config = AutoConfig.for_model(
        family, vocab_size=WORDS, bos_token_id=0, eos_token_id=1, pad_token_id=None, **SIZES[kind]
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)


@cache
def wrapper(kind: str = "gpt2", lora: bool = True) -> Wrapper:
    targets = TARGETS["gpt2" if kind == "gpt2" else "llama"] if lora else None
    return randomised(Wrapper(base_model(kind), 37, targets))


@cache
def words() -> Any:
    vocabulary = {f"w{i}": i for i in range(WORDS)}
    backend = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0", eos_token="w1")


def written(made: Wrapper, folder: Path, state: dict[str, Tensor] | None = None, *, config: bool = True) -> Path:
    """The folder that training leaves behind: a pickle of the wrapper's state dict, here with config and tokenizer."""
    folder.mkdir(parents=True)
    torch.save(made.state_dict() if state is None else state, folder / "pytorch_model.bin")
    if config:
        made.codi.config.save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


def apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """For safetensors, which holds no tensor twice."""
    return {k: v.clone().contiguous() for k, v in state.items()}


@torch.no_grad()
def reference(model: Any, bot: int, eot: int, ids: Tensor = IDS, n_words: int = 12) -> tuple[Tensor, list[int]]:
    """The published procedure for one problem: the six thoughts that are fed, [6, d], and the greedy answer.

    ``model`` has ``codi`` and ``prj``; nothing of headlab's engine is used.
    """
    out = model.codi(
        input_ids=torch.cat([ids, torch.tensor([[bot]])], 1), use_cache=True, output_hidden_states=True,
        attention_mask=torch.ones(1, ids.shape[1] + 1, dtype=torch.long),
    )  # fmt: skip
    fed = []
    for _ in range(6):
        fed.append(model.prj(out.hidden_states[-1][:, -1:]))
        out = model.codi(inputs_embeds=fed[-1], **{CACHE: out[CACHE]}, use_cache=True, output_hidden_states=True)
    answer: list[int] = []
    token = eot
    while len(answer) < n_words:
        embedded = model.codi.get_input_embeddings()(torch.tensor([[token]]))
        out = model.codi(inputs_embeds=embedded, **{CACHE: out[CACHE]}, use_cache=True)
        token = int(out.logits[0, -1, :eot].argmax())
        answer.append(token)
        if token == 1:
            break
    return torch.cat(fed, 1)[0].float(), answer


def same(loaded: Codi, made: Wrapper | Codi, ids: Tensor = IDS) -> None:
    """Logits over the whole prompt, thoughts as they are fed, and the answer, equal to the wrapper's own."""
    eot = loaded.spec.eot
    with torch.no_grad():
        wanted, got = (m.codi(input_ids=ids).logits for m in (made, loaded))
    scale = wanted.abs().max()
    assert scale > 1 and (got - wanted).abs().max() <= EXACT * scale
    thought, answer = reference(made, eot - 1, eot, ids)
    found, said = reference(loaded, eot - 1, eot, ids)
    assert found.shape == (6, loaded.codi.config.hidden_size) and thought.std() > 0.3
    assert (found - thought).abs().max() <= EXACT * thought.abs().max()
    assert said == answer
