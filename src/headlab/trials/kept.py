"""What the record of a document keeps: its numbers with their names, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Prediction
from headlab.stats import Estimate, Rank
from headlab.store import NamedEstimate
from headlab.trials import expressions, words
from headlab.trials.alternatives import Alternatives
from headlab.trials.document import Document
from headlab.trials.expressions import Expression
from headlab.trials.measured import Measured, name_of
from headlab.trials.over import UPHELD
from headlab.trials.statistics import Arms, Statistics, cells
from headlab.trials.worlds import Arm


@dataclass(frozen=True)
class Asked:
    """A prediction in one cell: its expression pinned, and the prediction as it is ruled."""

    prediction: Prediction
    read: Expression
    written: str


def asked(doc: Document) -> list[Asked]:
    """Every prediction of one model in every cell of its bare worlds."""
    out = []
    for p in doc.predictions:
        if p.statistic == UPHELD:
            continue
        bare = p.statistic.removeprefix("pooled:")
        pinned = cells(doc, expressions.parse(bare))
        for one in pinned:
            name = p.statistic if len(pinned) == 1 else f"{p.statistic.removesuffix(bare)}{one}"
            cell = "" if len(pinned) == 1 else words.cell_of(one)
            said = f"{p.words} ({cell})" if p.words and cell else p.words
            out.append(Asked(p.model_copy(update={"statistic": name, "words": said}), one, p.statistic))
    return out


def estimates(
    doc: Document, stats: Statistics, own: Arms, found: Mapping[str, Estimate | Rank], ruled: Sequence[Asked]
) -> list[NamedEstimate]:
    """Every predicted number, then what every world does in every cell, predicted or not."""
    out = []
    for a in ruled:
        got = found[a.prediction.statistic]
        estimate = got.estimate if isinstance(got, Rank) else got
        label = a.prediction.words or words.said(a.read)
        out.append(NamedEstimate(name=a.prediction.statistic, label=label, arm="", estimate=estimate.to_dict()))
    have = {e.name for e in out}
    for world, found_arms in own.items():
        if any(x.member >= 0 for x in found_arms):
            continue
        for arm in found_arms:
            for name in doc.readouts:
                if not stats.seen.has(arm, name):
                    continue
                for word in words.shown_words(doc, name, stats.paired(name)):
                    term = expressions.Term(word, world, arm.values, name if name != name_of(doc, "") else "")
                    if str(term) in have:
                        continue
                    have.add(str(term))
                    got = stats.estimate(Expression((term,)), own)
                    out.append(
                        NamedEstimate(
                            name=str(term), label=words.said(Expression((term,))), arm=world, estimate=got.to_dict()
                        )
                    )
    return out


def tables(
    doc: Document,
    items: Sequence[Any],
    seen: Measured,
    own: Arms,
    matched: Alternatives | None,
    values: Mapping[str, Any],
) -> dict[str, pd.DataFrame]:
    """Effects (a row a pair and world), worlds, and the alternatives of each rank where there are any."""
    rows = []
    flat = [a for found in own.values() for a in found]
    for arm in flat:
        frame: dict[str, Any] = {
            "pair": range(seen.n),
            "pair_id": [p.id for p in items],
            "cluster": list(seen.clusters),
            "world": arm.label,
        }
        for n, name in enumerate(doc.readouts):
            mark = "" if n == 0 else f"@{name}"
            clean, corrupted = seen.other[name], seen.base[name]
            if doc.edit == "clean":
                clean, corrupted = corrupted, clean
            edited = seen.arm(arm, name) if seen.has(arm, name) else np.full(seen.n, np.nan)
            frame |= {f"clean{mark}": clean, f"corrupted{mark}": corrupted, f"edited{mark}": edited}
        rows.append(pd.DataFrame(frame))
    worlds = [
        {
            "world": a.label,
            "heads": _heads(a),
            "size": len(_heads(a).split()),
            "family": a.world,
            "draws": len(a.draws),
            "does": words.does(a),
        }
        for a in flat
    ]
    out = {"effects": pd.concat(rows, ignore_index=True), "worlds": pd.DataFrame(worlds)}
    if matched is not None and values:
        listed = [str(s) for s in matched.sets]
        parts = [
            pd.DataFrame({"statistic": name, "heads": listed[: len(v) - 1], "value": v[1:], "named": float(v[0])})
            for name, v in values.items()
        ]
        out["alternatives"] = pd.concat(parts, ignore_index=True)
    return out


def ranks(found: Mapping[str, Estimate | Rank]) -> dict[str, Any]:
    """Everything of each rank, so that a verdict over several models decides on it as this one does."""
    got = {name: asdict(r) for name, r in found.items() if isinstance(r, Rank)}
    return {"ranks": got} if got else {}


def members(asked: Sequence[Asked], stats: Statistics, own: Arms) -> dict[str, pd.DataFrame]:
    """Each member of a family that ``least:`` or ``most:`` speaks of, with p as adjusted by Holm."""
    parts = []
    for a in asked:
        p = a.prediction
        if a.read.family not in {"least", "most"} or a.read.rank or p.op not in {"<", ">"}:
            continue
        family = next(t for t in a.read.terms if any(x.member >= 0 for x in own[t.world]))
        heads = [_heads(x) for x in own[family.world] if x.values == family.cell]
        frame = pd.DataFrame({"heads": heads, **stats.members(a.read, own, p.limit, p.op)})
        parts.append(frame.assign(statistic=p.statistic, member=range(len(frame)), threshold=p.limit))
    return {"members": pd.concat(parts, ignore_index=True)} if parts else {}


def _heads(arm: Arm) -> str:
    first = arm.draws[0]
    return " ".join(str(one.heads) for one in (*first.interventions, *getattr(first, "forces", ())))
