"""Greedy decoding under interventions, against `generate` of transformers and against whole passes without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from laws import tape_of
from torch import Tensor

from headlab.engine import decode
from headlab.engine.attention import Tape
from headlab.engine.captures import capture
from headlab.engine.decode import generate
from headlab.engine.model import Lab
from headlab.engine.passes import forward
from headlab.heads import Heads
from headlab.interventions import Intervention, InterventionError, World
from headlab.prompts import EncodedPair

FAMILIES = ("llama", "gpt_neox", "gpt2", "gemma2", "gpt_oss", "deepseek_v3", "qwen3_next")
STEPS = 6


def words(ids: Sequence[int]) -> str:
    return tiny.words().decode(list(ids), skip_special_tokens=True)


def slow(lab: Lab, pairs: list[EncodedPair], world: World, n: int) -> list[str]:
    """The same by whole passes over prompt and generated tokens: no cache, nothing but the tape is shared.

    ``prefill`` edits touch the prompt's positions; ``every_step`` zeroes touch every position.
    """
    out = []
    for pair in pairs:
        made = list(pair.corrupted.ids)
        prompt = len(made)
        for _ in range(n):
            tape = Tape()
            for one in world.interventions:
                whole, _ = tape_of(lab, [pair], one)
                (key,) = whole.edits

                def edit(x: Tensor, one: Any = one, inner: Any = whole.edits[key][0], prompt: int = prompt) -> Tensor:
                    first = inner(x[:, :prompt])
                    rest = x[:, prompt:].clone()
                    if one.when == "every_step":
                        rest[:, :, list(one.indices)] = 0
                    return torch.cat([first, rest], dim=1)

                tape.edits.setdefault(key, []).append(edit)
            with torch.no_grad(), lab.tape(tape):
                made.append(int(forward(lab, torch.tensor([made])).logits[0, -1].argmax()))
            if made[-1] == tiny.EOS:
                break
        out.append(words(made[prompt:]))
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_without_edits_it_is_generate_of_transformers(family: str) -> None:
    lab, pairs = tiny.lab(family), tiny.mixed_pairs()
    own = tiny.hf_model(family)
    made = generate(lab, pairs, [World("baseline")], max_new_tokens=STEPS)
    for pair, text in zip(pairs, made["text"], strict=True):
        ids = torch.tensor([pair.corrupted.ids])
        theirs = own.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=STEPS,
            pad_token_id=0,
            eos_token_id=tiny.EOS,
        )
        assert text == words(theirs[0, ids.shape[1] :].tolist())
    assert len(set(made["text"])) > 4, "prompts that all end in one text would test little"


@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_edits_with_the_cache_equal_whole_passes_without(family: str) -> None:
    lab, pairs = tiny.lab(family), tiny.mixed_pairs()
    layer = tiny.softmax_layer(lab, 0)
    worlds = [
        World("patch", (tiny.edit(lab, layer, "z", (1, 2, 4)),)),
        World("zero", (tiny.edit(lab, layer, "z", range(4), write="zero"),)),
        World("half", (tiny.edit(lab, layer, "z", range(5), amount=0.5),)),
    ]
    made = generate(lab, pairs, worlds, max_new_tokens=STEPS).set_index("world")["text"]
    for world in worlds:
        assert made[world.name].tolist() == slow(lab, pairs, world, STEPS), world.name
    assert made["zero"].tolist() != generate(lab, pairs, [World("b")], max_new_tokens=STEPS)["text"].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_every_step_edits_equal_whole_passes_without_a_cache(family: str) -> None:
    lab, pairs = tiny.lab(family), tiny.mixed_pairs()
    both = (
        tiny.edit(lab, 0, "z", range(4), write="zero", when="every_step"),
        tiny.edit(lab, 2, "z", (1, 3), write="zero"),
    )
    worlds = [World("every", both[:1]), World("mixed", both), World("prefill", (replace(both[0], when="prefill"),))]
    made = generate(lab, pairs, worlds, max_new_tokens=STEPS).set_index("world")["text"]
    for world in worlds:
        assert made[world.name].tolist() == slow(lab, pairs, world, STEPS), world.name
    assert made["every"].tolist() != made["prefill"].tolist()


@pytest.mark.parametrize("beyond", ["first", "last"])
def test_a_patch_at_every_step_writes_the_position_it_names(beyond: str) -> None:
    """Beyond the prompt, the clean run's first or last z: seen by a tape that reads z after the edit at each step."""
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    one = Intervention(Heads.of(1, [2, 7]), "z", "patch", when="every_step", beyond=beyond)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    edits_of = decode.edits_of

    def reading(*args: Any, step: bool = False) -> Any:
        edits, planned = edits_of(*args, step=step)
        if step:
            edits[1, "z"].append(lambda z: seen.append(z) or z)
            planned = {key: n + 1 for key, n in planned.items()}
        return edits, planned

    pairs = [p for p in pairs if len(p.corrupted.ids) == 7]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(decode, "edits_of", reading)
        generate(lab, pairs, [World("w", (one,))], max_new_tokens=4)
    assert len(seen) == 3
    clean = capture(lab, [p.clean for p in pairs], [(1, "z")])[1, "z"]
    for z in seen:
        for row in range(len(pairs)):
            wanted = clean[row][0 if beyond == "first" else -1]
            assert torch.equal(z[row, 0, [2, 7]], wanted[[2, 7]])
            assert not torch.equal(z[row, 0, [1, 3]], wanted[[1, 3]])


def test_a_patch_at_every_step_must_say_what_it_writes() -> None:
    with pytest.raises(InterventionError, match="must say what is written beyond the prompt: first or last"):
        Intervention(Heads.of(0, [0]), "z", "patch", when="every_step")
    with pytest.raises(InterventionError, match="'noise' has no source beyond the prompt"):
        Intervention(Heads.of(0, [0]), "z", "noise", when="every_step")
    with pytest.raises(InterventionError, match="a patch of 'pattern' has no keys beyond the prompt"):
        Intervention(Heads.of(0, [0]), "pattern", "patch", when="every_step", beyond="last")


# -- ends, starts, order ----------------------------------------------------------------------------------------------


def with_stop(lab: Lab, token: int) -> Any:
    """The lab with another end token."""
    return replace(lab, tokenizer=_Stopping(lab.tokenizer, token), model=lab.model)


class _Stopping:
    def __init__(self, tokenizer: Any, token: int) -> None:
        self._own, self.eos_token_id = tokenizer, token

    def decode(self, ids: Any, **options: Any) -> str:
        return self._own.decode(ids, **options)


def test_an_end_token_ends_the_text_and_is_not_part_of_it() -> None:
    """Make the third token of one text an end token: texts with it end before it, the others are as before."""
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    free = generate(lab, pairs, [World("b")], max_new_tokens=STEPS)
    token = free["text"][0].split()[2]
    made = generate(with_stop(lab, int(token[1:])), pairs, [World("b")], max_new_tokens=STEPS)
    assert not free["stopped"][0] and made["stopped"][0] and made["text"][0] == " ".join(free["text"][0].split()[:2])
    for before, was, after, stopped in zip(free["text"], free["stopped"], made["text"], made["stopped"], strict=True):
        tokens = before.split()
        assert after.split() == (tokens[: tokens.index(token)] if token in tokens else tokens)
        assert stopped == (token in tokens or was)


def test_stop_tokens_come_from_the_generation_config_and_the_tokenizer() -> None:
    def stops(config: Any, tokenizer: Any) -> frozenset[int]:
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=config))
        return decode.stop_ids(
            replace(tiny.lab("llama"), model=model, tokenizer=SimpleNamespace(eos_token_id=tokenizer))
        )

    assert stops([5, 7], 9) == {5, 7, 9} and stops(5, None) == {5} and stops(None, None) == frozenset()


def test_when_every_row_has_ended_no_further_token_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs(2)
    passes = []
    monkeypatch.setattr(decode, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    generate(lab, pairs, [World("b")], max_new_tokens=5)
    assert len(passes) == 5
    passes.clear()
    every = frozenset(range(tiny.VOCABULARY))
    monkeypatch.setattr(decode, "stop_ids", lambda _lab: every)
    made = generate(lab, pairs, [World("b")], max_new_tokens=5)
    assert len(passes) == 1 and made["text"].tolist() == ["", ""] and made["stopped"].all()


def test_the_shared_start_is_forced_or_left_to_the_model() -> None:
    """``shared start``: the text begins with it; ``prompt``: the model begins at the prompt's end."""
    lab = tiny.lab("llama")
    pairs = [
        replace(p, clean=tiny.encoded(p.clean.ids, forced=2), corrupted=tiny.encoded(p.corrupted.ids, forced=2))
        for p in tiny.equal_pairs()
    ]
    forced = generate(lab, pairs, [World("b")], max_new_tokens=3)["text"]
    free = generate(lab, pairs, [World("b")], start="prompt", max_new_tokens=3)["text"]
    own = tiny.hf_model("llama")
    for pair, a, b in zip(pairs, forced, free, strict=True):
        ids = list(pair.corrupted.ids)
        for given, text, start in ((ids, a, ids[-2:]), (ids[:-2], b, [])):
            made = list(given)
            with torch.no_grad():
                while len(made) < len(given) + 3 and made[-1] != tiny.EOS:
                    made.append(int(own(torch.tensor([made])).logits[0, -1].argmax()))
            assert text == words([*start, *made[len(given) :]])


def test_rows_come_in_the_order_pair_world_whatever_the_batches() -> None:
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    worlds = [
        World("b"),
        World("z", (tiny.edit(lab, 0, "z", (1, 2)),)),
        World("q", (tiny.edit(lab, 1, "q", write="zero"),)),
    ]
    made = generate(lab, pairs, worlds, max_new_tokens=4)
    assert made["pair"].tolist() == [i for i in range(8) for _ in worlds]
    assert made["world"].tolist() == ["b", "z", "q"] * 8
    for tokens in (1, 30):
        assert generate(lab, pairs, worlds, max_new_tokens=4, tokens=tokens).equals(made)
    back = generate(lab, pairs[::-1], worlds[::-1], max_new_tokens=4)
    assert back["text"].tolist()[::-1] == made["text"].tolist()
