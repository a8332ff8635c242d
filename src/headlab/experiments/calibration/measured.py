"""``headlab calibrate``: trials where the truth is known, piece by piece, until all are done or the time is up.

1. Every shipped claim whose numbers can be drawn: false in one prediction, just so, true by 1.25, 1.5 and 2 thresholds
   (:mod:`.drawn`); claims of one shape share their trials.
2. Entries of the docket about heads by their numbers: null models with their heads numbered anew; planted models over draws
   of pairs (:mod:`.numbered`).
3. Each piece is stored as soon as it is done; the same command goes on where time ran out.  Drawn numbers stand in a run of
   their own, which also goes on after a change of code that they do not depend on (:data:`DRAWN_BY`).
4. Rates with their intervals; whole scorecards from the trials of one numbering, with Holm over their ranks and without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from headlab.claims import Claim, ClaimError
from headlab.claims.error_rates import Rates
from headlab.effects import Progress, quiet
from headlab.experiments.calibration.pieces import COLUMNS, NUMBERED, TRIALS, Piece, pieces
from headlab.experiments.calibration.rates import hash_of, rates
from headlab.experiments.known import builtin_claims, find_claim
from headlab.store import Result, Run, Store
from headlab.trials import registry
from headlab.trials.document import Document
from headlab.trials.loading import load
from headlab.trials.record import versions
from headlab.trials.results import handed_on

DRAWN_BY = ("stats", "claims", "reading", "experiments/calibration/drawn.py", "experiments/calibration/pieces.py")
"""The code behind trials whose numbers are drawn; what is drawn, a claim's shape, stands in the name of each piece."""


def chosen(names: Sequence[str], model: str | None) -> list[Claim | Document]:
    """The claims of these names, or all that ship.  Raises ClaimError for what cannot be calibrated here."""
    if not names:
        return [*builtin_claims().values(), *(registry.library().values() if model is None else ())]
    found = [find_claim(n) for n in names]
    shipped = {**builtin_claims(), **registry.library()}
    for c in found:
        if shipped.get(c.id) != c:
            raise ClaimError(f"{c.id} does not ship with headlab; name a model to calibrate it on (--model M)")
        if model is not None and c.id not in NUMBERED:
            raise ClaimError(
                f"{c.id} is not about heads by their numbers, so numbering them anew makes no null of it; expected "
                f"{', '.join(NUMBERED)}, a document, or no --model"
            )
    return found


def calibrate(
    names: Sequence[str] = (),
    *,
    model: str | None = None,
    budget: float | None = None,
    trials: int | None = None,
    seed: int = 0,
    store: Store | Path | str | None = None,
    progress: Progress = quiet,
) -> Result:
    """How often the rules of shipped claims are wrong: table ``trials``, a row for each, and ``rates``.

    ``names``: of claims (none: all that ship).  ``model``: heads of this one are numbered anew, else of the shipped null
    models.  ``budget``: minutes, after which what is done is summed up; the same call goes on.  ``trials``: of each false
    claim (1,000 drawn; of a ``model``, 100).

    Raises ClaimError for an unknown claim, or one of which numbering heads is no null; ModelError for a model.
    """
    claims = chosen(names, model)
    if model is not None:
        load(model)
    n = trials or (TRIALS if model is None else 100)
    home = store if isinstance(store, Store) else Store(store)
    told = {"claims": [c.id for c in claims], "model": model, "trials": n, "seed": seed}
    words = " ".join(
        ["headlab calibrate", *names, *(["--model", model] if model else []), f"--trials {n} --seed {seed}"]
    )
    draft = {"versions": versions(), "settings": told, "call": {"command": words, "python": ""}}
    inputs = {**told, "hashes": {c.id: hash_of(c) for c in claims}}
    end = None if budget is None else time.monotonic() + 60 * budget
    title = "How often rules are wrong"
    with (
        _of_drawn(home, told, draft) as drawn,
        home.open(kind="run", slug="calibrate", title=title, inputs=inputs, draft=draft) as run,
    ):
        if run.finished is not None:
            return handed_on(home, run.finished)
        work = list(pieces(claims, model, n, seed))
        done: list[tuple[Piece, pd.DataFrame]] = []
        for piece in work:
            kept = drawn if piece.drawn else run
            rows = kept.stored(piece.name)
            if rows is None and (end is None or time.monotonic() < end):
                rows = kept.store(piece.name, piece.frame())
            if rows is not None:
                done.append((piece, rows))
                progress("pieces", len(done), len(work))
        tables = {"trials": run.table("trials", _together(done)), "rates": run.table("rates", _table(claims, done))}
        if len(done) < len(work):
            run.fail(f"{len(done)} of {len(work)} pieces are done; the same command goes on", status="interrupted")
            return Result(run.record, tables)
        record = run.finish(notes=[f"{len(tables['trials']):,} trials of {len(claims)} claims."])
    return handed_on(home, record, tables)


@contextmanager
def _of_drawn(home: Store, told: Mapping[str, Any], draft: Mapping[str, Any]) -> Iterator[Run]:
    """The run that holds the trials whose numbers are drawn: it never ends, and a later calibration takes it up."""
    inputs = {k: told[k] for k in ("claims", "model", "seed")}
    draft = {**draft, "versions": versions(*DRAWN_BY)}
    title = "Trials whose numbers are drawn"
    with Store(home.root).open(kind="run", slug="calibrate-drawn", title=title, inputs=inputs, draft=draft) as run:
        yield run
        run.fail("its trials are kept for the next calibration", status="interrupted")


def _together(done: Sequence[tuple[Piece, pd.DataFrame]]) -> pd.DataFrame:
    """Every trial, with the claims that it speaks for."""
    parts = [rows.assign(claims=" ".join(piece.of)) for piece, rows in done]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*COLUMNS, "claims"])


def _table(claims: Sequence[Claim | Document], done: Sequence[tuple[Piece, pd.DataFrame]]) -> pd.DataFrame:
    found = rates(claims, _together(done))
    rows = [{"claim": name, **_told(r)} for name, one in found.items() for r in one.rows]
    rows += [{"claim": name, "null": f"not calibrated: {one.why}"} for name, one in found.items() if not one.rows]
    columns = ["claim", "null", "trials", "decided", "upheld", "undecided", "refuted", "power", "holds"]
    return pd.DataFrame(rows, columns=columns).astype({"trials": float, "decided": float}).fillna({"power": ""})


def _told(r: Rates) -> dict[str, Any]:
    power = "; ".join(f"{c} at {t}" for t, c in r.power.items())
    return {
        "null": r.null,
        "trials": r.trials,
        "decided": r.upheld.of,
        "upheld": str(r.upheld),
        "undecided": str(r.undecided),
        "refuted": "" if r.refuted is None else str(r.refuted),
        "power": power,
        "holds": {True: "yes", False: "no", None: "–"}[r.holds],
    }
