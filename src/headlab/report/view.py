"""What a page says, as plain data: no markup here, no arithmetic in the templates."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headlab.claims import Control, Ruling, Verdict, error_rates
from headlab.effects import Figure
from headlab.reading.shown import csv_text
from headlab.stats import Estimate

from . import dots, figures, heads, marks, nulls, patterns, stills, words
from .read import examples
from .steps import steps

if TYPE_CHECKING:
    import pandas as pd

    from headlab.store import Reading, Record

SIGNS = {"upheld": "✓", "refuted": "✗", "undecided": "?", "void": "⊘", "untestable": "–"}
MEANINGS = {
    "upheld": "every prediction's whole interval lies on its side of the threshold",
    "refuted": "at least one prediction's whole interval lies on the other side",
    "undecided": "an interval straddles its threshold",
    "void": "a control failed, so nothing can be said",
    "untestable": "this model, or its null, cannot decide",
}
PROTOCOLS = {"standard": "Standard", "published": "As published", "naive": "Naive"}
NAMED_FAMILIES = ("even", "odd", "all", "noop")
WORLDS = {"even": "even heads", "odd": "odd heads", "all": "all heads", "noop": "no-op"}
ROWS_INLINE = 300


def trial(
    record: Record, tables: Mapping[str, pd.DataFrame] | None, layers: Sequence[int] | None = None
) -> dict[str, Any]:
    """Everything that the page of one record shows; ``tables`` is None when only the record is at hand.  ``layers``: those
    that series of the whole page are of, each with one colour; else the record's."""
    claim = (
        {"published": "", **record.claim} if record.claim else {}
    )  # a document leaves out what stands at its default
    given = [Figure.from_plain(f) for f in record.figures]
    layers = marks.on_one_page(given) if layers is None else layers
    found = {f.name: nulls.null(f, record, tables or {}) for f in given}
    kept = {name: one for name, one in found.items() if one and (one.sets or tables is not None)}
    drawn = [figure(f, record.id, layers) | {"sets": kept[f.name].plain() if f.name in kept else None} for f in given]
    binding = record.readings[0] if record.readings else None
    binds = bound(binding.verdict, claim) if binding else []
    was_read = examples(record.prompts.get("first", []))
    attended = patterns.shown(tables or {}, was_read["roles"] if was_read else {})
    first_null = next((f for f in drawn if f["kind"] == "null"), None)
    made = {
        "id": record.id,
        "name": record.tried_on,
        "title": record.title,
        "slug": record.slug,
        "kind": record.kind,
        "claim": claim,
        "status": record.status,
        "error": record.error,
        "facts": facts(record),
        "verdict": verdict(binding.verdict, binds) if binding else None,
        "read": was_read,
        "error_rate": error_rates.words(record.claim, record.claim_hash, record.settings),
        "rulings": [ruling(r, binding) for r in binding.verdict.rulings] if binding else [],
        "headline": first_null,
        "null_words": null_words(first_null, binding),
        "heads": heads.grid(record, heads.known(record, tables, [*kept.values()]), attended) if tables else None,
        "readings": [reading(r) for r in record.readings],
        "comparison": comparison(record.readings),
        "figures": [f for f in drawn if f is not first_null],
        "controls": sorted(binding.verdict.controls, key=lambda c: (c.passed, c not in binds)) if binding else [],
        "binds": binds,
        "eligibility": eligibility(record.eligibility),
        "sections": record.sections,
        "notes": record.notes,
        "warnings": record.warnings,
        "prompts": prompt_rows(record, tables) if tables is not None else None,
        "call": record.call,
        "provenance": provenance(record),
    }
    return {**made, "contents": contents(made)}


def contents(made: Mapping[str, Any]) -> list[str]:
    """The headings of a page, in its order, that a reader may jump to."""
    unit = (made["prompts"] or {}).get("unit") or "pair"
    there = {
        "Predicted and found": made["rulings"],
        "What would change the verdict": made["verdict"],
        "Head by head": made["heads"],
        "What the model read": made["read"],
        "Figures": made["figures"],
        "Controls": made["controls"],
        "Readings side by side" if len(made["readings"]) > 1 else "The reading": made["readings"],
        "Eligibility": made["eligibility"],
        f"{unit.capitalize()} by {unit}": made["prompts"],
        "Repeat it": made["call"],
        "Provenance": True,
    }
    return [words for words, what in there.items() if what]


def facts(record: Record) -> list[tuple[str, str]]:
    """The line under the title: model, layer, pairs, seed, date."""
    model, settings, claim = record.model, record.settings, record.claim or {}
    tested = record.prompts.get("test") or record.prompts
    layer = settings.get("layer", claim.get("layer"))
    seed = settings.get("seed", claim.get("seed"))
    rows = [
        ("Model", model.get("name")),
        ("Layer", layer),
        ("Prompts", words.counted(tested["n"], _unit(record)) if "n" in tested else None),
        ("Seed", seed),
        ("Precision", " on ".join(str(x) for x in (model.get("dtype"), model.get("device")) if x)),
        ("Run", record.id),
        ("Date", (record.finished or record.created).replace("T", " ")[:16] + " UTC"),
    ]
    return [(k, str(v)) for k, v in rows if v not in (None, "", "auto")]


def bound(v: Verdict, claim: Mapping[str, Any]) -> list[Control]:
    """The controls that bind: those that a claim of the docket names, all that a document does not waive (in no cell).  Of
    those that failed, the ones that made the trial void: those that its sentence names, if any."""
    left = {c.name for c in v.controls if c.name.split(" [")[0] not in claim.get("waive", ())}
    named = claim.get("controls", ()) if "experiment" in claim else left
    failed = {c.name for c in v.failed} if v.outcome == "void" else set()
    failed = {name for name in failed if f"control {name!r} failed" in v.sentence} or failed & {*named}
    return [c for c in v.controls if c.name in (named if c.passed else failed)]


def verdict(v: Verdict, binds: Sequence[Control]) -> dict[str, Any]:
    """A verdict with its badge; the controls that failed stand in front, those apart that bind nothing."""
    failed = [c for c in v.failed if c in binds]
    return {
        "outcome": v.outcome,
        "sign": SIGNS[v.outcome],
        "meaning": MEANINGS[v.outcome],
        "clause": clause(v, failed),
        "sentence": v.sentence,
        "would_change": v.would_change,
        "refutes_at": None if v.refutes_at is None or not v.rulings else words.refuting(v.refutes_at, len(v.rulings)),
        "failed": failed,
        "idle": [c for c in v.failed if c not in binds],
        "chip": v.model_copy(update={"controls": tuple(binds)}).controls_words if binds else "no control binds",
        "held": held(v),
        "ruled": v.ruled,
    }


def clause(v: Verdict, failed: Sequence[Control]) -> str:
    """The verdict in one clause: what was said where it turns on one prediction, else on how many, else how its sentence begins."""
    n = len(v.rulings)
    those = [r.prediction.words or r.prediction.statistic for r in v.rulings if r.outcome == v.outcome]
    if v.outcome == "void" and failed:
        said = f"the control {failed[0].name} failed" if len(failed) == 1 else f"{len(failed)} controls failed"
    elif v.outcome == "upheld" and len(those) == n > 1:
        said = f"all {n} predictions hold"
    elif v.ruled and len(those) == 1 and (v.outcome != "upheld" or n == 1):
        said = {"refuted": "it is not so that ", "undecided": "it stays open whether "}.get(v.outcome, "") + those[0]
    elif v.ruled and those and v.outcome != "upheld":
        said = f"{len(those)} of {n} predictions {'do not hold' if v.outcome == 'refuted' else 'stay open'}"
    else:
        sentence = v.sentence.removeprefix(f"{v.outcome.capitalize()}: ")
        said = re.split(r":\s|[;(]|\. |\.$", sentence, maxsplit=1)[0].strip()
    return f"{said[:1].upper()}{said[1:]}."


def held(v: Verdict) -> str:
    """How many of several predictions are upheld, in one clause; nothing where they were not ruled."""
    n = len(v.rulings)
    return f"{sum(r.outcome == 'upheld' for r in v.rulings)} of {n} predictions upheld" if v.ruled and n > 1 else ""


def ruling(r: Ruling, source: Reading | None) -> dict[str, Any]:
    """One prediction: what was said, what was found, how it was ruled."""
    p = r.prediction
    found = next((e for e in source.estimates if e.name == p.statistic), None) if source else None
    number = shown(found.estimate) if found else None
    if p.op == "rank<" and number and r.value is not None:
        number["text"] = words.chance(r.value, r.low, r.high)
    return {
        "words": p.words or p.statistic,
        "statistic": p.statistic,
        "asked": p.asked,
        "found": number,
        # A rank without its estimate beside it still says its interval.
        "plain": words.chance(r.value, r.low, r.high) if p.op == "rank<" and r.value is not None else r.shown,
        "outcome": r.outcome,
        "sign": SIGNS[r.outcome],
    }


def shown(data: Mapping[str, Any] | Estimate) -> dict[str, Any]:
    """A number with all that must travel with it."""
    e = words.estimate(data)
    return {
        "text": f"{words.span(e.value)} (exact)" if words.is_exact(e) else words.span(e.value, e.low, e.high),
        "n": words.counted(e.n, e.unit),
        "drawn": words.drawn(e),
        "note": e.note,
        "defined": e.defined,
    }


def reading(r: Reading) -> dict[str, Any]:
    """One protocol's reading: what it does, and what it says."""
    return {
        "protocol": r.protocol,
        "name": PROTOCOLS.get(r.protocol, r.protocol.capitalize()),
        "words": r.words,
        "outcome": r.verdict.outcome,
        "sentence": r.verdict.sentence,
    }


def comparison(readings: Sequence[Reading]) -> dict[str, list[dict[str, Any]]]:
    """Every number of the readings, side by side: arm → rows, each with one cell per reading and the dots of all."""
    arms: dict[str, dict[str, tuple[str, list[Estimate | None]]]] = {}
    for i, r in enumerate(readings):
        for e in r.estimates:
            row = arms.setdefault(e.arm, {}).setdefault(e.name, (e.label, [None] * len(readings)))
            row[1][i] = words.estimate(e.estimate)
    return {
        arm: [
            {"label": said, "cells": [e and shown(e) for e in es], "lane": dots.lane(es)} for said, es in rows.values()
        ]
        for arm, rows in arms.items()
    }


def eligibility(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whether the model shows the behaviour to be explained, and the numbers that say so, reading by reading."""
    if not data:
        return None
    by = data.get("by_protocol") or {"": data}
    return {
        "ok": bool(data.get("ok")),
        "reason": data.get("reason") or "",
        "names": unique([k for one in by.values() for k, v in one.items() if words.is_estimate(v)]),
        "rows": [
            {
                "name": PROTOCOLS.get(name, name.capitalize()) or "This run",
                "ok": bool(one.get("ok")),
                "numbers": {k: shown(v) for k, v in one.items() if words.is_estimate(v)},
            }
            for name, one in by.items()
        ],
        "rest": [
            (k.replace("_", " "), words.plain(v))
            for k, v in data.items()
            if k not in {"ok", "reason"} and not isinstance(v, Mapping)
        ],
    }


def figure(f: Figure, where: str, layers: Sequence[int] = ()) -> dict[str, Any]:
    """A figure for the page: its specification, a still picture, its words and its data."""
    specification = figures.spec(replace(f, options={**f.options, "layers": layers}))
    return {
        "id": f"{where}-{f.name}".replace(" ", "-"),
        "kind": f.kind,
        "file": f"{where}-{f.name}",
        "title": f.title,
        "caption": f.caption,
        "alt": f"{f.title}. {figures.describe(f)}",
        "words": figures.beside(f),
        "spec": {k: v for k, v in specification.items() if k not in {"config", "$schema"}},
        "still": stills.still(specification),
        "steps": steps(f),
        "csv": data_link(figures.csv(f)),
    }


def data_link(csv: str) -> str:
    """CSV as a link that needs no server."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(csv.encode()).decode()


def null_words(null: Mapping[str, Any] | None, binding: Reading | None) -> str:
    """The null figure's sentence, with p as it was ruled."""
    if null is None:
        return ""
    rulings = binding.verdict.rulings if binding and binding.verdict.ruled else ()
    ranks = [r for r in rulings if r.prediction.op == "rank<"]
    which = (lambda r: f"{r.prediction.words or r.prediction.statistic}: ") if len(ranks) > 1 else (lambda _: "")
    said = [f"{which(r)}{words.chance(r.value, r.low, r.high)}, {r.outcome}" for r in ranks if r.value is not None]
    return " ".join([null["words"], *(f"{s}." for s in said)])


def prompt_rows(record: Record, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any] | None:
    """One row for each pair: clean, corrupted, and the binding reading's named worlds (even, odd, all, no-op); or for each word
    problem: the answer in the baseline and in the first worlds of the table."""
    effects = tables.get("effects")
    if effects is None or effects.empty or not ("pair" in effects or {"problem_id", "text"} <= {*effects}):
        return None
    key, before = ("pair", ["clean", "corrupted"]) if "pair" in effects else ("problem_id", [])
    rows: Any
    if before:
        rows, named = _named_rows(effects, tables.get("worlds"), record)
        if not named or rows.duplicated([key, "world"]).any():  # several layers or labellings: no one row for a pair
            return None
    else:
        named = {w: w for w in sorted(dict.fromkeys(effects["world"]), key=lambda w: w != "baseline")[:4]}
        rows = effects[effects["world"].isin(named)].assign(edited_text=effects["text"])
    first, *by_world = (
        t.drop_duplicates(key).set_index(key) for t in (rows, *(rows[rows["world"] == w] for w in named))
    )
    empty = {"text": "–", "logits": "", "mark": ""}
    lines = [
        {
            "pair": str(row.get("pair_id", item)),
            "cells": [_readout(row, run) for run in before]
            + [_readout(t.loc[item], "edited", graded=True) if item in t.index else empty for t in by_world],
        }
        for item, row in first[:ROWS_INLINE].iterrows()
    ]
    return {
        "heads": [*before, *named.values()],
        "lines": lines,
        "total_pairs": len(first),
        "total_rows": len(effects),
        "csv": data_link(csv_text(rows[rows[key].isin(first.index[:ROWS_INLINE])])),
        "sql": f"select * from effects where run_id = '{record.id}'",
        "unit": "pair" if before else "problem",
    }


def _unit(record: Record) -> str:
    """What a row of the test is called."""
    return "problems" if (record.claim or {}).get("task", {}).get("name") == "word-problems" else "pairs"


def _named_rows(effects: pd.DataFrame, worlds: pd.DataFrame | None, record: Record) -> tuple[Any, dict[str, str]]:
    """The effects of the binding protocol's first arm in the named worlds, and each world's label."""
    rows: Any = effects
    for column, wanted in (("protocol", record.readings[0].protocol if record.readings else None), ("arm", "z")):
        if column in rows:
            values = list(rows[column].dropna().unique())
            rows = rows[rows[column] == (wanted if wanted in values else values[0])] if values else rows
    present = list(dict.fromkeys(rows["world"]))
    if worlds is not None and {"world", "family"} <= set(worlds.columns):
        known = worlds.drop_duplicates("world").set_index("world")
        family = {w: str(known.at[w, "family"]) for w in present if w in known.index}
        label = {w: str(known.at[w, "label"]) if "label" in known else family[w] for w in family}
    else:
        family = {w: next((f for f in NAMED_FAMILIES if f in str(w).split(":")), "") for w in present}
        label = family
    ordered = [w for f in NAMED_FAMILIES for w in present if family.get(w) == f]
    return rows[rows["world"].isin(ordered)], {w: WORLDS.get(label[w], label[w]) for w in ordered}


def _readout(row: Any, which: str, *, graded: bool = False) -> dict[str, str]:
    import pandas as pd

    value, text = row.get(which), row.get(f"{which}_text")
    cell = {"text": "" if text is None or pd.isna(text) else str(text).strip(), "logits": "", "mark": ""}
    if value is not None and not pd.isna(value):
        cell["logits"] = f"{value:+.3g}"
    if graded and row.get("right") is not None and not pd.isna(row.get("right")):
        unread = row.get("parsed") is not None and not bool(row.get("parsed"))
        cell["mark"] = "not parsed" if unread else "right" if bool(row["right"]) else "wrong"
    return cell


def provenance(record: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    """What a repeat needs, group by group."""
    identity = [
        ("claim SHA-256", record.claim_hash or "–"),
        ("prompts hash", words.plain((record.prompts.get("test") or record.prompts).get("hash"))),
        ("run key", record.key),
        ("schema", str(record.schema_version)),
        ("created", record.created),
        ("finished", record.finished or "–"),
        ("seconds", words.span(record.seconds) if record.seconds is not None else "–"),
    ]
    stored = [(name, f"{t.rows:,} rows, SHA-256 {t.sha256}") for name, t in record.tables.items()]
    groups = [
        ("Identity", identity),
        ("Seeds", seeds(record)),
        ("Model", words.flat({k: v for k, v in record.model.items() if k != "name"})),
        ("Prompts", words.flat({k: v for k, v in record.prompts.items() if k not in {"hash", "first"}})),
        ("Claim, as hashed", words.flat(record.claim or {})),
        ("Settings in effect", words.flat(record.settings)),
        ("Versions", words.flat(record.versions)),
        ("Tables", stored),
    ]
    return [(name, rows) for name, rows in groups if rows]


def seeds(record: Record) -> list[tuple[str, str]]:
    """Every seed that the record names."""
    rows = [*words.flat({"claim": record.claim or {}}), *words.flat({"settings": record.settings})]
    return [(k, v) for k, v in rows if k.rsplit(".", 1)[-1].endswith(("seed", "seeds"))]


def unique(names: Sequence[str]) -> list[str]:
    """The names, each once, in order."""
    return list(dict.fromkeys(names))
