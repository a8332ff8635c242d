"""A thinking model written by hand in which one head carries all that the answer needs.

One Llama layer of 24 heads.  The answer is the digit that stands somewhere in the question.  Only the planted head's
values depend on its input: it looks from ``eot`` to digits and copies which digit it is; W_V of every other head is zero
and its value bias a random constant, so its z is the same vector in every problem, whatever it attends to.  Thoughts are
constants (the filler mode) and carry nothing.  So the truth about every head and every thought is known by construction.

Residual channels: 0–9 which digit (input), 10–19 which digit (answer), 20 "is a digit", 21 "is eot", the rest noise.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from headlab.heads import Head
from headlab.tasks.word_problems import Problem, ProblemSet
from headlab.thoughts.loading import Thinker, load
from headlab.thoughts.model import Codi, Spec

DIGITS, WORDS, HEADS, SIZE = 10, 31, 24, 12
VOCABULARY = 1 + DIGITS + WORDS  # the end token, digits, words


def tokenizer() -> Any:
    words = ["<end>", *map(str, range(DIGITS)), *(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(WORDS))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<end>", eos_token="<end>", clean_up_tokenization_spaces=False
    )


def problems(n: int, seed: int = 0) -> ProblemSet:
    """Questions of 7 or 11 words with one digit among them; the digit is the answer."""
    rng, out = random.Random(seed), []
    for i in range(n):
        digit = rng.randrange(DIGITS)
        words = [f"word{chr(97 + w % 26)}{chr(97 + w // 26)}" for w in rng.choices(range(WORDS), k=rng.choice((6, 10)))]
        words.insert(rng.randrange(len(words) + 1), str(digit))
        chain = (f"{1000 * (seed + 1) + i}-{1000 * (seed + 1) + i - digit}={digit}",)
        out.append(Problem(f"made-{seed}-{i}", " ".join(words), chain, str(digit)))
    return ProblemSet(tuple(out), "digits")


def planted(folder: Path, head: int = 17, width: int = 48, seed: int = 5) -> Thinker:
    """The model; ``head`` is the planted one, ``width`` its residual stream's, ``seed`` rules everything idle."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY + 3, hidden_size=width, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=SIZE, attention_bias=True, bos_token_id=None,
        eos_token_id=0, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1e30},
    )  # fmt: skip
    lm: Any = LlamaForCausalLM(config)
    spec = Spec.after(VOCABULARY, 7, mode="filler", n_thoughts=6)
    model = Codi(lm, spec)
    with torch.no_grad():
        for p in lm.model.layers[0].mlp.parameters():
            p.zero_()
        _embeddings(lm, spec, width)
        _heads(lm.model.layers[0].self_attn, head, width)
        model.filler.zero_()
        model.filler[:, 22:] = torch.randn(6, width - 22)
    model.save(folder / f"planted-{head}-{width}-{seed}", tokenizer())
    return load(folder / f"planted-{head}-{width}-{seed}")


def _embeddings(lm: Any, spec: Spec, width: int) -> None:
    words, out = lm.model.embed_tokens.weight, lm.lm_head.weight
    words.zero_()
    words[:, 22:] = torch.randn(len(words), width - 22)
    out.zero_()
    for digit in range(DIGITS):
        words[1 + digit] = 0
        words[1 + digit, digit] = words[1 + digit, 20] = 3.0
        out[1 + digit, 10 + digit] = 3.0
    words[spec.eot] = 0
    words[spec.eot, 21] = 3.0
    out[0, 20] = 6.0  # after a digit comes the end


def _heads(attention: Any, head: int, width: int) -> None:
    for name in ("q_proj", "k_proj"):  # where idle heads look is as random as it gets
        getattr(attention, name).weight.normal_(0, 0.5)
        getattr(attention, name).bias.normal_(0, 0.5)
    attention.v_proj.weight.zero_()
    attention.v_proj.bias.normal_(0, 0.3)
    attention.o_proj.weight.zero_()
    attention.o_proj.weight[22:] = 0.3 * torch.randn(width - 22, HEADS * SIZE)
    attention.o_proj.bias.zero_()
    own, last = range(head * SIZE, (head + 1) * SIZE), (head + 1) * SIZE - 1
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
        linear.weight[own] = 0
        linear.bias[own] = 0
    attention.o_proj.weight[:, own] = 0
    attention.q_proj.weight[last, 21] = attention.k_proj.weight[last, 20] = (
        2.0  # the pair that rotary positions leave alone
    )
    for digit in range(DIGITS):
        attention.v_proj.weight[head * SIZE + digit, digit] = 1.0
        attention.o_proj.weight[10 + digit, head * SIZE + digit] = 3.0


def truth(thinker: Thinker, chosen: ProblemSet) -> set[Head]:
    """The heads whose z depends on the problem, read from the model: more than rounding away from constant."""
    from headlab.thoughts.loop import watch

    seen: list[Any] = []
    asked, names = [p.question for p in chosen], [p.id for p in chosen]
    for _, ran in watch(thinker, asked, names, frozenset([(0, "z")])):
        seen += [kept[0, "z"].flatten(0, 1) for kept in ran.kept]
    spread = torch.cat(seen).std(0).max(-1).values
    return {Head(0, int(h)) for h in torch.nonzero(spread > 1e-4).flatten()}
