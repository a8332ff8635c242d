"""Two runs side by side: what differs in claim, model, prompts, settings, versions, verdicts and numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from headlab.store import NamedEstimate, Record
from headlab.store.records import Plain

from . import view, words

PARTS = ("claim", "model", "prompts", "settings", "versions")
LONG = 160
"""Characters of a value that is shown."""
HIDDEN = {"settings.test_clusters", "prompts.pairs", "prompts.first", "model.identity", "model.selfcheck"}
"""What has a hash or a count of its own beside it."""


@dataclass(frozen=True)
class Number:
    """An estimate in both runs: each as it is shown ("" where a run has none).  ``apart``: both have an interval, and the two
    do not meet."""

    protocol: str
    name: str
    label: str
    first: str
    second: str
    apart: bool


@dataclass(frozen=True)
class Differences:
    """``parts``: for each part of the record, (field, first, second) where the two differ; ``verdicts``: (protocol, outcome
    and sentence of each); ``numbers``: every estimate of either."""

    first: str
    second: str
    titles: tuple[str, str]
    parts: Mapping[str, list[tuple[str, str, str]]]
    verdicts: list[tuple[str, tuple[str, str], tuple[str, str]]]
    numbers: list[Number]

    def plain(self) -> Plain:
        """As JSON-ready data."""
        return asdict(self)

    @property
    def lines(self) -> list[str]:
        """In words, for a terminal."""
        out = [f"first   {self.first}: {self.titles[0]}", f"second  {self.second}: {self.titles[1]}"]
        for part, rows in self.parts.items():
            out.append(f"{part}: {'the same' if not rows else ''}".rstrip())
            out += [f"  {field}: {a or '(absent)'} | {b or '(absent)'}" for field, a, b in rows]
        for protocol, (a, said), (b, told) in self.verdicts:
            out.append(f"verdict, {protocol}: {a} | {b}")
            out += [f"  {sentence}" for sentence in dict.fromkeys((said, told)) if sentence]
        for n in self.numbers:
            mark = "  (the intervals do not meet)" if n.apart else ""
            out.append(f"  {n.label} [{n.protocol}]: {n.first or '(absent)'} | {n.second or '(absent)'}{mark}")
        return out


def differences(first: Record, second: Record) -> Differences:
    """What differs between two runs, whatever they are about."""
    flat = [{part: _flat(getattr(r, part) or {}, part) for part in PARTS} for r in (first, second)]
    return Differences(
        first.id,
        second.id,
        (first.title, second.title),
        {part: _differing(*(f[part] for f in flat)) for part in PARTS},
        _verdicts(first, second),
        _numbers(first, second),
    )


def _flat(value: object, place: str) -> dict[str, str]:
    """Fields by path, each as text."""
    if place in HIDDEN:
        return {}
    if isinstance(value, Mapping) and value:
        return {path: text for k, v in value.items() for path, text in _flat(v, f"{place}.{k}").items()}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return {place: text}


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> list[tuple[str, str, str]]:
    def brief(text: str) -> str:
        if re.fullmatch(r"[0-9a-f]{64}", text):  # a hash, by its first letters
            return text[:12]
        return text if len(text) <= LONG else f"{text[: LONG - 1]}…"

    names = [n for n in dict.fromkeys([*a, *b]) if a.get(n) != b.get(n)]
    return [(n.partition(".")[2] or n, brief(a.get(n, "")), brief(b.get(n, ""))) for n in names]


def _verdicts(first: Record, second: Record) -> list[tuple[str, tuple[str, str], tuple[str, str]]]:
    told = [{r.protocol: (r.verdict.outcome, r.verdict.sentence) for r in x.readings} for x in (first, second)]
    none = ("none", "")
    return [(p, told[0].get(p, none), told[1].get(p, none)) for p in dict.fromkeys([*told[0], *told[1]])]


def _numbers(first: Record, second: Record) -> list[Number]:
    every = [{(r.protocol, e.name): e for r in x.readings for e in r.estimates} for x in (first, second)]
    out = []
    for protocol, name in dict.fromkeys([*every[0], *every[1]]):
        one, two = (e.get((protocol, name)) for e in every)
        label = next(x.label for x in (one, two) if x is not None)
        here, there = (view.shown(x.estimate)["text"] if x is not None else "" for x in (one, two))
        out.append(Number(protocol, name, label or name, here, there, _apart(one, two)))
    return out


def _apart(one: NamedEstimate | None, two: NamedEstimate | None) -> bool:
    told = [words.estimate(x.estimate) for x in (one, two) if x is not None]
    wide = [(e.low, e.high) for e in told if e.low is not None and e.high is not None and e.low < e.high]
    return len(wide) == 2 and max(low for low, _ in wide) > min(high for _, high in wide)  # what is exact has no width


def page(found: Differences) -> str:
    """One self-contained HTML file, without scripts."""
    from .render import environment, text

    return environment().get_template("compared.html.j2").render(found=found, style=text("page.css"))
