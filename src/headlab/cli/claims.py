"""Commands about claims before they are tried: check, new, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headlab.cli import options as o
from headlab.cli.errors import BadInput
from headlab.cli.tree import app, print_json, say
from headlab.reading import expected_one_of
from headlab.reading.shown import clean

HeadsOption = Annotated[
    str | None, typer.Option("--heads", metavar="NAMES", help='Heads by name, such as "L3H1 L5H0": a claim of its own.')
]
TaskOption = Annotated[str | None, typer.Option("--task", metavar="NAME", help="A built-in task, with --heads.")]
WriteOption = Annotated[
    str | None,
    typer.Option("--write", metavar="NAME", help="With --heads: mean, zero, resample or patch (all ablations)."),
]
ChosenOption = Annotated[
    str,
    typer.Option("--chosen-on", metavar="WHERE", help="With --heads: where they were found: published, other, these."),
]


@app.command()
def check(
    claim: Annotated[str, typer.Argument(metavar="CLAIM", help="A claim's name, or a .yaml or .toml file.")],
    model: o.Model = None,
    amend: o.Amend = None,
    json: o.Json = False,
) -> None:
    """Say what a claim says, what will run and what cannot, without running it."""
    chosen = found(claim)
    o.models_there([model] if model is not None else [])
    from headlab.claims import Claim
    from headlab.trials import check_cells
    from headlab.trials.attainable import of_claim, too_few
    from headlab.trials.lending import tokenizer_of

    if amend:
        from headlab.trials import amending
        from headlab.trials.document import Document

        if isinstance(chosen, Claim):
            raise BadInput(f"{chosen.id} is an entry of the docket; --amend is for documents (headlab list claims)")
        chosen = Document.from_data(amending.by_hand(chosen.plain(), amending.read(amend), f"{claim}, --amend"))
    if isinstance(chosen, Claim):
        said = {
            "claim": [chosen.words],
            "experiment": [chosen.experiment],
            "predictions": [f"{p.words or p.statistic}: {p.asked}" for p in chosen.predictions],
            "controls": list(chosen.controls),
        }
        tokenizer = tokenizer_of(model) if model else None
        from headlab.experiments.trial import experiment

        own = bool(chosen.task.file)
        faults = [] if own else [e for e in [too_few(chosen.pairs, experiment(chosen.experiment).needed(chosen))] if e]
        faults += [] if tokenizer is None else of_claim(chosen, tokenizer)
    else:
        folder = Path(claim).parent if Path(claim).is_file() else Path(".")
        got = check_cells.explained(chosen, model, folder)
        said, faults = got.lines, got.faults
    if json:
        print_json({**said, "faults": faults})
    else:
        from headlab.cli.show import console

        out = console()
        for heading, lines in said.items():
            out.print(heading, style="bold", markup=False)
            for line in lines:
                out.print(f"  {line}", markup=False)
        for fault in faults:
            out.print(f"cannot be decided: {fault}", markup=False)
    if faults:
        raise typer.Exit(3)


SCORECARDS = ("scorecard", "thought-scorecard")
FILES = {".yaml", ".yml", ".toml"}


def docket() -> list[str]:
    """The names of the docket's entries, by their files: nothing heavy is loaded."""
    from importlib.resources import files

    claims = (files("headlab") / "experiments" / "claims").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in claims if f.name.endswith(".yaml"))


def named(claim: str, *beside: str) -> None:
    """That a claim of this name ships with headlab, or stands ``beside``, is known before anything heavy is loaded.  Raises
    BadInput."""
    from headlab.trials import registry

    if claim not in (names := [*docket(), *beside, *registry.library()]):
        raise BadInput(f"no claim {claim!r}; {expected_one_of(claim, names)}, or a .yaml or .toml file")


def found(claim: str) -> Any:
    """A claim by name or file.  Raises BadInput or ClaimError."""
    from headlab.trials import registry

    if Path(claim).suffix in FILES:
        return registry.from_file(claim)
    named(claim)
    if claim in (library := registry.library()):
        return library[claim]
    from headlab import experiments

    return experiments.builtin_claims()[claim]


@app.command()
def new(
    heads: HeadsOption = None,
    prompts: o.Prompts = None,
    task: TaskOption = None,
    write: WriteOption = None,
    chosen_on: ChosenOption = "other",
    model: o.Model = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it here instead of printing.")
    ] = None,
) -> None:
    """Write a commented document to start from; with --model, one that its prompts can be tried with."""
    o.models_there([model] if model is not None else [])
    asked = typer.prompt("Heads (such as L3H1 L5H0)") if heads is None else heads
    text = draft(asked, prompts, task, write, chosen_on, model)
    if out is None:
        print(clean(text), end="")
        return
    if out.exists():
        raise BadInput(f"{out} exists; name a new file")
    from headlab.store.outward import write_out

    if not out.parent.is_dir():
        raise BadInput(f"there is no folder {out.parent}; make it first")
    write_out(out, text.encode())
    say(out)


@app.command()
def schema(
    what: Annotated[str, typer.Argument(metavar="claim|record", help="What is read: a claim, or a run's record.")],
) -> None:
    """Print the JSON Schema of a claim or a record, for editors and other tools."""
    from headlab.cli.errors import one_of
    from headlab.trials.schema import NAMES, shipped

    one_of(what, NAMES, "schema")
    print(shipped(what), end="")


def draft(
    heads: str, prompts: Path | None, task: str | None, write: str | None, chosen_on: str, model: str | None = None
) -> str:
    """The YAML of a document about these heads, as :func:`headlab.trials.lending.drafted` writes it for their prompts."""
    from headlab.cli.errors import one_of
    from headlab.prompts import PromptSet
    from headlab.trials.lending import drafted, tokenizer_of

    one_of(chosen_on, ("published", "other", "these"), "place")
    return drafted(
        heads,
        [] if prompts is None else list(PromptSet.from_file(prompts)),
        tokenizer_of(model) if model else None,
        prompts.parent if prompts else Path("."),
        prompts=prompts,
        task=task or "",
        write=write or "",
        edit="corrupted" if write == "patch" else "clean",
        chosen_on=chosen_on,
    )
