"""Commands over the store: list, show, repeat, verify, export, query."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headlab.cli import options as o
from headlab.cli.errors import DIFFERENT, BadInput, one_of
from headlab.cli.tree import app, make_page, open_store, print_frame, print_json, print_record, say
from headlab.reading.shown import clean, csv_text

if TYPE_CHECKING:
    from headlab.store import Record


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="[runs|experiments|claims]", help="What to list.")] = "runs",
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """List runs, experiments or claims."""
    import pandas as pd

    one_of(what, ("runs", "experiments", "claims"), "list of")
    if what == "runs":
        home = open_store(store)
        print_frame(home.list(), json, f"no runs in {home.root} yet; `headlab demo` makes some")
        return
    from headlab import experiments

    rows: Any = experiments.catalogue()
    if what == "claims":
        claims = experiments.builtin_claims().values()
        rows = [
            {"id": c.id, "experiment": c.experiment, "model": "", "words": c.words, "source": c.source} for c in claims
        ]
        from headlab.trials import registry

        rows += [
            {"id": d.id, "experiment": "", "model": d.model, "words": d.words, "source": d.source}
            for d in registry.library().values()
        ]
    print_frame(pd.DataFrame(rows), json, f"no {what}")


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="A run's id, or the beginning of it.")],
    html: Annotated[Path | None, typer.Option("--html", metavar="PATH", help="Write the report here.")] = None,
    open: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Show a run: verdict, readings, controls, report."""
    home = open_store(store)
    record = home.record(id)
    if html is not None:
        from headlab.store.outward import write_out

        if html.is_dir() or not html.parent.is_dir():
            raise BadInput(f"--html {html} is not a file name in a folder that exists")
        write_out(html, make_page(record, home).encode(), home.root)
    print_record(record, home, json, page=html)
    if open:
        typer.launch(str((html or home.root / record.id / "report.html").resolve()))


@app.command()
def repeat(
    id: Annotated[str, typer.Argument(metavar="ID", help="A run's id, or the beginning of it.")],
    tolerance: Annotated[
        float, typer.Option("--tolerance", metavar="X", help="How far apart numbers may lie and be the same.")
    ] = 1e-4,
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Run a record again; print what differs.

    Exit code 0: the same, 3: different.
    """
    from headlab import experiments
    from headlab.cli.progress import Meter
    from headlab.cli.show import console
    from headlab.report.compared import compare, lines

    if not 0 <= tolerance < float("inf"):
        raise BadInput(f"--tolerance is {tolerance}; expected a number of at least 0, such as 1e-4")
    home = open_store(store)
    record = home.record(id)
    if record.status != "complete":
        raise BadInput(f"{record.id} is {record.status}: there is nothing to compare; run it again: {_command(record)}")
    before = home.tables(record.id)
    with Meter() as meter:
        result = experiments.repeat(record, store=home, progress=meter)
    found = compare(record, before, result.record, home.tables(result.record.id), tolerance)
    if json:
        print_json(found.plain())
    else:
        out = console()
        for line in lines(found):
            out.print(line, markup=False)
    raise typer.Exit(0 if found.same else DIFFERENT)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A run's id, or the beginning of it.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another run's id.")],
    html: Annotated[Path | None, typer.Option("--html", metavar="PATH", help="Write it as a page.")] = None,
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Say what differs between two runs: claim, model, prompts, settings, numbers."""
    from headlab.report import differences

    home = open_store(store)
    found = differences.differences(home.record(first), home.record(second))
    if html is not None:
        from headlab.store.outward import write_out

        write_out(html, differences.page(found).encode(), home.root)
    if json:
        return print_json(found.plain())
    for line in [*found.lines, *([f"page    {html}"] if html is not None else [])]:
        say(line)


def _command(record: Record) -> str:
    return record.call.get("command", "its command is not recorded")


@app.command()
def verify(
    what: Annotated[str, typer.Argument(metavar="RUN|ZIP", help="A run's id, or a zip that `headlab export` wrote.")],
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Say what holds of a run or a zip: record, claim, tables, report.

    Exit code 0: nothing is broken, 3: something is. Checksums show accidents and careless edits, no forger.
    """
    from headlab.cli.show import console
    from headlab.store.verify import of_zip

    is_zip = what.endswith(".zip") or Path(what).is_file()
    found = of_zip(Path(what)) if is_zip else open_store(store).verify(what)
    broken = sum(f.state == "broken" for f in found)
    if json:
        print_json({"findings": found, "broken": broken, "limits": LIMITS})
    else:
        out = console()
        for f in found:
            out.print(f"{f.state:<13} {f.run} {f.what}: {f.words}".replace("  ", " "), markup=False, soft_wrap=True)
        out.print(
            f"{broken} broken. {LIMITS}" if broken else f"Nothing is broken. {LIMITS}", markup=False, soft_wrap=True
        )
    raise typer.Exit(DIFFERENT if broken else 0)


LIMITS = (
    "These are checksums, no signatures: they show accidents, bad disks and careless edits. Whoever forges a file can "
    "compute them anew; a copy kept elsewhere, or `headlab repeat`, shows that."
)


@app.command()
def export(
    id: Annotated[str, typer.Argument(metavar="ID", help="A run's id, or the beginning of it.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PATH", help="A file name, or a folder for ID.zip.")
    ] = Path("."),
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Make one self-contained zip for a referee."""
    home = open_store(store)
    record = home.record(id)
    path = home.export(record.id, out, make_page(record, home))
    if json:
        print_json({"id": record.id, "path": str(path)})
    else:
        say(path)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over runs, readings …, or show tables")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Ask all runs at once, in SQL.

    DuckDB; every table has the column run_id: runs, readings, estimates, effects, worlds …
    """
    frame = open_store(store).query(sql)
    if csv:
        text = csv_text(frame)
        print(clean(text) if sys.stdout.isatty() else text, end="")  # a pipe gets the data, a screen what can be seen
    else:
        print_frame(frame, json, "no rows")
