"""Entries of the docket, written as documents of the library, give the docket's numbers and verdicts.

Looked for: every entry whose measurement the language can say.  ``parity``, ``head-count``, ``pattern-threshold`` here;
thinking models are in ``test_thinking_documents.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import headlab
from headlab.claims import Claim
from headlab.experiments.trial import adjusted, find_claim
from headlab.trials.registry import library

MODEL = "decimals-planted-even"
DOSES = {0.05: 0.25, 0.01: 0.05}
"""Steps of the doses in the daily test, by those of the document."""

ENTRIES: dict[str, tuple[str, dict[str, str]]] = {
    "parity": (
        "z",
        {f"{w}:{s}{m}": f"{w}:{s}" for s in ("even", "odd") for w, m in (("repair", ""), ("recovery", "@margin"))}
        | {"rank:recovery:even@margin - recovery:odd@margin": "rank:even"},
    ),
    "head-count": ("z", {f"mean:repair:{k}@margin": f"repair:{k}" for k in ("quarter", "fewer", "more")}),
    "pattern-threshold": (
        "pattern",
        {"repair:replaced": "repair", "steepness:finely@margin": "steepness"}
        | {f"{w}:blended@margin": w for w in ("location", "width")},
    ),
}


def document(slug: str, *, pairs: int, n: int, short: bool) -> dict[str, Any]:
    """The library's document at another size; ``short``: fewer doses."""
    doc: dict[str, Any] = library()[f"{slug}-as-document"].plain() | {"layer": 1, "pairs": pairs}
    for of in ("sets", "worlds"):
        for one in doc[of].values():
            if isinstance(one, dict) and "draw" in one:
                one["n"] = n
            if short and isinstance(one, dict) and isinstance(one.get("amount"), dict):
                steps = one["amount"]["each"]
                steps["step"] = DOSES[steps["step"]]
    if "reference" in doc:
        doc["reference"] = {**doc["reference"], "n": n}
    return doc


def entry(slug: str, *, pairs: int, n: int, short: bool) -> Any:
    """The docket's claim at the same size."""
    claim = find_claim(slug)
    assert isinstance(claim, Claim)
    options = claim.options | ({"step": 0.25, "tolerance": 0.05} if short and "step" in claim.options else {})
    sizes = {"matched_sets": n, "subsets_per_size": n}
    return adjusted(claim, layer=1, pairs=pairs, readings=("standard",), options=options, **sizes)


def compared(slug: str, folder: Path, **size: Any) -> tuple[str, str]:
    """Both outcomes, once every number is the same: counts exactly, values and ends of intervals to 1e-6 (a steepness,
    whose margins are divided by a small step of the dose, to 1e-5; both run their rows in batches of their own)."""
    mine = headlab.trial(document(slug, **size), MODEL, store=folder / "mine")
    own = headlab.trial(entry(slug, **size), MODEL, store=folder / "own")
    arm, names = ENTRIES[slug]
    theirs = {e.name: e.estimate for e in own.record.readings[0].estimates if e.arm == arm}
    numbers = {e.name: e.estimate for e in mine.record.readings[0].estimates}
    for here, there in names.items():
        near = 1e-5 if here.startswith("steepness") else 1e-6
        assert numbers[here]["n"] == theirs[there]["n"]
        for key in ("value", "low", "high"):
            assert numbers[here][key] == pytest.approx(theirs[there][key], rel=near, abs=near), (here, key)
    return mine.verdict.outcome, own.verdict.outcome


@pytest.mark.parametrize("slug", ENTRIES)
def test_a_document_gives_the_docket_s_numbers(slug: str, tmp_path: Path) -> None:
    """At six pairs, where neither model is eligible: the numbers, and that both say so."""
    assert compared(slug, tmp_path, pairs=6, n=5, short=True) == ("untestable", "untestable")


@pytest.mark.accept
@pytest.mark.parametrize("slug", ENTRIES)
def test_a_document_gives_the_docket_s_verdict(slug: str, tmp_path: Path) -> None:
    """At sizes that decide."""
    mine, own = compared(slug, tmp_path, pairs=110, n=50, short=False)
    assert mine == own and own in {"upheld", "refuted", "undecided"}
