"""Change points of every tracked quantity of every series, and the controls on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headlab.claims import Control, judged
from headlab.measures.checkpoints import WHOLE
from headlab.stats import Estimate, clopper_pearson, holm
from headlab.stats.change_point import ChangePoint, change_point

NORMS = ("norm qk", "norm ov")
LABELS = {
    "excess": "clustering above its null, norms removed",
    "with norms": "clustering with norms left in",
    "published": "clustering of the published blocks",
    "norm qk": "norm of W_QK, relative to its first look",
    "norm ov": "norm of W_OV, relative to its first look",
    "outlier": "largest block norm over its layer's median",
    "parity": "pairs repaired by even minus odd heads",
}
SHUFFLES = 199
_ROUNDING = 1e-12


def label(quantity: str, layer: int) -> str:
    """A tracked quantity in words."""
    if quantity.startswith("repair"):
        return f"layer {layer}: pairs repaired by {quantity.split()[1]} heads"
    prompt, _, category = quantity.partition(" ")
    if prompt in {"clean", "corrupted"}:
        return f"{category} pairs answered rightly from the {prompt} prompt"
    words = LABELS.get(quantity, quantity)
    return words if layer == WHOLE else f"layer {layer}: {words}"


def trace(looks: Any, series: str, quantity: str, layer: int = WHOLE) -> Any:
    """The looks at one quantity of one series at which it is defined, by step."""
    if quantity == "published":
        rows = looks[(looks["series"] == series) & looks["quantity"].str.startswith("published ")]
        made = rows.groupby("step", as_index=False)["value"].mean()
        return made.assign(low=made["value"], high=made["value"]).dropna(subset=["value"])
    rows = looks[(looks["series"] == series) & (looks["quantity"] == quantity) & (looks["layer"] == layer)]
    rows = rows.dropna(subset=["value"]).sort_values("step")
    if quantity in NORMS and len(rows):
        rows = rows.assign(**{k: rows[k] / rows["value"].iloc[0] for k in ("value", "low", "high")})
    return rows


def tracked(looks: Any, series: str, category: str, layer: int) -> list[tuple[str, int]]:
    """What is asked of a series: every quantity in which a change would be called emergence."""
    here = looks[looks["series"] == series]
    layers = sorted(here.loc[here["quantity"] == "repair all", "layer"].unique())
    wanted = [
        ("excess", WHOLE),
        ("with norms", WHOLE),
        ("norm qk", WHOLE),
        ("norm ov", WHOLE),
        ("outlier", WHOLE),
        (f"clean {category}", WHOLE),
        (f"corrupted {category}", WHOLE),
        *(("repair all", int(n)) for n in layers),
        ("parity", layer),
    ]
    have = set(zip(here["quantity"], here["layer"], strict=True))
    return [w for w in wanted if w in have]


def changes_of(
    looks: Any, series: str, wanted: Sequence[tuple[str, int]], *, seed: int, least: float, alpha: float
) -> list[tuple[tuple[str, int], ChangePoint, ChangePoint, float]]:
    """For each quantity its change in level (gradual ones and drifts too), its jump, and the level's p after Holm over the
    quantities of the series."""
    made = []
    for quantity, layer in wanted:
        rows = trace(looks, series, quantity, layer)
        x, at = rows["value"].to_numpy(float), rows["step"].to_numpy(float)
        level = change_point(x, at, seed=seed, least=least, drift=False, alpha=alpha)
        jump = change_point(x, at, seed=seed, kind="jump", least=least, alpha=alpha)
        made.append(((quantity, layer), level, jump))
    known = [i for i, (_, level, _) in enumerate(made) if level.p.value is not None]
    adjusted = dict(zip(known, holm([made[i][1].p.value or 0.0 for i in known]), strict=True)) if known else {}
    return [(*one, float(adjusted.get(i, 1.0))) for i, one in enumerate(made)]


def change_rows(
    series: str, found: Sequence[tuple[tuple[str, int], ChangePoint, ChangePoint, float]], alpha: float
) -> list[dict[str, Any]]:
    """A row for each quantity: whether it changed, between which looks, and whether it jumped there."""
    out = []
    for (quantity, layer), level, jump, adjusted in found:
        changed = level.found and adjusted < alpha
        before, after = level.gap if changed and level.gap else (None, None)
        low, high = level.interval if changed and level.interval else (None, None)
        note = level.note or ("" if changed else f"not after Holm: p = {adjusted:.3g}")
        out.append(
            {
                "series": series,
                "quantity": quantity,
                "layer": layer,
                "what": label(quantity, layer),
                "changed": changed,
                "p": level.p.value,
                "p_holm": adjusted,
                "size": level.size,
                "last_look_before": before,
                "first_look_after": after,
                "low": low,
                "high": high,
                "jump_p": jump.p.value,
                "jumped": jump.found,
                "looks": level.n,
                "note": note,
            }
        )
    return out


def lag(row: Any, onset: int) -> str:
    """How long after the onset the change came, as far as the looks tell."""
    before, after = int(row["last_look_before"]), int(row["first_look_after"])
    if after <= onset:
        return f"{onset - after} to {onset - before} steps before the onset at {onset}"
    return f"{max(0, before - onset)} to {after - onset} steps after the onset at {onset}"


def planted_control(changes: Any, series: str, onset: int) -> Control:
    """Positive: where the even heads of a layer were made to carry the answer, even minus odd must change between the two
    looks that bracket the onset, and the repairs of some layer must be handed over, their interval holding the onset."""
    here = changes[(changes["series"] == series) & changes["changed"]]
    planted, repairs = here[here["quantity"] == "parity"], here[here["quantity"] == "repair all"]
    if planted.empty or repairs.empty:
        missing = "even minus odd" if planted.empty else "no layer's repairs"
        words = f"{series}: {missing} {'does not change' if planted.empty else 'change'}, though planting began at step {onset}"
        return Control(name="planted-onset", kind="positive", passed=False, words=words)
    first, handed = planted.iloc[0], repairs.loc[repairs["size"].abs().idxmax()]
    near = bool(first["last_look_before"] <= onset <= first["first_look_after"])
    inside = all(bool(r["low"] <= onset <= r["high"]) for r in (first, handed))
    words = f"{series}: {_said(first, onset)}; {_said(handed, onset)}"
    return judged("planted-onset", "positive", near and inside, float(first["first_look_after"]), words)


def _said(r: Any, onset: int) -> str:
    inside = "holds" if r["low"] <= onset <= r["high"] else "misses"
    return (
        f"{r['what']} changes by {r['size']:+.3g} between steps {r['last_look_before']:g} and {r['first_look_after']:g} "
        f"(95 % confidence set of gaps {r['low']:g} to {r['high']:g}, which {inside} the onset), {lag(r, onset)}"
    )


def unplanted_control(changes: Any, series: str) -> Control:
    """Negative: in a run in which nothing was planted no layer's repairs change, nor does their parity."""
    rows = changes[(changes["series"] == series) & changes["quantity"].isin(["repair all", "parity"])]
    wrong = rows[rows["changed"]]
    words = (
        f"{series}: no change in {len(rows)} series of repairs; smallest p after Holm {rows['p_holm'].min():.2g}"
        if wrong.empty
        else f"{series}: {wrong.iloc[0]['what']} changes though nothing was planted"
    )
    return Control(name="never-planted", kind="negative", passed=bool(len(rows)) and wrong.empty, words=words)


def shuffled_control(values: Any, steps: Any, *, seed: int, alpha: float) -> Control:
    """Negative: the same looks in a random order of steps show a change no more often than alpha."""
    x, at = np.asarray(values, dtype=float), np.asarray(steps, dtype=float)
    rng = np.random.default_rng(seed)
    told: dict[str, Any] = {"seed": seed, "draws": 199, "drift": False, "alpha": alpha}
    p = [change_point(rng.permutation(x), at, **told).p.value for _ in range(SHUFFLES)]
    hits = sum(one is not None and one < alpha for one in p)
    share = clopper_pearson(hits, SHUFFLES, unit="shuffles")
    words = f"the looks in random order: {hits} of {SHUFFLES} orders show a change at p < {alpha:g} ({share})"
    return judged("shuffled", "negative", share.low is not None and share.low <= alpha, share.value, words)


def twice_control(first: Any, again: Any) -> Control:
    """Negative, exact: a checkpoint loaded and measured twice gives the same numbers; sums of doubles may be taken in
    another order when memory is aligned otherwise, so the last bits are allowed."""
    key = ["quantity", "layer"]
    same = len(first) == len(again) and first[key].equals(again[key])
    a, b = (t["value"].to_numpy(float) for t in (first, again))
    undefined = same and bool((np.isnan(a) == np.isnan(b)).all())
    gap = float(np.nanmax(np.abs(a - b), initial=0.0)) if undefined else float("inf")
    words = (
        f"the first checkpoint, loaded and measured twice: largest difference of {len(first)} numbers {gap:.2g}"
        if undefined
        else "the first checkpoint, loaded and measured twice, gives other rows"
    )
    passed = gap <= _ROUNDING
    return Control(name="loaded-twice", kind="negative", passed=passed, words=words, value=gap if undefined else None)


def place(change: ChangePoint, last: float) -> Estimate:
    """The first look after the change as a share of training, 0 to 1."""
    e = change.estimate
    if e.value is None or e.low is None or e.high is None:
        return Estimate.undefined("looks", e.n, change.note, method=e.method)
    return Estimate(e.value / last, e.low / last, e.high / last, e.n, "looks", e.method, e.level, e.seed, e.note)
