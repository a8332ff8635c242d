"""The summary of a demo: one row per model, and how often chance is taken for a finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headlab.stats import clopper_pearson

from . import view, words

if TYPE_CHECKING:
    from headlab.store import Reading, Record

UNIT = "training seeds"


def demo(record: Record, children: Sequence[Record]) -> dict[str, Any]:
    """The demo's table and tally; every number with its interval, n and unit."""
    predictions = _predictions(children)
    protocols = view.unique([r.protocol for c in children for r in c.readings])
    return {
        "protocols": [view.PROTOCOLS.get(p, p.capitalize()) for p in protocols],
        "predictions": [heading for _, heading in predictions],
        "summary": outcomes(children),
        "rows": [_row(c, protocols, [s for s, _ in predictions]) for c in children],
        "tally": tally(children),
        "missing": [i for i in record.children if i not in {c.id for c in children}],
    }


def scorecard(record: Record, tables: Mapping[str, Any], children: Sequence[Record]) -> dict[str, Any]:
    """One row for each claim of the docket, as the record's table ``scorecard`` has them; and for each published claim
    with thresholds of its own, where there is a table ``thresholds``."""
    known = {c.id: c for c in children if c.readings}
    rows = [_claim(row, known.get(row["id"])) for row in tables["scorecard"].to_dict("records")]
    order = view.unique([*view.SIGNS, *(str(r["outcome"]) for r in rows)])
    return {
        "groups": [(o, some) for o in order if (some := [r for r in rows if r["outcome"] == o])],
        "total": len(rows),
        "thresholds": _thresholds(tables["thresholds"]) if "thresholds" in tables else [],
        "summary": " ".join(record.notes),
    }


def _thresholds(table: Any) -> list[dict[str, Any]]:
    """Published claims in their order, each with the ways in which it was read."""
    out = []
    for _, rows in table.groupby("key", sort=False):
        views = rows.to_dict("records")
        ways = [v | {"found": v["found"].replace("; ", ";\n"), "badge": v["outcome"] in view.SIGNS} for v in views]
        out.append(
            {k: views[0][k] for k in ("key", "claim", "source", "published", "experiment", "id")} | {"views": ways}
        )
    return out


def _claim(row: Mapping[str, Any], child: Record | None) -> dict[str, Any]:
    """A row of the scorecard; ``child`` is the trial that it stands on, None where none could run."""
    first, *others = child.readings if child else [None]
    rulings = (
        [view.ruling(r, first) | {"label": r.prediction.statistic} for r in first.verdict.rulings] if first else []
    )
    return {
        **{k: row[k] for k in ("id", "experiment", "claim", "published", "outcome", "controls")},
        "others": [_badge(r) | {"name": view.PROTOCOLS.get(r.protocol, r.protocol)} for r in others if r],
        "rulings": rulings,
        "reason": "" if first else row["effect"],
        "p": f"{words.small(row['p'])} ({words.small(row['p_holm'])})" if row["p"] == row["p"] else "",
    }


def _predictions(children: Sequence[Record]) -> list[tuple[str, str]]:
    """The statistics that the binding readings rule on, each with a short heading and its threshold."""
    found: dict[str, str] = {}
    for child in children:
        for r in child.readings[0].verdict.rulings if child.readings else ():
            p = r.prediction
            label = next(
                (e.label for e in child.readings[0].estimates if e.name == p.statistic), p.words or p.statistic
            )
            found.setdefault(p.statistic, f"{label} ({p.brief}?)")
    return list(found.items())


def outcomes(children: Sequence[Record]) -> str:
    """The answer in one sentence: on how many models each outcome, and on which."""
    parts = []
    for outcome in view.SIGNS:
        names = [c.tried_on for c in children if c.outcome == outcome]
        if names:
            shown = words.listed(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"
            parts.append(f"{outcome} on {len(names)} of {len(children)} ({shown})")
    return f"By the binding reading the claim is {'; '.join(parts)}." if parts else ""


def _row(child: Record, protocols: Sequence[str], statistics: Sequence[str]) -> dict[str, Any]:
    by_protocol = {r.protocol: r for r in child.readings}
    rulings = {r.prediction.statistic: r for r in child.readings[0].verdict.rulings} if child.readings else {}
    return {
        "id": child.id,
        "model": child.tried_on,
        "truth": truth(child),
        "layer": words.plain(child.settings.get("layer")),
        "outcomes": [_badge(by_protocol.get(p)) for p in protocols],
        "cells": [view.ruling(rulings[s], child.readings[0]) if s in rulings else None for s in statistics],
        "sentence": child.readings[0].verdict.sentence if child.readings else f"{child.status}: {child.error}",
    }


def _badge(reading: Reading | None) -> dict[str, str]:
    if reading is None:
        return {"outcome": "not run", "sign": ""}
    return {"outcome": reading.verdict.outcome, "sign": view.SIGNS[reading.verdict.outcome]}


def truth(child: Record) -> str:
    """What is known to be true of the model, as its card says: planted heads, or nothing planted."""
    if "truth" not in child.model:
        return "nothing planted" if is_null(child) else "not recorded"
    known = child.model["truth"]
    if known is None:
        return "nothing planted"
    if not isinstance(known, Mapping):
        return str(known)
    heads = [str(h) for h in known.get("heads", ())]
    needed = f"any {known['k']} of " if known.get("k") else ""
    return f"planted: {needed}{' '.join(heads)}"


def is_null(child: Record) -> bool:
    """Whether the model is a null seed: trained with no structure to find."""
    role = child.model.get("role")
    return role == "null" if role else "-null" in str(child.model.get("name", ""))


def tally(children: Sequence[Record]) -> dict[str, Any] | None:
    """Over the null seeds: how often each protocol upholds the claim, and what else it says."""
    nulls = [c for c in children if is_null(c)]
    if not nulls:
        return None
    lines = []
    for protocol in view.unique([r.protocol for c in nulls for r in c.readings]):
        said = [r.verdict.outcome for c in nulls for r in c.readings if r.protocol == protocol]
        upheld = said.count("upheld")
        others = [f"{said.count(o)} {o}" for o in view.SIGNS if o != "upheld" and o in said]
        lines.append(
            {
                "name": view.PROTOCOLS.get(protocol, protocol.capitalize()),
                "protocol": protocol,
                "upheld": f"{upheld} of {len(said)}",
                "share": view.shown(clopper_pearson(upheld, len(said), unit=UNIT)),
                "others": words.listed(others) if others else "–",
            }
        )
    return {"n": len(nulls), "lines": lines}
