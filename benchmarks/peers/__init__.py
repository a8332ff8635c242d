"""The methods: one family for each library, each with the ways of using it that are measured."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.peers.common import Family

REFERENCE = "hf-loop"


@dataclass(frozen=True)
class Method:
    """One way of doing a job.  ``rows`` is 1 for loops, None for the job's batch size; ``whole``: always all of it."""

    name: str
    family: str
    jobs: tuple[str, ...]
    about: str
    rows: int | None = None
    whole: bool = False


_ALL, _ONE = ("Z", "P", "last", "many"), ("Z", "P", "last")
METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(REFERENCE, "hf", _ALL, "a hook on the output projection, one forward pass for each intervention", 1),
        Method("hf-rows", "hf", _ALL, "the same hook on a batch, logits of the last position only"),
        Method(
            "hf-rows-cached", "hf", ("last",), "the same, the last token against a key-value cache of the rest", 256
        ),
        Method("tl-loop", "tl", _ALL, "TransformerBridge.run_with_hooks, one intervention at a time", 1),
        Method("tl-rows", "tl", _ALL, "the same on a batch, logits_to_keep=1"),
        Method("nnsight-loop", "nnsight", _ONE, "one trace for each intervention", 1),
        Method("nnsight-invokes", "nnsight", _ONE, "one trace with an invoke for each intervention, logits_to_keep=1"),
        Method("nnsight-rows-skip", "nnsight", _ALL, "one trace on a batch, layers below the edit skipped"),
        Method("pyvene-loop", "pyvene", ("Z", "last"), "IntervenableModel on base and source, one at a time", 1),
        Method("pyvene-rows", "pyvene", ("Z", "last"), "a batch with unit locations for each row, source given"),
        Method("headlab-single", "headlab", _ONE, "one sweep() for each intervention: what its set-up costs", 1),
        Method("headlab-again", "headlab", _ONE, "the same on prompts that were swept before, as inside a trial", 1),
        Method("headlab", "headlab", _ALL, "one sweep() over the whole job, set-up included", whole=True),
    )
}
FAMILIES = {"hf": "hf", "headlab": "headlab_", "tl": "tl", "nnsight": "nnsight_", "pyvene": "pyvene_"}
PACKAGES = {"hf": "transformers", "headlab": "headlab", "tl": "transformer-lens", "nnsight": "nnsight",
            "pyvene": "pyvene"}  # fmt: skip


def family(name: str) -> type[Family]:
    """The class that drives a library; importing it imports the library."""
    return importlib.import_module(f"benchmarks.peers.{FAMILIES[name]}").Driven
