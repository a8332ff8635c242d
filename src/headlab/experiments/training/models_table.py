"""The summary table over models: who was published with what, and a model's line from the record of its trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headlab.claims import ClaimError
from headlab.engine.model import ModelError
from headlab.engine.passes import EngineError
from headlab.interventions import InterventionError
from headlab.prompts import PromptError
from headlab.reading import expected_one_of
from headlab.stats import Estimate
from headlab.store import Record

_PYTHIA = "EleutherAI/pythia-160m"
PUBLISHED: dict[str, dict[str, str]] = {
    "meta-llama/Llama-3.1-8B-Instruct": {"bug": "80 %", "even": "100 %", "odd": "0 %", "pattern": "even"},
    _PYTHIA: {"bug": "100 %", "even": "100 %", "odd": "0 %", "pattern": "even"},
    "meta-llama/Llama-2-7b-hf": {"bug": "~70 %", "even": "0 %", "odd": "0 %", "pattern": "none"},
    "google/gemma-2b": {"bug": "75 %", "even": "100 %", "odd": "100 %", "pattern": "both"},
}
"""The published summary table."""

PRESETS = ("published", "organisms")
CONTRAST = 0.5
CANNOT = (ModelError, ClaimError, PromptError, InterventionError, EngineError, ValueError, OSError, MemoryError)
"""What makes a model a row that says why, and not the end of the table."""


def listed(models: Sequence[str] | str) -> list[str]:
    """The models of a table, each once.  Raises ClaimError."""
    entries = [models] if isinstance(models, str) else [str(m) for m in models]
    if not entries:
        raise ClaimError(f"no model given; name some, or a preset: {', '.join(PRESETS)}")
    if twice := [m for m in entries if entries.count(m) > 1]:
        raise ClaimError(f"{twice[0]} is named twice; a model counts once")
    return entries


def preset(name: str) -> tuple[str, ...]:
    """The models of a preset.  Raises ClaimError."""
    from headlab import organisms

    if name == "published":
        seeds = (f"{_PYTHIA}-seed{n}" for n in range(1, 10))
        return (*PUBLISHED, *seeds)
    if name == "organisms":
        # checkpoints of one run are no further models
        return tuple(n for n in organisms.names("decimals") if not organisms.checkpoints(n))
    raise ClaimError(f"no preset {name!r}; {expected_one_of(name, PRESETS)}")


def row(entry: str, made: Mapping[str, Record], reason: str) -> dict[str, Any]:
    """A model's line of the summary table; numbers are None where nothing could be measured."""
    published = PUBLISHED.get(entry.partition("@")[0], {})
    out: dict[str, Any] = {
        "model": entry,
        "architecture": "",
        "training": entry.split("/")[0] if "/" in entry else "shipped or local",
        "bug_rate": None,
        "even": None,
        "odd": None,
        "pattern": "untestable",
        "outcome": "untestable",
        "yes": None,
        "chance": None,
        **{f"published_{k}": published.get(k, "") for k in ("bug", "even", "odd", "pattern")},
        "contrast": None,
        "layer": None,
        "p": None,
        "head_count": None,
        "reason": reason,
        "id": "",
    }
    record = made.get("parity")
    if record is None or not record.readings:
        return out
    first = record.readings[0]
    out |= {
        "architecture": _architecture(record),
        "id": record.id,
        "outcome": first.verdict.outcome,
        "layer": record.settings.get("layer"),
    }
    out |= {f"outcome {r.protocol}": r.verdict.outcome for r in record.readings[1:]}
    if corrupted := record.eligibility.get("corrupted"):
        out["bug_rate"] = None if corrupted["value"] is None else 1 - corrupted["value"]
    if first.verdict.outcome in {"untestable", "void"} and not _ranked(record):
        return out | {"reason": reason or first.verdict.sentence}
    values = {
        n: e.value
        for n in ("repair:even", "repair:odd", "contrast:repair", "null:naive", "rank:even")
        if (e := number(record, n)) is not None
    }
    even, odd, gap = (values.get(n) for n in ("repair:even", "repair:odd", "contrast:repair"))
    base = values.get("null:naive")
    out |= {
        "even": even,
        "odd": odd,
        "contrast": gap,
        "p": values.get("rank:even"),
        "yes": gap is not None and gap >= CONTRAST,
        "chance": None if base is None else base / 2,
    }
    if even is not None and odd is not None:
        out["pattern"] = {(1, 0): "even", (0, 1): "odd", (1, 1): "both", (0, 0): "none"}[even > 0.5, odd > 0.5]
    if extra := made.get("head-count"):
        out["head_count"] = extra.outcome
    return out


def _ranked(record: Record) -> bool:
    """Whether the model was eligible and its controls passed: only its null could not decide."""
    verdict = record.readings[0].verdict
    return verdict.outcome != "void" and bool(record.eligibility.get("ok")) and all(c.passed for c in verdict.controls)


def _architecture(record: Record) -> str:
    grid = record.model["grid"]
    heads, kv = grid["n_heads"], grid["n_kv_heads"]
    kind = "MHA" if heads == kv else "MQA" if kv == 1 else "GQA"
    return f"{record.model['family']}, {grid['n_layers']} × {heads} heads, {kind} {heads}:{kv}"


def number(record: Record, name: str) -> Estimate | None:
    """An estimate of a trial's binding reading, on z."""
    for e in record.readings[0].estimates if record.readings else ():
        if e.name == name and e.arm in {"z", "out_block"}:
            found = Estimate.from_dict(e.estimate)
            return found if found.defined else None
    return None


def counted_as(weights: dict[str, str], entry: str, records: Iterable[Record]) -> str:
    """Why a model does not count: an earlier entry has the same weights under another name.  Empty for the first; ``weights``
    keeps which entry each fingerprint came from."""
    first = {weights.setdefault(r.model["fingerprint"], entry) for r in records if r.model} - {entry}
    return f"the same weights as {min(first)}: counted once" if first else ""
