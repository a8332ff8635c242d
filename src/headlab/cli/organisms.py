"""The shipped organisms in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlab.organisms.cards import Card
    from headlab.organisms.thought_cards import ThoughtCard
    from headlab.organisms.word_cards import WordCard

    AnyCard = Card | ThoughtCard | WordCard

FAMILIES = (
    "Beside these: any causal language model of the hub or a local folder whose attention goes through "
    "transformers' AttentionInterface (Llama, GPT-2, GPT-NeoX and Pythia, Gemma, Qwen, Mistral, Phi, OLMo "
    "and about 140 more families). A family that does not (Falcon, BLOOM, GPT-Neo, GPT-J, MPT, CodeGen …) is "
    "refused by name. Weights must be safetensors, unquantised, and need no code of their own."
)


_MODES = {"codi": "answers after six thoughts", "filler": "six constants for thoughts", "none": "no thoughts"}


def rows() -> list[dict[str, Any]]:
    """One row per shipped organism: name, family, grid, what is known to be true."""
    from headlab import organisms

    return [_row(organisms.card(name)) for name in organisms.names()]


def _row(card: AnyCard) -> dict[str, Any]:
    from headlab.organisms.cards import Truth

    shape = card.recipe["architecture"]
    kv = shape["kv_heads"] or shape["heads"]
    truth = card.truth
    where = f"planted in layer {truth.layer}" if isinstance(truth, Truth) else "planted"
    planted = f"{where}: {truth.k} of {' '.join(truth.heads)}" if truth else "nothing planted"
    if "mode" in card.recipe:
        planted = f"{_MODES[card.recipe['mode']]}; nothing planted"
    return {
        "name": card.name,
        "family": shape["family"],
        "grid": f"{shape['layers']} × {shape['heads']} ({kv} KV)",
        "parameters": card.parameters,
        "truth": planted,
    }


def show_card(card: AnyCard) -> None:
    """The card on stdout."""
    import pandas as pd

    from headlab.cli.show import console, show_frame
    from headlab.organisms.cards import Card
    from headlab.organisms.word_cards import WordCard

    out = console()
    facts = {
        "name": card.name,
        "architecture": f"{card.architecture}; {card.parameters:,} parameters",
        "summary": card.summary,
        "known": card.known_for,
        "truth": _row(card)["truth"],
        "data": card.data,
        "reproduce": card.reproduce,
        "licence": card.licence,
    }
    for name, value in facts.items():
        out.print(f"{name:<13} {value}", markup=False)
    tables: tuple[tuple[str, Any, tuple[str, ...]], ...]
    if isinstance(card, Card):
        columns = ("format", "wording", "category", "rule", "n", "correct")
        tables = (
            ("accuracy on held-out questions", card.accuracy, columns),
            ("interchange", card.repairs, ("source", "base", "patched", "n", "correct")),
        )
    elif isinstance(card, WordCard):
        tables = (
            ("accuracy on held-out prompts", card.accuracy, ("prompts", "n", "correct")),
            ("heads removed one by one", card.heads, ("head", "mean", "zero", "accuracy", "attends", "n")),
            ("interchange", card.repairs, ("source", "base", "patched", "n", "correct")),
        )
    else:
        interval = ("low", "high", "n")
        tables = (
            ("accuracy on held-out problems", card.accuracy, ("way", "steps", "accuracy", *interval, "chains")),
            ("the student's advantage", card.gaps, ("way", "steps", "difference", *interval)),
        )
    for title, cells, columns in tables:
        out.print(f"\n{title}", markup=False)
        values = [{c: getattr(cell, c) for c in columns} for cell in cells]
        frame = pd.DataFrame([{c: "all" if v is None else v for c, v in row.items()} for row in values])
        show_frame(out, frame, "not measured")
