"""Do two models think around the same hub, and does the smaller one have the stronger one?

1. The same problems in this model and in another (option ``other``; by default the shipped student of the other family).
2. In each: the thought that receives most on selection problems, its exposure-corrected ratio on the test problems, the
   published measures of all heads; differences paired by problem, with intervals over chains of steps.
3. The seven panels of the published comparison, a figure each: what thoughts receive, the first twenty composites, types
   and layers among them for either model, mean scores.
4. The published reading: raw column sums over 1/6, bot and five thoughts fed, keys off by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headlab import organisms
from headlab.claims import Control, decide
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thoughts.compare_figures import Model, figures
from headlab.experiments.thoughts.thought_rows import (
    NO_ELIGIBILITY,
    cannot,
    clusters_of,
    few,
    forced,
    matrices,
    only,
    opened,
    read,
    stem,
    untestable,
)
from headlab.stats import Estimate, bootstrap_paired_difference
from headlab.stats.intervals import bootstrap_means
from headlab.stats.of_means import OfMeans, bootstrap_of_means
from headlab.store import Reading
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts import hubs as measure
from headlab.thoughts import metrics
from headlab.thoughts.loading import Thinker
from headlab.thoughts.profiles import TOP, Profile, profile
from headlab.trials.thought_case import ThoughtBench

Array = np.ndarray
STATISTICS = (
    "hub:smaller", "hub:larger", "hub:gap", "published:smaller", "published:larger", "published:gap", "variance:gap",
    "skip:gap",
)  # fmt: skip
FAMILIES = {"thoughts-gpt2": "thoughts-llama", "thoughts-llama": "thoughts-gpt2"}
_LABELS = {
    "hub:smaller": "corrected ratio of the smaller model's hub",
    "hub:larger": "corrected ratio of the larger model's hub",
    "hub:gap": "corrected ratio of its hub, smaller less larger model",
    "published:smaller": "column sum over 1/6 of the smaller model's hub",
    "published:larger": "column sum over 1/6 of the larger model's hub",
    "published:gap": "column sum over 1/6 of its hub, smaller less larger model",
    "variance:gap": "hub variance, mean over heads, smaller less larger model",
    "skip:gap": "skip, mean over heads, smaller less larger model",
}


def compare_models(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    name = bench.option("other", EXPERIMENT) or FAMILIES.get(stem(bench.thinker.name), "")
    if why := cannot(bench) or _missing(bench, name):
        return untestable(bench, why)
    other = opened(name)
    if other.spec.n_thoughts != bench.n_thoughts:
        return untestable(
            bench, f"{name} is fed {other.spec.n_thoughts} thoughts, {bench.thinker.name} {bench.n_thoughts}"
        )
    both = [_model(bench, who) for who in (bench.thinker, other)]
    small, large = sorted(both, key=lambda m: m.parameters)
    numbers = _numbers(bench, small, large)
    checks = [_self_control(bench), _planted_control(bench)]
    return Outcome(
        _readings(bench, numbers, checks, small, large),
        figures(bench, both),
        {"ranked_heads": _ranked(both), "hubs": _hubs(bench, both)},
        NO_ELIGIBILITY,
        settings={"other": other.name, "other_fingerprint": other.lab.fingerprint, "comparison": _plain(both, numbers)},
        sections=[{"heading": "Findings", "text": " ".join(_said(both, numbers))}, *_SECTIONS],
        notes=[f"{m.name}, as published: {m.view.scores.warning}" for m in both if m.view.scores.warning],
    )


def _missing(bench: ThoughtBench, name: str) -> str:
    if not name:
        return f"{bench.thinker.name} is no shipped model; name the one to compare it with (option other)"
    if name == bench.thinker.name:
        return f"{name} compared with itself says nothing; name another model (option other)"
    if name in FAMILIES.values() and name not in organisms.names("thoughts"):
        return f"{name} is not shipped; name another model to compare with (option other)"
    return ""


def _model(bench: ThoughtBench, who: Thinker, problems: ProblemSet | None = None) -> Model:
    chosen = problems or bench.test
    picked = matrices(read(bench, "choosing", problems=bench.selection, thinker=who))
    hub = int(metrics.incoming(metrics.published_view(picked)).mean((0, 1)).argmax())
    grid = (who.lab.grid.n_layers, who.lab.grid.n_heads)
    return judged(who.name, parameters(who), hub, matrices(read(bench, "attention", problems=chosen, thinker=who)),
                  clusters_of(chosen), grid, bench.seed)  # fmt: skip


def parameters(who: Thinker) -> int:
    return sum(p.numel() for p in who.model.parameters())


def judged(
    name: str, size: int, hub: int, among: Array, clusters: list[str], grid: tuple[int, int], seed: int
) -> Model:  # fmt: skip
    """Everything that is compared, of one model's [problem, head, thought, key]."""
    n, view = among.shape[-1], metrics.published_view(among)
    mean = view.mean(1).reshape(len(view), -1)
    raw = bootstrap_of_means(
        mean, lambda m: metrics.published_ratio(m.reshape(-1, n, n)), clusters, unit="problems", seed=seed
    )
    ratios = np.nanmean(measure.corrected(among), 1)
    return Model(
        name,
        size,
        hub,
        ratios,
        raw,
        profile(among, clusters, grid, seed=seed),
        profile(view, clusters, grid, seed=seed),
    )


def _numbers(bench: ThoughtBench, small: Model, large: Model) -> dict[str, Estimate]:
    return differences(small, large, clusters_of(bench.test), bench.seed)


def differences(small: Model, large: Model, clusters: list[str], seed: int) -> dict[str, Estimate]:
    """Every statistic; the two models ran on the same problems, so resamples are shared."""
    told: dict[str, Any] = {"unit": "problems", "seed": seed}
    own = [m.ratios[:, m.hub] for m in (small, large)]
    one, two = (bootstrap_means(x[:, None], clusters, **told)[0] for x in own)
    return {
        "hub:smaller": one,
        "hub:larger": two,
        "hub:gap": bootstrap_paired_difference(own[0], own[1], clusters, **told),
        "published:smaller": small.raw.estimate(small.hub),
        "published:larger": large.raw.estimate(large.hub),
        "published:gap": paired(small.raw, large.raw, lambda x: x[..., small.hub], lambda x: x[..., large.hub]),
        "variance:gap": _mean_gap(small.own, large.own, "hub_variance"),
        "skip:gap": _mean_gap(small.own, large.own, "skip"),
    }


def paired(a: OfMeans, b: OfMeans, of_a: Any, of_b: Any) -> Estimate:
    """The difference of two numbers whose draws took the same chains of steps.

    Raises ValueError unless both were drawn with one seed over as many chains.
    """
    if (a.seed, a.clusters, len(a.draws)) != (b.seed, b.clusters, len(b.draws)):
        raise ValueError("the two statistics were not resampled together")
    value, draws = of_a(a.value) - of_b(b.value), of_a(a.draws) - of_b(b.draws)
    joint = OfMeans(np.array([value]), draws[:, None], a.n, a.clusters, a.unit, a.method, a.level, a.seed)
    return joint.estimate(0)


def _mean_gap(a: Profile, b: Profile, what: str) -> Estimate:
    def mean(one: Profile) -> Any:
        at = one.place(what)
        return lambda x: x[..., at].mean(-1)

    return paired(a.found, b.found, mean(a), mean(b))


def _readings(
    bench: ThoughtBench, numbers: Mapping[str, Estimate], checks: list[Control], small: Model, large: Model
) -> list[Reading]:
    out = []
    for protocol, names in (
        ("standard", [k for k in numbers if not k.startswith("published:")]),
        ("published", [k for k in numbers if k.startswith("published:")]),
    ):
        if protocol in bench.claim.readings:
            out.append(
                Reading(
                    protocol=protocol,
                    words=_WORDS[protocol].format(small.name, large.name),
                    verdict=decide(only(bench.claim, *names), numbers, checks),
                    estimates=tuple(named(k, _LABELS[k], numbers[k], "") for k in names),
                )
            )
    return out


# -- controls -----------------------------------------------------------------------------------------------


def _self_control(bench: ThoughtBench) -> Control:
    """A model compared with itself, read one by one and in batches."""
    problems = few(bench)
    grid = (bench.lab.grid.n_layers, bench.lab.grid.n_heads)
    one, two = (
        judged(bench.thinker.name, 0, 0, matrices(read(bench, f"itself {size}", problems=problems, batch=size)),
               clusters_of(problems), grid, bench.seed)
        for size in (7, 64)
    )  # fmt: skip
    return judged_self(differences(one, two, clusters_of(problems), bench.seed))


def judged_self(numbers: Mapping[str, Estimate]) -> Control:
    gaps = {k: e.value for k, e in numbers.items() if k.endswith(":gap")}
    worst = max((abs(v) for v in gaps.values() if v is not None), default=1.0)
    return Control(
        name="itself",
        kind="negative",
        passed=None not in gaps.values() and worst <= 1e-4,
        words=f"the model against itself, read in other batches, differs by at most {worst:.1g}",
        value=worst,
    )


def _planted_control(bench: ThoughtBench) -> Control:
    """The model with a hub forced at thought 1 against itself: the gap must show."""
    problems = few(bench)
    grid = (bench.lab.grid.n_layers, bench.lab.grid.n_heads)
    plain = matrices(read(bench, "itself 64", problems=problems, batch=64))
    planted = forced(bench, problems, "hub", 1)
    clusters = clusters_of(problems)
    one, two = (judged("", 0, 1, x, clusters, grid, bench.seed) for x in (planted, plain))
    gap = differences(one, two, clusters, bench.seed)["hub:gap"]
    return Control(
        name="planted-hub",
        kind="positive",
        passed=gap.above(0) == "yes",
        words=f"the model with a hub forced at thought 1 exceeds itself by {gap}",
        value=gap.value,
    )


# -- tables and JSON ----------------------------------------------------------------------------------


def _ranked(both: list[Model]) -> Any:
    import pandas as pd

    return pd.concat([m.own.table().assign(model=m.name) for m in both], ignore_index=True)


def _hubs(bench: ThoughtBench, both: list[Model]) -> Any:
    import pandas as pd

    rows = []
    for m in both:
        fair = bootstrap_means(m.ratios, clusters_of(bench.test), unit="problems", seed=bench.seed)
        for j, e in enumerate(fair):
            raw = m.raw.estimate(j)
            rows.append(
                {"model": m.name, "thought": j, "corrected": e.value, "low": e.low, "high": e.high,
                 "published": raw.value, "published_low": raw.low, "published_high": raw.high, "n": e.n, "unit": e.unit}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _plain(both: list[Model], numbers: Mapping[str, Estimate]) -> dict[str, Any]:
    """The comparison as data: what the published JSON held, each number with its interval, in both readings."""
    out: dict[str, Any] = {"differences": {k: e.to_dict() for k, e in numbers.items()}, "models": {}}
    for m in both:
        one: dict[str, Any] = {
            "parameters": m.parameters,
            "layers": m.own.grid[0],
            "heads": m.own.grid[1],
            "hub": m.hub,
        }
        for name, p in (("standard", m.own), ("published", m.view)):
            first = p.ranked[0]
            one[name] = {
                "top_head": p.names[first], "type": p.scores.types[first],
                **{k: p.estimate(k, first).to_dict() for k in ("composite", "flow", "hub_variance", "skip")},
                "types_top20": {k: p.count(k).to_dict() for k in metrics.KINDS},
                "layers_top20": {k: p.count(k).to_dict() for k in metrics.THIRDS},
                "sequential": p.average("sequential").to_dict(), "skip_mean": p.average("skip").to_dict(),
            }  # fmt: skip
        out["models"][m.name] = one
    return out


def _said(both: list[Model], numbers: Mapping[str, Estimate]) -> list[str]:
    out = []
    for m in both:
        first, types = m.own.ranked[0], m.own.scores.types
        counts = ", ".join(f"{k} {m.own.count(k)}" for k in metrics.THIRDS)
        out.append(
            f"{m.name} ({m.parameters:,} parameters): most is received by thought {m.hub}; first head {m.own.names[first]}, "
            f"{types[first]}, composite {m.own.estimate('composite', first)}; layers of the first {min(TOP, m.own.n)}: {counts}."
        )
    gap, raw = numbers["hub:gap"], numbers["published:gap"]
    return [*out, f"Smaller less larger: corrected hub ratio {gap}; as published {raw}."]


_WORDS = {
    "standard": "{} against {}: six thoughts fed, ratios corrected for exposure, the thought named on selection problems",
    "published": "{} against {}: bot and five thoughts fed, keys off by one, column sums over 1/6",
}
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Two models are two draws: what differs between them may be seed, data, depth or width as well as size or family, "
            "and the interval is over problems, not over models. Raw column sums grow with the attention that a model spends on "
            "thoughts and fall with the length of the question. Composites are scaled inside each model."
        ),
    }
]

EXPERIMENT = Experiment(
    "compare-models",
    "Do two models think around a hub, and does the smaller one have the stronger one?",
    compare_models,
    STATISTICS,
    controls=("itself", "planted-hub"),
    options={"other": "", "max_new_tokens": 12},
)
