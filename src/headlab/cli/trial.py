"""Commands that try a claim: demo, and trial (run is its older name)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from headlab.cli import options as o
from headlab.cli.claims import (
    FILES,
    SCORECARDS,
    ChosenOption,
    HeadsOption,
    TaskOption,
    WriteOption,
    docket,
    draft,
    named,
)
from headlab.cli.errors import BadInput, one_of
from headlab.cli.tree import app, aside, open_store, print_json, print_record, say
from headlab.reading import meant


@app.command()
def demo(pairs: o.Pairs = None, store: o.StoreOption = None, json: o.Json = False) -> None:
    """See one claim win, lose and turn out as chance."""
    from headlab import experiments
    from headlab.cli.progress import Meter

    o.at_least(2, pairs=pairs)
    given = {} if pairs is None else {"pairs": pairs}
    home = open_store(store)
    with Meter() as meter:
        result = experiments.demo(store=home, progress=meter, workers=min(4, os.cpu_count() or 1), **given)
    print_record(result.record, home, json)


@app.command()
def trial(
    claim: Annotated[
        str | None,
        typer.Argument(
            metavar="[CLAIM]",
            help="A claim's name, a .yaml or .toml file, or scorecard or thought-scorecard (all of them); or give --heads.",
        ),
    ] = None,
    model: o.Model = None,
    heads: HeadsOption = None,
    task: TaskOption = None,
    write: WriteOption = None,
    chosen_on: ChosenOption = "other",
    revision: o.Revision = None,
    adapter: o.Adapter = None,
    layer: o.Layer = None,
    protocol: o.ProtocolOption = None,
    pairs: o.Pairs = None,
    matched_sets: o.MatchedSets = None,
    decide: o.Decide = None,
    amend: o.Amend = None,
    pool: o.Pool = None,
    prompts: o.Prompts = None,
    problems: o.Problems = None,
    seed: o.Seed = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    memory: o.Memory = None,
    engine: o.Engine = None,
    workers: o.Workers = None,
    address: o.Address = None,
    store: o.StoreOption = None,
    json: o.Json = False,
    verbose: o.Verbose = False,
    anyway: o.Anyway = False,
    dry_run: o.DryRun = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Publication sizes: 500 pairs and 9,999 matched sets; 1,319 problems and 499."),
    ] = False,
) -> None:
    """Put a claim on trial: verdict, effect, controls, record.

    With --heads alone every default is written out as a document, shown and saved, and that document is tried.
    """
    _one_of_them(claim, heads, bool(task or write), full, bool(amend), dry_run)
    if heads is not None:
        claim, prompts = _drafted(heads, prompts, task, write, chosen_on, json, _model(model)), None
    assert claim is not None
    given = o.trial_options(locals())
    if amend:
        from headlab.trials import amending

        given["amend"] = amending.read(amend)
    if model is not None:
        _reach(model, claim, given, library=not full)
    claim = _claim(claim, full)
    if model is None and (full or claim in SCORECARDS or not _names_models(claim, given.get("amend", {}))):
        _model(None)
    _try(claim, model, given, store, json, dry_run, verbose, anyway, full)


app.command("run", hidden=True)(trial)


def _one_of_them(claim: str | None, heads: str | None, beside: bool, full: bool, amend: bool, dry: bool) -> None:
    """A claim or heads, with what belongs to them.  Raises BadInput."""
    if (claim is None) == (heads is None):
        raise BadInput(
            'name a claim (headlab list claims), or heads of your own: --heads "L3H1 L5H0" --prompts pairs.csv'
        )
    if heads is None and beside:
        raise BadInput("--task and --write go with --heads; a claim of its own says both inside")
    if heads is not None and full:
        raise BadInput("--full goes with experiments of the docket; say --pairs and --matched-sets beside --heads")
    if claim in SCORECARDS and amend:
        raise BadInput(f"{claim} tries the entries of the docket; --amend is for documents (headlab list claims)")
    if claim == SCORECARDS[1] and dry:
        raise BadInput(f"{claim} runs the latent loop, whose passes --dry-run does not count")


def _drafted(
    heads: str, prompts: Path | None, task: str | None, write: str | None, chosen_on: str, json: bool, model: str
) -> str:
    """The document about these heads, shown and saved before anything runs: beside its prompts, or here."""
    import yaml

    from headlab.trials.starting import saved

    text = draft(heads, prompts, task, write, chosen_on, model)
    folder = prompts.parent if prompts is not None else Path(".")
    path = saved(text, folder, yaml.safe_load(text)["id"])
    if not json:
        say(f"{text}\nsaved as {path}\n")
    return str(path)


def _model(given: str | None) -> str:
    if given is None:
        raise BadInput(
            "no model given; name one with --model: a shipped organism (headlab models), a folder or a hub id"
        )
    return given


def _names_models(claim: str, amend: Mapping[str, Any]) -> bool:
    """Whether a claim names the models that it is tried on, so that none needs to be given."""
    from headlab.cli.claims import found

    return "models" in getattr(found(claim), "over", {}) or "over.models" in amend


def _reach(model: str, claim: str, given: Mapping[str, Any], *, library: bool = False) -> None:
    """That the hub has no way to a model is said before anything heavy is loaded, where nothing else can be wrong: the claim
    ships with headlab (in the docket or in the library) and is tried as it stands.  Raises BadInput."""
    from headlab.trials import registry

    ships = claim in (*docket(), *SCORECARDS) or (library and claim in registry.library())
    if ships and not set(given) - {"pairs", "seed", *o.LOADING} and (why := o.absent(model)):
        raise BadInput(why)


def _claim(given: str, full: bool) -> str:
    """``given``, when it names a built-in claim, a scorecard or a file that holds one (``full``: one of the docket).

    All of it is known here already, because that needs none of the heavy rooms.
    """
    if full:
        return one_of(given, [*docket(), *SCORECARDS], "experiment with publication sizes")
    if Path(given).suffix in FILES:
        from headlab.trials import registry

        registry.from_file(given)
    else:
        named(given, *SCORECARDS)
    return given


def _try(
    claim: str,
    model: str | None,
    given: dict[str, Any],
    store: Path | None,
    json: bool,
    dry: bool,
    verbose: bool,
    anyway: bool,
    full: bool,
) -> None:
    from headlab import experiments
    from headlab.cli.progress import Meter
    from headlab.engine.model import ModelError
    from headlab.experiments.docket import sized
    from headlab.experiments.scorecard import planned

    home, asked = open_store(store), _go_on if anyway else _ask
    given = sized(claim, given) if full and claim not in SCORECARDS else given
    try:
        with Meter() as meter:
            if dry and claim == "scorecard":
                return _show_plans(planned(model, full=full, **given), json)
            if dry:
                return _show_plan(experiments.plan(claim, model, **given), json)
            told = {"store": home, "progress": meter, "dead_end": asked, **given}
            if claim in SCORECARDS:
                result = experiments.run(claim, str(model), full=full, **told)
            else:
                result = experiments.trial(claim, model, **told)
    except ModelError as error:
        from headlab import organisms

        known = model is None or model in organisms.names() or "did you mean" in str(error)
        raise BadInput(f"{error}{'' if known else meant(model, organisms.names())}") from error
    print_record(result.record, home, json, whole=verbose)


def _ask(why: str) -> None:
    """At a dead end: whether to go on, on a terminal.  Raises BadInput elsewhere, Exit where the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BadInput(f"{why}; nothing was run (--anyway runs it all the same)")
    aside(why)
    if not typer.confirm("Run it all the same?", err=True):
        raise typer.Exit(2)


def _go_on(why: str) -> None:
    """What ``--anyway`` answers; the verdict will say why."""


def _show_plans(rows: list[dict[str, Any]], json: bool) -> None:
    """What each experiment would take, and all together."""
    import pandas as pd

    from headlab.cli.tree import print_frame

    table = pd.DataFrame(rows)
    if not json:
        table["memory"] = (table.pop("memory_bytes") / 1e6).map("{:,.0f} MB".format, na_action="ignore")
        names = ["experiment", "pairs", "worlds", "passes", "rows", "memory", "seconds", "reason"]
        table = table.reindex(columns=names).round({"seconds": 1})
    print_frame(table, json, "no experiments")
    if not json:
        say(f"in all about {pd.DataFrame(rows)['seconds'].sum():,.0f} s (estimated from one timed batch each)")


def _show_plan(plan: dict[str, Any], json: bool) -> None:
    if json:
        return print_json(plan)
    from headlab.cli.show import console

    out = console()
    units = {"memory_bytes": ("memory", 1e-6, "MB"), "seconds": ("time", 1, "s (estimated)")}
    for name, value in plan.items():
        if isinstance(value, list):
            for line in value:
                out.print(f"{name}: {line}", markup=False)
            continue
        label, factor, unit = units.get(name, (name, None, ""))
        out.print(f"{label:<12} {value if factor is None else f'{value * factor:,.1f} {unit}'}", markup=False)
