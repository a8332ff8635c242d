"""A record on a terminal: the verdict, the readings side by side, the controls, where things are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlab.claims import Ruling, error_rates
from headlab.reading.shown import clean, clean_json
from headlab.stats import Estimate
from headlab.store import Record, Store

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_COLOURS = {"upheld": "green", "refuted": "red", "undecided": "yellow", "void": "magenta", "untestable": "cyan"}
_WIDE, _SIDE_BY_SIDE = 160, 120


def console() -> Console:
    """Results go to stdout; where that is no terminal, lines are wide enough not to be cut.

    Text is text: no markup, no emoji names, no control characters.
    """
    from rich.console import Console

    class Plain(Console):
        """Cleans every string that is printed, measured or put into a table's cell."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(clean(text), **options)

    wide = None if sys.stdout.isatty() else _WIDE
    return Plain(file=sys.stdout, width=wide, highlight=False, soft_wrap=False, markup=False, emoji=False)


def shown(text: str, style: str = "") -> Text:
    """Text that somebody else wrote, as rich prints it."""
    from rich.text import Text

    return Text(clean(text), style=style)


def show_record(
    out: Console, record: Record, store: Store, report: Path | None, children: Sequence[Record], *, whole: bool = True
) -> None:
    """What a reader of one run wants first; the table of everything that was read only if ``whole``."""

    out.print(shown(record.title, style="bold"))
    _verdict(out, record)
    if record.error:
        out.print(shown(f"{record.status}: {record.error}", style="red"))
    if children:
        out.print(_children(children))
    if record.readings and record.readings[0].verdict.rulings:
        out.print(_predictions(record))
    if whole and any(r.estimates for r in record.readings):
        out.print(_readings(record, out.width))
    if record.readings and record.readings[0].verdict.controls:
        out.print(_controls(record))
    for section in record.sections if record.kind == "demo" else ():
        out.print(shown(section.get("heading", ""), style="bold"))
        out.print(shown(section.get("text", "")))
    for warning in record.warnings:
        out.print(shown(f"warning: {warning}", style="yellow"))
    out.print(_places(record, store, report))


def _verdict(out: Console, record: Record) -> None:

    if not record.readings:
        return
    binding, *others = record.readings
    out.print(shown(binding.verdict.sentence, style=_COLOURS[binding.verdict.outcome]))
    out.print(shown(f"  read by: {binding.protocol}: {binding.words}", style="dim"))
    for other in others:
        out.print(shown(f"  beside it, {other.protocol} ({other.words}): {other.verdict.sentence}", style="dim"))
    if said := error_rates.words(record.claim, record.claim_hash, record.settings):
        out.print(shown(f"  {said}", style="dim"))
    if binding.verdict.would_change:
        out.print(shown(f"  {binding.verdict.would_change}", style="dim"))


def _readings(record: Record, width: int) -> Table | Text:
    """One row per number with the protocols side by side; where that is too wide, one below the other."""
    from rich.table import Table
    from rich.text import Text

    rows: dict[tuple[str, str], tuple[str, dict[int, Estimate]]] = {}
    for i, reading in enumerate(record.readings):
        for e in reading.estimates:
            _, cells = rows.setdefault((e.name, e.arm), (e.label, {}))
            cells[i] = Estimate.from_dict(e.estimate)
    if width < _SIDE_BY_SIDE:
        out = Text().append("readings", style="italic")
        for (_, arm), (label, cells) in rows.items():
            out.append(clean(f"\n{label} ({arm})"))
            for i, e in cells.items():
                out.append(clean(f"\n  {record.readings[i].protocol:<11}{_number(e):>24}  {e.n} {e.unit}"))
        return out
    table = Table(title="readings", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "arm"):
        table.add_column(column)
    for r in record.readings:
        head = shown(f"{r.protocol}\n").append(r.verdict.outcome, style=_COLOURS[r.verdict.outcome])
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("n", justify="right")
    table.add_column("unit")
    for (_, arm), (label, cells) in rows.items():
        counts = "/".join(dict.fromkeys(str(e.n) for e in cells.values()))
        numbers = [shown(_number(cells[i]) if i in cells else "") for i in range(len(record.readings))]
        table.add_row(shown(label), arm, *numbers, counts, next(iter(cells.values())).unit)
    return table


def _number(e: Estimate) -> str:
    """``0.93 [0.87, 0.97]``, with the digits that the interval's width deserves."""
    return str(e).split(" (n=", 1)[0] if e.defined else "undefined"


def _predictions(record: Record) -> Table:
    """What the claim predicts, what was found, and what follows; grey where nothing may be concluded."""
    from rich.table import Table

    verdict = record.readings[0].verdict
    table = Table(title="predictions", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    for r in verdict.rulings:
        said = r.prediction.words or r.prediction.statistic
        mark = (
            shown(r.outcome, style=_COLOURS[r.outcome]) if verdict.ruled else shown("measured, not ruled", style="dim")
        )
        table.add_row(
            mark, shown(said), shown(f"{r.prediction.statistic} {r.prediction.brief}: {r.shown}", style="dim")
        )
    return table


def _controls(record: Record) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="controls", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    for control in record.readings[0].verdict.controls:
        mark = Text("passed", style="green") if control.passed else Text("failed", style="red")
        table.add_row(mark, control.name, shown(control.words))
    return table


def _children(children: Sequence[Record]) -> Table:
    """One line for each trial: what each reading said, and the numbers that decided."""
    from rich.table import Table

    protocols = list(dict.fromkeys(r.protocol for c in children for r in c.readings))
    several = len({c.slug for c in children}) > 1  # many claims on one model: what they measured is not one column
    statistics = list(
        dict.fromkeys(
            p.prediction.statistic for c in children if not several for r in c.readings[:1] for p in r.verdict.rulings
        )
    )
    table = Table(title="trials", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("experiment" if several else "model", *protocols, *statistics, "run"):
        table.add_column(column, no_wrap=True)
    for child in children:
        said = {r.protocol: r.verdict.outcome for r in child.readings} or {p: child.status for p in protocols[:1]}
        rulings = {r.prediction.statistic: r for reading in child.readings[:1] for r in reading.verdict.rulings}
        table.add_row(
            child.slug if several else child.tried_on,
            *(shown(said.get(p, "–"), style=_COLOURS.get(said.get(p, ""), "")) for p in protocols),
            *(_ruling(rulings[s]) if s in rulings else "–" for s in statistics),
            child.id,
        )
    if statistics:
        table.caption = "value [95 % interval]; units and n stand in each trial's own record"
    table.caption_justify = "left"
    return table


def _ruling(ruling: Ruling) -> str:
    from headlab.report import words

    if ruling.value is None or ruling.low is None or ruling.high is None:
        return "undefined"
    if ruling.prediction.op == "rank<":
        return words.chance(ruling.value, ruling.low, ruling.high)
    if ruling.low == ruling.value == ruling.high:
        return f"{words.span(ruling.value)} (exact)"
    return words.span(ruling.value, ruling.low, ruling.high)


def _places(record: Record, store: Store, report: Path | None) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    facts = {
        "run": f"{record.id} ({record.status}" + (f", {record.seconds:.3g} s)" if record.seconds is not None else ")"),
        "record": str(store.root / record.id / "record.json"),
        "report": "" if report is None else str(report),
        "again": record.call.get("command", ""),
        "compare": "" if record.children else f"headlab repeat {record.id}" + _store_option(store),
    }
    for name, value in facts.items():
        if value:
            table.add_row(shown(name, style="bold"), shown(value))
    return table


def _store_option(store: Store) -> str:
    return "" if store.root == Store().root else f" --store {store.root}"


def show_frame(out: Console, frame: pd.DataFrame, empty: str) -> None:
    """A DataFrame as a plain table; ``empty`` is said when it has no rows."""
    from rich.table import Table

    if frame.empty:
        out.print(shown(empty))
        return
    if len(frame) > _MANY:
        out.file.write(_columns(frame))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "iuf"
        table.add_column(str(column), justify="right" if numeric else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(shown(cell(value)) for value in row))
    out.print(table)


_MANY = 200
"""Rows beyond which a table is laid out here: rich takes a millisecond for each."""


def _columns(frame: pd.DataFrame) -> str:
    """Rows as lines, columns as wide as they are; what cannot be printed as a mark."""
    columns = []
    for name in frame.columns:
        texts = [str(name), *(cell(value) for value in frame[name])]
        texts = [t if t.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in t) for t in texts]
        width, right = max(map(len, texts)), frame[name].dtype.kind in "iuf"
        columns.append([t.rjust(width) if right else t.ljust(width) for t in texts])
    return "".join("  ".join(row).rstrip() + "\n" for row in zip(*columns, strict=True))


def cell(value: Any) -> str:
    """A value as text; what is missing as nothing."""
    if isinstance(value, str):  # asking pandas of each is what a long list costs
        return value
    import pandas as pd

    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def frame_json(frame: pd.DataFrame) -> str:
    """A DataFrame as a JSON array of objects; NaN as null."""
    import json

    from headlab.store.records import plain

    rows = [{str(k): plain(_known(v), []) for k, v in row.items()} for row in frame.to_dict("records")]
    return clean_json(json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False))


def _known(value: Any) -> Any:
    import pandas as pd

    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value
