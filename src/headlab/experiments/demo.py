"""One claim on models whose truth is known: it wins, it loses, and it is shown up as chance.

The parity claim on four shipped organisms (planted in the even heads; planted in heads that parity does not
describe; natural Llama; natural GPT-NeoX), under both protocols, and on ten null seeds, where the naive reading
shows how often chance is taken for parity.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from headlab import organisms
from headlab.claims import Claim
from headlab.effects import Progress, quiet
from headlab.experiments.known import adjusted, builtin_claims
from headlab.experiments.trial import trial
from headlab.reading.callables import callable_as
from headlab.stats import Estimate, clopper_pearson
from headlab.store import Record, Result, Run, Store
from headlab.trials.alternatives import saved
from headlab.trials.record import versions
from headlab.trials.results import handed_on

MODELS = ("decimals-planted-even", "decimals-planted-random", "decimals-natural", "decimals-natural-neox")


def nulls() -> list[str]:
    """The shipped null seeds."""
    return [n for n in organisms.names() if n.startswith("decimals-null-")]


def demo(
    *,
    pairs: int = 100,
    store: Store | Path | str | None = None,
    progress: Progress = quiet,
    seed: int = 0,
    workers: int = 1,
) -> Result:
    """Run the demonstration: a summary record whose children are the trials.

    ``pairs`` test pairs each (the default of ``trial`` is larger); the matched null runs on z.  ``workers`` processes
    of one thread each share the trials (a script that asks for more than one needs the usual main guard).  An
    interrupted demo goes on with the trials that it had not finished.
    """
    import pandas as pd

    home = store if isinstance(store, Store) else Store(store)
    claim = adjusted(builtin_claims()["parity"], pairs=pairs, seed=seed)
    plain = adjusted(claim, readings=("standard",))
    todo = {m: claim for m in MODELS} | {m: plain for m in nulls()}
    inputs = {"claim": claim.model_dump(mode="json"), "models": list(todo)}
    draft: dict[str, Any] = {
        "claim": claim.model_dump(mode="json"),
        "versions": versions(),
        "settings": {"pairs": pairs, "seed": seed},
        "call": {"command": f"headlab demo --pairs {pairs}", "python": f"headlab.demo(pairs={pairs})"},
    }
    title = f"One claim on {len(todo)} models"
    with home.open(kind="demo", slug="demo", title=title, inputs=inputs, draft=draft) as run:
        if run.finished is not None:
            return handed_on(home, run.finished)
        tried = _tried_here if workers < 2 else _tried_by_workers
        ids = tried(todo, home, run, _Gauge(progress, len(todo)), workers)
        children = [home.record(ids[model]) for model in todo]
        summary = pd.DataFrame([_row(c) for c in children])
        run.table("summary", summary)
        record = run.finish(
            children=[c.id for c in children],
            sections=[_chance(children)],
            notes=[
                "Eligible pairs and layers differ by model; each trial's own record (headlab show ID) has its pairs.",
                *filter(None, [saved([c.settings for c in children])]),
            ],
        )
    return handed_on(home, record, {"summary": summary}, children)


class _Gauge:
    """Many trials as one progress: each counts 1,000, most of them for the sweep of its null."""

    def __init__(self, progress: Progress, models: int) -> None:
        self.progress, self.total = progress, 1000 * models
        self.at: dict[str, int] = {}

    def __call__(self, model: str, what: str, done: int, total: int) -> None:
        if what.startswith("matched halves") and total:
            self.at[model] = 100 + 800 * done // total
        elif what == "done":
            self.at[model] = 1000
        self.progress("trials", sum(self.at.values()), self.total)


def _tried_here(todo: Mapping[str, Claim], home: Store, _run: Run, gauge: _Gauge, _workers: int) -> dict[str, str]:
    """One after another; what an interrupted demo had finished is handed on by the store."""
    ids = {}
    for model, claim in todo.items():
        tell = partial(gauge, model)
        ids[model] = _trial_id(claim, model, home, tell)
        tell("done", 1, 1)
    return ids


def _trial_id(claim: Claim, model: str, home: Store, tell: Progress) -> str:
    return trial(claim, model, store=home, progress=tell).record.id


def _tried_by_workers(todo: Mapping[str, Claim], home: Store, run: Run, gauge: _Gauge, workers: int) -> dict[str, str]:
    """The same in processes of one thread each; they report through a queue."""
    import multiprocessing
    import queue
    from concurrent.futures import ProcessPoolExecutor

    ids: dict[str, str] = {}
    context = multiprocessing.get_context("spawn")
    told: Any = context.Manager().Queue()
    with ProcessPoolExecutor(max(1, min(workers, len(todo))), mp_context=context) as pool:
        # big models first, so that the last ones to end are small
        waiting = {
            m: pool.submit(_work, c.model_dump_json(), m, str(home.root), told)
            for m, c in sorted(todo.items(), key=lambda item: "neox" not in item[0])
        }
        try:
            while not all(f.done() for f in waiting.values()):
                with suppress(queue.Empty):
                    gauge(*told.get(timeout=0.2))
                for model, made in waiting.items():
                    if made.done() and model not in ids:
                        ids[model] = made.result()
                        run.adopt(ids[model])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return ids | {m: f.result() for m, f in waiting.items()}


def _work(claim: str, model: str, root: str, told: Any) -> str:
    """One trial in a worker process."""
    import time

    import torch

    torch.set_num_threads(1)
    last = 0.0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.5:
            last = time.monotonic()
            told.put((model, what, done, total))

    found = _trial_id(Claim.model_validate_json(claim), model, Store(root, hold=True), tell)
    told.put((model, "done", 1, 1))
    return found


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
    shown = [clopper_pearson(k, len(decided), unit="null seeds") for k in (found, upheld)]
    layers = ", ".join(
        f"{c.model['name'].removeprefix('decimals-null-')}: layer {c.settings.get('layer')}" for c in decided
    )
    if not decided:
        return {"heading": "Chance taken for a finding", "text": f"None of the {len(seeds)} null seeds could be tried."}
    text = (
        f"In {len(decided)} of {len(seeds)} null seeds (models trained alike but for their seed, with nothing planted) the "
        f"claim could be tried, each at the layer that repairs ({layers}). The naive reading, a repair contrast of "
        f"at least .5 with no null, finds parity in {found} of {len(decided)} ({shown[0]}). headlab, which ranks the contrast "
        f"among all matched halves, upholds the claim in {upheld} of {len(decided)} ({shown[1]})."
    )
    return {"heading": "Chance taken for a finding", "text": text}


callable_as(__name__, demo)
