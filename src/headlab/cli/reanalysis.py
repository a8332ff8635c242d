"""Commands that need no model: reanalyse, simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headlab.cli import options as o
from headlab.cli.errors import one_of
from headlab.cli.tree import app, open_store, print_record


@app.command()
def reanalyse(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE.csv]", help="blocks, success, sources; else the published table.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", metavar="K", help="The subsets on trial: how many members.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="NAME", help="And from where: even, odd or any.")
    ] = None,
    random: Annotated[
        list[str] | None,
        typer.Option("--random", metavar="SOURCES", help="`sources` of subsets drawn at random; may be repeated."),
    ] = None,
    seed: o.Seed = None,
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Read a table of subset outcomes again."""
    o.at_least(1, size=size)
    o.at_least(0, seed=seed)
    if pool is not None:
        one_of(pool, ("even", "odd", "any"), "pool")
    from headlab.experiments.subsets.reanalysis import reanalyse as read_again

    home = open_store(store)
    result = read_again(
        file, size=size, pool=pool, random_sources=tuple(random) if random else None, seed=seed or 0, store=home
    )
    print_record(result.record, home, json)


@app.command()
def simulate(seed: o.Seed = None, store: o.StoreOption = None, json: o.Json = False) -> None:
    """See heads that only add up pass for "any 8", "exactly 8" and "sharp 60 %"."""
    o.at_least(0, seed=seed)
    from headlab.experiments.subsets.simulator import simulated

    home = open_store(store)
    print_record(simulated(seed=seed or 0, store=home).record, home, json)
