"""At which layers does patching repair, and is it one layer alone?

1. Eligible pairs: right from the clean prompt, wrong from the corrupted one.
2. The layer is the claim's, or chosen by patching every head on pairs that the test never sees; how often resampled
   selection pairs choose the same one stands beside it.
3. At every layer all, even and odd heads are patched from the clean run (z).  The bounds for "no other layer" hold for
   all layers at once.
4. Even against odd at every layer, Holm over layers: sign flips by fraction pair, and the rank among matched halves.
5. The same under the published protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from headlab.effects import Figure, Table, of_world, recovery, repair
from headlab.heads import even, odd
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.stats import Estimate, clustered_rate, holm, sign_flip
from headlab.trials.checks import no_op, patch_all
from headlab.trials.flow import Method, OnPairs, unsliced, without_ranks
from headlab.trials.halves import Halves
from headlab.trials.layer_choice import layers, steady
from headlab.trials.sweeps import Scope, Seen, Sweep, Told

SETS = {"all": "all heads", "even": "even heads", "odd": "odd heads"}
MADE = {"all": all_heads, "even": even, "odd": odd}
CONTROLS = (no_op("layers"), patch_all("layers", "every head of every layer"))


def halves(layer: int) -> Halves:
    return Halves(even, "the even heads", "even − odd", sweep=f"halves L{layer}", layer=layer)


def patched(scope: Scope) -> dict[str, Sweep]:
    """All, even and odd heads of each layer; all heads of all layers; two edits that write nothing."""
    sets = {f"{kind} L{n}": make(scope.grid, n) for n in layers(scope) for kind, make in MADE.items()}

    def everywhere(name: str, **fields: Any) -> World:
        return World(
            name, tuple(scope.edit(name, all_heads(scope.grid, n), **fields).interventions[0] for n in layers(scope))
        )

    own = World("noop") if scope.protocol.when == "every_step" else everywhere("noop", write="noop")
    beside = (everywhere("all"), everywhere("baseline", amount=0.0), own)
    worlds = (*(scope.edit(name, heads) for name, heads in sets.items() if len(heads)), *beside)
    return {"layers": Sweep(worlds, texts=True, arm=scope.protocol.site)}


def standard(scope: Scope) -> dict[str, Sweep]:
    return {**patched(scope), **{halves(n).sweep: halves(n).run(scope) for n in layers(scope)}}


def there(seen: Seen, layer: int) -> dict[str, Any]:
    """The rows of each set of a layer, for the sets that have heads."""
    rows = {kind: of_world(seen["layers"], f"{kind} L{layer}").sort_values("pair") for kind in SETS}
    return {kind: part for kind, part in rows.items() if len(part)}


def at_the_layer(seen: Seen) -> Iterator[Told]:
    """Pairs repaired and logit difference recovered at the layer."""
    at, site = seen.scope.layer, seen.scope.protocol.site
    for kind in there(seen, at):
        yield Told(f"repair:{kind}", f"{SETS[kind]}: pairs repaired", repair(seen["layers"], f"{kind} L{at}"), site)
    for kind in there(seen, at):
        moved = recovery(seen["layers"], f"{kind} L{at}", seed=seen.scope.seed)
        yield Told(f"recovery:{kind}", f"{SETS[kind]}: logit difference recovered", moved, site)


def elsewhere(seen: Seen) -> Iterator[Told]:
    """The most that any other layer repairs, patching all or even heads; bounds that hold for all layers at once."""
    others = [n for n in layers(seen.scope) if n != seen.scope.layer]
    level = 1 - seen.scope.claim.alpha / max(1, len(others))
    for name, kind in (("repair:elsewhere", "all"), ("repair:elsewhere-even", "even")):
        found = {}
        for n in others:
            rows = there(seen, n)[kind]
            clusters = rows["cluster"].to_numpy()
            found[n] = clustered_rate(rows["right"].to_numpy(bool), clusters=clusters, unit="pairs", level=level)
        most = Estimate.undefined("pairs", 0, "there is no other layer")
        if found:
            value, low, high = (max(getattr(e, part) for e in found.values()) for part in ("value", "low", "high"))
            how = f"largest of {len(others)} layers, Bonferroni bounds"
            best = next(n for n, e in found.items() if e.value == value)
            note = f"layer {best} repairs most of the others"
            most = Estimate(value, low, high, found[best].n, "pairs", how, note=note)
        yield Told(name, f"{SETS[kind]}: the most that any other layer repairs", most, seen.scope.protocol.site)


def parity(seen: Seen) -> list[dict[str, Any]]:
    """Even against odd at each layer: sign flips by fraction pair and rank among matched halves, Holm over layers."""
    rows = []
    for n in layers(seen.scope):
        a, b = (of_world(seen["layers"], f"{k} L{n}").sort_values("pair") for k in ("even", "odd"))
        gap = a["right"].to_numpy(float) - b["right"].to_numpy(float)
        flips = sign_flip(gap, clusters=a["cluster"].to_numpy(), seed=seen.scope.seed)
        half = halves(n).found(seen)
        rows.append({"layer": n, "contrast": float(gap.mean()), "n": len(gap), "p": flips.p, "rank_p": half.rank.p})
        rows[-1] |= {"halves": half.rank.n_sets, "recovery_contrast": half.contrast.value}
    for key in ("p", "rank_p"):
        for row, p in zip(rows, holm([r[key] for r in rows]), strict=True):
            row[f"{key}_holm"] = float(p)
    return rows


def among_halves(seen: Seen) -> Iterator[Told]:
    at, tests = seen.scope.layer, seen.once(parity)
    yield Told("rank:even", f"layer {at}: matched halves at least as extreme", halves(at).found(seen).rank)
    for row in tests:
        words = f"layer {row['layer']}: even against odd, sign flips, p after Holm over {len(tests)} layers"
        p = row["p_holm"]
        yield Told(f"holm:L{row['layer']}", words, Estimate(p, p, p, row["n"], "pairs", "sign flips, Holm"))


def scan(seen: Seen) -> Table:
    """A row for each layer and set: pairs repaired, and logit difference recovered."""
    rows = []
    for n in layers(seen.scope):
        for kind in there(seen, n):
            r, c = (
                repair(seen["layers"], f"{kind} L{n}"),
                recovery(seen["layers"], f"{kind} L{n}", seed=seen.scope.seed),
            )
            rows.append({"layer": n, "set": kind, "repaired": r.value, "low": r.low, "high": r.high, "n": r.n})
            rows[-1] |= {"recovered": c.value, "recovered_low": c.low, "recovered_high": c.high, "unit": "pairs"}
    return pd.DataFrame(rows)


def matched(seen: Seen) -> Table:
    return pd.concat([halves(n).table(seen).assign(layer=n) for n in layers(seen.scope)], ignore_index=True)


def by_layer(seen: Seen) -> Figure:
    name = seen.scope.protocol.name
    data = tuple(
        {"x": r["layer"], "y": r["repaired"], "low": r["low"], "high": r["high"], "series": SETS[r["set"]], "n": r["n"]}
        for r in seen.once(scan).to_dict("records")
    )
    how = "chosen on other pairs" if seen.scope.claim.layer == "auto" else "named by the claim"
    caption = (
        "All, even or odd heads of one layer take the clean run's values; bands are 95 % intervals over pairs. The layer "
        f"of the verdict was {how}, so its bar is not the best of many looks. A claim of one layer asks for one peak."
    )
    options = {"threshold": 0.5, "x_title": "layer patched", "y_title": "share of pairs repaired"}
    return Figure("curve", f"layers-{name}", f"Pairs repaired, by the layer patched ({name})", caption, data, options)


EXPERIMENT = OnPairs(
    slug="layer-scan",
    question="Does patching one layer alone repair the bug, its even heads and not its odd ones?",
    statistics=(
        *(f"{what}:{s}" for what in ("repair", "recovery") for s in SETS),
        "repair:elsewhere",
        "repair:elsewhere-even",
        "rank:even",
    ),
    methods={
        "standard": Method(
            "heads (z), same roles, every layer; the layer chosen on pairs that the test never sees",
            standard,
            numbers=(at_the_layer, elsewhere, among_halves, steady),
            controls=CONTROLS,
            figures=(by_layer, lambda seen: halves(n := seen.scope.layer).figure("Even against odd", layer=n)(seen)),
            tables={
                "scan": lambda seen: seen.once(scan),
                "tests": lambda seen: pd.DataFrame(seen.once(parity)),
                "matched": matched,
            },
        ),
        "published": Method(
            "slices of the attention module's output, left-aligned, every step, any mention counted, every layer",
            patched,
            numbers=(at_the_layer, elsewhere),
            controls=CONTROLS,
            figures=(by_layer,),
            tables={"published_scan": lambda seen: seen.once(scan)},
            impossible=unsliced,
            asks=without_ranks,
        ),
    },
    sections={
        "When this misleads": (
            "Patching a layer also carries what every layer below it has written into it, so a later layer can repair "
            "although the computation stands earlier, and two layers that repair need not both be needed. Even against odd "
            "differs at many layers of models in which parity means nothing, because one or two heads carry a layer: a "
            "small p of the sign flips speaks of these pairs, only the rank among matched halves speaks of parity. A layer "
            "chosen and tested on the same pairs looks better than it is."
        )
    },
)
