"""The command tree, and what its commands share: the store, the report, JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from headlab.cli import interrupt
from headlab.cli.errors import Interrupted, one_of
from headlab.reading.shown import clean, clean_json

if TYPE_CHECKING:
    from headlab.store import Record, Store


_ORDER = (
    *("demo", "trial", "check", "new", "schema", "cross-model", "emergence", "null-rates", "calibrate"),
    *("reanalyse", "simulate"),
    *("view", "list", "show", "compare", "repeat", "verify", "export", "query", "models", "organism"),
)


class _Commands(TyperGroup):
    """Commands in the order of use, with a suggestion for a misspelt one."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-"):
            known = [name for name, command in self.commands.items() if name == args[0] or not command.hidden]
            one_of(args[0], sorted(known, key=self.list_commands(ctx).index), "command")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Put claims about attention heads on trial.",
)
organism = typer.Typer(cls=_Commands, rich_markup_mode=None, help="The shipped model organisms.")
app.add_typer(organism, name="organism")


def _version(asked: bool) -> bool:
    """headlab, Python and the libraries that decide numbers, in one line."""
    if asked:
        import platform
        from importlib.metadata import version

        beside = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
        say(f"headlab {version('headlab')} (Python {platform.python_version()}, {beside})")
        raise typer.Exit()
    return asked


@app.callback()
def _every(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (also HEADLAB_DEBUG=1).")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which headlab this is.")
    ] = False,
) -> None:
    """Put claims about attention heads on trial."""


def open_store(root: Path | None) -> Store:
    """The store at ``root``, or the default one; what it holds is settled when it has been printed."""
    from headlab.store import Store

    return Store(root, hold=True)


def make_page(record: Record, home: Store) -> str:
    """The HTML report of a stored run."""
    from headlab import report

    return report.of_run(home, record.id)


def print_record(record: Record, home: Store, json: bool, page: Path | None = None, *, whole: bool = True) -> None:
    """Print a record, without its table of readings unless ``whole``; its report is written beside it unless it was
    written to ``page``.  Then the run is settled: the same command begins another one."""
    interrupt.check()
    if page is None and record.status == "complete":
        page = _kept_page(record, home)
    children = list(_children(record, home))
    if json:
        print(clean_json(record.to_json()), end="")
    else:
        from headlab.cli.show import console, show_record

        show_record(console(), record, home, page, children, whole=whole)
    for finding in home.verify(record.id, deep=False):
        if finding.state == "broken":
            aside(f"{finding.run}, {finding.what}: {finding.words}")
    sys.stdout.flush()
    if record.status == "complete":
        home.settle(record.id)


def aside(line: str) -> None:
    """One line on stderr, beside a result that stands."""
    say(f"headlab: {line}", error=True)


def _children(record: Record, home: Store) -> Iterator[Record]:
    """The children that can be read; :func:`print_record` names the others."""
    from headlab.store import StoreError

    for child in record.children:
        with suppress(StoreError):
            yield home.record(child)


def _kept_page(record: Record, home: Store) -> Path | None:
    """The report beside the record; None, and a line on stderr, when the store cannot take it.

    The run itself is stored by now, so this is no failure.
    """
    from headlab.store import StoreError

    try:
        if (path := home.page(record.id)) is not None:
            return path
        if (home.root / record.id / "report.html").exists():
            aside(
                f"the report beside {record.id} is not that of the record (changed, or by an older headlab): made again"
            )
        return home.keep_page(record.id, make_page(record, home))
    except StoreError as error:
        elsewhere = f"`headlab show {record.id} --html PATH` writes it elsewhere"
        aside(f"no report beside {record.id}: {error.__cause__ or error}; {elsewhere}")
        return None


def print_frame(frame: Any, json: bool, empty: str) -> None:
    """Print a DataFrame as a table or as JSON; ``empty`` is said when it has no rows."""
    from headlab.cli.show import console, frame_json, show_frame

    if json:
        print(frame_json(frame))
    else:
        show_frame(console(), frame, empty)


def print_json(data: object) -> None:
    """Print plain data as JSON."""
    import json

    from headlab.store.records import plain

    print(clean_json(json.dumps(plain(data, []), indent=1, ensure_ascii=False, allow_nan=False)))


def say(text: object, error: bool = False) -> None:
    """Print a line that may hold what somebody else wrote, on stdout or (``error``) on stderr."""
    print(clean(str(text)), file=sys.stderr if error else None)
