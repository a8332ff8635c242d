"""How a reanalysis is shown: labels, tables, figures and the text beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headlab.effects import Figure, Table
from headlab.stats import Estimate, holm
from headlab.stats.members import LeftOut, MemberTest, Separability
from headlab.stats.spacing import Association
from headlab.store import NamedEstimate
from headlab.tasks.outcomes import Family, Outcomes
from headlab.trials import charts
from headlab.trials.pairs import named

if TYPE_CHECKING:
    pass


METRICS = {
    "gap_sd": "standard deviation of the gaps",
    "regularity": "regularity of the gaps",
    "mean_gap": "mean gap",
    "largest_gap": "largest gap",
    "span": "span",
    "coverage": "coverage of the span",
    "centre": "centre",
    "spread": "spread about the centre",
    "balance": "balance of low and high",
}


def adjusted_p(found: dict[str, Association]) -> dict[str, float | None]:
    """Holm over the metrics."""
    p = [a.rank.p if a.rank is not None else None for a in found.values()]
    return {k: None if raw is None else float(v) for k, raw, v in zip(found, p, holm(p), strict=True)}


def rate_words(name: str, group: Family) -> str:
    """A rate's label."""
    fixed = {
        "success:all": "all subsets that succeed",
        "success:family": f"{group.words} that succeed",
        "success:random": f"{group.words} drawn at random that succeed",
    }
    kind, _, rest = name.removeprefix("success:").partition(":")
    return fixed.get(name) or (f"subsets of {rest} that succeed" if kind == "size" else f"source {rest}: succeed")


def rule_estimates(
    rule: Separability,
    chance: Estimate,
    left_out: Mapping[str, LeftOut],
    accounts: Mapping[str, Estimate],
    group: Family,
) -> list[NamedEstimate]:
    """Separability, prediction of unseen subsets, and the three accounts of success."""
    words = {"all": "all subsets", "family": group.words}
    if rule.separable is None:
        whole = Estimate.undefined("subsets", rule.n, "only one outcome occurs")
    else:
        said = float(rule.separable)
        whole = Estimate(said, said, said, rule.n, "subsets", "enumeration", note="1 yes, 0 no")
    out = [
        named("separable:all", "all outcomes follow one weight per member and a threshold (1 yes, 0 no)", whole, ""),
        named("separable:shuffled", f"the same of {group.words} with shuffled outcomes", chance, ""),
    ]
    for key, found in left_out.items():
        out.append(named(f"left_out:{key}", f"{words[key]}: unseen ones an additive rule predicts", found.accuracy, ""))
        out.append(
            named(f"left_out:{key}:majority", f"{words[key]}: the commoner outcome predicts", found.majority, "")
        )
    return out + [
        named(f"deviance:{k}", f"{k} account: deviance on unseen subsets (nats, less is better)", e, "")
        for k, e in accounts.items()
    ]


def rates_table(rates: Mapping[str, Estimate]) -> Table:
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "of": name.removeprefix("success:"),
                "rate": e.value,
                "low": e.low,
                "high": e.high,
                "n": e.n,
                "successes": round((e.value or 0) * e.n),
                "method": e.method,
            }
            for name, e in rates.items()
        ]
    )


def members_table(tests: Sequence[MemberTest], rule: Separability) -> Table:
    """One row per member: success with and without it, p, and its weight in the separating rule."""
    import pandas as pd

    rows = []
    for i, t in enumerate(tests):
        row: dict[str, Any] = {"member": i}
        for side, e in (("present", t.present), ("absent", t.absent)):
            row |= {f"{side}_n": e.n, f"{side}_rate": e.value, f"{side}_low": e.low, f"{side}_high": e.high}
        rows.append(row | {"p": t.p, "p_holm": t.holm, "weight": rule.weights[i] if rule.weights else None})
    whole = {"member", "present_n", "absent_n"}
    frame = pd.DataFrame(rows)
    return frame.astype({c: "float64" for c in frame.columns if c not in whole})


def spacing_table(before: Mapping[str, Association], after: Mapping[str, Association]) -> Table:
    """One row per metric, before and after the members' additive effects."""
    import pandas as pd

    rows = []
    for stage, found in (("before", before), ("after", after)):
        adjusted = adjusted_p(dict(found))
        for metric, a in found.items():
            e, r = a.correlation, a.rank
            rows.append(
                {
                    "metric": metric,
                    "members": stage,
                    "correlation": e.value,
                    "low": e.low,
                    "high": e.high,
                    "n": e.n,
                    "p": r.p if r else None,
                    "p_low": r.low if r else None,
                    "p_high": r.high if r else None,
                    "p_holm": adjusted[metric],
                    "note": e.note,
                }
            )
    frame = pd.DataFrame(rows)
    return frame.astype({c: "float64" for c in ("correlation", "low", "high", "p", "p_low", "p_high", "p_holm")})


def figures(
    rates: Mapping[str, Estimate],
    tests: Sequence[MemberTest],
    effects: Sequence[Estimate],
    before: Mapping[str, Association],
    after: Mapping[str, Association],
    group: Family,
) -> list[Figure]:
    """The null of the spacing first (it stands beside the predictions), then rates, members, effects, metrics."""
    varied = [i for i, t in enumerate(tests) if t.p is not None]
    which = "drawn at random" if group.sampled else "all of them"
    both = [(str(i), g, e) for i in varied for g, e in (("in", tests[i].present), ("out", tests[i].absent))]
    shares = [
        (rate_words(k, group).removesuffix(" that succeed"), "", e) for k, e in rates.items() if ":source:" not in k
    ]
    metrics = [
        (METRICS[m], stage, found[m].correlation)
        for m in METRICS
        for stage, found in (("as they are", before), ("after the members' effects", after))
        if found[m].correlation.defined
    ]
    members = (
        f"{group.words.capitalize()} ({which}), Wilson intervals, 95 %. One member far from the others decides alone."
    )
    told = [
        (
            "rates",
            "Success by size and kind of subset",
            "Wilson intervals, 95 %, over distinct subsets. One prompt pair: they say nothing about other prompts.",
            shares,
            "share that succeeds",
            None,
        ),
        ("members", "Success with and without each member", members, both, "share that succeeds", None),
        (
            "effects",
            "What each member adds to success",
            f"Least squares over the {group.words}, HC3 intervals, 95 %; all of one size, so each is relative to the average "
            "member.",
            [(str(i), "", e) for i, e in enumerate(effects) if e.defined],
            "change in the share that succeeds",
            0.0,
        ),
        (
            "spacing",
            "Does success follow the spacing?",
            f"Rank correlation of nine descriptions of spacing with success over the {group.words}, Fisher intervals, 95 % "
            "each. For sets of one size mean gap, span and coverage are one quantity.",
            metrics,
            "rank correlation with success",
            0.0,
        ),
    ]
    null = [_null(before["gap_sd"], group)] if before["gap_sd"].rank is not None else []
    return [*null, *(_estimates(*one) for one in told if one[3] or one[0] == "rates")]  # type: ignore[arg-type]


def _estimates(
    name: str, title: str, caption: str, rows: Sequence[tuple[str, str, Estimate]], x: str, threshold: float | None
) -> Figure:
    data = tuple({"label": a, "group": g, "value": e.value, "low": e.low, "high": e.high, "n": e.n} for a, g, e in rows)
    options = {"x_title": x} | ({} if threshold is None else {"threshold": threshold})
    return Figure("estimates", name, title, caption, data, options)


def _null(found: Association, group: Family) -> Figure:
    e, r = found.correlation, found.rank
    assert e.value is not None and e.low is not None and e.high is not None and r is not None
    across = e.low < 0 < e.high
    ends = sorted(abs(v) for v in (e.low, e.high))
    size = Estimate(abs(e.value), 0.0 if across else ends[0], ends[1], e.n, e.unit, e.method)
    title, x_title = (
        "Do the gaps of the working subsets stand out among shuffled outcomes?",
        "size of the rank correlation",
    )
    caption = (
        f"Size of the rank correlation between the gaps' standard deviation and success over the {group.words}, and in "
        f"{r.n_sets:,} shuffles of the outcomes; {r.at_least_as_extreme:,} are at least as large: p = {r.p:.3g}."
    )
    line = (size, "as published", x_title, r.p)
    return charts.null("gap_sd", title, caption, found.null, *line, of="shuffled outcomes")


def sections(
    table: Outcomes,
    group: Family,
    tests: Sequence[MemberTest],
    one: int | None,
    rule: Separability,
    chance: Estimate,
    before: Mapping[str, Association],
    after: Mapping[str, Association],
) -> list[dict[str, str]]:
    """The text of the page."""
    return [
        {"heading": "What was read", "text": _what(table, group)},
        {"heading": "Which member decides", "text": _who(table, group, tests, one)},
        {"heading": "One additive margin", "text": _margin(rule, chance, group)},
        {"heading": "Spacing", "text": _gaps(before, after, group)},
        {"heading": "When this misleads", "text": MISLEADS},
    ]


def _what(table: Outcomes, group: Family) -> str:
    drawn = (
        f" Of these, {int(group.drawn.sum())} were drawn at random by the study; the rate that is ruled on and the tests of "
        "single members use them, since subsets that were chosen represent nothing but themselves."
        if group.sampled
        else " Whether they were drawn at random is not known; if they were chosen, the rates describe the choice."
    )
    return (
        f"{len(table.subsets)} distinct subsets of {table.places} members, {int(table.worked.sum())} of which succeed. The family "
        f"is the {int(group.kept.sum())} {group.words}.{drawn} A subset that several sources report counts in each source's rate, "
        "so those rates overlap."
    )


def _who(table: Outcomes, group: Family, tests: Sequence[MemberTest], one: int | None) -> str:
    if one is None:
        return "No single member's presence goes with the outcome after Holm's adjustment for all of them."
    t = tests[one]
    failed = table.membership[group.drawn & ~table.worked, one]
    harmful = (t.present.value or 0) < (t.absent.value or 0)
    held = int(failed.sum()) if harmful else int((~failed).sum())
    counts = [f"{round((e.value or 0) * e.n)} of {e.n}" for e in (t.present, t.absent)]
    return (
        f"Block {one}: with it {counts[0]} subsets succeed ({t.present}), without it {counts[1]} ({t.absent}); Fisher's exact "
        f"p = {t.p:.2g}, {t.holm:.2g} after Holm. {held} of {len(failed)} failures {'hold' if harmful else 'lack'} it. The "
        'success of "any" of these subsets is mostly whether this one is among them.'
    )


def _margin(rule: Separability, chance: Estimate, group: Family) -> str:
    if rule.separable is None:
        return "Only one outcome occurs, so there is nothing to separate."
    if not rule.separable:
        return "No weights and threshold reproduce every outcome: some interaction, noise or error is in the table."
    assert rule.weights is not None and rule.bias is not None
    used = sorted(((w, i) for i, w in enumerate(rule.weights) if w), key=lambda p: -abs(p[0]))
    top = ", ".join(f"{i} ({w:+.2g})" for w, i in used[:8])
    empty = " Any labels of so few subsets could be separated, so this says nothing." if rule.always_possible else ""
    return (
        f"Each of the {rule.n} outcomes is the sign of one sum: a weight for each member that is in, and {rule.bias:+.2g}. Of "
        f"all such rules this is the one with the smallest weights at a margin of 1; a positive weight pushes towards success, and "
        f"{len(used)} of {len(rule.weights)} are not zero. The largest: {top}. Other rules fit as well, so a weight is not a "
        f"measurement.{empty}\n\nShuffled outcomes of the {group.words} can be separated in {chance}. Where that is rare, "
        '"any k work", "exactly k", a sharp threshold, redundancy and interference need no mechanism beyond heads that each '
        "add to one margin, whose sign is all that was read."
    )


def _gaps(before: Mapping[str, Association], after: Mapping[str, Association], group: Family) -> str:
    out = []
    for stage, found in (("As they are", before), ("After the members' own additive effects", after)):
        a, adjusted = found["gap_sd"], {k: p for k, p in adjusted_p(dict(found)).items() if p is not None}
        if a.rank is None:
            out.append(f"{stage}, the gaps cannot be tested: {a.correlation.note}.")
            continue
        standing = [
            f"{METRICS[k]} ({str(found[k].correlation).split(' (')[0]}, {p:.2g} after Holm)"
            for k, p in adjusted.items()
            if p < 0.05
        ]
        out.append(
            f"{stage}, the gaps' standard deviation and success correlate at {a.correlation}, {a.rank}. Of {len(adjusted)} "
            f"descriptions, {'; '.join(standing) or 'none'} stand{'' if len(standing) > 1 else 's'} out after Holm."
        )
    return (
        f"Over the {group.words}. {' '.join(out)}\n\nFor sets of one size mean gap, span and coverage are one quantity. Only "
        "the gaps' standard deviation was named by the claim; anything else that stands out here was found by looking, and "
        "needs new subsets."
    )


MISLEADS = (
    "The rows are subsets, not prompts: with one prompt pair nothing here speaks of another pair, model or layer, however "
    "narrow an interval is. Subsets that share most of their members are not independent, so the intervals are somewhat too "
    "narrow. Members were tested because the table had failures to explain; the adjustment covers the members, not other "
    "ways of cutting the table. An additive rule that fits is the simplest account, not a proof that nothing else happens: "
    "an interaction needs pairs of subsets that differ in one member, and a readout that is not just a sign."
)
