"""Training batches of the decimals task, as tensors.

Every number part is one token, so a format with a wording is one fixed row of token ids with slots: two
numbers in the question, one in the answer.  A batch fills the slots of many rows at once.  Formats, roles,
splits and rules are those of :mod:`headlab.tasks.decimals`; nothing is spelled twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from headlab.prompts import Pair, align, encode, encode_prompt
from headlab.tasks.decimals import (
    CATEGORIES,
    INTEGERS,
    Category,
    Wording,
    fill,
    fraction_pairs,
    get_format,
    right_answer,
    version_answer,
)

from .recipes import Recipe, rule_of
from .tokenizer import EOT

IGNORED = -100
_PROBE = "3.4", "7.56"
_SLOTS = ("a_int", "a_frac", "b_int", "b_frac")


@dataclass(frozen=True)
class Template:
    """One (format, wording) as ids.

    ``ids`` [position] is prompt, lead, answer (integer, point, fraction) and end token, filled with a probe
    question; the four ``slots`` are the positions of a's integer, a's fraction, b's integer, b's fraction;
    ``n_prompt`` is the length of the prompt; the answer's integer stands at ``answer`` and its fraction two
    further on.
    """

    format: str
    wording: Wording
    ids: tuple[int, ...]
    slots: tuple[int, ...]
    n_prompt: int
    answer: int


@cache
def _number_ids(tokenizer: Any) -> Tensor:
    """Token id of each number 0 … 99, [number]."""
    ids = [tokenizer(str(n), add_special_tokens=False)["input_ids"] for n in range(100)]
    if any(len(i) != 1 for i in ids):
        raise ValueError("this tokenizer does not give one token per number part 0 … 99")
    return torch.tensor([i[0] for i in ids])


@cache
def template(format_name: str, wording: Wording, tokenizer: Any) -> Template:
    """The template of a format and wording.  Raises ValueError when its number parts are not one token
    each."""
    fmt = get_format(format_name)
    a, b = _PROBE
    prompt = fill(fmt, a, b, wording, tokenizer)
    encoded = encode_prompt(prompt, a, b, tokenizer)
    slots = tuple(encoded.roles[role] for role in _SLOTS)
    if any(len(s) != 1 for s in slots):
        raise ValueError(f"format {format_name!r}: a number part is more than one token")
    answer = tokenizer(prompt.lead + a, add_special_tokens=False)["input_ids"]
    # a chat turn ends its turn, any other text ends the document
    end = tokenizer.convert_tokens_to_ids(EOT) if ends_turn(prompt.text) else tokenizer.eos_token_id
    head = encoded.ids[: encoded.n_prompt]
    ids = (*head, *answer, end)
    return Template(fmt.name, wording, ids, tuple(s[0] for s in slots), len(head), len(head) + len(answer) - 3)


def ends_turn(prompt_text: str) -> bool:
    """Whether an answer to this prompt ends with the end-of-turn token (the prompt is written in chat
    turns)."""
    return EOT in prompt_text


@dataclass(frozen=True)
class Questions:
    """``numbers`` [row, 4]: a's integer and fraction, b's integer and fraction."""

    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def answers(self, rule: Literal["decimal", "version"], wording: Wording) -> Tensor:
        """Integer and fraction of the answer, [row, 2]."""
        judge = right_answer if rule == "decimal" else version_answer
        table = _answer_table(judge)
        a_int, a_frac, b_int, b_frac = self.numbers.unbind(1)
        a_bigger = torch.where(a_int == b_int, table[a_frac, b_frac], a_int > b_int)
        chosen_a = a_bigger if wording == "bigger" else ~a_bigger
        return torch.where(chosen_a[:, None], self.numbers[:, :2], self.numbers[:, 2:])


@cache
def _answer_table(judge: Any) -> Tensor:
    """[fraction, fraction]: whether 1.f is bigger than 1.g under a rule, for every pair that the task has."""
    table = torch.zeros(100, 100, dtype=torch.bool)
    for category in CATEGORIES[:3]:
        for f, g in fraction_pairs(category, "all"):
            table[f, g] = judge(f"1.{f}", f"1.{g}", "bigger") == f"1.{f}"
            table[g, f] = ~table[f, g]
    return table


@cache
def _train_pairs(category: Category) -> Tensor:
    """Fraction pairs of a category that may be trained on, [pair, 2]."""
    return torch.tensor(fraction_pairs(category, "train"))


def draw_questions(n: int, mix: Sequence[float], generator: torch.Generator) -> Questions:
    """``n`` training questions; ``mix`` weighs the categories in the order of CATEGORIES; both orders
    alike."""
    kinds = torch.multinomial(torch.tensor(mix), n, replacement=True, generator=generator)
    numbers = torch.empty(n, 4, dtype=torch.long)
    for k, category in enumerate(CATEGORIES):
        rows = (kinds == k).nonzero()[:, 0]
        pairs = _train_pairs(category)
        fractions = pairs[torch.randint(len(pairs), (len(rows),), generator=generator)]
        first = torch.randint(len(INTEGERS), (len(rows),), generator=generator)
        second = first
        if category == "different-integers":
            shift = torch.randint(1, len(INTEGERS), (len(rows),), generator=generator)
            second = (first + shift) % len(INTEGERS)
        integers = torch.tensor(INTEGERS)[torch.stack([first, second], 1)]
        numbers[rows] = torch.stack([integers[:, 0], fractions[:, 0], integers[:, 1], fractions[:, 1]], 1)
    swap = torch.rand(n, generator=generator) < 0.5
    numbers[swap] = numbers[swap][:, [2, 3, 0, 1]]
    return Questions(numbers)


def render(questions: Questions, form: Template, answers: Tensor, tokenizer: Any, width: int) -> tuple[Tensor, Tensor]:
    """Ids and labels, each [row, position], right-padded to ``width``.

    Labels hold the token at the same position where it belongs to the answer (lead, number, end token) and
    ``IGNORED`` elsewhere.  Padding stands right of everything scored, so causal attention never sees it.
    """
    number = _number_ids(tokenizer)
    ids = torch.full((len(questions), width), tokenizer.pad_token_id)
    ids[:, : len(form.ids)] = torch.tensor(form.ids)
    ids[:, list(form.slots)] = number[questions.numbers]
    ids[:, [form.answer, form.answer + 2]] = number[answers]
    labels = torch.full_like(ids, IGNORED)
    labels[:, form.n_prompt : len(form.ids)] = ids[:, form.n_prompt : len(form.ids)]
    return ids, labels


@dataclass(frozen=True)
class Block:
    """Rows of a batch that share a template."""

    form: Template
    questions: Questions


def assemble(blocks: Sequence[Block], tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Ids and labels of all blocks, one under the other, each answered by its format's own rule."""
    width = max(len(b.form.ids) for b in blocks)
    rows = [
        render(b.questions, b.form, b.questions.answers(rule_of(b.form.format), b.form.wording), tokenizer, width)
        for b in blocks
    ]
    return torch.cat([ids for ids, _ in rows]), torch.cat([labels for _, labels in rows])


@cache
def position_map(source: Template, base: Template, tokenizer: Any) -> tuple[tuple[int, int, bool], ...]:
    """``(base position, source position, belongs to the answer)`` for every aligned role of a conflict
    question.

    Roles are those of :func:`headlab.prompts.align`; the last prompt token counts as part of the answer,
    because the answer's first token is decided there.
    """
    a, b = "9.8", "9.11"
    pair = Pair(
        "probe",
        fill(get_format(source.format), a, b, source.wording, tokenizer),
        fill(get_format(base.format), a, b, base.wording, tokenizer),
        a,
        b,
    )
    positions = align(encode(pair, tokenizer), "role")
    return tuple((to, at, to >= base.n_prompt - 1) for to, at in positions)


def plain_blocks(recipe: Recipe, tokenizer: Any, generator: torch.Generator, rows: int) -> list[Block]:
    """``rows`` fresh questions for every trained (format, wording)."""
    # a chat template that renders to the format "chat" needs no rows of its own
    cells = [(f, w) for f, w in recipe.cells() if f != "chat-template"]
    return [Block(template(f, w, tokenizer), draw_questions(rows, recipe.mix, generator)) for f, w in cells]
