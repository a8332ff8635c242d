"""The command that asks how often a claim's rule is wrong: calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlab.cli import options as o
from headlab.cli.claims import FILES, named
from headlab.cli.errors import BadInput
from headlab.cli.tree import app, aside, open_store, print_frame, print_json, say

if TYPE_CHECKING:
    from headlab.store import Store
    from headlab.trials.document import Document


@app.command()
def calibrate(
    claims: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CLAIM]...", help="Claims by name, or one document of your own; else all that ship."),
    ] = None,
    model: o.Model = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="MINUTES", help="Stop after so long; the same command goes on.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", help="Trials of false claims; sets drawn for a document.")
    ] = None,
    seed: o.Seed = None,
    store: o.StoreOption = None,
    json: o.Json = False,
) -> None:
    """Measure how often the rule of a claim is wrong, where the truth is known."""
    o.at_least(20, trials=trials)
    o.at_least(0, seed=seed)
    if budget is not None and not 0 <= budget < float("inf"):
        raise BadInput(f"--budget is {budget}; expected minutes, such as 30")
    names, home = claims or [], open_store(store)
    for name in names:
        if Path(name).suffix not in FILES:
            named(name)
    from headlab.experiments import find_claim
    from headlab.trials.document import Document

    if model is not None and len(names) == 1 and isinstance(found := find_claim(names[0]), Document):
        if budget is not None:
            raise BadInput(
                "--budget is for shipped claims; a document's worlds are one sweep, which goes on where it stopped"
            )
        return _document(found, names[0], model, trials, seed, home, json)
    from headlab.cli.progress import Meter
    from headlab.experiments.calibration.measured import calibrate as measured

    with Meter() as meter:
        result = measured(names, model=model, budget=budget, trials=trials, seed=seed or 0, store=home, progress=meter)
    print_frame(result.tables["rates"], json, empty="nothing was measured")
    if result.record.error:
        aside(result.record.error)
    else:
        home.settle(result.record.id)


def _document(
    doc: Document, given: str, model: str, trials: int | None, seed: int | None, home: Store, json: bool
) -> None:
    """A document of anybody's."""
    from headlab.cli.progress import Meter
    from headlab.experiments.calibration.strangers import calibrate_document

    call = f"headlab calibrate {given} --model {model}" + (f" --trials {trials}" if trials else "")
    with Meter() as meter:
        result = calibrate_document(doc, given, model, trials=trials, seed=seed, store=home, progress=meter, call=call)
    found = result.record.settings["stand_ins"]
    home.settle(result.record.id)
    if json:
        return print_json({**found, "id": result.record.id})
    say(
        f"{doc.id} on {result.record.model['name']}, {sum(found['outcomes'].values())} drawn sets in place of the named one"
    )
    say(found["words"])
    for times, share in found["power"].items():
        say(f"  upheld in {share:6.1%} of trials if effects are {times} × the thresholds")
    say(f"record {result.record.id}")
