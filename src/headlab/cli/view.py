"""The command that opens the laboratory in a browser: view."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from headlab.cli import options as o
from headlab.cli.errors import BadInput, explain
from headlab.cli.tree import app, open_store, say


@app.command()
def view(
    port: Annotated[int, typer.Option("--port", metavar="N", help="The port to listen on (a free one).")] = 0,
    open: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    store: o.StoreOption = None,
) -> None:
    """Open the laboratory in a browser: runs, a bench for looking, the way to a trial.

    It listens on this machine only, and to whoever has the address that it prints.
    """
    if not 0 <= port < 65536:
        raise BadInput(f"--port {port} is no port; expected 1 to 65535, or none for a free one")
    try:
        from headlab.view import serve
    except ModuleNotFoundError as error:
        how = "install the extra: pip install 'headlab[view]', in a clone pip install -e '.[view]'"
        raise BadInput(f"{error.name} is not installed; {how}") from error

    def ready(address: str, _: object) -> None:
        import sys

        say(f"open {address}\nCtrl-C ends it")
        sys.stdout.flush()
        if open:
            typer.launch(address)

    home = open_store(store)
    with suppress(KeyboardInterrupt):
        serve(home, port=port, explain=lambda error: explain(error)[0], ready=ready)
