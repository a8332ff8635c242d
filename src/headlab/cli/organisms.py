"""The shipped organisms in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlab.organisms.cards import Card

FAMILIES = (
    "Beside these: any causal language model of the hub or a local folder whose attention goes through "
    "transformers' AttentionInterface (Llama, GPT-2, GPT-NeoX and Pythia, Gemma, Qwen, Mistral, Phi, OLMo "
    "and about 140 more families). A family that does not (Falcon, BLOOM, GPT-Neo, GPT-J, MPT, CodeGen …) is "
    "refused by name. Weights must be safetensors, unquantised, and need no code of their own."
)


def rows() -> list[dict[str, Any]]:
    """One row per shipped organism: name, family, grid, what is known to be true."""
    from headlab import organisms

    return [_row(organisms.card(name)) for name in organisms.names()]


def _row(card: Card) -> dict[str, Any]:
    shape = card.recipe["architecture"]
    kv = shape["kv_heads"] or shape["heads"]
    truth = card.truth
    planted = f"planted in layer {truth.layer}: {truth.k} of {' '.join(truth.heads)}" if truth else "nothing planted"
    return {
        "name": card.name,
        "family": shape["family"],
        "grid": f"{shape['layers']} × {shape['heads']} ({kv} KV)",
        "parameters": card.parameters,
        "truth": planted,
    }


def show_card(card: Card) -> None:
    """The card on stdout."""
    import pandas as pd

    from headlab.cli.show import console, show_frame

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
    for title, cells, columns in (
        (
            "accuracy on held-out questions",
            card.accuracy,
            ("format", "wording", "category", "rule", "n", "correct"),
        ),
        ("interchange", card.repairs, ("source", "base", "patched", "n", "correct")),
    ):
        out.print(f"\n{title}", markup=False)
        show_frame(out, pd.DataFrame([{c: getattr(cell, c) for c in columns} for cell in cells]), "not measured")
