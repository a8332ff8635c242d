"""What many machines do in an hour: ``python -m benchmarks.scale --docs`` writes the tables of docs/scale.md.

1. Rates: headlab's milliseconds for an intervention, of one thread, measured here; of a card, from a result of
   ``benchmarks/gpu.sh``, if there is one.
2. A simulation of many workers on the real plan (:func:`headlab.engine.plan.make_plan`), with the real queue and the real
   rule for lost workers (:mod:`headlab.engine.scale.ray`): only the clock and the luck are made up, from a seed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.envs import ROOT
from benchmarks.results import commit, machine

PAGE, CARD = ROOT / "docs" / "scale.md", ROOT / "benchmarks" / "results" / "cuda.json"
MARKS = "<!-- written by python -m benchmarks.scale -->", "<!-- end -->"


@dataclass(frozen=True)
class Luck:
    """``spread``: sigma of the logarithm of a shard's time.  ``slow`` of the workers take ``times`` as long for everything.
    A worker lives ``life`` hours on average (exponential; None: for ever), and a fresh one is ready after ``start`` seconds.
    """

    spread: float = 0.1
    slow: float = 0.0
    times: float = 4.0
    life: float | None = None
    start: float = 60.0


CASES = {
    "nothing happens": Luck(),
    "one worker in 50 is 4 times slower": Luck(slow=0.02),
    "a worker lives 10 hours": Luck(life=10.0),
    "a worker lives 1 hour": Luck(life=1.0),
    "1 in 50 slower, lives 10 hours": Luck(slow=0.02, life=10.0),
}


@dataclass(frozen=True)
class Outcome:
    """Seconds from the first start to the last row; workers lost; shards that ran again; ``efficiency``: seconds of all
    shards on a worker to which nothing happens, over workers × makespan."""

    makespan: float
    lost: int
    again: int
    efficiency: float


def plan_of(pairs: int, worlds: int) -> Any:
    """The real plan of a sweep of two-token prompts under worlds of one shape: what is cut does not depend on the model."""
    from headlab.engine.plan import Cost, make_plan
    from headlab.heads import Heads
    from headlab.interventions import Intervention, World
    from headlab.prompts import Encoded, EncodedPair, Pair, Prompt

    one = Encoded((3, 4), 2, {"last": (1,)}, frozenset(), 1, 2, "")
    asked = [EncodedPair(Pair(f"p{i}", Prompt("a"), Prompt("b"), "x", "y"), one, one) for i in range(pairs)]
    tried = [World(f"w{j}", (Intervention(Heads.of(0, (0,)), amount=j / worlds),)) for j in range(worlds)]
    return make_plan(asked, tried, Cost(1, 1, heads=2**13, residual=2**13), tokens=12_000)


def simulate(shards: Sequence[Any], workers: int, per_row: float, luck: Luck, seed: int) -> Outcome:
    """A sweep of these shards, ``per_row`` seconds a row where nothing happens.

    Raises RuntimeError where a shard loses its worker as often as the engine allows.
    """
    from headlab.engine.scale.ray import LOST_AT_MOST, Hand, Queue, block_of

    rng, todo, number = random.Random(seed), Queue(shards), 0
    hands, losses, lost, again, now = [Hand(None) for _ in range(min(workers, len(shards)))], {}, 0, 0, 0.0
    pace, ends, events = {}, {}, list[tuple[float, int, Hand]]()

    def hire(hand: Hand, at: float) -> None:
        pace[id(hand)] = luck.times if rng.random() < luck.slow else 1.0
        ends[id(hand)] = at + (rng.expovariate(1 / (3600 * luck.life)) if luck.life else float("inf"))

    def begin(hand: Hand, at: float) -> None:
        nonlocal number
        shard = todo.take(hand, hands)
        hand.shard, hand.block = shard, None if shard is None else block_of(shard)
        if shard is not None:
            took = len(shard.rows) * per_row * pace[id(hand)] * rng.lognormvariate(-(luck.spread**2) / 2, luck.spread)
            number += 1
            heapq.heappush(events, (min(at + took, ends[id(hand)]), number, hand))

    for hand in hands:
        hire(hand, 0.0)
        begin(hand, luck.start)
    while events:
        now, _, hand = heapq.heappop(events)
        if now < ends[id(hand)]:
            begin(hand, now)
        else:
            shard, lost, again = hand.shard, lost + 1, again + 1
            losses[shard.name] = losses.get(shard.name, 0) + 1
            if losses[shard.name] >= LOST_AT_MOST:
                raise RuntimeError(f"shard {shard.name!r} lost its worker {losses[shard.name]} times")
            todo.put_back(shard)
            hands[hands.index(hand)] = fresh = Hand(None)
            hire(fresh, now)
            begin(fresh, now + luck.start)  # as the engine does: the fresh worker, not an idle one, takes it up
    ideal = per_row * sum(len(s.rows) for s in shards)
    return Outcome(now, lost, again, ideal / (workers * now))


def table(pairs: int, worlds: int, per_row: float, workers: Sequence[int], seeds: int) -> list[str]:
    """Markdown: each number of workers and case, means over seeds."""
    shards = plan_of(pairs, worlds).shards
    rows = sum(len(s.rows) for s in shards)
    out = [f"{rows:,} rows of {1000 * per_row:g} ms in {len(shards):,} shards; means of {seeds} draws.", "",
           "| workers | luck | makespan | efficiency | workers lost | run again |", "|---|---|---|---|---|---|"]  # fmt: skip
    for n in workers:
        for name, luck in CASES.items():
            try:
                found = [simulate(shards, n, per_row, luck, seed) for seed in range(seeds)]
            except RuntimeError as error:
                out.append(f"| {n:,} | {name} | ends: {error} | | | |")
                continue
            took, share, lost, again = (
                statistics.mean(getattr(o, part) for o in found) for part in ("makespan", "efficiency", "lost", "again")
            )
            out.append(f"| {n:,} | {name} | {took / 60:.1f} min | {share:.2f} | {lost:.1f} | {again:.1f} |")
    return [*out, ""]


def measured(threads: int = 1) -> dict[str, float]:
    """Milliseconds of processor for an intervention, one sweep on one thread: job Z of the benchmarks' GPT-2 and Llama
    shapes, and an organism's."""
    import torch

    from benchmarks import models
    from benchmarks.card.shape import model_of
    from benchmarks.jobs import build
    from benchmarks.peers.headlab_ import Driven
    from benchmarks.timing import timed

    torch.set_num_threads(threads)
    found = {}
    for name in ("gpt2-124m-like", "llama-like"):
        spec = models.MODELS[name]
        model = model_of(spec.family, spec.sizes, device="cpu", dtype="float32")
        ours = Driven((model, models.words(spec.sizes["vocab_size"])), "cpu", "float32")
        job = build(name="Z", model=name, n=64, n_heads=model.config.num_attention_heads, tokenizer=None)
        ours.prepare(job, "headlab", [0])
        found[name] = (
            1000 * min(timed(lambda o=ours, j=job: o.run(j, "headlab", range(64), 32), "cpu")[1] for _ in "ab") / 64
        )
    return found


def hours(rates: dict[str, float], card: dict[str, Any] | None) -> list[str]:
    """Markdown: interventions an hour, at the efficiency of the simulation's last case where there are many."""
    out = ["| job Z on | measured | 1 of these | 8 | 100 machines |", "|---|---|---|---|---|"]
    many = "800 cards" if card else ""
    for name, ms in rates.items():
        each = 3.6e6 / ms
        some = " | ".join(f"{n * each:,.0f}" for n in (1, 8, 1600))
        out.append(f"| {name}, one core | {ms:.3g} ms of processor | {some} (1,600 cores) |")
    entries = [e for e in (card or {}).get("entries", []) if e["methods"].get("headlab", {}).get("status") == "ok"]
    for entry in entries:
        ms = statistics.median(entry["methods"]["headlab"]["wall"])
        each = 3.6e6 / ms
        out.append(f"| {entry['model']} {entry['job']}, {card['machine']['gpu']} | {ms:.3g} ms | {each:,.0f} | {8 * each:,.0f} | "
                   f"{800 * each:,.0f} ({many}) |")  # fmt: skip
    if not entries:
        out.append("| the 8B shape, one card | **not measured** (`bash benchmarks/gpu.sh`) | – | – | – (800 cards) |")
    return [*out, ""]


def section(rates: dict[str, float], card: dict[str, Any] | None, told: str, simulated: Sequence[str]) -> str:
    said = "These are products of one rate; what luck costs stands below."
    return "\n".join([MARKS[0], "", told, "", *hours(rates, card), said, "", *simulated, MARKS[1]])


SIMULATED: dict[str, Any] = {"pairs": 4000, "worlds": 5000, "per_row": 0.03, "workers": (100, 1000), "seeds": 3}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--docs", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--card", type=Path, default=CARD, help="result of benchmarks/gpu.sh")
    given = parser.parse_args()
    where = machine(1, None)
    told = f"{where['cpu']}, one thread, load {where['load_at_start']:.1f} at the start; commit {commit(ROOT)}."
    card = json.loads(given.card.read_text(encoding="utf-8")) if given.card.is_file() else None
    text = section(measured(), card, told, table(**SIMULATED))
    print(text)
    if given.docs:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.partition(MARKS[0])[0], page.partition(MARKS[1])[2]
        PAGE.write_text(before + text + after, encoding="utf-8")


if __name__ == "__main__":
    main()
