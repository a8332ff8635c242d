"""Does it matter under which index a head is stored?

1. Draw random re-indexings of every layer: whole KV groups change places, and query heads inside them, each with all its
   weights (rows of W_Q, W_K, W_V, columns of W_O, biases, and whatever else belongs to one head).
2. The largest change of any logit on the test prompts.  A re-indexing counts as changing the model when it exceeds the
   tolerance (rounding of float32 sums taken in another order).
3. At one layer, patch the even, the odd, all and some random heads from the clean run, before and, wherever those heads
   went, after each re-indexing: does every pair come out as before?
4. Beside it, patch the even *indices* after each re-indexing: other heads now, so what they repair is a draw.
5. The identity must change nothing, bit for bit; heads torn apart, and the published procedure, must change something.
6. As published: one layer with input columns of W_Q and output rows of W_O permuted under the name of heads, then the
   even set and a spread-out set patched and their repairs counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from headlab.claims import PROTOCOLS, Control, decide
from headlab.effects import Figure, repair
from headlab.engine.model import ModelError
from headlab.engine.reindexing import scrambled
from headlab.experiments.exchanges.reindexed_sets import INDEX, Moved, controls, re_index, scrambles
from headlab.heads import Grid, Heads, even
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, bootstrap_mean, clopper_pearson
from headlab.store import Reading
from headlab.trials import charts
from headlab.trials.case import Bench
from headlab.trials.experiment import Program
from headlab.trials.findings import Findings as Outcome
from headlab.trials.flow import layer_of, unsliced
from headlab.trials.pairs import eligibility, named, protocol_patch, with_texts
from headlab.trials.sweeps import Scope

STATISTICS = (
    "changed:logits",
    "changed:outcomes",
    "logit-change",
    "repair:before",
    "repair:moved",
    "repair:index",
    "repair:even",
    "repair:distributed",
)
CONTROLS = ("identity", "restored", "scrambled", "torn")
OPTIONS: Mapping[str, Any] = {
    "reindexings": 20,
    "tolerance": 1e-4,
    "prompts": 128,
    "outcome_pairs": 100,
    "random_halves": 4,
    "scrambled_pairs": 40,
}
"""``tolerance`` in logits; ``prompts`` whose logits are compared; pairs patched after each re-indexing and, with text, each
scrambling."""


def reindexing(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    if why := _cannot(bench):
        return _untestable(bench, why)
    at, scan = layer_of(bench)
    option = {k: bench.option(k, EXPERIMENT) for k in OPTIONS}
    pairs = bench.encoded[: int(option["outcome_pairs"])]
    encoded = [e for p in bench.encoded for e in (p.clean, p.corrupted)][: int(option["prompts"])]
    n, tolerance = int(option["reindexings"]), float(option["tolerance"])
    try:
        moved = re_index(bench, pairs, encoded, at, n, int(option["random_halves"]))
        orders = scrambles(bench.lab.grid, n, bench.seed)
        checks, torn = controls(bench.lab, encoded, at, orders, tolerance, bench.seed)
    except ModelError as error:
        return _untestable(bench, str(error))
    readings, tables, extra = [], [_effects(moved)], {}
    for name in bench.claim.readings:
        if name == "standard":
            readings.append(_standard(bench, moved, tolerance, checks))
        else:
            reading, table, extra = _published(bench, at, orders, torn, tolerance, checks)
            readings.append(reading)
            tables += [table] if table is not None else []
    rows, other = _rows(moved, tolerance), _scrambled_rows(torn, extra, tolerance)
    figures = [_logit_figure(rows, other, tolerance), _repair_figure(moved, rows, at, bench.seed)]
    figures += [_published_figure(other, at)] if extra else []
    return Outcome(
        readings,
        figures,
        {
            "effects": pd.concat(tables, ignore_index=True),
            "reindexings": pd.DataFrame(rows),
            "scramblings": pd.DataFrame(other),
        },
        {
            "ok": True,
            "reason": "",
            "rule": "none: whether the function stays is measured, not whether answers are right",
        },
        settings={"layer": at, "layer_scan": scan, **option, "orders": [r.orders for r in moved.relabellings]},
        sections=_SECTIONS,
    )


def _cannot(bench: Bench) -> str:
    lab = bench.lab
    if lab.dtype not in (torch.float32, torch.float64):
        said = str(lab.dtype).removeprefix("torch.")
        return f"{lab.name} was loaded in {said}, where sums in another order differ by more than the tolerance; load it in float32"
    if lab.grid.n_heads < 2:
        return f"{lab.name} has one head in each layer, so there is no other order"
    return ""


def _untestable(bench: Bench, why: str) -> Outcome:
    verdict = decide(bench.claim, {}, [], impossible=why)
    readings = [Reading(protocol=name, words=why, verdict=verdict) for name in bench.claim.readings]
    return Outcome(readings, [], {}, {"ok": False, "reason": why})


def _standard(bench: Bench, moved: Moved, tolerance: float, checks: Sequence[Control]) -> Reading:
    seed, n, worst = bench.seed, len(moved.change), max(moved.change)
    differing = moved.differing()
    findings = {
        "changed:logits": clopper_pearson(sum(c > tolerance for c in moved.change), n, unit="re-indexings"),
        "changed:outcomes": clopper_pearson(sum(d > 0 for d in differing), n, unit="re-indexings"),
    }
    estimates = [
        named(
            "changed:logits", f"re-indexings that change a logit by more than {tolerance:g}", findings["changed:logits"]
        ),
        named(
            "changed:outcomes", "re-indexings after which a moved set repairs other pairs", findings["changed:outcomes"]
        ),
        named(
            "logit-change",
            f"largest change of a logit, mean over re-indexings (none above {worst:.2g})",
            bootstrap_mean(moved.change, unit="re-indexings", seed=seed),
        ),
        named("repair:before", "even heads before: pairs repaired", _repaired([moved.base], "even", seed)),
        named(
            "repair:moved",
            "the same heads after, wherever they went: pairs repaired",
            _repaired(moved.after, "even", seed),
        ),
        named(
            "repair:index",
            "even indices after, other heads each time: pairs repaired, mean over re-indexings",
            _repaired(moved.after, INDEX, seed),
        ),
    ]
    findings |= {e.name: Estimate.from_dict(e.estimate) for e in estimates}
    return Reading(
        protocol="standard",
        words=f"heads moved with all their weights in every layer, {moved.relabellings[0].moved} of them in the first draw; "
        "sets patched wherever their heads went (z, same roles, repaired when the logit difference is positive)",
        verdict=decide(bench.claim, findings, checks),
        estimates=tuple(estimates),
    )


def _repaired(tables: Sequence[Any], world: str, seed: int) -> Estimate:
    """Share of pairs with a positive logit difference, averaged over tables within each pair; interval over pairs."""
    rows = [t[t["world"] == world].sort_values("pair") for t in tables]
    share = np.mean([r["edited"].to_numpy() > 0 for r in rows], axis=0)
    return bootstrap_mean(share, clusters=rows[0]["cluster"].to_numpy(), unit="pairs", seed=seed)


def distributed(grid: Grid, at: int) -> Heads:
    """As many heads as there are even ones, spread over the layer with both parities (0, 3, 4, 7, 8, …)."""
    return Heads.of(at, [h for h in range(grid.n_heads) if h % 4 in (0, 3)])


_PUBLISHED = (
    "the published procedure: one layer with input columns of W_Q and output rows of W_O permuted, K and V left; slices of the "
    "attention module's output patched at the same indices, left-aligned, every step, any mention counted"
)


def _published(
    bench: Bench,
    at: int,
    orders: Mapping[str, Sequence[int]],
    torn: Mapping[str, float],
    tolerance: float,
    checks: Sequence[Control],
) -> tuple[Reading, Any, dict[str, dict[str, float]]]:
    """The reading, its effects, and the share of repairs of each pattern by scrambling."""
    import pandas as pd

    claim, lab, protocol = bench.claim, bench.lab, PROTOCOLS["published"]
    if why := unsliced(Scope(bench, protocol, at, {})):
        verdict = decide(claim, {}, [], impossible=why)
        return Reading(protocol="published", words=_PUBLISHED, verdict=verdict), None, {}
    able = eligibility(bench, protocol)
    pairs = able.usable(bench)[: int(bench.option("scrambled_pairs", EXPERIMENT))]
    patterns = {"even": even(lab.grid, at), "distributed": distributed(lab.grid, at)}
    tables = {}
    for name, order in orders.items():
        with scrambled(lab, at, order):
            tables[name] = _patched(bench, pairs, patterns, f"scrambled {name}")
    shares = {k: {p: float(t.loc[t["world"] == p, "right"].mean()) for p in patterns} for k, t in tables.items()}
    differ = [
        bool((t["right"].to_numpy() != tables["identity"]["right"].to_numpy()).any())
        for k, t in tables.items()
        if k != "identity"
    ]
    changed = [v > tolerance for k, v in torn.items() if k != "identity"]
    findings = {
        "changed:logits": clopper_pearson(sum(changed), len(changed), unit="scramblings"),
        "changed:outcomes": clopper_pearson(sum(differ), len(differ), unit="scramblings"),
    }
    estimates = [
        named(
            "changed:logits", f"scramblings that change a logit by more than {tolerance:g}", findings["changed:logits"]
        ),
        named("changed:outcomes", "scramblings under which other pairs are repaired", findings["changed:outcomes"]),
    ]
    for pattern in patterns:
        whole = repair(tables["identity"], pattern)
        estimates.append(
            named(f"repair:{pattern}", f"{pattern} slices, unscrambled: pairs repaired", whole, "out_block")
        )
    reading = Reading(
        protocol="published",
        words=_PUBLISHED,
        verdict=decide(claim, findings, checks, ineligible=able.reason),
        estimates=tuple(estimates),
    )
    joined = [t.assign(world=t["world"] + f", order {k}") for k, t in tables.items()]
    return reading, pd.concat(joined, ignore_index=True), shares


def _patched(bench: Bench, pairs: Sequence[EncodedPair], patterns: Mapping[str, Heads], what: str) -> Any:
    """Slices of the scrambled model patched as published, with graded text; of this process's weights only."""
    from headlab.engine.run import sweep

    protocol = PROTOCOLS["published"]
    worlds = [protocol_patch(protocol, name, heads) for name, heads in patterns.items()]
    swept = sweep(bench.lab, pairs, worlds, keep=bench.run, progress=bench.progress, memory=bench.memory, what=what)
    return with_texts(swept, bench.texts(pairs, worlds, protocol, what), protocol="published", arm="out_block")


def _effects(moved: Moved) -> Any:
    import pandas as pd

    after = [t.assign(world=t["world"] + f", re-indexing {i}") for i, t in enumerate(moved.after)]
    return pd.concat([moved.base, *after], ignore_index=True).assign(protocol="standard", arm="z")


def _rows(moved: Moved, tolerance: float) -> list[dict[str, Any]]:
    names = {"repaired_even_moved": "even", "repaired_even_index": INDEX}
    return [
        {
            "reindexing": i,
            "heads_moved": one.moved,
            "largest_logit_change": change,
            "above_tolerance": change > tolerance,
            "outcomes_differing": differing,
            "largest_patched_change": drift,
            **{k: float((table.loc[table["world"] == w, "edited"] > 0).mean()) for k, w in names.items()},
        }
        for i, (one, change, table, differing, drift) in enumerate(
            zip(moved.relabellings, moved.change, moved.after, moved.differing(), moved.drift(), strict=True)
        )
    ]


def _scrambled_rows(
    torn: Mapping[str, float], shares: Mapping[str, Mapping[str, float]], tolerance: float
) -> list[dict[str, Any]]:
    return [
        {
            "scrambling": name,
            "largest_logit_change": change,
            "above_tolerance": change > tolerance,
            **{f"repaired_{k}": v for k, v in shares.get(name, {}).items()},
        }
        for name, change in torn.items()
    ]


_FLOOR = 1e-9
"""Where a change of exactly nothing is drawn on a logarithmic axis."""


def _logit_figure(rows: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], tolerance: float) -> Figure:
    kinds = {"heads re-indexed with all their weights": rows, "scrambled as published": other}
    data = tuple(
        {
            "pair": str(r.get("scrambling", r.get("reindexing"))),
            "world": kind,
            "value": float(np.log10(max(_FLOOR, r["largest_logit_change"]))),
        }
        for kind, some in kinds.items()
        for r in some
        if r.get("scrambling") != "identity"
    )
    return Figure(
        kind="pairs",
        name="logits",
        title="The largest change of any logit",
        caption=(
            f"One dot for each of {len(rows)} random re-indexings and {len(other) - 1} scramblings as published. An exact "
            "re-indexing is the same function, so what is left is the rounding of float32 sums taken in another order; it must "
            "stay left of the line."
        ),
        data=data,
        options={
            "threshold": float(np.log10(tolerance)),
            "x_title": "log10 of the largest change, in logits",
            "unit": "re-indexing or scrambling",
        },
    )


def _repair_figure(moved: Moved, rows: Sequence[Mapping[str, Any]], at: int, seed: int) -> Figure:
    found = _repaired(moved.after, "even", seed)
    title = f"What even heads and even indices of layer {at} repair after re-indexing"
    caption = (
        f"The line: the heads that were even to begin with, patched wherever they went, over {len(rows)} re-indexings; its "
        f"band is the 95 % interval over {found.n} pairs. Each bar counts re-indexings by what the even indices repair "
        "after them: other heads each time, so the bars are a null of random halves with the same KV shape. Keep the "
        "index and change the heads, and repair wanders; keep the heads and change the index, and it stays."
    )
    values, line = [r["repaired_even_index"] for r in rows], (found, "the even heads, moved", "share of pairs repaired")
    return charts.null("repair", title, caption, values, *line, of="re-indexings")


def _published_figure(other: Sequence[Mapping[str, Any]], at: int) -> Figure:
    labels = {"even": "even slices", "distributed": "slices 0, 3, 4, 7, …"}
    data = tuple(
        {
            "pair": r["scrambling"],
            "world": f"{label}, {'unscrambled' if r['scrambling'] == 'identity' else 'scrambled'}",
            "value": r[f"repaired_{pattern}"],
        }
        for pattern, label in labels.items()
        for r in other
    )
    return Figure(
        kind="pairs",
        name="published",
        title=f"Repair after the published permutation of layer {at}",
        caption=(
            "One dot for each order that was tried: the share of pairs whose text counts as repaired when slices at the same "
            "indices are patched. Scrambling rewires the layer to other channels, so this shows damage, not what an index does."
        ),
        data=data,
        options={"x_title": "share of pairs repaired", "unit": "order"},
    )


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "That a re-indexed model computes the same is a theorem: attention sums over heads, and a sum has no order. The "
            "experiment tests the instrument (was every weight of a head moved?), and no outcome of it says that heads are "
            "alike, or that training could not have given even indices something in common. That question is whether the even "
            "set stands out among sets that nobody named (parity). On a large model a change near the tolerance is "
            "rounding, which grows with depth and with the size of the logits: read it beside what the scramblings do."
        ),
    },
    {
        "heading": "What the published permutation did",
        "text": (
            "The script viewed W_Q, stored as (output, input), as (hidden, heads, head size) and permuted the middle axis: the "
            "columns by which every query reads the residual stream. It viewed W_O as (heads, head size, hidden) and permuted "
            "the first: the rows by which every head writes to it. Keys and values stayed. No head changed places; the layer "
            "was wired to other channels, which is why repair fell to 0 %. Only the identity left the model whole, and no "
            "scrambled model was run without a patch. Repair between 0 and 100 % is what damage looks like."
        ),
    },
]

EXPERIMENT = Program(
    slug="reindexing",
    question="Does it matter under which index a head is stored?",
    run=reindexing,
    statistics=STATISTICS,
    controls=CONTROLS,
    options=OPTIONS,
)
