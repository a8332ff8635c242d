"""The command that numbers heads at random and asks how often parity is found: null-rates."""

from __future__ import annotations

from typing import Annotated

import typer

from headlab.cli import options as o
from headlab.cli.tree import app, open_store, print_frame, print_record

COLUMNS = "model layers trials decided upheld upheld_share upheld_low upheld_high allowed naive naive_share own"


@app.command("null-rates")
def null_rates(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODELS]...", help="Organisms, folders, hub ids; else the shipped unplanted organisms."
        ),
    ] = None,
    relabellings: Annotated[
        int | None, typer.Option("--relabellings", metavar="N", help="Numberings of the heads, at each layer.")
    ] = None,
    pairs: o.Pairs = None,
    matched_sets: o.MatchedSets = None,
    seed: o.Seed = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    memory: o.Memory = None,
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Number heads at random: how often is parity found?"""
    sizes = {"relabellings": relabellings, "pairs": pairs, "matched_sets": matched_sets, "seed": seed}
    given = o.given(**sizes, device=device, dtype=dtype, memory=memory)
    o.models_there(models or [])
    from headlab.cli.progress import Meter
    from headlab.experiments.null_rates_table import over_models

    home = open_store(store)
    with Meter() as meter:
        result = over_models(models or None, store=home, progress=meter, **given)
    print_record(result.record, home, json)
    if json:
        return
    print_frame(result.tables["models"][COLUMNS.split()], json=False, empty="no model")
    for line in result.record.notes:
        typer.echo(line)
