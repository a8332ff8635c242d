"""What the generators share: prompts from templates, and the items that a tokenizer lets stand.

A template names its slots, ``"When {io} and {s1} went to the {place},"``; a slot's name is the role of its tokens, and
everything between slots plays the role ``text``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from headlab.prompts import Pair, Prompt, PromptError, PromptSet, Span, align, encode
from headlab.reading import expected_one_of

PATIENCE = 1000
"""Draws in a row that give nothing new, after which a task has no more items."""
_SLOT = re.compile(r"\{(\w+)\}")


def fill(template: str, words: Mapping[str, str], *, lead: str = " ", ends: Sequence[str] = ()) -> Prompt:
    """The prompt of a template with its role spans.

    Roles of ``ends`` cover the last letter of their word alone, hence its last token: for words that may differ in
    their number of tokens.  The role ``text`` is optional, so prompts of different wording align by their slots.
    """
    text, spans = "", []
    for i, piece in enumerate(_SLOT.split(template)):
        role, said = (piece, words[piece]) if i % 2 else ("text", piece)
        bare = said.strip()
        start = len(text) + said.index(bare)
        text += said
        if bare:
            stop = start + len(bare)
            spans.append(Span(role, stop - 1 if role in ends else start, stop, role == "text"))
    return Prompt(text, tuple(spans), lead)


def one_token(words: Iterable[str], tokenizer: Any) -> list[str]:
    """The words that a tokenizer writes as one token where a space stands before them (all, without a tokenizer)."""
    if tokenizer is None:
        return list(words)
    before = _ids("a a", tokenizer)
    return [w for w in words if len(now := _ids(f"a a {w}", tokenizer)) == len(before) + 1 and now[:-1] == before]


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def enough(words: Sequence[str], least: int, what: str, task: str) -> Sequence[str]:
    """The words.  Raises PromptError when there are fewer than ``least``."""
    if len(words) < least:
        raise PromptError(
            f"the task {task!r} needs at least {least} {what} that are one token each, and this tokenizer has "
            f"{len(words)}; use a model with a larger vocabulary, or a file of pairs"
        )
    return words


def choice(task: str, option: str, given: object, allowed: Iterable[str]) -> None:
    """Raises PromptError unless an option has one of its values."""
    if given not in (known := tuple(allowed)):
        raise PromptError(f"the task {task!r}: {option} is {given!r}; {expected_one_of(given, known)}")


def stands(pair: Pair, tokenizer: Any, *, same_length: bool = True) -> bool:
    """Whether the roles of both prompts align token for token and the answers part at one token."""
    if tokenizer is None:
        return True
    try:
        made = encode(pair, tokenizer)
        align(made, "role")
    except PromptError:
        return False
    return not same_length or len(made.clean.ids) == len(made.corrupted.ids)


def keep(
    drawn: Iterator[Pair], n: int, tokenizer: Any, *, task: str, same_length: bool = True, checked: bool = False
) -> PromptSet:
    """The first ``n`` pairs of an endless draw that stand in this tokenizer, no two of one cluster.

    ``checked``: the generator has seen to that itself.  Fewer where :data:`PATIENCE` draws in a row give nothing new;
    ``meta["dropped"]`` says how many clusters were drawn that do not stand.  Raises PromptError when fewer than two do.
    """
    if n < 1:
        raise PromptError(f"the task {task!r}: {n} pairs asked for; expected at least 1")
    kept: list[Pair] = []
    seen: set[str] = set()
    dropped = idle = 0
    while len(kept) < n and idle < PATIENCE:
        pair = next(drawn)
        idle += 1
        if pair.cluster in seen:
            continue
        seen.add(pair.cluster)
        if checked or stands(pair, tokenizer, same_length=same_length):
            kept.append(pair)
            idle = 0
        else:
            dropped += 1
    if len(kept) < min(n, 2):
        raise PromptError(
            f"the task {task!r}: of {len(seen)} items drawn, {len(kept)} have prompts that align by role and answers that "
            "part at one token in this tokenizer; use another task, or a file of pairs"
        )
    return PromptSet(tuple(kept), task, meta={"dropped": dropped})
