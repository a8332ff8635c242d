"""Parity tried on each model of a list: the trials, who can be asked at all, and the table that is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Claim, Control, decide, judged
from headlab.effects import Figure, Progress, as_part, quiet
from headlab.experiments.known import adjusted, builtin_claims
from headlab.experiments.training.cross_model import REFERENCES, SECTIONS
from headlab.experiments.training.models_table import CANNOT, PRESETS, counted_as, listed, number, preset, row
from headlab.experiments.trial import trial
from headlab.stats import Estimate, clopper_pearson
from headlab.stats.heterogeneity import chance_of_pattern, heterogeneity
from headlab.store import NamedEstimate, Reading, Record, Result, Store
from headlab.trials import charts
from headlab.trials.charts import estimates as estimates_figure
from headlab.trials.pairs import named
from headlab.trials.record import versions
from headlab.trials.results import handed_on

EXTRA = ("head-count",)


def cross_model(
    models: Sequence[str] | str,
    *,
    head_count: bool = False,
    pairs: int | None = None,
    matched_sets: int | None = None,
    seed: int | None = None,
    store: Store | Path | str | None = None,
    progress: Progress = quiet,
    **loading: Any,
) -> Result:
    """Try parity on each of ``models`` (names, ``NAME@REVISION``, or a preset: published, organisms).

    ``head_count``: that claim too, where parity can be tried.  ``loading`` (dtype, device, memory, engine, protocol …)
    goes to every trial.  Returns a summary record whose children are the trials; its table ``models`` has a row for each model.
    A model with the weights of an earlier one counts once, whatever it is called.  An interrupted call goes on with the
    trials that it had not finished.

    Raises ClaimError for no model, a model named twice or an unknown preset.
    """
    entries = list(preset(models) if isinstance(models, str) and models in PRESETS else listed(models))
    sizes = {"pairs": pairs, "matched_sets": matched_sets, "seed": seed}
    own = adjusted(builtin_claims()["cross-model"], **sizes)
    options = {k: v for k, v in {**sizes, **loading}.items() if v is not None}
    home = store if isinstance(store, Store) else Store(store)
    claims = {s: builtin_claims()[s] for s in ("parity", *(EXTRA if head_count else ()))}
    told = {k: v for k, v in options.items() if isinstance(v, str | int | float)}
    hashes = {"claim": own.content_hash(), "claims": [c.content_hash() for c in claims.values()]}
    inputs = {**hashes, "models": entries, "options": told}
    settings, call = {"models": entries, **told}, _call(entries, head_count, told)
    draft = {"claim": own.model_dump(mode="json"), "versions": versions(), "settings": settings, "call": call}
    title = f"Parity on {len(entries)} models"
    with home.open(kind="run", slug="cross-model", title=title, inputs=inputs, draft=draft) as run:
        if run.finished is not None:
            return handed_on(home, run.finished)
        every = list(dict.fromkeys([*entries, *REFERENCES.values()]))
        rows, children, weights = {}, {}, {}
        for n, entry in enumerate(every):
            slugs = list(claims) if entry in entries else ["parity"]
            tell = as_part(progress, "models", n, len(every))
            made, reason = _tried(entry, slugs, home, tell, options)
            if entry in entries and (same := counted_as(weights, entry, made.values())):
                made, reason = {}, same
            children[entry] = made
            rows[entry] = row(entry, made, reason)
        table = run.table("models", pd.DataFrame([rows[e] for e in entries]))
        known = [children[e] for e in entries]
        binding, figures = _read(own, table, known, _references(children, "standard"))
        readings = [binding]
        if options.get("protocol") != "standard":
            readings.append(_as_published(own, known, _references(children, "published")))
        record = run.finish(
            readings=readings,
            figures=[f.plain() for f in figures],
            sections=SECTIONS,
            notes=_notes(table),
            children=[r.id for e in every for r in children[e].values()],
        )
    return handed_on(home, record, {"models": table}, [r for e in every for r in children[e].values()])


def _call(entries: Sequence[str], head_count: bool, told: Mapping[str, Any]) -> dict[str, str]:
    flags = "".join(f" --{k.replace('_', '-')} {v}" for k, v in told.items())
    extra, words = (" --head-count" if head_count else ""), "".join(f", {k}={v!r}" for k, v in told.items())
    return {
        "command": f"headlab cross-model {' '.join(entries)}{extra}{flags}",
        "python": f"cross_model({list(entries)!r}{', head_count=True' if head_count else ''}{words})",
    }


def _tried(
    entry: str, slugs: Sequence[str], home: Store, tell: Progress, options: Mapping[str, Any]
) -> tuple[dict[str, Record], str]:
    """The trials of one model by experiment, and why there are none."""
    name, _, revision = (entry, "", "") if Path(entry).exists() else entry.partition("@")
    options = {**options, **({"revision": revision} if revision else {})}
    found: dict[str, Record] = {}

    try:
        for slug in slugs:
            if slug == "parity" or found["parity"].outcome != "untestable":
                found[slug] = trial(slug, name, store=home, progress=tell, **_fitting(slug, options)).record
    except CANNOT as error:
        return found, " ".join(str(error).split()) or type(error).__name__
    return found, ""


def _fitting(slug: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k != "matched_sets" or slug == "parity"}


def _outcome(made: Mapping[str, Record], protocol: str) -> str:
    """What one reading of a model's parity trial says."""
    readings = made["parity"].readings if "parity" in made else []
    return next((r.verdict.outcome for r in readings if r.protocol == protocol), "not run")


def _references(children: Mapping[str, Mapping[str, Record]], protocol: str) -> list[Control]:
    """The planted organism must be found, the other must not."""
    out = []
    for name, organism in REFERENCES.items():
        outcome = _outcome(children.get(organism, {}), protocol)
        passed = outcome == "upheld" if name == "planted" else outcome in {"refuted", "undecided"}
        what = "planted in its even heads" if name == "planted" else "planted in heads that parity does not describe"
        kind = "positive" if name == "planted" else "negative"
        out.append(judged(name, kind, passed, None, f"parity on {organism}, {what}: {outcome}"))
    return out


def _read(
    claim: Claim, table: Any, trials: Sequence[Mapping[str, Record]], controls: Sequence[Control]
) -> tuple[Reading, list[Figure]]:
    """The verdict over the models that could be tried."""
    tried = table[table["yes"].notna() & table["chance"].notna()]
    yes, chance = tried["yes"].to_numpy(bool), tried["chance"].to_numpy(float)
    by_chance = chance_of_pattern(yes, chance)
    upheld = clopper_pearson(int((tried["outcome"] == "upheld").sum()), len(tried), unit="models")
    shown = clopper_pearson(int(yes.sum()), len(tried), unit="models")
    both = tried[tried["published_pattern"] != ""]
    agree = clopper_pearson(int((both["pattern"] == both["published_pattern"]).sum()), len(both), unit="models")
    good = set(tried["id"])
    contrasts = [
        e
        for t in trials
        if "parity" in t and t["parity"].id in good and (e := number(t["parity"], "contrast:recovery"))
    ]
    spread = heterogeneity(contrasts)
    findings = {
        "chance:pattern": by_chance.at_least,
        "upheld:models": upheld,
        "pattern:models": shown,
        "agreement:published": agree,
        "heterogeneity:i2": spread.i_squared,
        "heterogeneity:pooled": spread.pooled,
    }
    labels = {
        "chance:pattern": "chance of as many models with the pattern, if labels were dealt at random",
        "upheld:models": "models in which parity stands out among matched halves",
        "pattern:models": "models in which even heads repair at least .5 more",
        "agreement:published": "models that show the published pattern",
        "heterogeneity:i2": "share of the contrast's variance that is between models",
        "heterogeneity:pooled": "even minus odd, logit difference recovered: middle of the models",
    }
    estimates: tuple[NamedEstimate, ...] = tuple(named(k, labels[k], e) for k, e in findings.items())
    nothing = "" if len(tried) > 1 else f"{len(tried)} of {len(table)} models could be tried, two make a table"
    verdict = decide(claim, findings, controls, impossible=nothing)
    reading = Reading(
        protocol="standard",
        verdict=verdict,
        estimates=estimates,
        words="a trial of parity for each model, eligibility first; each model's matched halves say how often it would show "
        "the pattern by chance",
    )
    figures = [_models_figure(tried, trials)] if len(tried) else []
    if len(tried):
        figures.append(_chance_figure(yes, chance, by_chance.at_least, claim.seed))
    return reading, figures


def _as_published(claim: Claim, trials: Sequence[Mapping[str, Record]], controls: Sequence[Control]) -> Reading:
    """The same table by the published protocol, which has no null: how many models it finds the pattern in."""
    outcomes = [_outcome(t, "published") for t in trials]
    decided = [o for o in outcomes if o in {"upheld", "refuted", "undecided"}]
    found = clopper_pearson(decided.count("upheld"), len(decided), unit="models")
    kept = claim.model_copy(update={"predictions": claim.predictions[:1]})
    nothing = "" if decided else f"by the published protocol none of the {len(trials)} models could be tried"
    label = "models in which the published protocol finds even heads repairing and odd ones not"
    return Reading(
        protocol="published",
        words="every model by the published protocol: slices of the module's output, no null",
        verdict=decide(kept, {kept.predictions[0].statistic: found}, controls, impossible=nothing),
        estimates=(named("upheld:models", label, found, "out_block"),),
    )


def _models_figure(tried: Any, trials: Sequence[Mapping[str, Record]]) -> Figure:
    by_id = {t["parity"].id: t["parity"] for t in trials if "parity" in t}
    rows = [
        (r["model"], f"{side} heads", e)
        for r in tried.to_dict("records")
        for side in ("even", "odd")
        if (e := number(by_id[r["id"]], f"repair:{side}"))
    ]
    return estimates_figure(
        "models",
        "Pairs repaired by even and by odd heads, by model",
        "Each model at the layer that repairs most, z patched from the clean run. Models that could not be tried are in the "
        "table with the reason. Bars are 95 % intervals by prompt pair; the model is one case, however many pairs it saw.",
        rows,
        "share of pairs repaired",
    )


def _chance_figure(yes: Any, chance: Any, found: Estimate, seed: int) -> Figure:
    drawn = (np.random.default_rng(seed).random((2000, len(chance))) < chance).sum(1)
    count = float(yes.sum())
    title = f"Models with the pattern, of {len(yes)} that could be tried"
    caption = (
        f"2,000 tables in which each model shows the pattern as often as its own matched halves do. The line is this "
        f"table's {count:g}; as many or more have the chance {found.value:.3g} (exact)."
    )
    line = (count, "this table", "models with the pattern", found.value)
    return charts.null("null", title, caption, drawn, *line, of="tables")


def _notes(table: Any) -> list[str]:
    counts = table["outcome"].value_counts()
    said = ", ".join(f"{n} {outcome}" for outcome, n in counts.items())
    return [f"{len(table)} models: {said}.", *(f"{r.model}: {r.reason}" for r in table.itertuples() if r.reason)]
