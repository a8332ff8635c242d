"""Tokens as text."""

from __future__ import annotations

from typing import Any


def token_text(tokenizer: Any, token: int) -> str:
    """What a token stands for, with the space before it where it has one (which some tokenizers drop in decoding)."""
    text = tokenizer.decode([token])
    raw = tokenizer.convert_ids_to_tokens(token)
    return f" {text}" if isinstance(raw, str) and raw.startswith("▁") and not text.startswith(" ") else text
