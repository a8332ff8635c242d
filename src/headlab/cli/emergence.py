"""The command that draws the timeline of any list of checkpoints: emergence."""

from __future__ import annotations

from typing import Annotated

import typer

from headlab.cli import options as o
from headlab.cli.errors import BadInput, one_of
from headlab.cli.tree import app, open_store, print_record

PRESETS = ("pythia-160m",)


@app.command("emergence")
def emergence(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODELS]...", help="Organisms or hub ids, or folders of checkpoints.")
    ] = None,
    revisions: Annotated[
        str | None, typer.Option("--revisions", metavar="R,R,…", help="Hub revisions, such as step0,step1000.")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option("--steps", metavar="all|log|N,N,…", help="Pythia's 154 steps, one per doubling, or yours."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="|".join(PRESETS), help="A model and its nine seeds by name.")
    ] = None,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="No prompts: weights suffice.")] = False,
    pairs: o.Pairs = None,
    seed: o.Seed = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    memory: o.Memory = None,
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """See when in training heads cluster and take on their roles."""
    given = o.given(pairs=pairs, seed=seed, device=device, dtype=dtype, memory=memory)
    if preset is not None:
        one_of(preset, PRESETS, "preset")
    if (preset is None) == (not models):
        raise BadInput(f"name checkpoints, or one preset with --preset {'|'.join(PRESETS)}")
    if revisions and steps:
        raise BadInput("--revisions and --steps both say which checkpoints; give one of them")
    from headlab.cli.progress import Meter
    from headlab.experiments.training.emergence import emergence as measure
    from headlab.organisms.checkpoint_series import PRESETS as KNOWN

    home = open_store(store)
    with Meter() as meter:
        result = measure(
            list(KNOWN[preset]) if preset else models or [],
            revisions=_revisions(revisions, steps, bool(preset)),
            weights_only=weights_only,
            store=home,
            progress=meter,
            **given,
        )
    print_record(result.record, home, json)
    if not json:
        for line in (n for n in result.record.notes if " looked at in the order " in n or " are one look: " in n):
            typer.echo(line)


def _revisions(revisions: str | None, steps: str | None, preset: bool) -> list[str]:
    """The revisions that either option names; a preset without them takes one step for each doubling."""
    from headlab.organisms.checkpoint_series import STEPS

    if revisions:
        return [r.strip() for r in revisions.split(",") if r.strip()]
    if steps is None and not preset:
        return []
    if (steps or "log") in STEPS:
        return [f"step{n}" for n in STEPS[steps or "log"]]
    numbers = [n.strip() for n in (steps or "").split(",")]
    if not all(n.isdecimal() for n in numbers):
        raise BadInput(f"--steps {steps!r} names no steps; expected all, log, or numbers such as 0,1000,143000")
    return [f"step{n}" for n in numbers]
