"""Over a list of models: with their heads numbered at random, how often is parity upheld, how often found naively?

1. Each model is tried by ``null-rates`` as a run of its own; a model that cannot be tried is a row that says why.
2. Trials, decided, upheld with its interval and the bound .05 + 2 standard errors of that many trials, naive: by model and
   over all.  Numberings of one model are not models: the ruled number resamples models as wholes.
3. The negative control is the bound itself.  The positive one: an organism planted in its even heads is upheld, by the
   same rule, as it is numbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from headlab import organisms
from headlab.claims import Claim, Control, decide, judged
from headlab.effects import Figure, Progress, quiet
from headlab.experiments import null_rates
from headlab.experiments.null_rates import COLUMNS, LABELS, NOMINAL, UNIT, allowed, parity_of, shares, words
from headlab.experiments.training.models_table import CANNOT, counted_as, listed
from headlab.stats import Estimate, bootstrap_mean
from headlab.stats.figures import percent
from headlab.store import NamedEstimate, Reading, Record, Result, Store
from headlab.trials.charts import estimates as estimates_figure
from headlab.trials.pairs import named
from headlab.trials.record import versions
from headlab.trials.results import handed_on

NATURAL = ("decimals-natural", "decimals-natural-neox", "decimals-natural-gemma")
PLANTED = "decimals-planted-even"
_WEIGHT = {"halves": 0.4, "numbered anew": 0.95}
"""How far a model has come when a sweep of this name ends."""


def defaults() -> list[str]:
    """The shipped models in which nothing about parity was planted: the null seeds and the natural organisms."""
    return [n for n in organisms.names() if n.startswith("decimals-null-") or n in NATURAL]


def over_models(
    models: Sequence[str] | None = None,
    *,
    relabellings: int | None = None,
    pairs: int | None = None,
    matched_sets: int | None = None,
    seed: int | None = None,
    store: Store | Path | str | None = None,
    progress: Progress = quiet,
    **loading: Any,
) -> Result:
    """How often parity is upheld, and how often found naively, over models × layers that repair × numberings.

    ``models``: names or folders; None for the shipped null seeds and natural organisms.  ``relabellings``: numberings for
    each layer.  ``loading`` (dtype, device, memory, engine …) goes to every trial.  Returns a summary record whose children
    are the models' own; its table ``models`` has a row for each, ``trials`` one for each numbering.  An interrupted call
    goes on with the models that it had not finished.

    Raises ClaimError for no model or a model named twice.
    """
    import pandas as pd

    from headlab.experiments.known import adjusted, builtin_claims

    entries = defaults() if models is None else listed(models)
    claim = adjusted(builtin_claims()["null-rates"], pairs=pairs, matched_sets=matched_sets, seed=seed)
    if relabellings is not None:
        claim = adjusted(claim, options={**claim.options, "relabellings": relabellings})
    null_rates.EXPERIMENT.check(claim)
    home, told = store if isinstance(store, Store) else Store(store), {"models": entries, **_plain(loading)}
    plain, call = claim.model_dump(mode="json"), _call(models, entries, claim)
    draft = {"claim": plain, "versions": versions(), "settings": told, "call": call}
    inputs = {"claim": claim.content_hash(), "parity": parity_of(claim).content_hash(), "options": told}
    title = f"Parity in {len(entries)} models with their heads numbered at random"
    with home.open(kind="run", slug="null-rates", title=title, inputs=inputs, draft=draft) as run:
        if run.finished is not None:
            return handed_on(home, run.finished)
        every = list(dict.fromkeys([*entries, PLANTED]))
        made: dict[str, tuple[Record | None, str]] = {}
        weights: dict[str, str] = {}
        for n, entry in enumerate(every):
            tell = _Gauge(progress, n, len(every))
            found, why = _tried(entry, claim, home, tell, loading)
            same = counted_as(weights, entry, [found]) if found is not None and entry in entries else ""
            made[entry] = (None, same) if same else (found, why)
        rows = {m: home.table(r.id, "trials") for m, (r, _) in made.items() if r is not None}
        dealt = [t[t["relabelling"] > 0].assign(model=m) for m, t in rows.items() if m in entries]
        pooled = run.table(
            "trials", pd.concat(dealt, ignore_index=True) if dealt else pd.DataFrame(columns=(*COLUMNS, "model"))
        )
        table = run.table("models", pd.DataFrame([_model(m, *made[m], rows.get(m)) for m in entries]))
        record = run.finish(
            readings=[_pooled(claim, pooled, rows.get(PLANTED))],
            figures=[f.plain() for f in _figures(pooled)],
            sections=null_rates.SECTIONS,
            notes=[words(pooled), *(f"{m}: {why}" for m, (_, why) in made.items() if why)],
            children=[r.id for r, _ in made.values() if r is not None],
        )
    tried = [r for r, _ in made.values() if r is not None]
    return handed_on(home, record, {"models": table, "trials": pooled}, tried)


def _plain(loading: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in loading.items() if isinstance(v, str | int | float)}


class _Gauge:
    """All models as one progress, each worth as much; it never goes back when a model begins another sweep."""

    def __init__(self, progress: Progress, n: int, total: int) -> None:
        self.progress, self.at, self.total = progress, 1000 * n, 1000 * total
        self.start = 1000 * n

    def __call__(self, what: str, done: int, of: int) -> None:
        share = done / of if of else 0.0
        self.at = max(self.at, self.start + int(1000 * share * _WEIGHT.get(what.split(" L")[0], 0.0)))
        self.progress("models", self.at, self.total)


def _tried(entry: str, claim: Claim, home: Store, tell: Progress, loading: dict[str, Any]) -> tuple[Record | None, str]:
    """The record of one model, and why it has no decided trial."""
    from headlab.experiments.trial import trial

    given = {k: v for k, v in loading.items() if v is not None}
    try:
        record = trial(claim, entry, store=home, progress=tell, **given).record
    except CANNOT as error:
        return None, " ".join(str(error).split()) or type(error).__name__
    verdict = record.readings[0].verdict
    return record, verdict.sentence if verdict.outcome in {"untestable", "void"} else ""


def _model(entry: str, record: Record | None, reason: str, rows: Any) -> dict[str, Any]:
    """A model's line."""
    out: dict[str, Any] = {"model": entry, "layers": "", "trials": 0, "decided": 0, "upheld": 0, "naive": 0}
    empty = dict.fromkeys(("upheld_share", "upheld_low", "upheld_high", "allowed", "naive_share"))
    out |= {**empty, "own": "", "reason": reason, "id": record.id if record else ""}
    if rows is None or rows.empty:
        return out
    dealt = rows[rows["relabelling"] > 0]
    decided, found = dealt[dealt["decided"]], shares(dealt)
    upheld, own = found["upheld:relabelled"], rows[rows["relabelling"] == 0]
    return out | {
        "layers": " ".join(map(str, own["layer"])),
        "trials": len(dealt),
        "decided": len(decided),
        "upheld": int(decided["upheld"].sum()),
        "naive": int(decided["naive"].sum()),
        "upheld_share": upheld.value,
        "upheld_low": upheld.low,
        "upheld_high": upheld.high,
        "allowed": allowed(len(decided)),
        "naive_share": found["naive:relabelled"].value,
        "own": " ".join(own["outcome"]),
    }


def _pooled(claim: Claim, pooled: Any, planted: Any) -> Reading:
    """The verdict over all models: intervals of the ruled number resample models, not numberings."""
    decided = pooled[pooled["decided"].astype(bool)]
    found = shares(pooled)
    by_model = {
        f"{what}:by-model": bootstrap_mean(
            decided[what].to_numpy(float), clusters=decided["model"].to_numpy(), unit=UNIT, seed=claim.seed
        )
        for what in ("naive", "upheld")
    }
    wanted = claim.model_copy(update={"controls": ("nominal-rate", "planted")})
    nothing = "" if len(decided) else f"none of {len(pooled)} trials could be decided"
    findings = {**found, "naive:relabelled": by_model["naive:by-model"]}
    estimates: list[NamedEstimate] = [named(k, LABELS[k], e) for k, e in {**found, **by_model}.items()]
    return Reading(
        protocol="standard",
        verdict=decide(wanted, findings, _controls(found, planted), impossible=nothing),
        words="every model at the layers that repair, its heads numbered at random; the same rule as parity for each "
        "numbering, and a fixed threshold beside it",
        estimates=tuple(estimates),
    )


def _controls(found: dict[str, Estimate], planted: Any) -> list[Control]:
    """The rule may uphold no more than it says; a parity that is there must be upheld."""
    upheld = found["upheld:relabelled"]
    bound = allowed(upheld.n)
    own = [] if planted is None else list(planted[planted["relabelling"] == 0]["outcome"])
    held = bound is not None and upheld.value is not None and upheld.value <= bound
    words = (
        f"numbered at random, parity is upheld in {upheld}; at most {percent(bound or 0)} allowed (5 % and two standard "
        f"errors of {upheld.n:,} decided trials)"
    )
    there = f"parity on {PLANTED} as it is numbered, by the same rule: {', '.join(own) or 'not run'}"
    return [
        judged("nominal-rate", "negative", held, upheld.value, words),
        judged("planted", "positive", "upheld" in own, None, there),
    ]


def _figures(pooled: Any) -> list[Figure]:
    decided = pooled[pooled["decided"].astype(bool)]
    rows = []
    for model, part in decided.groupby("model", sort=False):
        found = shares(part)
        rows += [
            (str(model), "naive reading", found["naive:relabelled"]),
            (str(model), "parity", found["upheld:relabelled"]),
        ]
    if not rows:
        return []
    one = estimates_figure(
        "models",
        "Models with their heads numbered at random: how often parity is found",
        "Naive reading: one side repairs at least .5 more of the pairs. Parity: upheld by its own rule, which ranks the "
        f"contrast among matched halves. The line is the {NOMINAL:.0%} that the rule allows. Bars are 95 % intervals over "
        "numberings of that model (Clopper-Pearson); they say nothing about other models.",
        rows,
        "share of decided trials",
    )
    return [replace(one, options={**one.options, "threshold": NOMINAL})]


def _call(models: Sequence[str] | None, entries: Sequence[str], claim: Claim) -> dict[str, str]:
    names = "" if models is None else f" {' '.join(entries)}"
    given = {"relabellings": claim.options["relabellings"], **{k: getattr(claim, k) for k in ("pairs", "seed")}}
    flags = "".join(f" --{k} {v}" for k, v in given.items())
    python = "".join(f", {k}={v!r}" for k, v in given.items())
    return {
        "command": f"headlab null-rates{names}{flags} --matched-sets {claim.matched_sets}",
        "python": f"over_models({None if models is None else list(entries)!r}{python}, matched_sets={claim.matched_sets})",
    }
