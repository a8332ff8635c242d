"""Do two models think around the same hub, and does the smaller one have the stronger one?

1. The same problems in this model and in another (option ``other``; by default the shipped student of the other family).
2. In each: the thought that receives most on selection problems, its exposure-corrected ratio on the test problems, the
   published measures of all heads; differences paired by problem, with intervals over chains of steps.
3. The seven panels of the published comparison, a figure each: what thoughts receive, the first twenty composites, types
   and layers among them for either model, mean scores.
4. The published reading: raw column sums over 1/6, bot and five thoughts fed, keys off by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from headlab import organisms
from headlab.claims import Control
from headlab.experiments.thoughts.compare_figures import figures
from headlab.stats import Estimate
from headlab.thoughts import metrics
from headlab.thoughts.compared import Model, differences, judged, plain
from headlab.thoughts.hub_numbers import most_received
from headlab.thoughts.loading import Thinker
from headlab.thoughts.profiles import TOP
from headlab.thoughts.summaries import by_problem
from headlab.trials.flow import NO_ANSWERS, Method, OnProblems, what_is_measured
from headlab.trials.sweeps import Scope, Seen, Told
from headlab.trials.thought_case import ThoughtBench, stem, thoughts_at_least
from headlab.trials.thought_rows import clusters_of, few, forced, read

FAMILIES = {"thoughts-gpt2": "thoughts-llama", "thoughts-llama": "thoughts-gpt2"}
LABELS = {
    "hub:smaller": "corrected ratio of the smaller model's hub",
    "hub:larger": "corrected ratio of the larger model's hub",
    "hub:gap": "corrected ratio of its hub, smaller less larger model",
    "published:smaller": "column sum over 1/6 of the smaller model's hub",
    "published:larger": "column sum over 1/6 of the larger model's hub",
    "published:gap": "column sum over 1/6 of its hub, smaller less larger model",
    "variance:gap": "hub variance, mean over heads, smaller less larger model",
    "skip:gap": "skip, mean over heads, smaller less larger model",
}
Both = tuple[Model, Model]


def named(case: ThoughtBench) -> str:
    """The model to compare with; empty where none is named and this one is not shipped."""
    return str(case.claim.options.get("other") or FAMILIES.get(stem(case.thinker.name), ""))


def cannot(case: ThoughtBench) -> str:
    """Why there are no two models to compare."""
    name, own = named(case), case.thinker.name
    if why := thoughts_at_least(4)(case):
        return why
    if not name:
        return f"{own} is no shipped model; name the one to compare it with (option other)"
    if name == own:
        return f"{name} compared with itself says nothing; name another model (option other)"
    if name in FAMILIES.values() and name not in organisms.names("thoughts"):
        return f"{name} is not shipped; name another model to compare with (option other)"
    fed = case.opened(name).spec.n_thoughts
    return "" if fed == case.n_thoughts else f"{name} is fed {fed} thoughts, {own} {case.n_thoughts}"


def model(case: ThoughtBench, who: Thinker) -> Model:
    hub = most_received(read(case, "choosing", problems=case.selection, thinker=who).matrices)
    size, grid = sum(p.numel() for p in who.model.parameters()), (who.lab.grid.n_layers, who.lab.grid.n_heads)
    return judged(who.name, size, hub, read(case, "attention", thinker=who).matrices, case.clusters, grid, case.seed)


def _both(scope: Scope) -> Both:
    one, other = (model(scope.case, who) for who in (scope.case.thinker, scope.case.opened(named(scope.case))))
    return one, other


def both(seen: Seen) -> Both:
    """This model and the other."""
    return seen.of_trial(_both)


def by_size(seen: Seen) -> Both:
    one, other = sorted(both(seen), key=lambda m: m.parameters)
    return one, other


def numbers(seen: Seen) -> dict[str, Estimate]:
    return differences(*by_size(seen), seen.case.clusters, seen.case.seed)


def told(*, raw: bool) -> Callable[[Seen], Iterator[Told]]:
    """The numbers of the published measure, or all others."""

    def some(seen: Seen) -> Iterator[Told]:
        for name, e in seen.once(numbers).items():
            if name.startswith("published:") == raw:
                yield Told(name, LABELS[name], e, "")

    return some


def words(said: str) -> Callable[[Seen], str]:
    return lambda seen: f"{' against '.join(m.name for m in by_size(seen))}: {said}"


# -- controls -----------------------------------------------------------------------------------------------


def itself(seen: Seen) -> Control:
    """A model compared with itself, read one by one and in batches."""
    return seen.of_trial(_itself)


def _of_few(scope: Scope, hub: int, among: object) -> Model:
    grid = (scope.grid.n_layers, scope.grid.n_heads)
    return judged(scope.case.thinker.name, 0, hub, among, clusters_of(few(scope.case)), grid, scope.seed)  # type: ignore[arg-type]


def _itself(scope: Scope) -> Control:
    case, problems = scope.case, few(scope.case)
    read_so = (read(case, f"itself {size}", problems=problems, batch=size).matrices for size in (7, 64))
    one, two = (_of_few(scope, 0, x) for x in read_so)
    return judged_self(differences(one, two, clusters_of(problems), case.seed))


def judged_self(numbers: Mapping[str, Estimate]) -> Control:
    gaps = [e.value for k, e in numbers.items() if k.endswith(":gap")]
    worst = max((abs(v) for v in gaps if v is not None), default=1.0)
    said = f"the model against itself, read in other batches, differs by at most {worst:.1g}"
    passed = None not in gaps and worst <= 1e-4
    return Control(name="itself", kind="negative", passed=passed, words=said, value=worst)


def planted_hub(seen: Seen) -> Control:
    """The model with a hub forced at thought 1 against itself: the gap must show."""
    return seen.of_trial(_planted_hub)


def _planted_hub(scope: Scope) -> Control:
    case, problems = scope.case, few(scope.case)
    own = read(case, "itself 64", problems=problems, batch=64).matrices
    one, two = (_of_few(scope, 1, x) for x in (forced(case, problems, "hub", 1), own))
    gap = differences(one, two, clusters_of(problems), case.seed)["hub:gap"]
    said = f"the model with a hub forced at thought 1 exceeds itself by {gap}"
    return Control(name="planted-hub", kind="positive", passed=gap.above(0) == "yes", words=said, value=gap.value)


# -- tables and text ----------------------------------------------------------------------------------------


def ranked_heads(seen: Seen) -> pd.DataFrame:
    return pd.concat([m.own.table().assign(model=m.name) for m in both(seen)], ignore_index=True)


def hubs(seen: Seen) -> pd.DataFrame:
    rows = []
    for m in both(seen):
        for j, e in enumerate(by_problem(m.ratios, seen.case.clusters, seen.case.seed)):
            raw = m.raw.estimate(j)
            row = {"model": m.name, "thought": j, "corrected": e.value, "low": e.low, "high": e.high}
            row |= {"published": raw.value, "published_low": raw.low, "published_high": raw.high}
            rows.append(row | {"n": e.n, "unit": e.unit})
    return pd.DataFrame(rows)


def findings(seen: Seen) -> dict[str, str]:
    out = []
    for m in both(seen):
        first, types = m.own.ranked[0], m.own.scores.types
        counts = ", ".join(f"{k} {m.own.count(k)}" for k in metrics.THIRDS)
        out.append(
            f"{m.name} ({m.parameters:,} parameters): most is received by thought {m.hub}; first head {m.own.names[first]}, "
            f"{types[first]}, composite {m.own.estimate('composite', first)}; layers of the first {min(TOP, m.own.n)}: {counts}."
        )
    gap, raw = (seen.once(numbers)[k] for k in ("hub:gap", "published:gap"))
    return {"Findings": " ".join([*out, f"Smaller less larger: corrected hub ratio {gap}; as published {raw}."])}


def settings(seen: Seen) -> dict[str, object]:
    other = seen.case.opened(named(seen.case))
    compared = plain(both(seen), seen.once(numbers))
    return {"other": other.name, "other_fingerprint": other.lab.fingerprint, "comparison": compared}


EXPERIMENT = OnProblems(
    slug="compare-models",
    question="Do two models think around a hub, and does the smaller one have the stronger one?",
    statistics=tuple(LABELS),
    controls=("itself", "planted-hub"),
    options={"other": "", "max_new_tokens": 12},
    cannot=cannot,
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            words("six thoughts fed, ratios corrected for exposure, the thought named on selection problems"),
            numbers=(told(raw=False),),
            controls=(itself, planted_hub),
            asks=what_is_measured,
            figures=(lambda seen: figures(seen.case, both(seen)),),
            tables={"ranked_heads": ranked_heads, "hubs": hubs},
            settings=settings,
            sections=findings,
            notes=lambda seen: [
                f"{m.name}, as published: {m.view.scores.warning}" for m in both(seen) if m.view.scores.warning
            ],
        ),
        "published": Method(
            words("bot and five thoughts fed, keys off by one, column sums over 1/6"),
            numbers=(told(raw=True),),
            controls=(itself, planted_hub),
            asks=what_is_measured,
        ),
    },
    sections={
        "When this misleads": (
            "Two models are two draws: what differs between them may be seed, data, depth or width as well as size or family, "
            "and the interval is over problems, not over models. Raw column sums grow with the attention that a model spends on "
            "thoughts and fall with the length of the question. Composites are scaled inside each model."
        )
    },
)
