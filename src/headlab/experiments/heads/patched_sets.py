"""What experiments on sets of heads of one layer share: the layer, the loop over protocols, worlds, controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headlab.claims import PROTOCOLS, Claim, Control, Protocol, decide
from headlab.heads import Heads
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.prompts import EncodedPair, encode
from headlab.store import Reading
from headlab.trials.case import Bench
from headlab.trials.findings import Findings as Outcome
from headlab.trials.pairs import (
    Eligibility,
    choose_layer,
    eligibility,
    no_op_control,
    no_op_world,
    patch_all_control,
    protocol_patch,
    with_texts,
)

Made = dict[str, Any]
"""What a protocol's reading hands back: ``reading``, and lists ``effects`` and ``figures``, and ``tables`` by name."""
Maker = Callable[[Bench, Protocol, Eligibility, int], Made]


def layer_of(bench: Bench) -> tuple[int, list[dict[str, Any]]]:
    """The claim's layer, or the one that selection pairs choose; and the scan that chose it."""
    auto = bench.claim.layer == "auto"
    return choose_layer(bench, [encode(p, bench.lab.tokenizer) for p in bench.selection] if auto else [])


def readings_of(
    bench: Bench,
    makers: Mapping[str, Maker],
    chosen: tuple[int, list[dict[str, Any]]],
    sections: list[dict[str, str]],
    **settings: Any,
) -> Outcome:
    """Each protocol of the claim read by its maker, after its own eligibility."""
    import pandas as pd

    at, scan = chosen
    readings: list[Reading] = []
    effects: list[Any] = []
    figures: list[Any] = []
    tables: dict[str, Any] = {}
    suited: dict[str, Any] = {}
    for name in bench.claim.readings:
        protocol = PROTOCOLS[name]
        able = eligibility(bench, protocol)
        suited[name] = able.plain()
        made = makers[name](bench, protocol, able, at)
        readings.append(made["reading"])
        effects += made.get("effects", [])
        figures += made.get("figures", [])
        tables |= made.get("tables", {})
    if effects:
        tables["effects"] = pd.concat(effects, ignore_index=True)
    first = suited[bench.claim.readings[0]]
    return Outcome(
        readings,
        figures,
        tables,
        {**first, "by_protocol": suited},
        settings={"layer": at, "layer_scan": scan, **settings},
        sections=sections,
    )


def set_name(heads: Heads) -> str:
    """The name of the world that patches these heads."""
    return f"set {heads}" if len(heads) else "set"


def set_worlds(protocol: Protocol, sets: Sequence[Heads]) -> list[World]:
    """A world for each distinct set, patched as the protocol says."""
    return [protocol_patch(protocol, set_name(h), h) if len(h) else World(set_name(h)) for h in dict.fromkeys(sets)]


def checked(bench: Bench, protocol: Protocol, pairs: Sequence[EncodedPair], at: int) -> tuple[Any, list[Control]]:
    """Patching everything and edits that write nothing, with graded text; and the two controls read off them."""
    whole = all_heads(bench.lab.grid, at)
    worlds = [
        protocol_patch(protocol, "all", whole),
        protocol_patch(protocol, "baseline", whole, amount=0.0),
        no_op_world(protocol, whole),
    ]
    what = f"{protocol.name} controls L{at}"
    swept, texts = bench.sweep(pairs, worlds, what), bench.texts(pairs, worlds, protocol, what)
    table = with_texts(swept, texts, protocol=protocol.name, arm=protocol.site)
    label = "every head of the layer" if protocol.site == "z" else "every slice of the layer"
    return table, [no_op_control(table, bench.lab), patch_all_control(table, bench.seed, label)]


def unsliced(bench: Bench, claim: Claim, protocol: Protocol, words: str) -> Made | None:
    """The reading of a protocol that overwrites slices, on a model whose output has none; else None."""
    width, n = bench.lab.d_model, bench.lab.grid.n_heads
    if protocol.site == "z" or width % n == 0:
        return None
    why = f"it cannot run: {width} residual channels do not divide into {n} slices"
    return {"reading": Reading(protocol=protocol.name, words=words, verdict=decide(claim, {}, [], impossible=why))}


def without_rank(claim: Claim) -> Claim:
    """A protocol without a null has no rank."""
    kept = tuple(p for p in claim.predictions if p.op != "rank<")
    return claim.model_copy(update={"predictions": kept or claim.predictions})
