"""Steering: a direction added in doses, what it does to a readout, and what the model then says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

import pandas as pd

from headlab.effects import Figure
from headlab.engine.decode import generate
from headlab.engine.directions import difference_of_means
from headlab.engine.model import Lab
from headlab.engine.recall import recalling
from headlab.engine.run import sweep
from headlab.heads import Heads
from headlab.interventions import World, across
from headlab.looking.given import HeadsLike, Pairs, heads_of, pair_of_text, pairs_of
from headlab.looking.grids import BACK, estimates, unit_of, whole_layer
from headlab.looking.look import Look
from headlab.material import Direction, Material, cluster_of
from headlab.prompts import EncodedPair, PromptError
from headlab.reading import brief
from headlab.readouts import Readout

NAME = "steer"


def steer(
    lab: Lab,
    pairs: Pairs,
    where: HeadsLike | int,
    amounts: Sequence[float] = (-2, -1, 0, 1, 2),
    *,
    direction: Direction | None = None,
    text: str = "",
    tokens: int = 20,
    readout: str = "margin",
    seed: int = 0,
) -> Look:
    """Add a direction in doses where the answer is read, and read what becomes of it.

    Definition: ``amount`` times the direction is added to the corrupted run at the position where it is read (and, in
        ``text``, at its last token and every token generated).  ``where``: heads by name (their z), or the number of a layer
        (what leaves it).  Without a ``direction`` it is the mean of the clean runs less that of the corrupted ones, taken on
        half of the clusters (every other one) and tried on the rest; amount 1 is one such difference.
    Table: ``amount``, ``value`` (the readout) with its 95 % interval ``low`` … ``high`` (clusters resampled), ``n`` pairs, and
        ``text``: the greedy continuation of a text of yours, of at most ``tokens`` tokens.
    Units: those of the readout (margin: logits).
    Raises: InterventionError for a direction without a vector for ``where``, PromptError for a single cluster, ValueError for
        no pairs, no amounts, no such head or layer.
    Source: Turner et al. 2023, arXiv:2308.10248; Rimsky et al. 2023, arXiv:2312.06681 (difference of means).
    When it misleads: any direction of that length may do as much (a trial ranks it among others); large amounts leave what
        the model knows, and a margin that grows there says nothing of text.
    """
    encoded, kind = pairs_of(lab, pairs), Readout(readout)
    doses = _doses(amounts)
    layer = lab.grid.check_layer(int(where)) if isinstance(where, Integral) else None
    if layer is None:
        site, named = "z", heads_of(lab, where)  # type: ignore[arg-type]
    else:
        site, named = "resid", Heads.of(layer, [0])
    tried = encoded
    if direction is None:
        lent, tried = _halves(encoded)
        direction = difference_of_means(lab, lent, named, site=site)  # type: ignore[arg-type]
    material = Material(directions={NAME: direction})

    def worlds(**fields: object) -> list[World]:
        edit = {"site": site, "write": "add", "direction": NAME, **fields}
        return [World(f"{amount:g}", across(lab.grid, named, amount=amount, **edit)) for amount in doses]  # type: ignore[arg-type]

    with recalling(lab):
        made = sweep(lab, tried, worlds(roles=("read",)), material=material, readouts=(kind,))
    rows = _measured(made, tried, doses, seed)
    table = pd.DataFrame(rows)
    if text:
        lasting = worlds(roles=("last",), when="every_step")
        said = generate(
            lab, [pair_of_text(lab, text)], lasting, start="prompt", max_new_tokens=tokens, material=material
        )
        table["text"] = list(said["text"])
    place = f"layer {layer}" if layer is not None else str(named)
    figure = _curve(rows, place, len(tried), kind)
    at = "" if layer is None else "site: resid, "
    best, ranks = (tuple(named), {"heads": len(named)}) if layer is None else whole_layer(lab, layer)
    edit = f"{{heads: named, {at}write: add, direction: other, roles: [read]}}"
    words = f"What the two runs differ by at {place} gives the answer back."
    terms = {**BACK, "worlds": {"steered": edit}, "words": words, **ranks}
    seen = tuple(e.pair for e in encoded)
    return Look(table, figure, unit_of(kind), seen, (text,) if text else (), best, terms, lab.tokenizer)


def _measured(
    made: pd.DataFrame, tried: Sequence[EncodedPair], doses: Sequence[float], seed: int
) -> list[dict[str, float | None]]:
    wide = made.pivot(index="pair", columns="world", values="edited")[[f"{a:g}" for a in doses]]
    return [{"amount": a, **m} for a, m in zip(doses, estimates(wide.to_numpy(), tried, seed), strict=True)]


def _doses(amounts: object) -> list[float]:
    doses = [float(a) for a in amounts] if isinstance(amounts, Iterable) and not isinstance(amounts, str) else []
    if not doses or len(set(doses)) != len(doses):
        raise ValueError(f"amounts are different numbers such as (-1, 0, 1), given {brief(amounts)}")
    return doses


def _curve(rows: Sequence[Mapping[str, object]], place: str, n: int, kind: Readout) -> Figure:
    points = tuple(
        {**{k: r[k] for k in ("low", "high")}, "x": r["amount"], "y": r["value"], "series": place} for r in rows
    )
    options = {"x_title": "amount (differences of means)", "y_title": f"{kind.kind}, {unit_of(kind)}"}
    return Figure("curve", "steering", f"A direction added at {place}: {kind.kind}, {n} pairs", "", points, options)


def _halves(encoded: Sequence[EncodedPair]) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Pairs that lend and pairs that are tried: every other cluster.  Raises PromptError for a single cluster."""
    names = list(dict.fromkeys(cluster_of(e) for e in encoded))
    if len(names) < 2:
        raise PromptError("a direction from pairs needs two clusters: one lends, the other is tried; give more pairs")
    lends = set(names[::2])
    lent = [e for e in encoded if cluster_of(e) in lends]
    return lent, [e for e in encoded if cluster_of(e) not in lends]
