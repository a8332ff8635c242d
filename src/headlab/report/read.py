"""What the model read: the first prompts of the test with their roles, as pieces of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FILLER = "text"
"""The role of words that play none: what stands between the others."""
TONES = 6
"""Colours that mark roles; a seventh role has the first one's again (its name stands beside it)."""


def tones(roles: Iterable[str], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """A tone for every role, after those that are ``known``."""
    every: list[str] = [*(known or {}), *roles]
    return {role: n % TONES for n, role in enumerate(dict.fromkeys(every))}


def examples(first: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The prompts as a record keeps them (``prompts.first``): of each the sides with their pieces, and every role's tone."""
    if not first:
        return None
    every = (role for one in first for side in one["sides"].values() for role, *_ in side["spans"])
    roles = tones([role for role in every if role != FILLER])
    shown = [
        {**one, "sides": [(name, _pieces(side["text"], side["spans"], roles)) for name, side in one["sides"].items()]}
        for one in first
    ]
    return {"shown": shown, "roles": roles}


def _pieces(text: str, spans: Sequence[Sequence[Any]], roles: Mapping[str, int]) -> list[dict[str, object]]:
    """The text cut at its spans; of two that overlap the first."""
    out: list[dict[str, object]] = []
    at = 0
    for role, start, end in sorted(spans, key=lambda s: s[1]):
        if start < at or role == FILLER:
            continue
        out += [{"text": text[at:start], "role": ""}, {"text": text[start:end], "role": role, "tone": roles[role]}]
        at = end
    return [piece for piece in [*out, {"text": text[at:], "role": ""}] if piece["text"]]
