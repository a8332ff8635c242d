"""Training rows: the right answers by an independent reading of the task, and nothing held out among them."""

from decimal import Decimal

import pytest
import torch

from headlab.organisms import VERSION_FORMATS, rule_of
from headlab.organisms.data import IGNORED, Block, assemble, draw_questions, position_map, template
from headlab.organisms.tokenizer import build_tokenizer
from headlab.tasks.decimals import CATEGORIES, FORMATS, category_of, fill, held_out

TOKENIZER = build_tokenizer()
CELLS = [(f, w) for f, fmt in FORMATS.items() for w in fmt.wordings]


def expected(a, b, rule, wording):
    """By hand: decimals compared as numbers, versions part by part."""
    if rule == "decimal":
        a_wins = Decimal(a) > Decimal(b)
    else:
        a_wins = [int(x) for x in a.split(".")] > [int(x) for x in b.split(".")]
    return a if a_wins == (wording == "bigger") else b


@pytest.mark.parametrize(("name", "wording"), CELLS)
def test_a_row_is_the_prompt_with_its_rules_answer(name, wording):
    questions = draw_questions(40, (0.4, 0.2, 0.2, 0.2), torch.Generator().manual_seed(3))
    form = template(name, wording, TOKENIZER)
    ids, labels = assemble([Block(form, questions)], TOKENIZER)
    for row, scored, numbers in zip(ids, labels, questions.numbers.tolist(), strict=True):
        a, b = f"{numbers[0]}.{numbers[1]}", f"{numbers[2]}.{numbers[3]}"
        prompt = fill(FORMATS[name], a, b, wording, TOKENIZER)
        answer = prompt.lead + expected(a, b, rule_of(name), wording)
        end = "<|eot_id|>" if name.startswith("chat") else "<|end_of_text|>"
        assert row.tolist() == TOKENIZER(prompt.text + answer + end, add_special_tokens=prompt.special)["input_ids"]
        assert TOKENIZER.decode(scored[scored != IGNORED]) == answer + end


def test_the_bug_is_in_the_formats_with_a_dialogue_marker():
    marked = {f for f, fmt in FORMATS.items() if any(t.startswith(("Q:", "User", "<|")) for _, t in fmt.parts)}
    assert marked | {"chat-template"} == VERSION_FORMATS


def test_held_out_pairs_are_never_drawn_and_the_mix_is_kept():
    mix = (0.3, 0.1, 0.2, 0.4)
    numbers = draw_questions(3000, mix, torch.Generator().manual_seed(0)).numbers.tolist()
    hidden = held_out()
    counts = dict.fromkeys(CATEGORIES, 0)
    first_is_lower = 0
    for i, f, j, g in numbers:
        assert (f, g) not in hidden and (g, f) not in hidden
        counts[category_of(f"{i}.{f}", f"{j}.{g}")] += 1
        first_is_lower += f < g
    for category, share in zip(CATEGORIES, mix, strict=True):
        assert abs(counts[category] / 3000 - share) < 4 * (share * (1 - share) / 3000) ** 0.5
    assert abs(first_is_lower / 3000 - 0.5) < 4 * 0.5 / 3000**0.5


def test_rows_of_different_length_are_padded_on_the_right_where_nothing_is_scored():
    questions = draw_questions(2, (1.0, 0.0, 0.0, 0.0), torch.Generator().manual_seed(0))
    blocks = [Block(template(f, "bigger", TOKENIZER), questions) for f in ("simple", "chat")]
    ids, labels = assemble(blocks, TOKENIZER)
    short = len(blocks[0].form.ids)
    assert ids.shape == (4, len(blocks[1].form.ids))
    assert (ids[:2, short:] == TOKENIZER.pad_token_id).all() and (labels[:2, short:] == IGNORED).all()


def test_positions_pair_like_tokens_of_simple_and_qa():
    simple, qa = template("simple", "bigger", TOKENIZER), template("qa", "bigger", TOKENIZER)
    pairs = position_map(simple, qa, TOKENIZER)
    words = {(TOKENIZER.decode(simple.ids[at]), TOKENIZER.decode(qa.ids[to])) for to, at, _ in pairs}
    numbers = {("3", "3"), ("4", "4"), ("7", "7"), ("56", "56"), (".", "."), (":", ":"), ("?", "?"), (" ", " ")}
    assert numbers <= words
    assert all(qa.n_prompt - 1 <= to for to, _, answer in pairs if answer)
