"""Organisms whose weights are written down, not trained: what their heads do is known exactly.

``heads-planted-two-layers`` is a Llama of three layers that compares decimals.  In layer 0 one head says what the token
before was.  In layer 1 one head fetches the larger fraction by decimal order, one by version order, one the integer.  Four
planted heads, two in layer 1 and two in layer 2, each write +1 when no dialogue marker (Q:, a chat header) is in the
prompt, and −1 when one is.  The MLP of layer 2 puts the decimal answer in the place of the version answer when their sum
is 4: all four are needed, three do nothing.  A decoy in each of these layers looks at the markers as the planted heads do
and writes where nothing reads; all other heads are random.  Which head stands where is drawn by the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from headlab.heads import Head

from .built_recipes import BuiltRecipe
from .tokenizer import HEADER_START
from .training import sizes

CONSTANT, NUMBER, DECIMAL, VERSION, DOT, ASKS, CUE, MARKER, AFTER_DOT, SUM, BOS = range(11)
"""Coordinates of the residual stream."""
CODE = 16
OWN, CANDIDATE, ANSWER = (slice(11 + i * CODE, 11 + (i + 1) * CODE) for i in range(3))
UNREAD, ANY = 59, slice(60, 64)
"""What no part reads: where decoys write, and what tells any two tokens apart for random heads."""
SIZE = 64.0
"""Of the constant: so large that the norm of every position is nearly the same, and a norm changes nothing."""
MARKERS = ("Q", "User", HEADER_START)
CUES = (":", "?")
SHARP, SURE, STRONG, LOUD = 40.0, 60.0, 3.0, 0.2
"""Of attention by value, of attention by kind or place, of a code that is fetched, of codes in the logits."""


@cache
def codes() -> Tensor:
    """[100, 16] words of ±1, any two of which agree in 4 to 12 places: what stands for a number."""
    drawn = list(product((-1.0, 1.0), repeat=CODE))
    random.Random(0).shuffle(drawn)
    kept = torch.empty(0, CODE)
    for word in map(torch.tensor, drawn):
        if (kept @ word).abs().le(CODE // 2).all():
            kept = torch.cat([kept, word[None]])
        if len(kept) == 100:
            return kept
    raise AssertionError(f"{len(kept)} words")


@dataclass(frozen=True)
class Part:
    """One head: ``query`` and ``key`` by place in the head, from coordinates of the residual stream; what it reads and
    where it writes that."""

    query: dict[int, dict[int, float]]
    key: dict[int, dict[int, float]]
    value: tuple[tuple[int, int, float], ...]
    """(coordinate read, place in the head, factor)."""
    out: tuple[tuple[int, int, float], ...]
    """(place in the head, coordinate written, factor)."""


FLAT, SINK = 7, 6
"""Places in a head whose rotation is so slow that distance does not matter."""


def fetches(key: dict[int, float], to: slice, when: dict[int, float]) -> Part:
    """Copies the code of the token with the largest ``key`` where ``when`` is 1, and nothing elsewhere (the first token
    has no code)."""
    return Part(
        {FLAT: {at: SHARP * x for at, x in when.items()}, SINK: {CONSTANT: SURE}},
        {FLAT: {at: SHARP * x for at, x in key.items()}, SINK: {BOS: 4.0}},
        tuple((OWN.start + i, i, 1.0) for i in range(CODE)),
        tuple((i, to.start + i, STRONG) for i in range(CODE)),
    )


def watches(to: int) -> Part:
    """+1 without a marker before it, −1 with one: attends to markers, else to the first token."""
    return Part(
        {FLAT: {CONSTANT: SURE}}, {FLAT: {MARKER: 8.0, BOS: 4.0}}, ((BOS, 0, 1.0), (MARKER, 0, -1.0)), ((0, to, 1.0),)
    )


def looks_back(theta: float) -> Part:
    """Says whether the token before is a point: three rotations that agree at a distance of one."""
    turned: dict[int, dict[int, float]] = {}
    for i in range(3):
        angle = torch.tensor(theta ** (-2 * i / CODE))
        turned |= {i: {CONSTANT: SURE * float(angle.cos())}, i + CODE // 2: {CONSTANT: -SURE * float(angle.sin())}}
    return Part(turned, {i: {CONSTANT: 4.0} for i in range(3)}, ((DOT, 0, 1.0),), ((0, AFTER_DOT, 1.0),))


def parts(recipe: BuiltRecipe) -> list[dict[int, Part]]:
    """Of each layer, the heads that are not random, by index."""
    fraction = {AFTER_DOT: 4.0}
    kinds: list[list[Part]] = [
        [looks_back(recipe.theta)],
        [
            fetches(fraction | {DECIMAL: 1.0}, CANDIDATE, {DOT: 1.0}),
            fetches(fraction | {VERSION: 1.0}, ANSWER, {DOT: 1.0}),
            fetches({NUMBER: 2.0, AFTER_DOT: -4.0}, ANSWER, {ASKS: 1.0}),
            watches(UNREAD),
        ],
        [watches(UNREAD)],
    ]
    out = []
    for layer, own in enumerate(kinds):
        planted = [h.index for h in map(Head.parse, recipe.members) if h.layer == layer]
        free = [i for i in range(recipe.architecture.heads) if i not in planted]
        places = random.Random(f"{recipe.seed} {layer}").sample(free, len(own))
        out.append(dict(zip(places, own, strict=True)) | {i: watches(SUM) for i in planted})
    return out


def build(recipe: BuiltRecipe, tokenizer: Any) -> LlamaForCausalLM:
    """The model of a recipe, fp32; the same for the same recipe."""
    shape = recipe.architecture
    model = LlamaForCausalLM(
        LlamaConfig(
            **sizes(shape, tokenizer),
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            rope_parameters={"rope_type": "default", "rope_theta": recipe.theta},
            tie_word_embeddings=False,
        )
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    state: dict[str, Tensor] = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    state["model.embed_tokens.weight"], state["lm_head.weight"] = _words(tokenizer, shape.hidden, generator)
    norm = torch.full((shape.hidden,), SIZE / shape.hidden**0.5)  # what a position holds is what is read …
    norm[CONSTANT] = 1 / shape.hidden**0.5  # … and the constant is read as 1
    for name in state:
        if "norm" in name:
            state[name] = norm.clone()
    for layer, made in enumerate(parts(recipe)):
        _attend(state, f"model.layers.{layer}.self_attn.", made, recipe, generator)
    _choose(state, f"model.layers.{shape.layers - 1}.mlp.", len(recipe.members))
    model.load_state_dict(state)
    return model.eval()


def _words(tokenizer: Any, hidden: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Embedding and unembedding [token, coordinate]."""
    read, said = torch.zeros(len(tokenizer), hidden), torch.zeros(len(tokenizer), hidden)
    read[:, CONSTANT] = SIZE
    read[:, ANY] = torch.randn(len(read), 4, generator=generator)
    one = {n: tokenizer.convert_tokens_to_ids(str(n)) for n in range(100)}
    for n, at in one.items():
        tenths = n * 10 if n < 10 else n
        read[at, [NUMBER, DECIMAL, VERSION]] = torch.tensor([1.0, tenths / 128, n / 128])
        read[at, OWN] = codes()[n]
        said[at, ANSWER] = LOUD * codes()[n]
    kinds = {DOT: ["."], ASKS: ["Ġ", "ĊĊ"], CUE: list(CUES), MARKER: list(MARKERS), BOS: [tokenizer.bos_token]}
    known = tokenizer.get_vocab()
    for coordinate, tokens in kinds.items():
        for token in tokens:
            if token in known:
                read[known[token], coordinate] = 1.0
    said[known["."], [NUMBER, AFTER_DOT]] = torch.tensor([16.0, -32.0])
    said[tokenizer.eos_token_id, AFTER_DOT] = 16.0
    said[known["Ġ"], CUE] = 16.0
    return read, said


def _attend(
    state: dict[str, Tensor], at: str, made: dict[int, Part], recipe: BuiltRecipe, generator: torch.Generator
) -> None:
    """Fill one layer's attention: the parts, and random heads that write a little into the answer."""
    q, k, v, o = (state[f"{at}{x}_proj.weight"] for x in "qkvo")
    size = recipe.architecture.head_dim
    for head in range(recipe.architecture.heads):
        own = slice(head * size, (head + 1) * size)
        part = made.get(head)
        if part is None:
            for matrix, spread in ((q, 1.0), (k, 1.0), (v, 0.5)):
                matrix[own] = torch.randn(size, matrix.shape[1], generator=generator) * spread
            v[own, CONSTANT] = 0
            o[ANSWER, own] = torch.randn(CODE, size, generator=generator) * recipe.noise
            continue
        for matrix, wanted in ((q, part.query), (k, part.key)):
            for place, read in wanted.items():
                for coordinate, x in read.items():
                    matrix[own.start + place, coordinate] = x
        for coordinate, place, x in part.value:
            v[own.start + place, coordinate] = x
        for place, coordinate, x in part.out:
            o[coordinate, own.start + place] = x


def _choose(state: dict[str, Tensor], at: str, members: int) -> None:
    """ANSWER becomes CANDIDATE where all members say +1: one neuron for each place of a code, open at that sum alone."""
    gate, up, down = (state[f"{at}{x}_proj.weight"] for x in ("gate", "up", "down"))
    for i in range(CODE):
        gate[i, SUM], gate[i, CONSTANT] = 32.0, -32.0 * (members - 1)
        up[i, CANDIDATE.start + i], up[i, ANSWER.start + i] = 1.0, -1.0
        down[ANSWER.start + i, i] = 1 / 32


def kinds(recipe: BuiltRecipe) -> Iterator[tuple[Head, str]]:
    """What every head was written to do."""
    told: Sequence[Sequence[str]] = (
        ("says whether a point is the token before",),
        (
            "fetches the larger fraction in decimal order",
            "fetches the larger fraction in version order",
            "fetches the integer",
            "looks at markers, and nothing reads it",
        ),
        ("looks at markers, and nothing reads it",),
    )
    planted = set(map(Head.parse, recipe.members))
    for layer, made in enumerate(parts(recipe)):
        words = iter(told[layer])
        named = {i: "planted" if Head(layer, i) in planted else next(words) for i in made}
        for i in range(recipe.architecture.heads):
            yield Head(layer, i), named.get(i, "random")
