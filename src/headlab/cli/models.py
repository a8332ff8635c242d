"""Commands about models: models, organism list, card, train and relabel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headlab.cli import options as o
from headlab.cli.errors import one_of
from headlab.cli.tree import app, organism, print_frame, print_json, say


@app.command()
def models(json: o.Json = False) -> None:
    """List the shipped organisms and what will do beside them."""
    from headlab.cli import organisms as room

    if json:
        return print_json(room.rows())
    import pandas as pd

    print_frame(pd.DataFrame(room.rows()), False, "no organisms are shipped with this installation")
    print(room.FAMILIES)


@organism.command("list")
def organism_list(json: o.Json = False) -> None:
    """List the shipped organisms."""
    import pandas as pd

    from headlab.cli import organisms as room

    print_frame(pd.DataFrame(room.rows()), json, "no organisms are shipped with this installation")


@organism.command("card")
def organism_card(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped organism, or the folder of one made here.")],
    json: o.Json = False,
) -> None:
    """Show an organism's card: recipe, data, accuracy, known truth."""
    from headlab import organisms
    from headlab.cli import organisms as room

    card = organisms.card_in(name) or organisms.card(one_of(name, organisms.names(), "organism"))
    if json:
        return print_json(card.model_dump(mode="json"))
    room.show_card(card)


@organism.command("train")
def organism_train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An organism with a recipe.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder (./NAME).")] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Fewer or more than the recipe's.")] = None,
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="CPU threads; sums depend on it.")] = 1,
) -> None:
    """Train an organism again from its recipe."""
    from headlab import organisms
    from headlab.cli.progress import Meter

    one_of(name, organisms.trainable(), "organism")
    o.at_least(1, steps=steps, threads=threads)
    with Meter() as meter:
        path = organisms.train(
            name,
            out or Path(name),
            progress=lambda done, total, note: meter(note or name, done, total),
            steps=steps,
            threads=threads,
        )
    say(path)


@organism.command("relabel")
def organism_relabel(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped organism.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Which re-indexing is drawn.")] = 0,
    problems: Annotated[int, typer.Option("--problems", metavar="N", help="Measured per cell of the card.")] = 200,
) -> None:
    """Write an organism with its heads re-indexed: same answers, its truth under other names."""
    from headlab import organisms
    from headlab.cli.progress import Meter

    one_of(name, organisms.names("decimals"), "organism")
    o.at_least(1, problems=problems)
    o.at_least(0, seed=seed)
    with Meter() as meter:
        path = organisms.relabelled(
            name, out, seed=seed, problems=problems, progress=lambda done, total, note: meter(name, done, total)
        )
    say(path)
