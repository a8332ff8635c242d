"""The report: one HTML file that needs nothing else.

No request leaves it: scripts, styles, pictures and data are inside, and its content security policy forbids
the rest. Only the page's own two scripts may run; they are named by their hashes. The chart library stands in the page
once, compressed, and is unpacked where a browser can. Charts are drawn when they come into view; a still picture stands
in their place without scripts and on paper.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlab.effects import Figure
from headlab.reading.shown import clean, csv_text
from headlab.store.outward import write_out

from . import figures, marks, summary, view
from .theme import theme

if TYPE_CHECKING:
    import altair as alt
    import jinja2
    import pandas as pd

    from headlab.store import Record, Store

FORMATS = ("html", "png", "svg", "csv")


def page(record: Record, tables: Mapping[str, pd.DataFrame], children: Sequence[Record] = ()) -> str:
    """One self-contained HTML file of a record; a demo's page holds its children's reports too."""
    script, bundle = f"{text('page.js')}{text('touch.js')}", _bundle()
    layers = marks.on_one_page(Figure.from_plain(f) for r in (record, *children) for f in r.figures)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            view=view.trial(record, tables, layers),
            demo=summary.demo(record, children) if children and "scorecard" not in record.slug else None,
            card=summary.scorecard(record, tables, children) if "scorecard" in tables else None,
            children=[view.trial(c, None, layers) for c in children],
            themes={"light": theme(), "dark": theme(dark=True)},
            style=text("page.css"),
            script=script,
            bundle=_packed(),
            policy=_policy(bundle, f"\n{script}\n"),
            signs=view.SIGNS,
            meanings=view.MEANINGS,
        )
    )


def of_run(home: Store, id: str) -> str:
    """The page of a stored run.  Raises StoreError where the run, or a child of it, cannot be read."""
    record = home.record(id)
    return page(record, home.tables(id), [home.record(child) for child in record.children])


def chart(figure: Figure | Mapping[str, Any]) -> alt.LayerChart:
    """An Altair chart of a figure (or of its plain data), as wide as its container."""
    return figures.chart(figure if isinstance(figure, Figure) else Figure.from_plain(figure))


def save(
    record: Record,
    tables: Mapping[str, pd.DataFrame],
    out_dir: Path | str,
    formats: Sequence[str] = FORMATS,
    *,
    children: Sequence[Record] = (),
) -> list[Path]:
    """Write the page, every figure and every table into a folder, and return the paths.

    ``report.html``; ``figure-NAME.png`` and ``.svg``; ``NAME.csv`` per table, ``figure-NAME.csv`` per figure.
    Raises ValueError on an unknown format.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise ValueError(f"no such format: {', '.join(unknown)}; expected some of {', '.join(FORMATS)}")
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    if "html" in formats:
        files["report.html"] = page(record, tables, children).encode()
    for plain in record.figures:
        files.update(_figure_files(Figure.from_plain(plain), formats))
    if "csv" in formats:
        files.update({f"{name}.csv": csv_text(table).encode() for name, table in tables.items()})
    for name, data in files.items():
        write_out(out / name, data)
    return [out / name for name in files]


def _figure_files(figure: Figure, formats: Sequence[str]) -> dict[str, bytes]:
    stem = "figure-" + "".join(c if c.isalnum() or c in "-_." else "-" for c in figure.name)
    files: dict[str, bytes] = {}
    if {"png", "svg"} & set(formats):
        specification = figures.spec(figure)
        if "png" in formats:
            files[f"{stem}.png"] = figures.png(specification)
        if "svg" in formats:
            files[f"{stem}.svg"] = figures.svg(specification).encode()
    if "csv" in formats:
        files[f"{stem}.csv"] = figures.csv(figure).encode()
    return files


def environment(*packages: str) -> jinja2.Environment:
    """Where pages are filled in, everything escaped: the report's templates, after those of ``packages``."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(p) for p in (*packages, "headlab.report")]),
        autoescape=True,
        finalize=lambda value: clean(value) if type(value) is str else value,  # not what is markup already
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def text(name: str) -> str:
    """A file that stands beside the report's templates."""
    return (resources.files("headlab.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the files that vl-convert carries: what the page unpacks and runs."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=figures.vegalite_version())


@cache
def _packed() -> str:
    """The chart library under gzip, as text."""
    return base64.b64encode(gzip.compress(_bundle().encode(), mtime=0)).decode()


def _policy(*scripts: str) -> str:
    """Nothing from outside; of scripts, only these."""
    digests = (hashlib.sha256(s.encode()).digest() for s in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
