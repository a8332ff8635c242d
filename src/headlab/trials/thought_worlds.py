"""Documents about thinking models: what their writes mean in the latent loop, their controls, and what they cannot say.

{heads: SET, write: mean, roles: thoughts}                                  heads, while the model thinks
{site: thought, roles: "thought[0]", write: resample}                       what is fed as a thought
{heads: SET, site: pattern, write: force, shape: hub, keys: "thought[1]"}   attention among thoughts
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from headlab.heads import Grid, Heads
from headlab.heads import layer as whole_layer
from headlab.interventions import Intervention
from headlab.reading import brief, expected_one_of
from headlab.thoughts.worlds import Force, Layout, Replace, ThoughtWorld
from headlab.trials.fields import Fields, Write, WriteAxes, needs_layer

Place = tuple[Any, ...]
Fault = tuple[Place, str]
Part = Intervention | Force | Replace

ROLE = re.compile(r"question|bot|thoughts|thought\[\d{1,3}\]|eot|answer")
FED = {"zero": "zero", "mean": "mean", "resample": "resample", "noise": "noise", "noop": "self"}
"""What may be fed in place of a thought, by the word for it in a write."""
AT_HEADS = ("noop", "zero", "mean", "resample", "noise", "rescale", "mask", "force", "redistribute")
_ABSENT = {"computed_in": None, "direction": None, "decoy": False, "beyond": None, "donors": (), "when": "auto"}


# -- what a write means ---------------------------------------------------------------------------------------


def thought_at(keys: Sequence[str] | None) -> int | None:
    """The one thought that is named, or None."""
    found = re.fullmatch(r"thought\[(\d+)\]", keys[0]) if keys and len(keys) == 1 else None
    return int(found[1]) if found else None


def replaced(write: Write, n_thoughts: int, seed: int) -> Replace:
    """A write at the site ``thought``."""
    layout, places = Layout(1, n_thoughts, 1), set[int]()
    for role in write.roles or ("thoughts",):
        places |= {p - layout.prompt for p in layout.positions(role)}
    return Replace(tuple(sorted(places)), FED[write.write], seed)  # type: ignore[arg-type]


def forced(write: Write, heads: Heads) -> Force:
    """Attention among thoughts made to have a shape; ``amount`` is the share that goes where the shape says."""
    rows = "all" if not write.roles else "thoughts" if write.roles == ("thoughts",) else "answer"
    hub = thought_at(write.keys) if write.shape == "hub" else None
    return Force(heads, write.shape, hub=hub, share=write.amount, rows=rows)  # type: ignore[arg-type]


def parts(write: Write, heads: Heads, n_thoughts: int, seed: int) -> list[Part] | None:
    """What a write does in the latent loop, where it is no intervention of the ordinary engine."""
    if write.site == "thought":
        return [replaced(write, n_thoughts, seed)]
    return [forced(write, heads)] if write.shape else None


def world(ones: Sequence[Part]) -> ThoughtWorld:
    """A world that is called by what it does."""
    told = repr([one.plain() if isinstance(one, Intervention) else one for one in ones])
    return ThoughtWorld(
        hashlib.sha256(told.encode()).hexdigest()[:20],
        tuple(o for o in ones if isinstance(o, Intervention)),
        tuple(o for o in ones if isinstance(o, Force)),
        tuple(o for o in ones if isinstance(o, Replace)),
    )


# -- controls -------------------------------------------------------------------------------------------------


def layers_of(one: ThoughtWorld) -> set[int]:
    """The layers in which heads are written."""
    return {i.layer for i in one.interventions} | {at for f in one.forces for at in f.heads.layers}


def no_ops(grid: Grid, n_thoughts: int, worlds: Sequence[ThoughtWorld]) -> list[ThoughtWorld]:
    """For each kind of write its own values written back: every head of the touched layers, every thought."""
    places = sorted({(i.layer, i.site) for w in worlds for i in w.interventions if i.site not in {"pattern", "scores"}})
    own: list[Part] = [Intervention(whole_layer(grid, at), site, "noop") for at, site in places]  # type: ignore[arg-type]
    out = [world(own)] if own else []
    if patterned := sorted({at for w in worlds for at in layers_of(w)} - {at for at, _ in places}):
        every = Heads(h for at in patterned for h in whole_layer(grid, at))
        out.append(world([Force(every, "identity", rows="all")]))
    if any(w.replaced for w in worlds):
        out.append(world([Replace(tuple(range(n_thoughts)), "self")]))
    return out


# -- what cannot be said --------------------------------------------------------------------------------------


def faults(doc: Fields) -> Iterator[Fault]:
    """What a document about a thinking model, or one that is about another, cannot say."""
    for name, writes in doc.world_axes().items():
        place = ("worlds", name)
        for write in writes:
            yield from _write(place, write, thinking=doc.thinking)
    if not doc.thinking:
        return
    if doc.edit != "clean":
        yield (("edit",), "a word problem is one prompt: edit: clean")
    for key, value in doc.task.items():
        if key not in {"name", "file"} or not isinstance(value, str):
            yield (
                ("task", key),
                f"word-problems have name, and file (GSM8K .jsonl, GSM8K-Aug .txt); given {brief(value)}",
            )
    for name, spec in doc.readouts.items():
        place = ("readout", name) if not isinstance(doc.readout, str) else ("readout",)
        if spec.get("kind") != "text" or spec.get("grader", "number") != "number" or "decode_from" in spec:
            yield (place, "a thinking model is read by text, its answer graded as a number (text, tokens)")
    sources = {w.at(c).mean.name for ws in doc.world_axes().values() for w in ws for c in w.cells()}
    if sources - {"selection", "test"} or len(sources) > 1:
        yield (
            ("worlds",),
            "means and donors of a thinking model come from one place: mean: {over: selection}, or test",
        )
    if needs_layer(doc) and doc.layer == "auto" and doc.layer_rule == "most":
        yield (("layer",), "a thinking model has no layer that is chosen: name it, or layer_rule: every")


def _write(place: Place, axes: WriteAxes, *, thinking: bool) -> Iterator[Fault]:
    for cell in axes.cells():
        one = axes.at(cell)
        if not thinking:
            if one.site == "thought" or one.shape:
                yield (place, "only a thinking model has thoughts (task: {name: word-problems})")
            if one.mean.over == "test":
                yield (place, "mean: over: test is for thinking models; expected selection, a file, or a task")
            continue
        if given := [k for k, v in _ABSENT.items() if getattr(one, k) != v]:
            yield (place, f"the latent loop knows no {given[0]}")
        for role in (*(one.roles or ()), *(one.keys or ()), *(one.from_keys or ())):
            if not ROLE.fullmatch(role):
                yield (place, f"no role {role!r}; expected question, bot, thoughts, thought[j], eot or answer")
        yield from _kind(place, one, "heads" in axes.fixed)


def _kind(place: Place, one: Write, heads: bool) -> Iterator[Fault]:
    """Whether the fields of a write of a thinking model go together."""
    if one.site == "thought":
        if heads or one.keys or one.shape or one.amount != 1.0:
            yield (place, "a thought is fed whole: the site thought takes roles and write alone")
        if one.write not in FED:
            yield (place, f"a thought is fed {', '.join(FED)}; given {one.write}")
        if any(not r.startswith("thought") for r in one.roles or ()):
            yield (place, "the roles of a thought are thoughts, or thought[j]")
    elif one.write not in AT_HEADS:
        yield (place, f"{one.write} is not written while a model thinks; {expected_one_of(one.write, AT_HEADS)}")
    elif one.shape and (one.write != "force" or one.site != "pattern"):
        yield (place, "shape belongs to {site: pattern, write: force}")
    elif one.shape:
        if (one.shape == "hub") != (one.keys is not None) or (one.shape == "hub" and thought_at(one.keys) is None):
            yield (place, 'shape: hub names its thought (keys: "thought[1]"), and no other shape does')
        if one.roles not in {None, ("thoughts",), ("answer",)}:
            yield (place, "a shape is forced in the rows of thoughts, of the answer, or of both (roles left out)")
        if not 0 <= one.amount <= 1:
            yield (place, f"amount is the share that goes where the shape says, 0 to 1; given {one.amount:g}")
