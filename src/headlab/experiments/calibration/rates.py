"""From trials to rates with intervals: what each claim's rows say, and how whole scorecards fare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from headlab.claims import Claim
from headlab.claims.error_rates import GENERATOR, Counted, OfClaim, Rates
from headlab.experiments.calibration import drawn, numbered, shapes
from headlab.stats import holm
from headlab.store import content_hash
from headlab.trials.document import Document

LEVEL = 0.05
"""Of a scorecard's family."""


def hash_of(claim: Claim | Document) -> str:
    """The hash that stands in the record of its trial."""
    return content_hash(claim.plain() if isinstance(claim, Document) else claim.model_dump(mode="json"))


def rates(claims: Sequence[Claim | Document], every: Any) -> dict[str, OfClaim]:
    """What the trials say of each claim."""
    by_claim: dict[str, list[Any]] = {}
    for of, rows in every.groupby("claims", sort=False):
        for name in str(of).split():
            by_claim.setdefault(name, []).append(rows)
    out = {}
    for claim in claims:
        mine = pd.concat(by_claim[claim.id], ignore_index=True) if claim.id in by_claim else every.iloc[:0]
        rows = tuple(r for r in (_on_models(mine), _of_drawn(claim, mine)) if r is not None)
        shape = shapes.of(claim)
        why = shape if isinstance(shape, str) else "its trials were not reached in the time that was given"
        out[claim.id] = OfClaim(hash=hash_of(claim), rows=rows, why="" if rows else why)
    return out


def _count(rows: Any, outcome: str) -> Counted:
    """Of those that could be decided."""
    decided = rows[rows["outcome"].isin(["upheld", "refuted", "undecided"])]
    return Counted(hits=int((decided["outcome"] == outcome).sum()), of=len(decided))


def _of_drawn(claim: Claim | Document, rows: Any) -> Rates | None:
    mine = rows[rows["source"] == "drawn"]
    false, just = mine[mine["truth"] == "false"], mine[mine["truth"] == "just so"]
    if false.empty:
        return None
    ranks = [p.limit for p in claim.predictions if p.op == "rank<"]
    power = {f"{t:g}": _count(mine[mine["truth"] == str(t)], "upheld") for t in drawn.TIMES}
    return Rates(
        null=f"{GENERATOR} around a truth that is set; one prediction false, the others clearly true",
        trials=len(false),
        upheld=_count(false, "upheld"),
        undecided=_count(false, "undecided"),
        refuted=_count(just, "refuted") if len(just) else None,
        power={k: c for k, c in power.items() if c.of},
        allowed=max([0.05, *ranks]),
    )


def _on_models(rows: Any) -> Rates | None:
    null, planted = rows[rows["source"] == "numbered"], rows[rows["source"] == "planted"]
    if null.empty:
        return None
    models, where = null["model"].nunique(), sorted(null["model"].unique())
    who = f"{models} null models" if models > 1 else where[0]
    found = _count(planted, "upheld")
    effect = f"what is planted in {planted['model'].iloc[0]}, other pairs in each trial" if found.of else ""
    return Rates(
        null=f"heads of {who} numbered anew, {numbered.SIZES['pairs']} pairs",
        trials=len(null),
        upheld=_count(null, "upheld"),
        undecided=_count(null, "undecided"),
        power={"planted": found} if found.of else {},
        effect=effect,
    )


def scorecards(every: Any) -> list[dict[str, Any]]:
    """Whole scorecards: of each numbering of each null model, whether any claim was upheld, and any after Holm over the
    ranks of its family (a claim's p is the largest of its own)."""
    null = every[every["source"] == "numbered"]
    if null.empty:
        return []
    wide = null.pivot_table(index=["model", "n"], columns="claims", values="outcome", aggfunc="first")
    p = null.pivot_table(index=["model", "n"], columns="claims", values="p", aggfunc="first").reindex(
        columns=wide.columns
    )
    some = [c for c in wide.columns if wide[c].notna().mean() > 0.5]  # claims that most numberings reached
    wide, p = wide[some].dropna(), p[some].reindex(wide[some].dropna().index)
    if wide.empty:
        return []
    adjusted = p.apply(_holm, axis=1, result_type="broadcast")
    upheld = wide == "upheld"
    kept = upheld & ~(adjusted >= LEVEL)
    return [
        {"claims": list(some), "holm": name, "any": Counted(hits=int(x.any(axis=1).sum()), of=len(x)).model_dump()}
        for name, x in ((False, upheld), (True, kept))
    ]


def _holm(row: Any) -> Any:
    known = row.notna()
    out = row.astype(float).copy()
    if known.any():
        out[known] = holm(row[known].astype(float).to_numpy())
    return out
