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

from collections.abc import Mapping
from typing import Any

import pandas as pd

from headlab.effects import Figure
from headlab.thoughts import roles
from headlab.thoughts.attributions import asked_of
from headlab.thoughts.roles import role_of
from headlab.trials import charts
from headlab.trials.drawn_on import (
    classes,
    critical,
    deletion,
    drawn_on,
    heads,
    leading,
    needed,
    nothing_to_attribute,
    null,
    place,
    randomised,
    ranked,
    words_of,
)
from headlab.trials.flow import NO_ANSWERS, Method, OnProblems
from headlab.trials.sweeps import Seen
from headlab.trials.thought_case import thoughts_at_least

# -- tables, figures, words ---------------------------------------------------------------------------------


def spelt(seen: Seen) -> list[list[str]]:
    """The tokens of each question."""
    decode = seen.case.thinker.tokenizer.decode
    return [[decode([i]) for i in ids] for ids in asked_of(seen.case.thinker, seen.case.test).ids]


def tokens(seen: Seen) -> pd.DataFrame:
    parts = zip(seen.case.test, seen.once(drawn_on), seen.once(words_of), seen.once(spelt), strict=True)
    rows = [
        {"problem_id": p.id, "head": f"{head}", "place": i, "token": w, "class": kinds[i], "operator": signs[i]}
        | {"attribution": float(t.tokens[h, i])}
        for p, t, (kinds, signs), words in parts
        for h, head in enumerate(seen.once(heads))
        for i, w in enumerate(words)
    ]
    return pd.DataFrame(rows)


def gaps(seen: Seen) -> pd.DataFrame:
    return pd.DataFrame(
        {"problem_id": p.id, "head": f"{head}", "change": float(t.change[h]), "gap": float(t.gap[h])}
        for p, t in zip(seen.case.test, seen.once(drawn_on), strict=True)
        for h, head in enumerate(seen.once(heads))
    )


def bars(name: str, title: str, by: str, ends: tuple[str, str], caption: str) -> Any:
    """A ratio of every head and class."""

    def draw(seen: Seen) -> Figure:
        rows: list[Mapping[str, Any]] = [
            {"label": r["class"], "group": r["head"] if r["critical"] else f"{r['head']} (other)", "value": r[by]}
            | {"low": r[ends[0]], "high": r[ends[1]], "n": r["n"], "unit": r["unit"]}
            for r in seen.once(classes)
            if r["kind"] == "class" and r[by] is not None
        ]
        words = "95 % intervals over problems; the dashed line is an even spread over the question's tokens."
        axes = {"x_title": f"{'attribution' if by == 'ratio' else by} over an even share", "threshold": 1}
        return Figure("estimates", name, title, f"{caption} {words}", tuple(rows), axes)

    return draw


def among_shuffles(seen: Seen) -> list[Figure]:
    if not (found := seen.once(place)):
        return []
    title = f"Attribution of {seen.once(heads)[0]} to numbers, against attributions that change places"
    line = (seen.estimate("ratio:numbers"), "observed", "attribution over an even share")
    return [charts.null("null-numbers", title, f"{found}.", seen.once(null), *line, of="shuffles")]


def example(seen: Seen) -> Figure:
    one, words = seen.once(drawn_on)[0], [f"{i} {w.strip()}" for i, w in enumerate(seen.once(spelt)[0][:48], 1)]
    cells = tuple(
        {"panel": "", "y": f"{head}", "x": w, "value": float(one.tokens[h, i])}
        for h, head in enumerate(seen.once(needed).heads)
        for i, w in enumerate(words)
    )
    axes = {"x_title": "token", "y_title": "critical head", "value_title": "attribution (nats)"}
    caption = f"Attributions in nats, problem {seen.case.test[0].id}."
    return Figure("heatmap", "example", "One question, token by token", caption, cells, axes)


def said(seen: Seen) -> list[str]:
    return [role_of(seen.once(classes), h) for h in seen.once(needed).heads]


def settings(seen: Seen) -> dict[str, object]:
    beside = ", ".join(map(str, seen.once(heads)[critical(seen) :]))
    steps = seen.scope.options["steps"]
    return {"heads": str(seen.once(needed)), "steps": steps, "baseline": "mean token embedding", "others": beside}


EXPERIMENT = OnProblems(
    slug="attribution",
    question="What do critical heads draw on, and what do they attend to?",
    statistics=("ratio:*", "gap:*", "rank:*", "attention:*", "completeness", "share:roles"),
    controls=("zero-path", "completeness", "randomised", "deletion"),
    options={"heads": "", "k": 3, "steps": 32, "max_new_tokens": 12},
    cannot=thoughts_at_least(1),
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            "integrated gradients of a head's contribution to the answer (first order), through the latent loop, to the "
            "embeddings of the question",
            numbers=(leading, ranked),
            controls=(
                nothing_to_attribute,
                lambda seen: roles.judged_completeness(seen.once(drawn_on)),
                randomised,
                deletion,
            ),
            figures=(
                bars(
                    "drawn",
                    "What heads draw on, per token of a class",
                    "ratio",
                    ("low", "high"),
                    "Integrated gradients.",
                ),
                bars(
                    "attended",
                    "What heads attend to, per token of a class",
                    "attention",
                    ("attention_low", "attention_high"),
                    "From bot, thoughts, eot and answer.",
                ),
                among_shuffles,
                example,
            ),
            tables={"classes": lambda seen: pd.DataFrame(seen.once(classes)), "tokens": tokens, "completeness": gaps},
            settings=settings,
            sections=lambda seen: {"What each critical head draws on": " ".join(said(seen))},
            notes=said,
        )
    },
    sections={
        "When this misleads": (
            "Integrated gradients divide a joint effect along one straight path; another baseline divides it otherwise, and the "
            "path "
            "leads through questions that nobody asked. A head that draws on numbers does what every part of a model that "
            "calculates "
            "must do: only the difference from other heads makes it a role. Classes of words are rules, not a parser's judgement. "
            "What a head attends to and what it draws on are two things: earlier layers have moved the numbers to other positions "
            "by then. Attribution says what the contribution depends on, not that the answer needs it."
        )
    },
)
