"""What the heads of a claim attend to on its first test prompts, kept for the page; nothing is decided by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from headlab.engine.captures import capture
from headlab.engine.model import Lab
from headlab.heads import Head, Heads
from headlab.interventions import InterventionError
from headlab.prompts import Encoded, EncodedPair, PromptError, PromptSet, encode
from headlab.prompts.tokens import token_text

if TYPE_CHECKING:
    import pandas as pd

    from headlab.trials.findings import Findings

MOST_HEADS, MOST_PROMPTS, MOST_TOKENS = 16, 3, 64
"""What is kept at most; ``MOST_TOKENS``: of a text up to which a pattern can be drawn."""
NO_ROLE = frozenset({"bos", "last", "text"})
"""Names of places, not of words that play a part."""


def named(claim: Mapping[str, object], found: Findings) -> Heads:
    """The heads that a trial was about, at most :data:`MOST_HEADS`: the set that is redrawn, the sets of its nulls, then its other
    sets, the smallest first, each whole unless it is the first; where none says any, the half that ran as ``even``."""
    sets, reference = found.settings.get("sets") or {}, claim.get("reference")
    redrawn = reference.get("redraw") if isinstance(reference, Mapping) else None
    told = [sets.get(redrawn), *(f.options.get("named") for f in found.figures if f.kind == "null")]
    worlds = found.tables.get("worlds")
    halves = (
        () if worlds is None or not {"family", "heads"} <= {*worlds} else worlds[worlds["family"] == "even"]["heads"]
    )
    first, others, last = _read(told), sorted(_read(sets.values()), key=len), _read(halves)
    out = Heads()
    for one in [*first, *others] or last[:1]:
        joined = out | (one if out else Heads(list(one)[:MOST_HEADS]))
        out = joined if len(joined) <= MOST_HEADS else out
    return out


def _read(texts: Iterable[object]) -> list[Heads]:
    """The sets among texts that name some heads."""
    out = []
    for text in texts:
        try:
            out.append(Heads.parse(text if isinstance(text, str) else ""))
        except ValueError:
            continue  # a family, a number of sets
    return [one for one in out if one]


def kept(lab: Lab, test: PromptSet, heads: Heads) -> tuple[pd.DataFrame | None, str]:
    """Attention of ``heads`` on the first test prompts (:data:`MOST_PROMPTS`, of at most :data:`MOST_TOKENS` tokens), unedited: a
    row for each pair, run, head, query and key ≤ query: ``weight`` in 0 … 1, ``token`` and ``role`` of the key.  The last query
    is where the answer is read.  Or None, and why there is none.
    """
    import pandas as pd

    pairs = [encode(p, lab.tokenizer) for p in test.pairs[:MOST_PROMPTS]]
    runs = [(p.pair.id, run, one) for p in pairs for run, one in _runs(p)]
    short = [r for r in runs if len(r[2].ids) <= MOST_TOKENS]
    if not short:
        return None, f"its prompts are longer than {MOST_TOKENS} tokens"
    try:
        seen = capture(lab, [one for *_, one in short], [(at, "pattern") for at in heads.layers])
    except (RuntimeError, InterventionError, PromptError) as error:
        return None, str(error)
    return pd.concat(
        [
            _cells(lab, id, run, one, head, seen[head.layer, "pattern"][n][:, head.index])
            for n, (id, run, one) in enumerate(short)
            for head in heads
        ],
        ignore_index=True,
    ), ""


def _runs(pair: EncodedPair) -> list[tuple[str, Encoded]]:
    return [("clean", pair.clean), ("corrupted", pair.corrupted)] if pair.pair.partner else [("prompt", pair.clean)]


def _cells(lab: Lab, id: str, run: str, one: Encoded, head: Head, pattern: Tensor) -> pd.DataFrame:
    import pandas as pd

    roles = {at: role for role, places in one.roles.items() if role not in NO_ROLE for at in places}
    tokens = np.array([token_text(lab.tokenizer, i) for i in one.ids], dtype=object)
    played = np.array([roles.get(k, "") for k in range(len(one.ids))], dtype=object)
    query, key = np.tril_indices(len(one.ids))
    weight = pattern.double().cpu().numpy()[query, key].round(5)
    told = {"query": query, "key": key, "weight": weight, "token": tokens[key], "role": played[key]}
    return pd.DataFrame({"pair_id": id, "run": run, "head": str(head), **told})
