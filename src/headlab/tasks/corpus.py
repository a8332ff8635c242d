"""Texts cut into windows of tokens: prompts without answers, whose readouts are ``loss`` and ``kl``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headlab.prompts import Pair, Prompt, PromptError, PromptSet
from headlab.reading import json_rows, text_of

MOST_BYTES = 200 * 2**20
SHORTEST = 8
"""Tokens of the shortest window that is kept: less says next to nothing about a loss."""


def corpus(
    path: str | Path,
    tokenizer: Any,
    *,
    n: int = 0,
    seed: int = 0,
    length: int = 128,
    context: int = 0,
    documents: int = 0,
    whole: bool = False,
) -> PromptSet:
    """Windows of ``length`` tokens of the documents of a file: ``.jsonl`` (objects with ``text``), or text in which
    blank lines part documents.

    A document is cut one window after another, each beginning with the tokenizer's own start token where it has one; a
    last one of fewer than ``SHORTEST`` tokens is left out.  Of every window the tokens from ``context`` on are scored
    (never the first, which nothing predicts).  A document is a cluster, so none straddles two splits.  ``documents``:
    read at most so many (0: all); ``whole``: only windows of full length, as a mean by position needs; ``n``: at most so
    many windows, drawn with ``seed`` (0: all).

    Raises PromptError for a file that cannot be read, that holds no text, or a context that leaves nothing to score.
    """
    path = Path(path)
    if length < SHORTEST or not 0 <= context < length - 1:
        raise PromptError(
            f"windows of {length} tokens with {context} of context; expected at least {SHORTEST} tokens, and a context "
            "that leaves two of them to score"
        )
    start = _start(tokenizer)
    pairs = []
    for number, text in enumerate(_documents(path)):
        if documents and number >= documents:
            break
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        size = length - len(start)
        for at in range(0, len(ids), size):
            window = (*start, *ids[at : at + size])
            if len(window) < (length if whole else max(SHORTEST, context + 2)):
                continue
            name = f"{number}:{at}"
            prompt = Prompt(name, ids=tuple(window), scored=max(1, context))
            pairs.append(Pair(name, prompt, prompt, "", "", cluster=f"document {number}", partner=False))
    if not pairs:
        raise PromptError(f"{path.name} holds no document of {max(SHORTEST, context + 2)} tokens or more")
    found = PromptSet(tuple(pairs), path.name)
    if not n or n >= len(pairs):
        return found
    chosen = sorted(random.Random(f"corpus {seed}").sample(range(len(pairs)), n))
    return found.subset(found.pairs[i] for i in chosen)


def _start(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that the tokenizer puts before a text by itself."""
    own, bare = (tokenizer("a", add_special_tokens=x)["input_ids"] for x in (True, False))
    return tuple(own[: own.index(bare[0])]) if bare and bare[0] in own else ()


def _documents(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise PromptError(f"no such corpus: {path}; expected a .txt or .jsonl file")
    if path.suffix == ".jsonl":
        for number, row in json_rows(path, error=PromptError):
            if not isinstance(row.get("text"), str):
                raise PromptError(f"{path.name}, row {number}: expected an object with 'text'")
            yield row["text"]
        return
    text = text_of(path, most=MOST_BYTES, error=PromptError)
    paragraph: list[str] = []
    for line in [*text.replace("\r\n", "\n").split("\n"), ""]:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "\n".join(paragraph)
            paragraph = []
