"""``headlab calibrate``: trials where the truth is known, piece by piece, until all are done or the time is up.

1. Every shipped claim whose numbers can be drawn: false in one prediction, just so, true by 1.25, 1.5 and 2 thresholds
   (:mod:`.drawn`); claims of one shape share their trials.
2. Entries of the docket about heads by their numbers: null models with their heads numbered anew; planted models over draws
   of pairs (:mod:`.numbered`).
3. Each piece is stored as soon as it is done; the same command goes on where time ran out.
4. Rates with their intervals; whole scorecards from the trials of one numbering, with Holm over their ranks and without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from headlab import organisms
from headlab.claims import Claim, ClaimError
from headlab.claims.error_rates import GENERATOR, Counted, OfClaim, Rates
from headlab.effects import Progress, quiet
from headlab.engine.checkpoint import ModelError
from headlab.experiments.calibration import drawn, numbered, shapes
from headlab.experiments.known import builtin_claims, find_claim
from headlab.stats import holm
from headlab.store import Store
from headlab.trials import registry
from headlab.trials.document import Document
from headlab.trials.loading import load
from headlab.trials.record import versions
from headlab.trials.results import Result, handed_on

NUMBERED = (
    *("head-similarity", "routing", "parity", "bandwidth", "position-sensitivity", "layer-scan", "architecture"),
    *("head-exchange", "bandwidth-repair", "format-masking", "bandwidth-dose", "spatial-patterns", "pattern-swap"),
    *("weight-clusters", "head-count"),
)
"""Entries about heads by their numbers: of heads numbered at random they say nothing true.  The cheapest first."""
PLANTED = {"parity": "decimals-planted-even", "layer-scan": "decimals-planted-even"}
"""Models in which a claim is true, as their cards say."""
TRIALS, ON_PLANTED, PER_PIECE = 1000, 60, 250
SHARES: Mapping[Any, float] = {"false": 1.0, "just so": 0.4, 1.25: 0.2, 1.5: 0.1, 2.0: 0.1}
"""Trials of each truth, as a share of those of false claims."""
NULLS, NUMBERINGS, LEVEL = 5, 40, 0.05
"""Null models, and numberings of each: a model's worlds are dear, another numbering of it is cheap."""
COLUMNS = ("source", "model", "truth", "n", "outcome", "p")
ERRORS = (ClaimError, ModelError, ValueError)


@dataclass(frozen=True)
class Piece:
    """Some trials of one rule: of the claims ``of``, made by ``make``."""

    name: str
    of: tuple[str, ...]
    make: Callable[[], list[dict[str, Any]]]

    def frame(self) -> pd.DataFrame:
        """A row for each trial."""
        return pd.DataFrame(self.make(), columns=list(COLUMNS)).astype({"p": float})


@dataclass
class Models:
    """Models as they are needed, and what is known of their worlds."""

    seed: int
    labs: dict[str, Any] = field(default_factory=dict)
    known: dict[str, dict[Any, Any]] = field(default_factory=dict)

    def ground(self, model: str, slug: str, pool: int | None = None) -> numbered.Ground:
        """A claim before a model.  Raises what loading raises."""
        if model not in self.labs:
            self.labs[model] = load(model)
        out = numbered.ground(self.labs[model], slug, pool=pool, seed=self.seed)
        out.known = self.known.setdefault(model, {})
        return out

    def on_null(self, slug: str, model: str, first: int, n: int) -> list[dict[str, Any]]:
        """So many numberings of one model."""
        at = self.ground(model, slug)
        return [_row("numbered", model, "false", i, at, numbered.numbering(at.lab, i)) for i in range(first, first + n)]

    def on_planted(self, slug: str, model: str, first: int, n: int) -> list[dict[str, Any]]:
        """So many draws of pairs from one pool."""
        at, size = self.ground(model, slug, numbered.POOL), numbered.SIZES["pairs"]
        return [_row("planted", model, "true", i, at, None, size) for i in range(first, first + n)]


def _row(
    source: str, model: str, truth: str, n: int, at: numbered.Ground, order: Any, pairs: int | None = None
) -> dict[str, Any]:
    try:
        found = at.tried(order, pairs, seed=n)
    except ERRORS as error:  # a trial that cannot be made is counted as one
        found = {"outcome": "untestable", "p": None, "why": str(error)}
    return {"source": source, "model": model, "truth": truth, "n": n, "outcome": found["outcome"], "p": found["p"]}


def _drawn(shape: shapes.Shape, truth: Any, seed: int, first: int, n: int) -> list[dict[str, Any]]:
    outcomes = drawn.trials(shape, truth, seed, first, n)
    told = {"source": "drawn", "model": "", "truth": str(truth), "p": None}
    return [{**told, "n": first + i, "outcome": o} for i, o in enumerate(outcomes)]


def pieces(claims: Sequence[Claim | Document], model: str | None, trials: int, seed: int) -> Iterator[Piece]:
    """What is to be done, what says most for its time first."""
    models, names = Models(seed), {c.id for c in claims if isinstance(c, Claim)}
    if model is None:
        # what is asked for one truth of every claim comes before the next truth of any
        every = sorted(shapes.shared(claims).items(), key=lambda s: s[0].cost)
        for truth, share in SHARES.items():
            for shape, of in every:
                whole = max(1, round(trials * share))
                for first in range(0, whole, PER_PIECE):
                    make = partial(_drawn, shape, truth, seed, first, min(PER_PIECE, whole - first))
                    yield Piece(f"drawn {shape} {truth} {first}", tuple(of), make)
    nulls = [n for n in organisms.names() if n.startswith("decimals-null-")][:NULLS] if model is None else [model]
    each = NUMBERINGS if model is None else trials
    for slug in (s for s in NUMBERED if s in names):
        for first in range(0, each, 5):
            for name in nulls:
                make = partial(models.on_null, slug, name, first, min(5, each - first))
                yield Piece(f"numbered {slug} {name} {first}", (slug,), make)
        if model is None and slug in PLANTED:
            for first in range(0, ON_PLANTED, 10):
                make = partial(models.on_planted, slug, PLANTED[slug], first, 10)
                yield Piece(f"planted {slug} {first}", (slug,), make)


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
    inputs = {**told, "hashes": {c.id: _hash(c) for c in claims}}
    end = None if budget is None else time.monotonic() + 60 * budget
    with home.open(kind="run", slug="calibrate", title="How often rules are wrong", inputs=inputs, draft=draft) as run:
        if run.finished is not None:
            return handed_on(home, run.finished)
        work = list(pieces(claims, model, n, seed))
        done: list[tuple[Piece, pd.DataFrame]] = []
        for i, piece in enumerate(work):
            rows = run.stored(piece.name)
            if rows is None and (end is None or time.monotonic() < end):
                rows = run.store(piece.name, piece.frame())
            if rows is not None:
                done.append((piece, rows))
            progress("trials", i + 1, len(work))
        tables = {"trials": run.table("trials", _together(done)), "rates": run.table("rates", _table(claims, done))}
        if len(done) < len(work):
            run.fail(f"{len(done)} of {len(work)} pieces are done; the same command goes on", status="interrupted")
            return Result(run.record, tables)
        record = run.finish(notes=[f"{len(tables['trials']):,} trials of {len(claims)} claims."])
    return Result(record, tables)


def _hash(claim: Claim | Document) -> str:
    from headlab.store import content_hash

    return content_hash(claim.plain() if isinstance(claim, Document) else claim.model_dump(mode="json"))


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


# -- rates --------------------------------------------------------------------------------------------------


def rates(claims: Sequence[Claim | Document], every: pd.DataFrame) -> dict[str, OfClaim]:
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
        out[claim.id] = OfClaim(hash=_hash(claim), rows=rows, why="" if rows else why)
    return out


def _count(rows: pd.DataFrame, outcome: str) -> Counted:
    """Of those that could be decided."""
    decided = rows[rows["outcome"].isin(["upheld", "refuted", "undecided"])]
    return Counted(hits=int((decided["outcome"] == outcome).sum()), of=len(decided))


def _of_drawn(claim: Claim | Document, rows: pd.DataFrame) -> Rates | None:
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


def _on_models(rows: pd.DataFrame) -> Rates | None:
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


def scorecards(every: pd.DataFrame) -> list[dict[str, Any]]:
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
