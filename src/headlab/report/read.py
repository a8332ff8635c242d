"""What the model read: the first prompts of the test with their roles, as pieces of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FILLER = "text"
"""The role of words that play none: what stands between the others."""
TONES = 6
"""Colours that mark roles; a seventh role has the first one's again (its name stands beside it)."""


def examples(first: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The prompts as a record keeps them (``prompts.first``): of each the sides with their pieces, and every role's tone."""
    if not first:
        return None
    every = (role for one in first for side in one["sides"].values() for role, *_ in side["spans"])
    roles = [role for role in dict.fromkeys(every) if role != FILLER]
    tones = {role: n % TONES for n, role in enumerate(roles)}
    shown = [
        {**one, "sides": [(name, _pieces(side["text"], side["spans"], tones)) for name, side in one["sides"].items()]}
        for one in first
    ]
    return {"shown": shown, "roles": tones}


def _pieces(text: str, spans: Sequence[Sequence[Any]], tones: Mapping[str, int]) -> list[dict[str, Any]]:
    """The text cut at its spans; of two that overlap the first."""
    out: list[dict[str, Any]] = []
    at = 0
    for role, start, end in sorted(spans, key=lambda s: s[1]):
        if start < at or role == FILLER:
            continue
        out += [{"text": text[at:start], "role": ""}, {"text": text[start:end], "role": role, "tone": tones[role]}]
        at = end
    return [piece for piece in [*out, {"text": text[at:], "role": ""}] if piece["text"]]
