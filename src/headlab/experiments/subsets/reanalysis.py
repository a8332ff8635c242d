"""What does a table of subset outcomes, published as "any k of these work", really say?

1. Success by size and by source; the *family* is what the claim is about: subsets of one size from one pool.
2. Member by member (Fisher's exact test, Holm): does one of them decide?
3. Is there one weight per member and a threshold that reproduces every outcome, and how often would chance allow that?
4. Does an additive rule predict subsets that it has not seen, better than the commoner outcome and than the size alone?
5. Does success follow how regularly the members are spaced, before and after their own additive effects?

No model is run.  The claim's words were written after the outcomes were known, and the record says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from headlab.claims import Claim, Control, Prediction, decide, judged
from headlab.effects import Figure
from headlab.experiments.subsets import reanalysis_page as show
from headlab.stats import (
    Estimate,
    Rank,
    clopper_pearson,
    held_out_deviance,
    linear_separability,
    predict_left_out,
    wilson,
)
from headlab.stats.members import MemberTest, additive, member_tests, separable_by_chance
from headlab.stats.spacing import Association, Spacing, rank_correlation, spacing
from headlab.store import NamedEstimate, Reading, Record, Result, Store
from headlab.tasks.outcomes import SHIPPED, SHIPPED_RANDOM, Family, Outcomes, family, read
from headlab.trials.pairs import named
from headlab.trials.record import versions
from headlab.trials.results import handed_on

SHUFFLES, LABEL_SHUFFLES = 9999, 200
CLAIM_FIELDS = {
    "id",
    "words",
    "source",
    "published",
    "experiment",
    "predictions",
    "controls",
    "alpha",
    "seed",
    "options",
}


def reanalyse(
    table: Any = None,
    *,
    size: int | None = None,
    pool: str | None = None,
    random_sources: Sequence[str] | None = None,
    seed: int = 0,
    shuffles: int = SHUFFLES,
    store: Store | Path | str | None = None,
) -> Result:
    """Read a table of subset outcomes again, and store the record.

    ``table``: a CSV file or DataFrame (see :mod:`headlab.tasks.outcomes`), or None for the published table that
    ships.  ``size`` and ``pool`` (even, odd, any) name the family; ``random_sources`` are the ``sources`` of subsets
    that were drawn at random.  Raises ValueError with one clear sentence.
    """
    known = read(table)
    if random_sources is None:
        random_sources = SHIPPED_RANDOM if table is None else ()
    group = family(known, size, pool, random_sources)
    claim = _claim(known, group, seed, published=table is None)
    draft = {
        "claim": claim.model_dump(mode="json", include=CLAIM_FIELDS),
        "settings": {
            "table": known.name,
            "size": group.size,
            "pool": group.pool,
            "random_sources": list(random_sources),
            "seed": seed,
            "shuffles": shuffles,
        },
        "versions": versions(),
        "call": _call(table, size, pool, () if table is None else random_sources, seed),
    }
    inputs = {"rows": known.frame().to_dict("list"), "settings": draft["settings"], "claim": draft["claim"]}
    home = store if isinstance(store, Store) else Store(store)
    title = "Published subset outcomes, read again" if table is None else f"{known.name}, read again"
    with home.open(kind="run", slug="reanalysis", title=title, inputs=inputs, draft=draft) as run:
        if run.finished is not None:
            return handed_on(home, run.finished)
        found = analyse(known, group, claim, shuffles)
        for name, frame in found.tables.items():
            run.table(name, frame)
        record = run.finish(
            readings=[found.reading],
            figures=[f.plain() for f in found.figures],
            sections=found.sections,
            notes=[
                "No model was run. The claim's words and thresholds were written after these outcomes were known: "
                "this is a reading of them, not a confirmation on new ones."
            ],
        )
    return handed_on(home, record, found.tables)


def repeat(record: Record, store: Store | Path | str | None = None) -> Result:
    """Run a stored reanalysis again, from the rows that it stored."""
    home = store if isinstance(store, Store) else Store(store)
    s = record.settings
    table = None if s["table"] == SHIPPED else home.table(record.id, "subsets")
    return reanalyse(
        table,
        size=s["size"],
        pool=s["pool"],
        random_sources=s["random_sources"],
        seed=s["seed"],
        shuffles=s["shuffles"],
        store=home,
    )


@dataclass(frozen=True)
class Found:
    """What a table says: its reading, figures, sections and tables."""

    reading: Reading
    figures: list[Figure]
    sections: list[dict[str, str]]
    tables: dict[str, Any]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Every number by its name."""
        return {e.name: Estimate.from_dict(e.estimate) for e in self.reading.estimates}


def analyse(table: Outcomes, group: Family, claim: Claim, shuffles: int = SHUFFLES) -> Found:
    """The whole analysis.  Pure: the same table, the same numbers."""
    seed, y, x = claim.seed, table.worked, table.membership
    rates = _rates(table, group)
    tests = member_tests(x[group.drawn], y[group.drawn])
    one = decider(tests, claim.alpha)
    rule = linear_separability(x, y)
    chance = separable_by_chance(x[group.kept], y[group.kept], seed=seed, shuffles=LABEL_SHUFFLES)
    left_out = {"all": predict_left_out(x, y), "family": predict_left_out(x[group.kept], y[group.kept])}
    accounts = held_out_deviance(x, y.astype(float), trials=1, seed=seed)
    before, after = (_spacing(table, group, seed, shuffles, claim.alpha, control) for control in (False, True))
    findings: dict[str, Estimate | Rank] = {"success": rates["success:random" if group.sampled else "success:family"]}
    if before["gap_sd"].rank is not None:
        findings["rank:gap_sd"] = before["gap_sd"].rank
    estimates = [
        *(named(k, show.rate_words(k, group), e, "") for k, e in rates.items()),
        *_member_estimates(tests, one, table, group),
        *show.rule_estimates(rule, chance, left_out, accounts, group),
        *_spacing_estimates(before, after),
    ]
    reading = Reading(
        protocol="table",
        words="outcomes as they were published, one row per subset" if table.name == SHIPPED else "one row per subset",
        verdict=decide(claim, findings, _controls(table, group, claim)),
        estimates=tuple(estimates),
    )
    tables = {
        "subsets": table.frame(),
        "rates": show.rates_table(rates),
        "members": show.members_table(tests, rule),
        "spacing": show.spacing_table(before, after),
        "metrics": _metrics_table(table),
    }
    effects = additive(x[group.kept], y[group.kept].astype(float)).effects
    return Found(
        reading,
        show.figures(rates, tests, effects, before, after, group),
        show.sections(table, group, tests, one, rule, chance, before, after),
        tables,
    )


def decider(tests: Sequence[MemberTest], alpha: float) -> int | None:
    """The member with the smallest p, when it is under alpha after Holm's adjustment and no other ties with it."""
    known = sorted((t.p, i) for i, t in enumerate(tests) if t.p is not None)
    if not known or (len(known) > 1 and known[0][0] == known[1][0]):
        return None
    adjusted = tests[known[0][1]].holm
    return known[0][1] if adjusted is not None and adjusted < alpha else None


def _claim(table: Outcomes, group: Family, seed: int, *, published: bool) -> Claim:
    words = f"any of the {group.words} work"
    return Claim.model_validate(
        {
            "id": "reanalysis",
            "words": f"{words.capitalize()}, and success follows how regularly they are spaced.",
            "source": "arXiv 2508.19414 (2025), its code and its result files" if published else table.name,
            "published": "any 8 of the even heads work; regular gaps predict success" if published else "",
            "experiment": "reanalysis",
            "predictions": (
                Prediction(statistic="success", op=">", threshold=0.95, words=words),
                Prediction(
                    statistic="rank:gap_sd", op="rank<", threshold=0.05, words="success follows the spread of the gaps"
                ),
            ),
            "controls": ("planted member", "shuffled outcomes"),
            "seed": seed,
            "options": {"size": group.size, "pool": group.pool},
        }
    )


def _call(table: Any, size: int | None, pool: str | None, sources: Sequence[str], seed: int) -> dict[str, str]:
    file = None if table is None else str(table) if isinstance(table, str | Path) else "table.csv"
    given: dict[str, Any] = {"size": size, "pool": pool, "seed": seed or None}
    options = {k: v for k, v in given.items() if v is not None}
    words = ["headlab", "reanalyse", *([file] if file else [])]
    words += [w for k, v in options.items() for w in (f"--{k}", str(v))]
    words += [w for s in sources for w in ("--random", s)]
    python = [repr(file)] if file else []
    python += [f"{k}={v!r}" for k, v in options.items()] + ([f"random_sources={tuple(sources)!r}"] if sources else [])
    return {
        "command": shlex.join(words),
        "python": f"headlab.experiments.subsets.reanalysis.reanalyse({', '.join(python)})",
    }


def _rates(table: Outcomes, group: Family) -> dict[str, Estimate]:
    """Success over all subsets, the family, its random part, each size and each source."""

    def of(rows: Any) -> Estimate:
        return wilson(int(table.worked[rows].sum()), int(np.count_nonzero(rows)), unit="subsets")

    out = {"success:all": of(np.ones(len(table.worked), dtype=bool)), "success:family": of(group.kept)}
    if group.sampled:
        out["success:random"] = of(group.drawn)
    for size in sorted(set(table.sizes.tolist())):
        out[f"success:size:{size}"] = of(table.sizes == size)
    parts = [set(filter(None, s.split("+"))) for s in table.sources]
    for source in sorted(set().union(*parts)):
        out[f"success:source:{source}"] = of(np.array([source in p for p in parts]))
    return out


def _member_estimates(
    tests: Sequence[MemberTest], one: int | None, table: Outcomes, group: Family
) -> list[NamedEstimate]:
    """The member that decides: success with it and without it, and its share of the failures."""
    if one is None:
        return []
    t, drawn = tests[one], group.drawn
    assert t.p is not None and t.holm is not None
    n = int(drawn.sum())
    harmful = (t.present.value or 0.0) < (t.absent.value or 0.0)
    blamed = table.membership[drawn & ~table.worked, one] == harmful
    p, adjusted = (Estimate(v, v, v, n, "subsets", "enumeration") for v in (t.p, t.holm))
    return [
        named("success:present", f"with block {one}: subsets that succeed", t.present, ""),
        named("success:absent", f"without block {one}: subsets that succeed", t.absent, ""),
        named(
            "failures:member",
            f"failures that {'hold' if harmful else 'lack'} block {one}",
            wilson(int(blamed.sum()), len(blamed), unit="failures"),
            "",
        ),
        named("p:member", f"block {one}: Fisher's exact p", p, ""),
        named(
            "p:member:holm", f"block {one}: p, Holm over {sum(u.p is not None for u in tests)} members", adjusted, ""
        ),
    ]


def spacing_of(table: Outcomes) -> list[Spacing]:
    """The description of each subset."""
    return [spacing(s, table.places) for s in table.subsets]


def _metrics_table(table: Outcomes) -> Any:
    import pandas as pd

    frame = pd.DataFrame([asdict(s) for s in spacing_of(table)]).astype(float)
    return pd.concat([table.frame()[["size", "blocks", "success"]], frame], axis=1)


def _spacing(
    table: Outcomes, group: Family, seed: int, shuffles: int, alpha: float, control: bool
) -> dict[str, Association]:
    """Each metric against success in the family; ``control``: after the members' additive effects."""
    described = [s for s, kept in zip(spacing_of(table), group.kept, strict=True) if kept]
    inside = table.membership[group.kept]
    others = inside[:, inside.any(0) & ~inside.all(0)].astype(float) if control else None
    out = {}
    for metric in (f.name for f in fields(Spacing)):
        values = [getattr(s, metric) for s in described]
        if any(v is None for v in values):
            why = f"a subset of {group.size} has no {show.METRICS[metric]}"
            out[metric] = Association(Estimate.undefined("subsets", len(values), why), None)
            continue
        out[metric] = rank_correlation(
            values, table.worked[group.kept], others, unit="subsets", seed=seed, shuffles=shuffles, alpha=alpha
        )
    return out


def _spacing_estimates(before: dict[str, Association], after: dict[str, Association]) -> list[NamedEstimate]:
    out = []
    for metric, tail in (("gap_sd", "of the gaps' standard deviation"),):
        for name, words, found in (
            ("", "", before[metric]),
            (":after", ", after the members' own effects", after[metric]),
        ):
            label = f"rank correlation {tail} with success{words}"
            out.append(named(f"correlation:{metric}{name}", label, found.correlation, ""))
            if found.rank is not None:
                out.append(named(f"rank:{metric}{name}", f"p {tail}{words}", found.rank.estimate, ""))
    return out


def _controls(table: Outcomes, group: Family, claim: Claim) -> list[Control]:
    """Shuffled outcomes must name no member more often than alpha allows; a planted member must be named."""
    inside, y = table.membership[group.drawn], table.worked[group.drawn]
    rng = np.random.default_rng(claim.seed)
    hits = sum(
        decider(member_tests(inside, rng.permutation(y)), claim.alpha) is not None for _ in range(LABEL_SHUFFLES)
    )
    false = clopper_pearson(hits, LABEL_SHUFFLES, unit="shuffles")
    planted = int(np.abs(inside.mean(0) - 0.5).argmin())
    named_one = decider(member_tests(inside, ~inside[:, planted]), claim.alpha)
    ends = "single it out" if named_one == planted else "do not single it out: there are too few to decide"
    alone = f"outcomes that block {planted} alone decides on the same {len(y)} subsets {ends}"
    dealt = f"outcomes dealt out at random single out a member in {false}"
    return [
        judged("shuffled outcomes", "negative", false.above(claim.alpha) != "yes", false.value, dealt),
        judged("planted member", "positive", named_one == planted, None, alone),
    ]
