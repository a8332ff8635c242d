"""The rows of attention against plain Hugging Face passes: another loop, another attention function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from thinkers import questions, thinker
from wrappers import CACHE

from headlab.heads import Head, Heads
from headlab.thoughts import attention as room
from headlab.thoughts.attention import ThoughtAttention, attention
from headlab.thoughts.hubs import corrected
from headlab.thoughts.loading import Thinker, read_folder
from headlab.thoughts.metrics import published_view
from headlab.thoughts.model import ThoughtError
from headlab.thoughts.worlds import Force, Replace, ThoughtWorld, ablation

FAMILIES = ("gpt2", "llama")
N, TOKENS = 11, 3


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Thinker, object, object]:
    """A thinker, and the same weights as plain Hugging Face runs them."""
    folder = tmp_path_factory.mktemp("thinkers")
    made = thinker(request.param, folder)
    plain, words = read_folder(folder / f"{request.param}-codi")
    plain.codi.set_attn_implementation("eager")
    return made, plain, words


@pytest.fixture(scope="module")
def seen(pair: tuple[Thinker, object, object]) -> ThoughtAttention:
    asked, names = questions(N)
    return attention(pair[0], asked, names, max_new_tokens=TOKENS)


@torch.no_grad()
def whole_sequence(plain: object, words: object, question: str) -> tuple[np.ndarray, int, list[int]]:
    """Patterns [layer, head, query, key] of one pass over question, bot, thoughts, eot and answer, the answer's ids and
    the length of the question; the thoughts are made one by one, each from the whole sequence before it."""
    ids = words(question, return_tensors="pt").input_ids  # type: ignore[operator]
    spec, base = plain.spec, plain.codi.get_decoder()  # type: ignore[attr-defined]
    x = plain.embed(torch.cat([ids, torch.tensor([[spec.bot]])], 1))  # type: ignore[attr-defined]
    for _ in range(spec.n_thoughts):
        x = torch.cat([x, plain.prj(base(inputs_embeds=x).last_hidden_state[:, -1])[:, None]], 1)  # type: ignore[attr-defined]
    token, made = spec.eot, []
    for _ in range(TOKENS):
        x = torch.cat([x, plain.embed(torch.tensor([[token]]))], 1)  # type: ignore[attr-defined]
        out = plain.codi(inputs_embeds=x, output_attentions=True)  # type: ignore[attr-defined]
        token = int(out.logits[0, -1, : spec.eot].argmax())
        made.append(token)
        if token == words.eos_token_id:  # type: ignore[attr-defined]
            break
    return torch.stack(out.attentions)[:, 0].double().numpy(), ids.shape[1], made


def test_rows_are_those_of_one_plain_pass_over_the_whole_sequence(pair, seen) -> None:
    _, plain, words = pair
    asked, _ = questions(N)
    for place, question in enumerate(asked):
        full, q, made = whole_sequence(plain, words, question)
        first = q + 1
        for i in range(7):  # six thoughts and eot
            row = full[:, :, first + i]
            assert np.allclose(seen.question[place, :, :, i], row[..., :q].sum(-1), atol=2e-5)
            assert np.allclose(seen.bot[place, :, :, i], row[..., q], atol=2e-5)
            assert np.allclose(seen.thoughts[place, :, :, i], row[..., first : first + 6], atol=2e-5)
            assert np.allclose(seen.later[place, :, :, i], row[..., first + 6 :].sum(-1), atol=2e-5)
        fed = [first + 7 + t for t in range(len(made) - 1)]  # the last token made is never fed
        answer = full[:, :, fed, first : first + 6].mean(2)
        assert np.allclose(seen.thoughts[place, :, :, 7], answer, atol=2e-5)
    assert np.triu(seen.among, 1).max() == 0 and seen.gap() < 1e-5


def test_the_published_view_is_what_the_published_loop_stored(pair, seen) -> None:
    """bot and five thoughts are fed; the query of step s meets the keys at q + 1 + j, j < s, in a 6×6 of zeros."""
    _, plain, words = pair
    asked, _ = questions(N)
    view = published_view(seen.among)
    assert view.shape == seen.among.shape
    for place, question in enumerate(asked[:5]):
        with torch.no_grad():
            ids = words(question, return_tensors="pt").input_ids
            base = plain.codi.get_decoder()
            out = base(input_ids=ids, use_cache=True)
            x, q = plain.embed(torch.tensor([[plain.spec.bot]])), ids.shape[1]
            stored = np.zeros(seen.among.shape[1:])
            for s in range(6):
                out = base(inputs_embeds=x, **{CACHE: out[CACHE]}, use_cache=True, output_attentions=True)
                for j in range(s):
                    stored[:, :, s, j] = torch.stack(out.attentions)[:, 0, :, 0, q + 1 + j].numpy()
                x = plain.prj(out.last_hidden_state[:, -1])[:, None]
        assert np.allclose(view[place], stored, atol=2e-5)
        own = np.diagonal(seen.among[place], 0, -2, -1)
        assert np.allclose(np.diagonal(stored, -1, -2, -1), own[..., :5], atol=2e-5)  # "i → i−1" is attention to itself


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_change_nothing(pair, seen, batch: int) -> None:
    asked, names = questions(N)
    one = attention(pair[0], asked, names, max_new_tokens=TOKENS, batch=batch)
    assert one.names == tuple(names)
    for key in ("question", "bot", "thoughts", "later"):
        assert np.allclose(getattr(one, key), getattr(seen, key), atol=1e-5, equal_nan=True), key


def test_the_order_is_the_one_given(pair, seen) -> None:
    asked, names = questions(N)
    order = list(reversed(range(N)))
    back = attention(pair[0], [asked[i] for i in order], [names[i] for i in order], max_new_tokens=TOKENS)
    assert back.names == tuple(names[i] for i in order)
    assert np.allclose(back.thoughts, seen.thoughts[order], atol=1e-5, equal_nan=True)
    assert not np.allclose(back.thoughts, seen.thoughts, atol=1e-3, equal_nan=True)


def test_a_table_and_back(seen: ThoughtAttention) -> None:
    again = ThoughtAttention.of_frame(seen.frame())
    assert again.names == seen.names and len(seen.frame()) == N * seen.question.shape[1] * seen.question.shape[2]
    for key in ("question", "bot", "thoughts", "later"):
        assert np.array_equal(getattr(again, key), getattr(seen, key), equal_nan=True), key


def test_finished_batches_are_kept_by_what_ran(pair) -> None:
    asked, names = questions(N)
    kept: dict[str, object] = {}

    def keep(name, compute):
        if name not in kept:
            kept[name] = compute()
        return kept[name]

    first = attention(pair[0], asked, names, keep=keep, max_new_tokens=TOKENS)
    count = len(kept)
    again = attention(pair[0], asked, names, keep=keep, max_new_tokens=TOKENS)
    assert len(kept) == count > 1 and np.array_equal(first.among, again.among)
    world = ThoughtWorld("even", forces=(Force(Heads([Head(0, 0)]), "uniform"),))
    attention(pair[0], asked, names, world, keep=keep, max_new_tokens=TOKENS)
    assert len(kept) == 2 * count


def test_a_forced_pattern_is_read_as_forced(pair, seen) -> None:
    asked, names = questions(N)
    heads = Heads(Head(at, h) for at in range(3) for h in range(pair[0].lab.grid.n_heads))
    even = attention(pair[0], asked, names, ThoughtWorld("u", forces=(Force(heads, "uniform"),)), max_new_tokens=2)
    assert np.abs(corrected(even.among) - 1).max() < 1e-6
    assert np.abs(corrected(seen.among) - 1).max() > 0.1
    hub = attention(pair[0], asked, names, ThoughtWorld("h", forces=(Force(heads, "hub", hub=2),)), max_new_tokens=2)
    share = hub.among[..., 2:, 2] / hub.among[..., 2:, :].sum(-1)
    assert np.allclose(share, 0.8, atol=1e-5)


def test_a_row_that_lacks_a_key_is_an_error(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, names = questions(3)
    own = room._sorted

    def blind(*given):
        found = own(*given)
        return ThoughtAttention(found.names, found.question, 0 * found.bot, found.thoughts, found.later)

    monkeypatch.setattr(room, "_sorted", blind)
    with pytest.raises(ThoughtError, match="sums to one only within"):
        attention(pair[0], asked, names)


def test_what_cannot_be_read_is_refused(pair, tmp_path) -> None:
    asked, names = questions(3)
    with pytest.raises(ThoughtError, match="no thoughts"):
        attention(thinker("gpt2", tmp_path, "none"), asked, names)
    heads = Heads([Head(0, 1)])
    for world in (ablation("m", heads, "mean"), ThoughtWorld("r", replaced=(Replace((1,), "resample"),))):
        with pytest.raises(ThoughtError, match="another run"):
            attention(pair[0], asked, names, world)
    with pytest.raises(ThoughtError, match="name of its own"):
        attention(pair[0], asked, ["a", "a", "b"])


def test_an_answer_that_ends_at_once_has_no_row(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair[0]
    asked, names = questions(5)
    every = set(range(made.spec.eot))
    monkeypatch.setattr(room, "stop_ids", lambda lab: every)
    found = attention(made, asked, names, max_new_tokens=TOKENS)
    assert np.isnan(found.thoughts[:, :, :, 7]).all() and not np.isnan(found.thoughts[:, :, :, :7]).any()
