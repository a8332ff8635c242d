"""What the experiments on attention among thoughts share: rows read and stored, references, exact controls."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headlab import organisms
from headlab.claims import Claim, Control, decide
from headlab.engine.checkpoint import quietly
from headlab.engine.model import open_model
from headlab.experiments.base import Outcome
from headlab.heads import Grid, Head, Heads
from headlab.stats.figures import percent
from headlab.store import Reading
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.attention import SLACK, ThoughtAttention, attention
from headlab.thoughts.hubs import Hubs, corrected, find_hubs
from headlab.thoughts.loading import Thinker, load
from headlab.thoughts.model import Codi
from headlab.thoughts.worlds import Force, ThoughtWorld
from headlab.trials.thought_case import ThoughtBench

Array = np.ndarray
FEW = 48
"""Problems of a control or a reference: enough for ten sets of them."""
UNIFORM = 1e-4
"""How near to one every ratio of a uniform pattern must come: rounding of 32-bit weights."""


def read(
    bench: ThoughtBench, what: str, *, problems: ProblemSet | None = None, thinker: Thinker | None = None,
    world: ThoughtWorld | None = None, batch: int | None = None, tokens: int | None = None,
) -> ThoughtAttention:  # fmt: skip
    """Rows of attention of the test problems (or others) in the model (or another), batch by batch stored in the run."""
    chosen, who = bench.test if problems is None else problems, thinker or bench.thinker
    return attention(
        who, [p.question for p in chosen], [p.id for p in chosen], world, batch=batch or bench.rows,
        max_new_tokens=tokens or bench.claim.options.get("max_new_tokens", 12), keep=bench.run.shard,
        progress=bench.progress, what=f"{what} ({who.name} {who.lab.fingerprint[:8]})",
    )  # fmt: skip


def matrices(found: ThoughtAttention) -> Array:
    """Attention among thoughts, [problem, head of any layer, thought, key]."""
    among = found.among
    return among.reshape(len(among), -1, *among.shape[-2:])


def clusters_of(problems: ProblemSet) -> list[str]:
    return [p.cluster for p in problems]


def every_head(grid: Grid) -> Heads:
    """All heads of all layers."""
    return Heads(Head(at, h) for at in range(grid.n_layers) for h in range(grid.n_heads))


def head_names(grid: Grid) -> list[str]:
    return [str(h) for h in every_head(grid)]


def lengths(thinker: Thinker, problems: ProblemSet) -> list[int]:
    """Tokens of each question, without ``bot``."""
    return [len(thinker.tokenizer(p.question.strip().replace("  ", " ")).input_ids) for p in problems]


def few(bench: ThoughtBench, n: int = FEW) -> ProblemSet:
    """Test problems of the commonest lengths, which run together: for controls and references."""
    each = lengths(bench.thinker, bench.test)
    count = Counter(each)
    order = sorted(range(len(each)), key=lambda i: (-count[each[i]], each[i], i))
    return bench.test.subset(bench.test[i] for i in sorted(order[:n]))


def cannot(bench: ThoughtBench) -> str:
    """Why this model has no attention among thoughts to speak of; empty when it has."""
    n = bench.n_thoughts
    return "" if n >= 4 else f"{bench.thinker.name} is fed {n} thoughts; attention among thoughts needs at least 4"


def untestable(bench: ThoughtBench, why: str) -> Outcome:
    """The outcome where nothing can be measured."""
    verdict = decide(bench.claim, {}, [], impossible=why)
    return Outcome([Reading(protocol="standard", words=why, verdict=verdict)], [], {}, {"ok": False, "reason": why})


def only(claim: Claim, *statistics: str) -> Claim:
    """The claim with the predictions of one reading: those whose statistic it measures."""
    kept = tuple(p for p in claim.predictions if p.statistic in statistics)
    return claim.model_copy(update={"predictions": kept or claim.predictions})


NO_ELIGIBILITY = {
    "ok": True,
    "reason": "",
    "rule": "none: what heads attend to is measured, not whether answers are right",
}


# -- references ---------------------------------------------------------------------------------------------


def untrained(thinker: Thinker, seeds: int, first: int = 0) -> Iterator[Thinker]:
    """Models of the same config with fresh random weights, one after the other."""
    from transformers import AutoModelForCausalLM

    for seed in range(first, first + seeds):
        with torch.random.fork_rng(devices=[]), quietly():
            torch.manual_seed(seed)
            config = copy.deepcopy(thinker.lab.model.config)
            model = Codi(AutoModelForCausalLM.from_config(config, dtype=thinker.lab.dtype), thinker.spec)
        model = model.to(thinker.lab.device, thinker.lab.dtype).eval().requires_grad_(False)
        lab = open_model(model.codi, tokenizer=thinker.tokenizer)
        lab.name = f"{thinker.name}, untrained, seed {seed}"
        yield Thinker(lab, model, lab.name)


def stem(name: str) -> str:
    """The family of a shipped thought model: ``thoughts-gpt2-plain`` → ``thoughts-gpt2``."""
    return "-".join(name.split("-")[:2])


def siblings(bench: ThoughtBench, asked: str) -> list[Thinker]:
    """Other models to hold beside this one: those named (by commas), or with "auto" the shipped ones of its family that
    have thoughts (plain, filler: other training, other seeds of the same shape)."""
    shipped = organisms.names("thoughts")
    own = bench.thinker.name
    names = [n.strip() for n in asked.split(",") if n.strip()]
    if names == ["auto"]:
        names = [n for n in shipped if own in shipped and stem(n) == stem(own) and n != own and not n.endswith("-none")]
    return [opened(n) for n in names]


def opened(name: str) -> Thinker:
    """A shipped thought model by name, or a folder or hub id."""
    if name in organisms.names("thoughts"):
        return load(organisms.path(name), name=name)
    return load(name)


@dataclass(frozen=True)
class Reference:
    """Attention of another model on a few problems."""

    name: str
    kind: str
    matrices: Array
    clusters: list[str]


def references(bench: ThoughtBench, seeds: int, asked: str) -> list[Reference]:
    """Untrained models of the same config, then siblings, on the problems of :func:`few`."""
    problems, out = few(bench), []
    for kind, thinkers in (
        ("untrained", untrained(bench.thinker, seeds, bench.seed)),
        ("other", siblings(bench, asked)),
    ):
        for thinker in thinkers:
            found = read(bench, kind, problems=problems, thinker=thinker, tokens=2 if kind == "untrained" else None)
            out.append(Reference(thinker.name, kind, matrices(found), clusters_of(problems)))
    return out


# -- controls -----------------------------------------------------------------------------------------------


def rows_control(found: ThoughtAttention, dtype: torch.dtype) -> Control:
    """Every row sums to one."""
    gap = found.gap()
    return Control(
        name="rows-sum",
        kind="negative",
        passed=gap <= SLACK[dtype],
        words=(
            f"question, bot, thoughts and what follows make up every row: the sum of {found.question.size:,} rows is one "
            f"within {gap:.1g}"
        ),
        value=gap,
    )


def batch_control(bench: ThoughtBench, n: int = 16) -> Control:
    """One problem at a time gives the rows of a batch."""
    problems = few(bench, n)
    one, many = (read(bench, f"batch {size}", problems=problems, batch=size) for size in (1, 64))
    gap = float(np.nanmax(np.abs(one.thoughts - many.thoughts)))
    return Control(
        name="batch",
        kind="negative",
        passed=gap <= SLACK[bench.lab.dtype],
        words=f"read one by one or 64 at a time, the rows of {len(problems)} problems differ by at most {gap:.1g}",
        value=gap,
    )


def forced(bench: ThoughtBench, problems: ProblemSet, shape: str, hub: int | None = None) -> Array:
    """Attention among thoughts with every head forced to a shape."""
    force = Force(every_head(bench.lab.grid), shape, hub=hub)  # type: ignore[arg-type]
    return matrices(read(bench, "forced", problems=problems, world=ThoughtWorld(shape, forces=(force,)), tokens=2))


def uniform_control(bench: ThoughtBench) -> Control:
    """With every head forced to be uniform among thoughts, the corrected ratio is one everywhere and nothing is a hub."""
    problems = few(bench)
    seen = forced(bench, problems, "uniform")
    return judged_uniform(seen, find_hubs(seen, clusters_of(problems), seed=bench.seed))


def judged_uniform(seen: Array, found: Hubs) -> Control:
    gap = float(np.nanmax(np.abs(corrected(seen) - 1)))
    hubs = int((found.hub >= 0).sum())
    return Control(
        name="uniform",
        kind="negative",
        passed=gap <= UNIFORM and hubs == 0,
        words=(
            f"attention forced to be uniform among thoughts has a corrected ratio of one within {gap:.1g}, and {hubs} of "
            f"{len(found.hub)} heads have a hub"
        ),
        value=gap,
    )


def planted_control(bench: ThoughtBench) -> Control:
    """A hub forced at thought j in every head is found at j in every head, for every j."""
    problems = few(bench)
    clusters = clusters_of(problems)
    found = {
        j: find_hubs(forced(bench, problems, "hub", j), clusters, seed=bench.seed).hub for j in range(bench.n_thoughts)
    }
    return judged_planted(found)


def judged_planted(found: dict[int, Any]) -> Control:
    right = {j: float((np.asarray(hub) == j).mean()) for j, hub in found.items()}
    worst = min(right.values())
    said = ", ".join(f"{j}: {percent(share)}" for j, share in right.items())
    return Control(
        name="planted-hub",
        kind="positive",
        passed=worst == 1,
        words=f"four fifths of the attention among thoughts forced onto one thought makes it the hub of every head ({said})",
        value=worst,
    )


def untrained_control(found: Sequence[Hubs]) -> Control:
    """Random weights have no hubs: at most one head in twenty, in all untrained models together."""
    from headlab.stats import clopper_pearson

    total, hubs = sum(len(h.hub) for h in found), sum(int((h.hub >= 0).sum()) for h in found)
    share = clopper_pearson(hubs, total, unit="heads")
    return Control(
        name="untrained",
        kind="negative",
        passed=share.defined and share.above(0.05) != "yes",
        words=f"{hubs} of {total} heads of {len(found)} untrained models of the same config have a hub (at most 5 % may)",
        value=share.value,
    )
