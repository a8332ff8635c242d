"""What critical heads draw on, in a trial: attributions by class of word, against shuffles and other heads; controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from headlab.claims import Control
from headlab.heads import Head, every_head
from headlab.stats import Estimate, Rank, clopper_pearson, holm, rank
from headlab.tasks.question_words import CLASSES, OPERATIONS, token_classes
from headlab.thoughts import roles
from headlab.thoughts.attributions import attended, attributed, mean_embedding, zero_path
from headlab.thoughts.loading import Thinker
from headlab.thoughts.roles import mean_of, ratios
from headlab.thoughts.untrained import untrained
from headlab.trials.sweeps import Seen, Told
from headlab.trials.thought_heads import Needed, needed_heads

Array = np.ndarray


def needed(seen: Seen) -> Needed:
    return needed_heads(seen.case, seen.scope.options["heads"], seen.scope.options["k"])


def heads(seen: Seen) -> tuple[Head, ...]:
    """The critical heads, then as many others, drawn at random."""
    own = seen.once(needed).heads
    rest = [h for h in every_head(seen.scope.grid) if h not in own]
    rng = np.random.default_rng(seen.case.seed)
    drawn = sorted(rng.choice(len(rest), min(len(own), len(rest)), replace=False).tolist())
    return (*own, *(rest[i] for i in drawn))


def critical(seen: Seen) -> int:
    """How many of them are critical."""
    return len(seen.once(needed).heads)


def _attributed(seen: Seen, thinker: Thinker, some: tuple[Head, ...], steps: int, refined: int) -> list[roles.Told]:
    case, base = seen.case, mean_embedding(thinker, seen.case.selection)
    told = {"tokens": case.tokens, "seed": case.seed, "progress": case.progress}
    return attributed(thinker, case.test, some, base, steps=steps, refined=refined, **told)


def drawn_on(seen: Seen) -> list[roles.Told]:
    every = seen.once(heads)
    return _attributed(seen, seen.case.thinker, every, seen.scope.options["steps"], critical(seen))


def at_random(seen: Seen) -> list[roles.Told]:
    """The leading head's attributions with random weights."""
    other = next(iter(untrained(seen.case.thinker, 1, seen.case.seed)))
    return _attributed(seen, other, seen.once(heads)[:1], 8, 0)


def looked_at(seen: Seen) -> list[Array]:
    case = seen.case
    return attended(case.thinker, case.test, seen.once(heads), batch=case.rows, progress=case.progress)


def words_of(seen: Seen) -> list[tuple[list[str], list[str]]]:
    """Class and operator of each token, by problem."""
    return [token_classes(seen.case.thinker.tokenizer, p.question) for p in seen.case.test]


def counted(seen: Seen, head: int) -> list[Array]:
    return [t.counted(head) for t in seen.once(drawn_on)]


# -- ratios -------------------------------------------------------------------------------------------------


def classes(seen: Seen) -> list[dict[str, Any]]:
    """One row for each head and class (or operator): attribution and attention per token, and p among shuffles."""
    case, words = seen.case, seen.once(words_of)
    groups = [("class", c, [kinds for kinds, _ in words]) for c in CLASSES]
    groups += [("operator", s, [signs for _, signs in words]) for s in OPERATIONS]
    rows: list[dict[str, Any]] = []
    for h, head in enumerate(seen.once(heads)):
        own, sums, told = counted(seen, h), roles.adds_up(seen.once(drawn_on), h), h < critical(seen)
        for what, name, kinds in groups:
            e = mean_of(ratios(own, kinds, name), case.clusters, case.seed)
            look = mean_of(ratios([a[h] for a in seen.once(looked_at)], kinds, name), case.clusters, case.seed)
            p = None
            if told and e.value is not None:
                null = roles.shuffled(own, kinds, name, case.seed, case.claim.matched_sets)
                p = rank(e.value, null, enumerated=False).p if len(null) else None
            row = {"head": f"{head}", "critical": told, "adds_up": sums, "kind": what, "class": name, "ratio": e.value}
            row |= {"low": e.low, "high": e.high, "n": e.n, "unit": e.unit, "p": p, "attention": look.value}
            rows.append(row | {"attention_low": look.low, "attention_high": look.high, "p_adjusted": None})
    known = [r for r in rows if r["p"] is not None]
    for r, p in zip(known, holm([r["p"] for r in known]) if known else [], strict=True):
        r["p_adjusted"] = float(p)
    return rows


def null(seen: Seen) -> Array:
    """The leading head's ratio of numbers when attributions change places within each question, [shuffle]."""
    kinds, case = [c for c, _ in seen.once(words_of)], seen.case
    return roles.shuffled(counted(seen, 0), kinds, "numbers", case.seed, case.claim.matched_sets)


def leading(seen: Seen) -> Iterator[Told]:
    """The leading head by class of word, its difference from other heads, and how many heads have a role."""
    kinds, case, every, k = [c for c, _ in seen.once(words_of)], seen.case, seen.once(heads), critical(seen)
    for name in CLASSES:
        each = np.stack([ratios(counted(seen, h), kinds, name) for h in range(len(every))], 1)
        label = f"{every[0]}: attribution to {name}, per token, over an even share"
        yield Told(f"ratio:{name}", label, mean_of(each[:, 0], case.clusters, case.seed), "")
        if len(every) > k:
            label = f"{every[0]}: the same minus the mean of other heads, {name}"
            gap = each[:, 0] - _mean_known(each[:, k:])
            yield Told(f"gap:{name}", label, mean_of(gap, case.clusters, case.seed), "")
    told = seen.once(drawn_on)
    whole = clopper_pearson(sum(t.adds_up(0) for t in told), len(told), unit="problems")
    yield Told("completeness", "problems in which the leading head's attributions add up", whole, "")
    yield Told("share:roles", "critical heads that have a role by the rule", with_role(seen), "")


def _mean_known(values: Array) -> Array:
    """Mean over heads by problem; heads that were left out there (NaN) do not count."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


def with_role(seen: Seen) -> Estimate:
    own = [f"{h}" for h in seen.once(needed).heads]
    rows = [r for r in seen.once(classes) if r["kind"] == "class" and roles.has_role(r)]
    return clopper_pearson(sum(h in {r["head"] for r in rows} for h in own), len(own), unit="heads")


def place(seen: Seen) -> Rank | None:
    found, others = seen.estimate("ratio:numbers").value, seen.once(null)
    if found is None or not len(others):
        return None
    return rank(found, others, enumerated=False, alpha=seen.case.claim.alpha, unit="shuffles")


def ranked(seen: Seen) -> Iterator[Told]:
    if found := seen.once(place):
        yield Told("rank:numbers", "shuffles of attributions that give numbers as much", found, "")


# -- controls -----------------------------------------------------------------------------------------------


def nothing_to_attribute(seen: Seen) -> Control:
    """From a question to itself there is nothing to attribute: exactly zero everywhere."""
    largest = zero_path(seen.case.thinker, seen.case.test, seen.once(heads)[:1])
    words = f"from a question to itself the largest attribution of a token is {largest:.2g}"
    return Control(name="zero-path", kind="negative", passed=largest == 0, value=largest, words=words)


def randomised(seen: Seen) -> Control:
    return roles.judged_random(seen.once(drawn_on), seen.once(at_random), seen.case.clusters, seen.case.seed)


def deletion(seen: Seen) -> Control:
    return roles.judged_deletion(seen.once(drawn_on), seen.case.clusters, seen.case.seed)
