"""The command that tries one claim on a list of models: cross-model."""

from __future__ import annotations

from typing import Annotated

import typer

from headlab.cli import options as o
from headlab.cli.errors import BadInput, one_of
from headlab.cli.tree import app, open_store, print_record

PRESETS = ("published", "organisms")


@app.command("cross-model")
def cross_model(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODELS]...", help="Organisms, folders, hub ids; NAME@REVISION.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="|".join(PRESETS), help="A list that is known by name.")
    ] = None,
    head_count: Annotated[bool, typer.Option("--head-count", help="Try head-count too, where parity can be.")] = False,
    pairs: o.Pairs = None,
    matched_sets: o.MatchedSets = None,
    seed: o.Seed = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    memory: o.Memory = None,
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Try parity on several models: one table, and its chance."""
    given = o.given(pairs=pairs, matched_sets=matched_sets, seed=seed, device=device, dtype=dtype, memory=memory)
    if preset is not None:
        one_of(preset, PRESETS, "preset")
    if (preset is None) == (not models):
        raise BadInput(f"name models, or one preset with --preset {'|'.join(PRESETS)}")
    o.models_there(models or [])
    from headlab.cli.progress import Meter
    from headlab.experiments.training.across_models import cross_model as compare

    home = open_store(store)
    with Meter() as meter:
        result = compare(preset or models or [], head_count=head_count, store=home, progress=meter, **given)
    print_record(result.record, home, json)
    if not json:
        for row in result.tables["models"].to_dict("records"):
            if row["reason"]:
                typer.echo(f"not tried: {row['model']}: {row['reason']}")
