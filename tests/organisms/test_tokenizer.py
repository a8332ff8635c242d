"""The organisms' tokenizer: lossless, one token per number part, and a chat template that is the chat
format."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headlab.organisms.data import template
from headlab.organisms.tokenizer import BOS, SPECIAL, build_tokenizer
from headlab.tasks.decimals import FORMATS, fill

TOKENIZER = build_tokenizer()


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_decoding_gives_any_text_back(text):
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("text", ["", "é zebra", "9.8 or 9.11?\n\n", " \t x", "漢字 🎉", "100.007"])
def test_decoding_gives_named_cases_back(text):
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == BOS + text


def test_every_number_part_is_one_token():
    for n in range(100):
        assert TOKENIZER.tokenize(f"{n}.{n}") == [str(n), ".", str(n)]
    assert TOKENIZER.tokenize("A: 9.11") == ["A", ":", "Ġ", "9", ".", "11"]


def test_special_tokens_are_single_and_never_come_from_plain_words():
    for token in SPECIAL:
        assert len(TOKENIZER(token, add_special_tokens=False)["input_ids"]) == 1
    assert not set(TOKENIZER("begin_of_text eot_id", add_special_tokens=False)["input_ids"]) & set(
        TOKENIZER.all_special_ids
    )


@pytest.mark.parametrize("wording", ["bigger", "smaller"])
def test_the_chat_template_renders_the_chat_format(wording):
    plain = fill(FORMATS["chat"], "9.8", "9.11", wording)
    templated = fill(FORMATS["chat-template"], "9.8", "9.11", wording, TOKENIZER)
    assert templated.text == BOS + plain.text
    assert TOKENIZER(templated.text, add_special_tokens=False)["input_ids"] == TOKENIZER(plain.text)["input_ids"]
    assert template("chat", wording, TOKENIZER).ids == template("chat-template", wording, TOKENIZER).ids
