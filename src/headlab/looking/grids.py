"""Every head of a model at once: what changing it does to the answers, and how it attends."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd

from headlab.effects import Figure
from headlab.engine.gradients import attribution_patching
from headlab.engine.model import Lab
from headlab.engine.recall import recalling
from headlab.engine.run import sweep
from headlab.heads import Head, Heads
from headlab.interventions import InterventionError, World, across
from headlab.looking.given import HeadsLike, Pairs, heads_of, pairs_of, text_of
from headlab.looking.look import Look
from headlab.prompts import Alignment, EncodedPair
from headlab.reading import meant
from headlab.readouts import MARGIN, Readout
from headlab.stats.intervals import bootstrap_means
from headlab.trials import scores
from headlab.trials.fields import SCORES, known_scores

WRITES = ("patch", "mean", "zero", "resample")
LOOKS = (*WRITES, "attribution")
ALONE = ("induction", "duplicate", "successor")
"""Scores that are measured on no prompts of the reader's."""
ON_PAIRS = ("probe", "attribution")
UNITS = {
    "norm": "norm",
    "copying": "share of tokens",
    "successor": "share of tokens",
    "probe": "share of prompts",
    "attribution": "logits",
}


def heatmap(
    lab: Lab,
    pairs: Pairs,
    what: str = "patch",
    *,
    readout: str = "margin",
    align: Alignment = "role",
    seed: int = 0,
) -> Look:
    """What writing each head alone does to a readout: a cell for each head, the mean over pairs.

    Definition: readout under the edit less the readout without it.  ``patch``: the corrupted run is edited, the head's z
        comes from the clean one; ``attribution`` is its first-order estimate (two passes for all heads).  ``mean``,
        ``zero``, ``resample``: the clean run is edited.
    Table: ``layer``, ``head``, ``value`` with its 95 % interval ``low`` … ``high`` (clusters of pairs resampled), ``n`` pairs.
    Units: those of the readout (margin: logits).
    Raises: InterventionError for another write, PromptError where pairs do not align, ValueError for no pairs.
    When it misleads: heads that back each other up do nothing alone; a head may be large here and no larger than any other
        of its layer, which only a trial asks; the intervals are of single heads, not of the largest of many.
    """
    _known(what, LOOKS)
    encoded, kind = pairs_of(lab, pairs), Readout(readout)
    if what == "attribution":
        if kind.kind != MARGIN.kind:
            raise InterventionError(
                "attribution estimates the margin; for another readout patch, or write mean or zero"
            )
        made = attribution_patching(lab, encoded, align=align)
        made["change"] = made["attribution"]
    else:
        each = {str(h): h for at in sorted(lab.attentions) for h in (Head(at, n) for n in range(lab.grid.n_heads))}
        made = _changed(lab, encoded, {name: Heads([h]) for name, h in each.items()}, what, kind, align)
        made["layer"], made["head"] = ([getattr(each[w], k) for w in made["world"]] for k in ("layer", "index"))
    some = tuple(e.pair for e in encoded)
    wide = made.pivot(index="pair", columns=["layer", "head"], values="change")
    means = bootstrap_means(wide.to_numpy(), [p.cluster or p.id for p in some], unit="pairs", seed=seed)
    rows = [
        {"layer": int(at), "head": int(h), "value": m.value, "low": m.low, "high": m.high, "n": m.n}
        for (at, h), m in zip(wide.columns, means, strict=True)  # type: ignore[misc]
    ]
    title = f"{what} of each head alone: change of the {readout}, {len(some)} pairs"
    return Look(pd.DataFrame(rows), _grid(rows, title, f"change of the {readout}"), _unit(kind), some)


def effect(
    lab: Lab,
    pairs: Pairs,
    heads: HeadsLike,
    what: str = "zero",
    *,
    readout: str = "margin",
    align: Alignment = "role",
) -> Look:
    """What writing some heads together does on each prompt: the click of an explorer.

    Definition: as in :func:`heatmap`, all of ``heads`` written at once (``patch``: corrupted runs are edited; ``mean``,
        ``zero``, ``resample``: clean ones).
    Table: ``pair`` (id), ``cluster``, ``before`` (the edited run as it is), ``after``, ``value`` (after − before), ``other``
        (the pair's other run).  Units: those of the readout (margin: logits).
    What unedited passes gave is kept for the next look at the same prompts (:mod:`headlab.engine.recall`): other heads, then,
    cost the passes from their lowest layer on alone.  Who looks often encodes once: ``[encode(p, lab.tokenizer) for p in pairs]``.

    Raises InterventionError for another write, PromptError where pairs do not align, ValueError for no pairs or no such head.
    When it misleads: what a prompt shows by chance is not what the heads do; see a trial.
    """
    _known(what, WRITES)
    encoded, named, kind = pairs_of(lab, pairs), heads_of(lab, heads), Readout(readout)
    made = _changed(lab, encoded, {what: named}, what, kind, align)
    named_so = {"pair_id": "pair", "corrupted": "before", "edited": "after", "change": "value", "clean": "other"}
    table = made.drop(columns=["pair", "world"]).rename(columns=named_so)
    cells = tuple(
        {"pair": pair, "world": world, "value": value}
        for world in ("before", "after", "other")
        for pair, value in zip(table["pair"], table[world], strict=True)
    )
    few = str(named) if len(named) <= 4 else f"{len(named)} heads"
    options = {"x_title": f"{readout}, {_unit(kind)}", "unit": "pair"}
    title = f"{what} of {few} together: {readout} of each of {len(encoded)} pairs"
    figure = Figure("pairs", "effect", title, "", cells, options)
    return Look(table, figure, _unit(kind), tuple(e.pair for e in encoded))


def _known(what: str, known: tuple[str, ...]) -> None:
    if what not in known:
        raise InterventionError(f"no look {what!r}; expected one of {', '.join(known)}")


def _unit(kind: Readout) -> str:
    return "logits" if kind.kind == MARGIN.kind else kind.kind


def _changed(
    lab: Lab, encoded: list[EncodedPair], sets: dict[str, Heads], what: str, kind: Readout, align: Alignment
) -> pd.DataFrame:
    """The effects table of a world for each set, all its heads written, with ``change``."""
    edit: dict[str, Any] = {"align": align} if what == "patch" else {}
    worlds = [World(name, across(lab.grid, heads, write=what, **edit)) for name, heads in sets.items()]
    some = encoded if what == "patch" else [e.swapped() for e in encoded]
    with recalling(lab):
        made = sweep(lab, some, worlds, readouts=(kind,))
    made["change"] = made["edited"] - made["corrupted"]
    return made


def head_scores(lab: Lab, name: str = "induction", prompts: Pairs | str | Sequence[str] = ()) -> Look:
    """A published score of every head (:mod:`headlab.trials.scores` defines each).

    On no prompts of yours: ``induction`` (attention to the token after the earlier occurrence) and ``duplicate`` (to the
    occurrence itself), on random tokens written twice; ``successor`` (the share of days, months, numbers, letters that the
    head's output matrix turns into the next one).  On texts, or the clean prompts of pairs: ``previous`` and ``sink`` (attention
    to the token before, to the first), ``norm`` (of what is written), ``copying`` (the share of tokens whose own logit is
    raised most).  On pairs: ``probe`` (how often z tells the two runs apart), ``attribution`` (first-order loss of the margin
    under a patch from the corrupted run).  Scores of installed packages go by their names.
    Table: ``layer``, ``head``, ``value``, ``n`` prompts.  Units: ``unit``; shares lie in 0 … 1.

    Raises ValueError for another name, where prompts are needed and none are given, or where the family has no such score.
    When it misleads: a score says how a head looks, not what depends on it.
    """
    known = tuple(n for n in known_scores() if n != "composite")
    if name not in known:
        raise ValueError(f"no score {name!r}; expected one of {', '.join(known)}{meant(name, known)}")
    texts = [prompts] if isinstance(prompts, str) else list(prompts) if isinstance(prompts, list | tuple) else prompts
    pairs: list[EncodedPair] = []
    if not isinstance(texts, list) or any(not isinstance(t, str) for t in texts):
        pairs = pairs_of(lab, prompts)  # type: ignore[arg-type]
        chosen: list[Any] = [e.swapped() for e in pairs]
    else:
        chosen = [SimpleNamespace(clean=e, corrupted=e) for e in (text_of(lab, str(t)) for t in texts)]
    if not chosen and name not in ALONE:
        raise ValueError(
            f"the score {name!r} is measured on prompts; give pairs{'' if name in ON_PAIRS else ' or texts'}"
        )
    if not pairs and name in ON_PAIRS:
        raise ValueError(f"the score {name!r} compares two prompts of a pair; give pairs")
    doc = SimpleNamespace(thinking=False, edit="clean", align="role")
    with recalling(lab):
        found = scores.builtin(SimpleNamespace(lab=lab, grid=lab.grid, chosen=chosen, doc=doc), name)
    rows = [{"layer": h.layer, "head": h.index, "value": v, "n": len(chosen)} for h, v in sorted(found.items())]
    unit = UNITS.get(name, "share of attention" if name in SCORES else "score")
    return Look(pd.DataFrame(rows), _grid(rows, f"{name} score of each head", unit), unit, tuple(e.pair for e in pairs))


def _grid(rows: list[dict[str, Any]], title: str, value: str) -> Figure:
    cells = tuple({"x": f"H{r['head']}", "y": f"L{r['layer']}", "value": r["value"]} for r in rows)
    options = {"x_title": "head", "y_title": "layer", "value_title": value}
    return Figure("heatmap", "heads", title, "", cells, options)
