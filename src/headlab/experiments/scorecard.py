"""Every claim of the docket on one model: claim, published value, our effect, controls, verdict.

1. Each experiment runs with its built-in claim as a trial of its own, with its own record and report.
2. What cannot run on the model is a row that says why; nothing is left out.
3. Holm's correction over the rank predictions, the confirmatory family: what stays when as many questions were asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from headlab.claims import ClaimError
from headlab.effects import Progress, quiet
from headlab.engine.passes import EngineError
from headlab.experiments.base import Result, versions
from headlab.experiments.trial import EXPERIMENTS, builtin_claims, load, trial
from headlab.interventions import InterventionError
from headlab.prompts import PromptError
from headlab.stats import holm
from headlab.store import Record, Store

QUESTION = "Which claims of the docket stand on this model?"
FULL = {"pairs": 500, "matched_sets": 9999}
"""Publication sizes (``--full``)."""


def scorecard(
    model: Any,
    *,
    experiments: Sequence[str] | None = None,
    full: bool = False,
    store: Store | Path | str | None = None,
    progress: Progress = quiet,
    tokenizer: Any = None,
    revision: str | None = None,
    adapter: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **options: Any,
) -> Result:
    """Run the docket (or these ``experiments``) on a model: a summary record whose children are the trials.

    ``full``: publication sizes.  ``options`` go to every trial (pairs, seed, protocol, memory, engine …).  An
    interrupted scorecard goes on with the experiments that it had not finished.  The table ``scorecard`` has a row for
    each experiment: claim, published value, outcome by protocol, the rulings in words, controls, the record's id.

    Raises ModelError when the model cannot be loaded, ClaimError for an unknown experiment.
    """
    import pandas as pd

    lab = load(model, tokenizer=tokenizer, revision=revision, adapter=adapter, device=device, dtype=dtype)
    slugs = list(EXPERIMENTS if experiments is None else experiments)
    if unknown := [s for s in slugs if s not in EXPERIMENTS]:
        raise ClaimError(f"no experiment {unknown[0]!r}; expected one of {', '.join(EXPERIMENTS)}")
    home = store if isinstance(store, Store) else Store(store)
    options = {**(FULL if full else {}), **{k: v for k, v in options.items() if v is not None}}
    claims = [builtin_claims()[s] for s in slugs]
    told = {k: v for k, v in options.items() if isinstance(v, str | int | float)}
    inputs = {"claims": [c.content_hash() for c in claims], "model": lab.fingerprint, "options": told}
    flags = "".join(f" --{k.replace('_', '-')} {v}" for k, v in told.items() if not (full and k in FULL))
    draft: dict[str, Any] = {
        "versions": versions(),
        "settings": {"full": full, **told},
        "call": {
            "command": f"headlab run scorecard --model {lab.name}{' --full' if full else ''}{flags}",
            "python": f"headlab.run('scorecard', {lab.name!r}{', full=True' if full else ''})",
        },
    }
    title = f"The docket on {lab.name}"
    with home.open(kind="run", slug="scorecard", title=title, inputs=inputs, draft=draft) as run:
        tried = {}
        for n, slug in enumerate(slugs):
            tell = partial(_tell, progress, n, len(slugs))
            tried[slug] = run.shard(f"trial of {slug}", partial(_try, slug, lab, home, tell, options)).iloc[0]
        children = {s: home.record(str(t["id"])) for s, t in tried.items() if t["id"]}
        rows = [_row(s, children.get(s), str(tried[s]["reason"])) for s in slugs]
        table = run.table("scorecard", _with_holm(pd.DataFrame(rows)))
        record = run.finish(
            children=[c.id for c in children.values()], sections=_SECTIONS, notes=_notes(rows, lab.name)
        )
    return Result(record, {"scorecard": table}, tuple(children.values()))


def _tell(progress: Progress, n: int, total: int, _what: str, done: int, of: int) -> None:
    """All experiments as one progress, each worth as much."""
    progress("docket", 1000 * n + (1000 * done // of if of else 0), 1000 * total)


def _try(slug: str, lab: Any, home: Store, tell: Progress, options: dict[str, Any]) -> Any:
    import pandas as pd

    try:
        made = trial(builtin_claims()[slug], lab, store=home, progress=tell, kind="run", **options)
        return pd.DataFrame({"id": [made.record.id], "reason": [""]})
    except (ClaimError, PromptError, InterventionError, EngineError, ValueError) as error:
        return pd.DataFrame({"id": [""], "reason": [str(error)]})


def _row(slug: str, record: Record | None, reason: str) -> dict[str, Any]:
    claim = builtin_claims()[slug]
    out: dict[str, Any] = {"experiment": slug, "claim": claim.words, "published": claim.published, "id": ""}
    if record is None or not record.readings:
        return out | {"outcome": "untestable", "effect": f"could not run: {reason}", "controls": "", "p": None}
    first = record.readings[0].verdict
    passed = sum(c.passed for c in first.controls)
    ranks = [r.value for r in first.rulings if r.prediction.op == "rank<" and r.value is not None]
    return out | {
        "id": record.id,
        "outcome": first.outcome,
        **{f"{r.protocol} protocol": r.verdict.outcome for r in record.readings[1:]},
        "effect": "; ".join(f"{r.prediction.statistic}: {r.shown}" for r in first.rulings),
        "controls": f"{passed} of {len(first.controls)} passed",
        "p": max(ranks) if ranks else None,
    }


def _with_holm(table: Any) -> Any:
    """Holm-adjusted p over the rows that rank something."""
    known = table["p"].notna()
    table["p_holm"] = None
    if known.any():
        table.loc[known, "p_holm"] = holm(table.loc[known, "p"].astype(float).to_numpy())
    return table.astype({"p": float, "p_holm": float})


def _notes(rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    """The tally in one line."""
    outcomes = [r["outcome"] for r in rows]
    tally = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
    return [f"{len(rows)} claims on {name}: {tally}."]


_SECTIONS = [
    {
        "heading": "How to read this page",
        "text": (
            "Each row is one published claim, tried on this model by an experiment of its own. Upheld: every prediction's "
            "whole interval lies on its side of the threshold. Refuted: at least one lies wholly on the other side. "
            "Undecided: an interval straddles. Void: a control failed, so nothing can be said. Untestable: the model does not "
            "show what is to be explained, or the measurement is not defined on it; that is not a refutation."
        ),
    },
    {
        "heading": "When this misleads",
        "text": (
            "Prompts within one model are one model: a verdict here is about these weights. Rows share prompts and heads, so "
            "they are not independent; Holm's correction is over the rows that rank a set among matched sets and keeps the "
            "chance that any of them is upheld by luck under α."
        ),
    },
]
