"""Every claim of the docket on one model: claim, published value, our effect, controls, verdict.

1. Each experiment runs with its built-in claim as a trial of its own, with its own record and report.
2. What cannot run on the model is a row that says why; nothing is left out.
3. Holm's correction over the rank predictions, the confirmatory family: what stays when as many questions were asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headlab.claims import ClaimError
from headlab.effects import Progress, as_part, quiet
from headlab.engine.identity import identity
from headlab.engine.passes import EngineError
from headlab.experiments.fitting import unread
from headlab.experiments.known import builtin_claims
from headlab.experiments.trial import CHANGES, EXPERIMENTS, ahead, load, plan, trial
from headlab.interventions import InterventionError
from headlab.prompts import PromptError
from headlab.reading import expected_one_of
from headlab.stats import holm
from headlab.store import Record, Result, Store
from headlab.trials.attainable import said_before
from headlab.trials.record import again, content_of, versions
from headlab.trials.results import handed_on
from headlab.trials.thought_case import TASK as THINKING

QUESTION = "Which claims of the docket stand on this model?"
_CANNOT = (ClaimError, PromptError, InterventionError, EngineError, ValueError)
"""What an experiment raises that cannot run on a model."""
FULL = {"pairs": 500, "matched_sets": 9999, "decide": "fixed"}
"""Publication sizes (``--full``)."""


def slugs(thinking: bool = False) -> list[str]:
    """The experiments of one of the two dockets: about the decimals, or about thinking models."""
    return [s for s in EXPERIMENTS if (builtin_claims()[s].task.name == THINKING) == thinking]


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
    dead_end: Callable[[str], object] | None = None,
    **options: Any,
) -> Result:
    """Run the docket (or these ``experiments``) on a model: a summary record whose children are the trials.

    ``full``: publication sizes.  ``options`` go to every trial (pairs, seed, protocol, memory, engine …).  An
    interrupted scorecard goes on with the experiments that it had not finished.  The table ``scorecard`` has a row for
    each experiment: claim, published value, outcome by protocol, the rulings in words, controls, the record's id.
    Experiments that can only end untestable or undecided at this size are named before the first one runs; where that
    is so of all of them, ``dead_end`` is told, as by :func:`headlab.trial`.

    Raises ModelError when the model cannot be loaded, ClaimError for an unknown experiment.
    """
    lab = load(model, tokenizer=tokenizer, revision=revision, adapter=adapter, device=device, dtype=dtype)
    chosen = list(slugs() if experiments is None else experiments)
    given = {**(FULL if full else {}), **{k: v for k, v in options.items() if v is not None}}
    loading = {"revision": revision, "adapter": adapter, "device": device, "dtype": dtype}
    shown = {k: v for k, v in {**given, **loading}.items() if not full or FULL.get(k) != v}
    return tried("scorecard", lab, identity(lab), chosen, store, progress, given, shown, full=full, dead_end=dead_end)


def planned(model: Any, *, full: bool = False, **options: Any) -> list[dict[str, Any]]:
    """What each experiment of a scorecard would take, or why it cannot run here; nothing is run but one timed batch each.

    A row an experiment: worlds, passes, rows, memory_bytes, seconds (as :func:`headlab.experiments.plan` counts them), reason.

    Raises ModelError when the model cannot be loaded.
    """
    loading = {k: options.pop(k, None) for k in ("tokenizer", "revision", "adapter", "device", "dtype")}
    lab = load(model, **loading)
    given = {**(FULL if full else {}), **{k: v for k, v in options.items() if v is not None}}
    rows = []
    for slug in slugs():
        own, row = builtin_claims()[slug], {"experiment": slug, "reason": ""}
        try:
            row |= plan(own, lab, **{k: v for k, v in given.items() if not unread([k], own)})
            row["reason"] = row.pop("dead end", "")
        except _CANNOT as error:
            row["reason"] = str(error)
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Added:
    """What a scorecard adds to its rows: tables, notes before the tally, sections."""

    tables: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    sections: Sequence[Mapping[str, str]] = ()


def tried(
    slug: str,
    model: Any,
    who: Mapping[str, str],
    chosen: Sequence[str],
    store: Store | Path | str | None,
    progress: Progress,
    options: Mapping[str, Any],
    shown: Mapping[str, Any],
    *,
    full: bool = False,
    asked: Mapping[str, Any] | None = None,
    added: Callable[[Mapping[str, Record]], Added] | None = None,
    dead_end: Callable[[str], object] | None = None,
) -> Result:
    """Every chosen experiment as a trial of its own, and the record that sums them up.

    ``options`` go to every trial, ``shown`` stand in the command that repeats this.  ``asked``: what is decided from the
    trials' records beyond their own claims, written down (and hashed) before the first one runs; ``added`` decides it.

    Raises ClaimError for an unknown experiment.
    """
    import pandas as pd

    known = slugs(thinking=slug != "scorecard")
    if unknown := [s for s in chosen if s not in known]:
        raise ClaimError(f"no experiment {unknown[0]!r}; {expected_one_of(unknown[0], known)}")
    home = store if isinstance(store, Store) else Store(store)
    told = {k: v for k, v in options.items() if isinstance(v, str | int | float)}
    inputs = {"claims": [builtin_claims()[s].content_hash() for s in chosen], "model": dict(who), "options": told}
    own = options.get("prompts")
    inputs |= ({"asked": asked} if asked else {}) | ({} if own is None else {"own": content_of(own)})
    option = "prompts" if slug == "scorecard" else "problems"
    call = again(slug, model.name, shown, (option, own if isinstance(own, str | Path) else None))
    flags = " --anyway" if _say_dead_ends(chosen, model, options, dead_end) else ""
    draft: dict[str, Any] = {
        "versions": versions(),
        "settings": {"full": full, **told} | ({"asked": asked} if asked else {}),
        "call": {
            "command": f"{call['command']}{' --full' if full else ''}{flags}",
            "python": f"headlab.run{call['python'][len('headlab.trial') : -1]}{', full=True' if full else ''})",
        },
    }
    title = f"The docket on {model.name}" if slug == "scorecard" else f"The thought docket on {model.name}"
    with home.open(kind="run", slug=slug, title=title, inputs=inputs, draft=draft) as run:
        if run.finished is not None:
            return handed_on(home, run.finished)
        parts = enumerate(chosen)
        found = {s: _try(s, model, home, as_part(progress, "docket", n, len(chosen)), options) for n, s in parts}
        children = {s: record for s, (record, _) in found.items() if record is not None}
        rows = [_row(s, *found[s]) for s in chosen]
        more = added(children) if added else Added()
        tables = {"scorecard": _with_holm(pd.DataFrame(rows)), **more.tables}
        tables = {name: run.table(name, t) for name, t in tables.items()}
        record = run.finish(
            children=[c.id for c in children.values()],
            sections=[*more.sections, *_SECTIONS],
            notes=[*more.notes, *_notes(rows, model.name)],
        )
    return handed_on(home, record, tables, list(children.values()))


def _say_dead_ends(
    chosen: Sequence[str], model: Any, options: Mapping[str, Any], dead_end: Callable[[str], object] | None
) -> bool:
    """Name the experiments that no outcome could decide at this size, once; ``dead_end`` is told where these are all."""
    ends = {}
    for slug in chosen:
        own = builtin_claims()[slug]
        try:
            found = ahead(own, model, {k: options.get(k) for k in CHANGES if not unread([k], own)})
        except _CANNOT:
            continue  # its row says why
        if found:
            ends.setdefault(found, []).append(slug)
    if not ends:
        return False
    stuck = sum(map(len, ends.values()))
    lines = [f"{', '.join(slugs)}: {why}" for why, slugs in ends.items()]
    said_before([f"{stuck} of {len(chosen)} rows could be decided by no outcome at this size:", *lines])
    if dead_end is not None and stuck == len(chosen):
        dead_end("no row of this scorecard could be decided at this size")
    return stuck == len(chosen)


def _try(slug: str, lab: Any, home: Store, tell: Progress, options: Mapping[str, Any]) -> tuple[Record | None, str]:
    """The record of an experiment's trial, or why there is none."""
    try:
        own = builtin_claims()[slug]
        read = {k: v for k, v in options.items() if not unread([k], own)}
        return trial(own, lab, store=home, progress=tell, dead_end=_said, **read).record, ""
    except _CANNOT as error:
        return None, str(error)


def _said(why: str) -> None:
    """It was said of all rows together, before the first."""


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
            "chance that any of them is upheld by luck under α. A rank that stopped early says no smaller p than its sets "
            "allow (1 in 139 of 138), so many rows at once can keep it over α however large the effect: `--full` runs all sets."
        ),
    },
]
