"""What do critical heads draw on, and what do they attend to?

1. Critical heads: those whose mean ablation alone costs most accuracy on selection problems (or those named).  Beside
   them as many other heads, drawn at random.
2. For each: integrated gradients from what the head contributes to the answer, through the whole latent loop, to the
   embeddings of the question; the baseline is the mean embedding of the selection problems' tokens.
3. Tokens by class of word (numbers, operations with their operator, entities, other; rules in ``question_words``): share of
   the absolute attribution over share of the tokens, against attributions that change places within each question.
4. The same ratio for attention: from bot, thoughts, eot and the answer to the question.
5. A role is given where a class is above one surely and beyond the shuffles (Holm over classes and heads); else none.
6. Attributions must add up to the change of the contribution: where they miss more than 5 % of it, more steps are taken,
   and a problem that still misses is left out.  A model with random weights, and deletion of the tokens that
   weigh most, check the method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thoughts import thought_figures as draw
from headlab.experiments.thoughts.needed_heads import Needed, needed_heads
from headlab.experiments.thoughts.roles import (
    DELETED,
    GAP,
    Told,
    adds_up,
    has_role,
    judged_completeness,
    judged_deletion,
    judged_random,
    mean_of,
    ratios,
    role_of,
    shuffled,
)
from headlab.experiments.thoughts.thought_causal import cannot_run, without_thoughts
from headlab.experiments.thoughts.thought_rows import NO_ELIGIBILITY, every_head, untrained
from headlab.heads import Head
from headlab.stats import Estimate, Rank, clopper_pearson, holm, rank
from headlab.store import Reading
from headlab.tasks.question_words import CLASSES, OPERATIONS, token_classes
from headlab.thoughts.integrated import Attributed, Frozen, attribute
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import Asked, ids_of, watch
from headlab.trials.thought_case import ThoughtBench

Array = np.ndarray
FINER = 4
"""How many times more steps where attributions do not add up."""
STATISTICS = ("ratio:*", "gap:*", "rank:*", "attention:*", "completeness", "share:roles")


def attribution(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := without_thoughts(bench, 1):
        return cannot_run(bench, why)
    option = lambda name: bench.option(name, EXPERIMENT)  # noqa: E731
    needed = needed_heads(bench, option("heads"), option("k"))
    heads = (*needed.heads, *_others(bench, needed))
    k, steps = len(needed.heads), option("steps")
    told = _attributed(bench, bench.thinker, heads, steps, k)
    classes = [token_classes(bench.thinker.tokenizer, p.question) for p in bench.test]
    looked = _attention(bench, heads)
    random = _attributed(bench, next(iter(untrained(bench.thinker, 1, bench.seed))), heads[:1], 8, 0)
    clusters = [p.cluster for p in bench.test]
    rows = _classes(bench, heads, k, told, looked, classes, clusters)
    numbers, place, null = _numbers(bench, told, classes, clusters, heads, k)
    numbers["share:roles"] = _roles(rows, heads[:k])
    checks = [
        _zero_path(bench, heads[:1]), judged_completeness(told),
        judged_random(told, random, clusters, bench.seed), judged_deletion(told, clusters, bench.seed),
    ]  # fmt: skip
    findings: dict[str, Any] = numbers | ({"rank:numbers": place} if place else {})
    estimates = [named(name, _label(name, heads[0]), e, "") for name, e in numbers.items()]
    if place:
        estimates.append(
            named("rank:numbers", "shuffles of attributions that give numbers as much", place.estimate, "")
        )
    verdict = decide(bench.claim, findings, checks)
    said = [role_of(rows, h) for h in heads[:k]]
    return Outcome(
        [Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates))],
        _figures(bench, rows, heads, k, told, numbers, place, null),
        {"classes": _frame(rows), "tokens": _tokens(bench, heads, told, classes), "completeness": _gaps(bench, heads, told)},
        NO_ELIGIBILITY,
        settings={"heads": str(needed), "steps": steps, "baseline": "mean token embedding", "others":
                  ", ".join(map(str, heads[k:]))},
        sections=[{"heading": "What each critical head draws on", "text": " ".join(said)}, *_SECTIONS],
        notes=said,
    )  # fmt: skip


def _others(bench: ThoughtBench, needed: Needed) -> list[Head]:
    rest = [h for h in every_head(bench.lab.grid) if h not in needed.heads]
    rng = np.random.default_rng(bench.seed)
    return [rest[i] for i in sorted(rng.choice(len(rest), min(len(needed.heads), len(rest)), replace=False).tolist())]


def baseline_of(bench: ThoughtBench, thinker: Thinker) -> torch.Tensor:
    """Mean embedding of the tokens of the selection problems, [d_model]."""
    asked = Asked.of(thinker, [p.question for p in bench.selection], [p.id for p in bench.selection])
    every = torch.tensor([t for ids in asked.ids for t in ids], device=thinker.lab.device)
    return thinker.model.embed(every).detach().float().mean(0)


def _attributed(bench: ThoughtBench, thinker: Thinker, heads: Sequence[Head], steps: int, k: int) -> list[Told]:
    asked = Asked.of(thinker, [p.question for p in bench.test], [p.id for p in bench.test])
    base, out = baseline_of(bench, thinker), {}
    tokens = bench.claim.options.get("max_new_tokens", 12)
    rng = np.random.default_rng(bench.seed)
    for chosen in asked.groups.values():
        for start in range(0, len(chosen), 16):
            some = chosen[start : start + 16]
            frozen = Frozen.of(thinker, ids_of(thinker, asked, some), heads, tokens)
            found = _refined(frozen, base, steps, k)
            gone, mixed = _deleted(frozen, base, found.tokens, rng)
            for row, i in enumerate(some):
                parts = (found.tokens[row], found.change[row], found.gap[row], gone[row], mixed[row])
                out[i] = Told(*(x.double().cpu().numpy() for x in parts))
            bench.progress("integrated gradients", len(out), len(bench.test))
    return [out[i] for i in range(len(bench.test))]


def _refined(frozen: Frozen, base: torch.Tensor, steps: int, k: int) -> Attributed:
    """Attributions; where the leading head's do not add up, once more with :data:`FINER` times the steps (first ``k`` heads),
    kept where they come nearer."""
    found = attribute(frozen, base, steps)
    poor = (found.gap[:, 0].abs() > GAP * found.change[:, 0].abs()).nonzero()[:, 0]
    if not k or not len(poor):
        return found
    finer = attribute(frozen, base, FINER * steps, only=poor, heads=k)
    better = torch.zeros_like(found.gap, dtype=torch.bool)
    better[poor, :k] = finer.gap[poor, :k].abs() < found.gap[poor, :k].abs()
    tokens = torch.where(better[..., None], finer.tokens, found.tokens)
    return Attributed(tokens, found.change, torch.where(better, finer.gap, found.gap))


def _others_mean(values: Array) -> Array:
    """Mean over heads by problem; heads that were left out there (NaN) do not count."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


def _deleted(
    frozen: Frozen, base: torch.Tensor, weights: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """|F(x) − F(x with tokens at the baseline)| of each head: its heaviest tokens, and as many drawn at random."""
    whole, (n, heads, length) = frozen.at(frozen.inputs), weights.shape
    drop = min(DELETED, length)
    top = weights.abs().topk(drop, dim=2).indices
    other = torch.tensor(np.stack([rng.permutation(length)[:drop] for _ in range(n)]), device=weights.device)
    out = []
    for places in (top, other[:, None].expand(n, heads, drop)):
        each = []
        for h in range(heads):
            x = frozen.inputs.clone()
            x[torch.arange(n, device=x.device)[:, None], places[:, h]] = base.to(x)
            each.append((whole - frozen.at(x))[:, h].abs())
        out.append(torch.stack(each, 1))
    return out[0], out[1]


def _attention(bench: ThoughtBench, heads: Sequence[Head]) -> list[Array]:
    """Mean attention of each head to each token of the question, from bot, thoughts, eot and answer: [head, token]."""
    wanted = frozenset((h.layer, "pattern") for h in heads)
    asked, names = [p.question for p in bench.test], [p.id for p in bench.test]
    out: dict[int, Array] = {}
    for chosen, ran in watch(
        bench.thinker, asked, names, wanted, batch=bench.rows, progress=bench.progress, what="attention"
    ):
        q = ran.layout.question
        for row, i in enumerate(chosen):
            seen = [[one[h.layer, "pattern"][row, h.index, -1, :q] for one in ran.kept] for h in heads]
            out[i] = np.stack([torch.stack(s).float().mean(0).cpu().numpy() for s in seen])
    return [out[i] for i in range(len(bench.test))]


# -- ratios -------------------------------------------------------------------------------------------------


def _classes(
    bench: ThoughtBench, heads: Sequence[Head], k: int, told: Sequence[Told], looked: Sequence[Array], classes: Sequence[Any],
    clusters: Sequence[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """One row for each head and class (or operator): attribution and attention per token, and p among shuffles."""
    groups = [("class", c, [kinds for kinds, _ in classes]) for c in CLASSES]
    groups += [("operator", s, [signs for _, signs in classes]) for s in OPERATIONS]
    rows = []
    for h, head in enumerate(heads):
        own, sums = [t.counted(h) for t in told], adds_up(told, h)
        for what, name, kinds in groups:
            e = mean_of(ratios(own, kinds, name), clusters, bench.seed)
            look = mean_of(ratios([a[h] for a in looked], kinds, name), clusters, bench.seed)
            null = (
                shuffled(own, kinds, name, bench.seed, bench.claim.matched_sets)
                if h < k and e.value is not None
                else np.empty(0)
            )
            p = rank(e.value, null, enumerated=False).p if len(null) and e.value is not None else None
            rows.append(
                {"head": str(head), "critical": h < k, "adds_up": sums, "kind": what, "class": name, "ratio": e.value,
                 "low": e.low, "high": e.high,
                 "n": e.n, "unit": e.unit, "p": p, "attention": look.value, "attention_low": look.low, "attention_high": look.high}
            )  # fmt: skip
    known = [r for r in rows if r["p"] is not None]
    for r, p in zip(known, holm([r["p"] for r in known]) if known else [], strict=True):
        r["p_adjusted"] = float(p)
    return [{**r, "p_adjusted": r.get("p_adjusted")} for r in rows]


def _roles(rows: Sequence[Mapping[str, Any]], heads: Sequence[Head]) -> Estimate:
    found = sum(any(has_role(r) for r in rows if r["head"] == str(h) and r["kind"] == "class") for h in heads)
    return clopper_pearson(found, len(heads), unit="heads")


def _numbers(
    bench: ThoughtBench,
    told: Sequence[Told],
    classes: Sequence[Any],
    clusters: Sequence[str],
    heads: Sequence[Head],
    k: int,
) -> tuple[dict[str, Estimate], Rank | None, Array]:
    kinds, seed = [c for c, _ in classes], bench.seed
    out: dict[str, Estimate] = {}
    for name in CLASSES:
        each = np.stack([ratios([t.counted(h) for t in told], kinds, name) for h in range(len(heads))], 1)
        out[f"ratio:{name}"] = mean_of(each[:, 0], clusters, seed)
        if len(heads) > k:
            out[f"gap:{name}"] = mean_of(each[:, 0] - _others_mean(each[:, k:]), clusters, seed)
    null = shuffled([t.counted(0) for t in told], kinds, "numbers", seed, bench.claim.matched_sets)
    seen = out["ratio:numbers"].value
    place = (
        rank(seen, null, enumerated=False, alpha=bench.claim.alpha, unit="shuffles")
        if seen is not None and len(null)
        else None
    )
    out["completeness"] = clopper_pearson(sum(t.adds_up(0) for t in told), len(told), unit="problems")
    return out, place, null


# -- controls -----------------------------------------------------------------------------------------------


def _zero_path(bench: ThoughtBench, heads: Sequence[Head]) -> Control:
    """From a question to itself there is nothing to attribute: exactly zero everywhere."""
    asked = Asked.of(bench.thinker, [bench.test[0].question], [bench.test[0].id])
    frozen = Frozen.of(bench.thinker, ids_of(bench.thinker, asked, [0]), heads, 12)
    largest = float(attribute(frozen, frozen.inputs, 2).tokens.abs().max())
    return Control(
        name="zero-path", kind="negative", passed=largest == 0, value=largest,
        words=f"from a question to itself the largest attribution of a token is {largest:.2g}",
    )  # fmt: skip


# -- tables, figures, words ---------------------------------------------------------------------------------


def _frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    import pandas as pd

    return pd.DataFrame(list(rows))


def _tokens(bench: ThoughtBench, heads: Sequence[Head], told: Sequence[Told], classes: Sequence[Any]) -> Any:
    rows = []
    for p, t, (kinds, signs) in zip(bench.test, told, classes, strict=True):
        ids = bench.thinker.tokenizer(p.question.strip().replace("  ", " ")).input_ids
        words = [bench.thinker.tokenizer.decode([i]) for i in ids]
        for h, head in enumerate(heads):
            rows += [
                {"problem_id": p.id, "head": str(head), "place": i, "token": w, "class": kinds[i], "operator": signs[i],
                 "attribution": float(t.tokens[h, i])}
                for i, w in enumerate(words)
            ]  # fmt: skip
    return _frame(rows)


def _gaps(bench: ThoughtBench, heads: Sequence[Head], told: Sequence[Told]) -> Any:
    return _frame(
        [
            {"problem_id": p.id, "head": str(head), "change": float(t.change[h]), "gap": float(t.gap[h])}
            for p, t in zip(bench.test, told, strict=True) for h, head in enumerate(heads)
        ]
    )  # fmt: skip


def _figures(
    bench: ThoughtBench, rows: Sequence[Mapping[str, Any]], heads: Sequence[Head], k: int, told: Sequence[Told],
    numbers: Mapping[str, Estimate], place: Rank | None, null: Array,
) -> list[Figure]:  # fmt: skip
    def data(key: str, *ends: str) -> tuple[dict[str, Any], ...]:
        return tuple(
            {"label": r["class"], "group": r["head"] if r["critical"] else f"{r['head']} (other)", "value": r[key],
             "low": r[ends[0]],
             "high": r[ends[1]], "n": r["n"], "unit": r["unit"]}
            for r in rows if r["kind"] == "class" and r[key] is not None
        )  # fmt: skip

    words = "95 % intervals over problems; the dashed line is an even spread over the question's tokens."
    out = [
        Figure("estimates", "drawn", "What heads draw on, per token of a class", f"Integrated gradients. {words}",
               data("ratio", "low", "high"),
               {"x_title": "attribution over an even share", "threshold": 1}),
        Figure("estimates", "attended", "What heads attend to, per token of a class",
               f"From bot, thoughts, eot and answer. {words}",
               data("attention", "attention_low", "attention_high"), {"x_title": "attention over an even share", "threshold": 1}),
    ]  # fmt: skip
    if place is not None:
        title = f"Attribution of {heads[0]} to numbers, against attributions that change places"
        out.append(
            draw.null(
                "null-numbers",
                title,
                f"{place}.",
                null,
                numbers["ratio:numbers"],
                "observed",
                "attribution over an even share",
                "shuffles",
            )
        )
    problem = bench.test[0]
    ids = bench.thinker.tokenizer(problem.question.strip().replace("  ", " ")).input_ids
    shown = min(len(ids), 48)
    words_of = [f"{i + 1} {bench.thinker.tokenizer.decode([ids[i]]).strip()}" for i in range(shown)]
    cells = tuple(
        {"panel": "", "y": str(head), "x": words_of[i], "value": float(told[0].tokens[h, i])}
        for h, head in enumerate(heads[:k]) for i in range(shown)
    )  # fmt: skip
    out.append(
        Figure("heatmap", "example", "One question, token by token", f"Attributions in nats, problem {problem.id}.", cells,
               {"x_title": "token", "y_title": "critical head", "value_title": "attribution (nats)"})
    )  # fmt: skip
    return out


def _label(name: str, head: Head) -> str:
    kind, _, what = name.partition(":")
    return {
        "ratio": f"{head}: attribution to {what}, per token, over an even share",
        "gap": f"{head}: the same minus the mean of other heads, {what}",
        "completeness": "problems in which the leading head's attributions add up",
        "share": "critical heads that have a role by the rule",
    }[kind]


_WORDS = (
    "integrated gradients of a head's contribution to the answer (first order), through the latent loop, to the embeddings "
    "of the question"
)
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Integrated gradients divide a joint effect along one straight path; another baseline divides it otherwise, and the "
            "path "
            "leads through questions that nobody asked. A head that draws on numbers does what every part of a model that "
            "calculates "
            "must do: only the difference from other heads makes it a role. Classes of words are rules, not a parser's judgement. "
            "What a head attends to and what it draws on are two things: earlier layers have moved the numbers to other positions "
            "by then. Attribution says what the contribution depends on, not that the answer needs it."
        ),
    }
]

EXPERIMENT = Experiment(
    "attribution",
    "What do critical heads draw on, and what do they attend to?",
    attribution,
    STATISTICS,
    controls=("zero-path", "completeness", "randomised", "deletion"),
    options={"heads": "", "k": 3, "steps": 32, "max_new_tokens": 12},
)
