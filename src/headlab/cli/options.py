"""The options that several commands share, and what their text means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from headlab.cli.errors import BadInput, one_of
from headlab.engine.scale import ADDRESS, ENGINES, pick

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="A shipped organism (headlab models), a folder or a hub id."),
]
Revision = Annotated[
    str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit of a hub model.")
]
Adapter = Annotated[str | None, typer.Option("--adapter", metavar="NAME", help="A PEFT adapter: a folder or a hub id.")]
Layer = Annotated[str | None, typer.Option("--layer", metavar="N|auto", help="The layer on trial, counted from 0.")]
ProtocolOption = Annotated[
    str | None, typer.Option("--protocol", metavar="NAME", help="Only this one: standard or published.")
]
Pairs = Annotated[int | None, typer.Option("--pairs", metavar="N", help="Prompt pairs in the test.")]
MatchedSets = Annotated[int | None, typer.Option("--matched-sets", metavar="N", help="Random head sets in the null.")]
Amend = Annotated[
    list[str] | None,
    typer.Option(
        "--amend", metavar="FIELD=VALUE", help="Change a field of a document, such as sets.movers='L0H4'; repeatable."
    ),
]
Pool = Annotated[
    str | None,
    typer.Option("--pool", metavar="HEADS", help="head-count: even, odd, any, kv_group:G, or indices such as 0,2,4."),
]
Decide = Annotated[
    str | None,
    typer.Option(
        "--decide", metavar="HOW", help="sequential: draw sets until no more could change a rank. fixed: draw them all."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of every random draw.")]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1 …")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="NAME", help="float32 (the default on a CPU), bfloat16 or float16.")
]
Memory = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="Bound for activations, such as 800MB or 2GB.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts", metavar="FILE", help="Your own pairs: CSV or JSONL with clean, corrupted, answer, wrong."
    ),
]
Problems = Annotated[
    Path | None,
    typer.Option(
        "--problems", metavar="FILE", help="Word problems for a thinking model: GSM8K .jsonl, GSM8K-Aug .txt."
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="|".join(ENGINES),
        help="Where sweeps run: " + "; ".join(f"{name}: {where}" for name, where in ENGINES.items()) + ".",
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="How many workers (2).")]
Address = Annotated[
    str | None, typer.Option(ADDRESS, metavar="HOST:PORT|auto", help="The cluster to join; else this machine.")
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="FOLDER", help="Where runs are kept ($HEADLAB_STORE, or ./headlab-runs)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print every number that was read, not only those that decide.")
]
Anyway = Annotated[
    bool,
    typer.Option(
        "--anyway", help="Run it although it can only end untestable or undecided at its size, and ask nothing."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it takes (passes, memory, time), run nothing; not of thoughts.")
]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def memory_bytes(text: str | None) -> int | None:
    """``"2GB"`` as bytes.  Raises BadInput."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text.lower())
    if not match or not float(match[1]):
        raise BadInput(f"--memory {text!r} is not a size; expected a number with a unit, such as 800MB or 2GB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def layer_number(text: str | None) -> int | str | None:
    """A layer's number, or "auto".  Raises BadInput."""
    if text is None or text == "auto":
        return text
    if not text.isdecimal():
        raise BadInput(f"--layer {text!r} is not a layer; expected a number counted from 0, or auto")
    return int(text)


def at_least(least: int, **numbers: int | None) -> None:
    """Raises BadInput for a number below ``least``."""
    for name, number in numbers.items():
        if number is not None and number < least:
            raise BadInput(f"--{name.replace('_', '-')} is {number}; expected a whole number of at least {least}")


def absent(model: str) -> str:
    """Why there is no such model, where that can be told before anything heavy is loaded; else an empty string."""
    from headlab import organisms
    from headlab.engine import hub

    if (name := model.partition("@")[0]) in organisms.names():
        return ""
    if near := get_close_matches(name, organisms.names(), 1, 0.85):
        return f"no model {name!r}; did you mean the shipped organism {near[0]}? (headlab models lists them)"
    if hub.is_local(name):
        there = name and any(Path(name).expanduser().glob("*.json"))
        return "" if there else f"no model at {name!r}; expected a folder with config.json, safetensors and a tokenizer"
    return "" if hub.within_reach(name) else hub.no_way_to(name)


def models_there(models: Sequence[str]) -> None:
    """Of models that stand in one table, each in a row, some must be there.  Raises BadInput."""
    if models and all(why := [absent(model) for model in models]):
        raise BadInput(why[0])


def given(*, memory: str | None = None, **options: Any) -> dict[str, Any]:
    """The options that were given, as keywords; numbers that are too small are refused, ``memory`` is in bytes.  Raises
    BadInput."""
    at_least(2, pairs=options.get("pairs"))
    at_least(1, **{name: options.get(name) for name in ("matched_sets", "workers", "relabellings")})
    at_least(0, seed=options.get("seed"))
    if empty := [name for name, value in options.items() if value == ""]:
        raise BadInput(f"--{empty[0]} is empty; give it a value, or leave it out")
    every = {**options, "memory": memory_bytes(memory)}
    return {name: value for name, value in every.items() if value is not None}


TRIAL = "protocol layer pairs matched_sets decide pool seed memory engine workers address"
LOADING = ("revision", "adapter", "device", "dtype")


def trial_options(command: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command's parameters (its ``locals()``), the keywords for :func:`headlab.experiments.trial` that were given.  Raises
    BadInput, ScaleError or PromptError."""
    named = {name: command[name] for name in (*TRIAL.split(), *LOADING)}
    named["layer"] = layer_number(command["layer"])
    options = given(**named)
    engine, protocol, prompts, problems = (command[name] for name in ("engine", "protocol", "prompts", "problems"))
    # what is wrong with it is said before anything is loaded
    pick(engine or "here", command["workers"], command["address"])
    if protocol is not None:
        one_of(protocol, ("standard", "published"), "protocol")
    if command["decide"] is not None:
        one_of(command["decide"], ("sequential", "fixed"), "way to decide")
    if prompts is not None and problems is not None:
        raise BadInput(
            "--prompts are pairs for a language model, --problems are for a thinking model; give one of them"
        )
    if problems is not None:
        from headlab.trials.thinking import read_problems

        read_problems(problems)  # what is wrong with it is said before anything is loaded
        options["prompts"] = problems
    if prompts is not None:
        from headlab.prompts import PromptSet

        if prompts.suffix != ".txt":  # a text is cut into windows by the model's tokenizer
            PromptSet.from_file(prompts)
        options["prompts"] = prompts
    return options
