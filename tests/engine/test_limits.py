"""What a model has no row for is refused by the name of the pair; what it was not trained for is said.

Looked for: tables of positions (with and without an offset), tokens of prompt and answers, prompts both clean and
corrupted, generated tokens, captures, the latent loop of thinking models; models without a table go on.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import tiny
import torch

from headlab.engine.decode import generate
from headlab.engine.limits import beyond, positions
from headlab.engine.model import Lab
from headlab.engine.run import capture, sweep
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.prompts import Pair, Prompt, PromptError

WORLDS = [World("w", (Intervention(Heads.of(1, [0]), write="zero"),))]
TABLES = ("gpt2", "gpt_bigcode", "opt")


@pytest.mark.parametrize("family", [*TABLES, "llama", "gpt_neox", "gemma2"])
def test_a_table_of_positions_is_found_where_there_is_one(family: str) -> None:
    lab = tiny.lab(family)
    assert positions(lab) == (64 if family in TABLES else None)
    ids = torch.tensor(tiny.prompts(1, 65))
    if family in TABLES:  # the model itself agrees
        lab.model(ids[:, :64])
        with pytest.raises(IndexError):
            lab.model(ids)
    else:
        lab.model(ids)


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("which", ["clean", "corrupted"])
def test_a_prompt_past_the_table_is_refused_by_its_name(family: str, which: str) -> None:
    lab, pairs = tiny.lab(family), tiny.equal_pairs(3)
    fits, long = (tiny.encoded(tiny.prompts(1, n)[0]) for n in (64, 65))
    sweep(lab, [replace(pairs[1], **{which: fits})], [World("w", (tiny.edit(lab, 1, "z", write="zero"),))])
    said = re.escape(f"pair p1: its {which} prompt has 65 tokens, but {lab.name} has 64 positions")
    with pytest.raises(PromptError, match=said):
        sweep(lab, [pairs[0], replace(pairs[1], **{which: long})], WORLDS)
    with pytest.raises(PromptError, match="prompt 1 has 65 tokens"):
        capture(lab, [fits, long], [(1, "z")])


def test_generated_tokens_count() -> None:
    """The last one is never read, so 60 tokens and 5 more fit 64 positions."""
    lab = tiny.lab("gpt2")
    pairs = [tiny.pair("p", *(tiny.encoded(tiny.prompts(1, 60)[0]) for _ in range(2)))]
    assert len(generate(lab, pairs, WORLDS, max_new_tokens=5)) == 1
    with pytest.raises(PromptError, match=r"has 60 tokens and 5 of its continuation, but .* has 64 positions"):
        generate(lab, pairs, WORLDS, max_new_tokens=6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_token_beyond_the_embedding_is_named(family: str) -> None:
    lab, pair = tiny.lab(family), tiny.equal_pairs(1)[0]
    for one in (
        replace(pair.clean, ids=(*pair.clean.ids[:-1], 101)),
        replace(pair.clean, answer_id=101),
        replace(pair.clean, wrong_id=101),
    ):
        with pytest.raises(PromptError, match=r"pair p0: its clean prompt or answer has token 101 .* has 101 rows"):
            sweep(lab, [replace(pair, clean=one)], WORLDS)


def texts(n: int) -> Pair:
    text = " ".join(["w3", *["w4"] * (n - 1)])
    return Pair(f"n{n}", Prompt(text), Prompt(text.replace("w3", "w5")), "w1", "w2", cluster="c")


def test_a_prompt_beyond_the_range_of_training_is_said() -> None:
    lab: Lab = tiny.lab("llama")
    pairs = [replace(texts(n), clean=Prompt(texts(n).clean.text, lead=" "), corrupted=Prompt(texts(n).corrupted.text, lead=" "))
             for n in (7, 64, 65, 70)]  # fmt: skip
    assert beyond(lab, pairs[:2]) == []
    (said,) = beyond(lab, pairs)
    assert "2 pair(s) are longer than the 64 positions" in said and "first n65: 65 tokens" in said
