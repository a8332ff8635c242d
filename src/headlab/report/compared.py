"""What differs between two runs of the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headlab.store import Record

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-4
"""Logits that two machines may differ by and still have measured the same."""

_KEYS = ("protocol", "arm", "world", "pair")


@dataclass(frozen=True)
class Comparison:
    """``same``: the same was asked, verdicts, rows and texts agree, and numbers differ by at most ``tolerance``.

    ``asked``: what the two runs were about where that differs (weights, config, tokenizer, prompts, claim), compared
    before any number; ``where``: on which device and in which dtype.
    """

    original: str
    repeat: str
    asked: dict[str, tuple[str, str]]
    where: dict[str, tuple[str, str]]
    verdicts: dict[str, tuple[str, str]]
    versions: dict[str, tuple[str, str]]
    tables: dict[str, dict[str, Any]]
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether the repeat asked the same and gave what the original did.  Versions and devices that differ are told,
        and do not count."""
        if self.asked:
            return False
        verdicts = all(a == b for a, b in self.verdicts.values())
        return verdicts and all(
            not t["problem"] and t["other_cells"] == 0 and t["max_abs_difference"] <= self.tolerance
            for t in self.tables.values()
        )

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {**asdict(self), "same": self.same}


def compare(
    old: Record,
    old_tables: Mapping[str, pd.DataFrame],
    new: Record,
    new_tables: Mapping[str, pd.DataFrame],
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Verdict by verdict, version by version, table by table."""
    outcomes = [{r.protocol: r.verdict.outcome for r in record.readings} for record in (old, new)]
    protocols = dict.fromkeys([*outcomes[0], *outcomes[1]])
    packages = dict.fromkeys([*old.versions, *new.versions])
    versions = {p: (str(old.versions.get(p, "")), str(new.versions.get(p, ""))) for p in packages}
    names = dict.fromkeys([*old_tables, *new_tables])
    return Comparison(
        original=old.id,
        repeat=new.id,
        asked=_differing(_asked(old), _asked(new)),
        where=_differing(_where(old), _where(new)),
        verdicts={p: (outcomes[0].get(p, "none"), outcomes[1].get(p, "none")) for p in protocols},
        versions={p: pair for p, pair in versions.items() if pair[0] != pair[1]},
        tables={name: _table(old_tables.get(name), new_tables.get(name)) for name in names},
        tolerance=tolerance,
    )


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What both records know and say differently."""
    known = {k: (old[k], new[k]) for k in old if old[k] is not None and new.get(k) is not None}
    return {k: (str(a), str(b)) for k, (a, b) in known.items() if a != b}


def _asked(record: Record) -> dict[str, Any]:
    """What a run was about, by name: all that was known of it before the first forward pass."""
    model, who = record.model, record.model.get("identity", {})
    prompts = {f"{k} prompts": record.prompts.get(k, {}).get("hash") for k in ("test", "selection")}
    looks = {f"weights of {k}": v for k, v in record.settings.get("fingerprints", {}).items()}
    return {
        "claim": record.claim_hash,
        "weights": model.get("fingerprint"),
        "every weight": who.get("weights"),
        "commit": model.get("commit"),
        "revision": model.get("revision"),
        "adapter": model.get("adapter"),
        **{k: who.get(k) for k in ("config", "generation", "tokenizer", "thoughts")},
        **prompts,
        **looks,
    }


def _where(record: Record) -> dict[str, Any]:
    who = record.model.get("identity", {})
    return {"dtype": record.model.get("dtype"), "device": who.get("device", record.model.get("device"))} | {
        "threads": record.settings.get("threads")
    }


def _table(old: pd.DataFrame | None, new: pd.DataFrame | None) -> dict[str, Any]:
    """Rows, the largest difference between numbers, and how many other cells differ."""
    found: dict[str, Any] = {"rows": 0, "max_abs_difference": 0.0, "other_cells": 0, "problem": ""}
    if old is None or new is None:
        return {**found, "problem": "only in the " + ("repeat" if old is None else "original")}
    found["rows"] = len(new)
    if list(old.columns) != list(new.columns):
        return {**found, "problem": "the columns differ"}
    if len(old) != len(new):
        return {**found, "problem": f"{len(old)} rows became {len(new)}"}
    keys = [key for key in _KEYS if key in old.columns]
    if keys:
        old, new = (t.sort_values(keys, kind="stable").reset_index(drop=True) for t in (old, new))
    for column in old.columns:
        a, b = old[column].to_numpy(), new[column].to_numpy()
        missing = old[column].isna().to_numpy(), new[column].isna().to_numpy()
        both = ~missing[0] & ~missing[1]
        found["other_cells"] += int((missing[0] != missing[1]).sum())
        if a.dtype.kind == b.dtype.kind == "f":
            found["max_abs_difference"] = max(found["max_abs_difference"], float(abs(a - b)[both].max(initial=0.0)))
        else:
            found["other_cells"] += int((a[both] != b[both]).sum())
    return found


def _few(text: str) -> str:
    """A hash by its first letters."""
    return text[:12] if len(text) == 64 else text


def lines(comparison: Comparison) -> list[str]:
    """The comparison in words."""
    out = [f"{comparison.original} was repeated as {comparison.repeat}"]
    changed = [f"{name} {_few(a)} → {_few(b)}" for name, (a, b) in comparison.asked.items()]
    out.append(f"not the same trial: {', '.join(changed)}" if changed else "asked: the same model, prompts and claim")
    if comparison.where:
        out.append("run elsewhere: " + ", ".join(f"{name} {a} → {b}" for name, (a, b) in comparison.where.items()))
    for protocol, (a, b) in comparison.verdicts.items():
        out.append(f"verdict, {protocol}: {a} again" if a == b else f"verdict, {protocol}: {a} became {b}")
    for name, t in comparison.tables.items():
        told = t["problem"] or (
            f"{t['rows']} rows, numbers differ by at most {t['max_abs_difference']:.3g}, "
            f"{t['other_cells']} other cells differ"
        )
        out.append(f"table {name}: {told}")
    changed = [f"{name} {a or 'absent'} → {b or 'absent'}" for name, (a, b) in comparison.versions.items()]
    out.append(f"versions: {', '.join(changed) or 'the same'}")
    verdict = "the same" if comparison.same else "different"
    out.append(f"{verdict} (numbers may differ by {comparison.tolerance:g})")
    return out
