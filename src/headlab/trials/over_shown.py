"""What is shown of a verdict over cells: a figure of each number, and the tables."""

from __future__ import annotations

import pandas as pd

from headlab.effects import Figure
from headlab.stats import Rank
from headlab.trials import charts, words
from headlab.trials.cells import is_over, one_cell
from headlab.trials.kept import asked
from headlab.trials.over import CELLS
from headlab.trials.over_cells import Over, estimate


def figures_of(found: Over) -> list[Figure]:
    """One for each expression: a row for each cell with its interval, the pooled one last."""
    out, axes = [], " and ".join(k[:-1] for k in CELLS if k in found.doc.over)
    for n, a in enumerate({a.prediction.statistic: a for a in asked(one_cell(found.doc))}.values()):
        statistic, said = a.prediction.statistic, words.said(a.read)
        seen = [(t.cell.name, t.found(statistic)) for t in found.tried]
        rows = [(name, is_over(found.doc), e) for name, e in ((k, estimate(e)) for k, e in seen) if e.defined]
        pooled = statistic in {x.prediction.statistic for x in found.pooled}
        if pooled and (middle := found.over_models(statistic)[0]).defined:
            rows.append((f"all {found.unit}", "pooled", middle))
        bound = a.prediction.threshold
        left = [name for name, e in seen if not isinstance(e, Rank) and not e.defined]
        out.append(
            charts.estimates(
                f"cells {n}",
                f"{(a.prediction.words or said)[:1].upper()}{(a.prediction.words or said)[1:]}, by {axes}",
                "A row for each cell with its 95 % interval over prompts (of a rank, over the sets drawn)."
                + (f" Not defined: {', '.join(left)}." if left else ""),
                rows,
                f"p of {said}" if a.read.rank else said,
                None if isinstance(bound, tuple) else bound,
            )
        )
    return [f for f in out if f.data]


def tables_of(found: Over) -> dict[str, pd.DataFrame]:
    """``cells``: a row for each; ``by_cell``: each statistic in each, with the cell's own ruling."""
    cells, numbers = [], []
    for t in found.tried:
        r, c = t.record, t.cell
        said = {
            "cell": c.name,
            "model": c.model,
            "revision": c.revision or "",
            **({"setting": c.setting} if c.setting else {}),
            "outcome": t.outcome,
            "reason": t.short,
        }
        test = r.prompts.get("test", {}) if r else {}
        cells.append({**said, "prompts": test.get("n", 0), "prompts_hash": test.get("hash", "")})
        for x in r.readings[0].verdict.rulings if r else ():
            ends = {"value": x.value, "low": x.low, "high": x.high}
            numbers.append({"cell": c.name, "statistic": x.prediction.statistic, **ends, "outcome": x.outcome})
    return {"cells": pd.DataFrame(cells), "by_cell": pd.DataFrame(numbers)}


__all__ = ["figures_of", "tables_of"]
