"""One claim on models whose truth is known: it wins, it loses, and it is shown up as chance.

The parity claim on four shipped organisms (planted in the even heads; planted in heads that parity does not
describe; natural Llama; natural GPT-NeoX), under both protocols, and on ten null seeds, where the naive reading
shows how often chance is taken for parity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headlab import organisms
from headlab.claims import Claim
from headlab.effects import Progress, quiet
from headlab.experiments.base import Result, versions
from headlab.experiments.trial import adjusted, builtin_claims, trial
from headlab.stats import Estimate, clopper_pearson
from headlab.store import Record, Store

MODELS = ("decimals-planted-even", "decimals-planted-random", "decimals-natural", "decimals-natural-neox")


def nulls() -> list[str]:
    """The shipped null seeds."""
    return [n for n in organisms.names() if n.startswith("decimals-null-")]


def demo(
    *, pairs: int = 100, store: Store | Path | str | None = None, progress: Progress = quiet, seed: int = 0
) -> Result:
    """Run the demonstration: a summary record whose children are the trials.

    ``pairs`` test pairs each (the default of ``trial`` is larger); the matched null runs on z.  An interrupted demo
    goes on with the trial in which it stopped.
    """
    import pandas as pd

    home = store if isinstance(store, Store) else Store(store)
    claim = adjusted(builtin_claims()["parity"], pairs=pairs, seed=seed)
    plain = adjusted(claim, readings=("standard",))
    todo = [(m, claim) for m in MODELS] + [(m, plain) for m in nulls()]
    inputs = {"claim": claim.model_dump(mode="json"), "models": [m for m, _ in todo]}
    draft: dict[str, Any] = {
        "claim": claim.model_dump(mode="json"),
        "versions": versions(),
        "settings": {"pairs": pairs, "seed": seed},
        "call": {"command": f"headlab demo --pairs {pairs}", "python": f"headlab.demo(pairs={pairs})"},
    }
    with home.open(kind="demo", slug="demo", title="One claim on fourteen models", inputs=inputs, draft=draft) as run:
        children = []
        for n, (model, one) in enumerate(todo):

            def tell(what: str, done: int, total: int, n: int = n, model: str = model) -> None:
                progress(f"{n + 1} of {len(todo)} {model}: {what}", done, total)

            def tried(one: Claim = one, model: str = model, tell: Progress = tell) -> pd.DataFrame:
                return pd.DataFrame({"id": [trial(one, model, store=home, progress=tell).record.id]})

            children.append(home.record(run.shard(f"trial of {model}", tried)["id"][0]))
        summary = pd.DataFrame([_row(c) for c in children])
        run.table("summary", summary)
        record = run.finish(
            children=[c.id for c in children],
            sections=[_chance(children)],
            notes=[
                f"Eligible pairs and layers differ by model; each trial's own record (headlab show ID) has its {pairs} pairs."
            ],
        )
    return Result(record, {"summary": summary}, tuple(children))


def _estimate(record: Record, protocol: str, name: str) -> Estimate | None:
    for reading in record.readings:
        for e in reading.estimates:
            if reading.protocol == protocol and e.name == name and e.arm in {"z", "out_block"}:
                return Estimate.from_dict(e.estimate)
    return None


def _row(record: Record) -> dict[str, Any]:
    out: dict[str, Any] = {"id": record.id, "model": record.model["name"], "layer": record.settings.get("layer")}
    out |= {r.protocol: r.verdict.outcome for r in record.readings}
    for name in ("repair:even", "repair:odd", "contrast:repair", "rank:even"):
        found = _estimate(record, "standard", name)
        out |= {name: found.value, f"{name} low": found.low, f"{name} high": found.high} if found else {}
    return out


def _chance(children: list[Record]) -> dict[str, str]:
    """How often the naive reading finds parity in the null seeds, against how often headlab upholds it."""
    seeds = [c for c in children if c.model["name"].startswith("decimals-null-")]
    decided = [c for c in seeds if c.outcome in {"upheld", "refuted", "undecided"}]
    found = sum(r.verdict.outcome == "upheld" for c in decided for r in c.readings if r.protocol == "naive")
    upheld = sum(c.outcome == "upheld" for c in decided)
    shown = [clopper_pearson(k, len(decided), unit="null seeds") if decided else None for k in (found, upheld)]
    layers = ", ".join(
        f"{c.model['name'].removeprefix('decimals-null-')}: layer {c.settings.get('layer')}" for c in decided
    )
    text = (
        f"In {len(decided)} of {len(seeds)} null seeds (models trained alike but for their seed, with nothing planted) the "
        f"claim could be tried, each at the layer that repairs ({layers or 'none'}). The naive reading, a repair contrast of "
        f"at least .5 with no null, finds parity in {found} of {len(decided)} ({shown[0]}). headlab, which ranks the contrast "
        f"among all matched halves, upholds the claim in {upheld} of {len(decided)} ({shown[1]})."
    )
    return {"heading": "Chance taken for a finding", "text": text}
