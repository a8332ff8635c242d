"""Every head of a model at once: what changing it does to the answers, and how it attends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from headlab.effects import Figure, Progress, quiet
from headlab.engine.gradients import attribution_patching
from headlab.engine.model import Lab
from headlab.engine.recall import recalling
from headlab.engine.run import sweep
from headlab.heads import Head, Heads
from headlab.heads import layer as every_of
from headlab.interventions import FROM_OTHERS, InterventionError, World, across
from headlab.looking.given import HeadsLike, Pairs, heads_of, pairs_of, text_of
from headlab.looking.look import Look
from headlab.material import LEAST, Material, cluster_of
from headlab.prompts import Alignment, EncodedPair
from headlab.reading import brief, expected_one_of
from headlab.readouts import MARGIN, Readout
from headlab.stats.intervals import bootstrap_means
from headlab.trials import scores
from headlab.trials.fields import SCORES, known_scores

WRITES = ("patch", "mean", "zero", "resample")
LOOKS = (*WRITES, "attribution")
AT_READ = ", where the answer is read"
LOOKED = "looked at"
"""The population that means and donors come from."""
BACK = {"write": "patch", "edit": "corrupted"}
"""How a claim is written of heads that give the answer back."""
ALONE = ("induction", "duplicate", "successor")
"""Scores that are measured on no prompts of the reader's."""
ON_PAIRS = ("probe", "attribution")
UNITS = {"norm": "norm", "probe": "share of prompts", "attribution": "logits"}
UNITS |= dict.fromkeys(("copying", "successor"), "share of tokens")


def heatmap(
    lab: Lab,
    pairs: Pairs,
    what: str = "patch",
    *,
    readout: str | None = None,
    align: Alignment = "role",
    seed: int = 0,
    progress: Progress = quiet,
) -> Look:
    """What writing each head alone does to a readout: a cell for each head, the mean over pairs.

    Definition: readout under the edit less the readout without it.  ``patch``: the corrupted run is edited, the head's z
        comes from the clean one; ``attribution`` is its first-order estimate (two passes for all heads).  ``mean``,
        ``zero``, ``resample``: the clean run is edited; what is lent comes from the other clusters' clean prompts, as in a claim
        (where they have too few tokens in common, only where the answer is read; the title says so).
    Table: ``layer``, ``head``, ``value`` with its 95 % interval ``low`` … ``high`` (none for one pair), ``n`` pairs.
    Units: those of the readout (margin: logits); none given: the margin, or where a prompt has no wrong answer, ``logprob``.
    ``progress`` is told of every batch; what it raises ends the look.
    Raises: InterventionError for another write, PromptError where pairs do not align, ValueError for no pairs.
    When it misleads: heads that back each other up do nothing alone; a head may be large here and no larger than any other
        of its layer, which only a trial asks; the intervals are of single heads, not of the largest of many.
    """
    _known(what, LOOKS)
    encoded, at_read = pairs_of(lab, pairs), False
    kind = Readout(readout := readout or readout_of(encoded))
    if what == "attribution":
        if kind.kind != MARGIN.kind:
            raise InterventionError(
                "attribution estimates the margin; for another readout patch, or write mean or zero"
            )
        made = attribution_patching(lab, encoded, align=align)
        made["change"] = made["attribution"]
    else:
        each = {str(h): h for at in sorted(lab.attentions) for h in (Head(at, n) for n in range(lab.grid.n_heads))}
        sets = {name: Heads([h]) for name, h in each.items()}
        made, at_read = _changed(lab, encoded, sets, what, kind, align, progress)
        made = placed(made, each)
    some = tuple(e.pair for e in encoded)
    rows = means_of(made, encoded, seed)
    title = f"{what} of each head alone{AT_READ * at_read}: change of the {readout}, {len(some)} pairs"
    ablates = what not in {"patch", "attribution"}
    terms = {"write": what, "at_read": at_read, "readout": readout} if ablates else BACK
    figure, best = cells_of(rows, title, f"change of the {readout}"), ranked(rows, -1 if ablates else 1)
    return Look(pd.DataFrame(rows), figure, unit_of(kind), some, ranked=best, terms=terms, tokenizer=lab.tokenizer)


def effect(
    lab: Lab,
    pairs: Pairs,
    heads: HeadsLike,
    what: str = "zero",
    *,
    readout: str | None = None,
    align: Alignment = "role",
    progress: Progress = quiet,
) -> Look:
    """What writing some heads together does on each prompt: the click of an explorer.

    Definition: as in :func:`heatmap`, all of ``heads`` written at once (``patch``: corrupted runs are edited; ``mean``,
        ``zero``, ``resample``: clean ones).
    Table: ``pair`` (id), ``cluster``, ``before`` (the edited run as it is), ``after``, ``value`` (after − before), ``other``
        (the pair's other run).  Units and ``readout``: as in :func:`heatmap`.
    What unedited passes gave is kept for the next look at the same prompts (:mod:`headlab.engine.recall`): other heads, then,
    cost the passes from their lowest layer on alone.  Who looks often encodes once: ``[encode(p, lab.tokenizer) for p in pairs]``.

    Raises InterventionError for another write, PromptError where pairs do not align, ValueError for no pairs or no such head.
    When it misleads: what a prompt shows by chance is not what the heads do; see a trial.
    """
    _known(what, WRITES)
    encoded, named = pairs_of(lab, pairs), heads_of(lab, heads)
    kind = Readout(readout := readout or readout_of(encoded))
    made, at_read = _changed(lab, encoded, {what: named}, what, kind, align, progress)
    named_so = {"pair_id": "pair", "corrupted": "before", "edited": "after", "change": "value", "clean": "other"}
    table = made.drop(columns=["pair", "world"]).rename(columns=named_so)
    cells = tuple(
        {"pair": pair, "world": world, "value": value}
        for world in ("before", "after", "other")
        for pair, value in zip(table["pair"], table[world], strict=True)
    )
    few = str(named) if len(named) <= 4 else f"{len(named)} heads"
    options = {"x_title": f"{readout}, {unit_of(kind)}", "unit": "pair"}
    title = f"{what} of {few} together{AT_READ * at_read}: {readout} of each of {len(encoded)} pairs"
    figure = Figure("pairs", "effect", title, "", cells, options)
    written = BACK if what == "patch" else {"write": what, "at_read": at_read, "readout": readout}
    seen, terms = tuple(e.pair for e in encoded), {**written, "heads": len(named)}
    return Look(table, figure, unit_of(kind), seen, (), tuple(named), terms, lab.tokenizer)


def _known(what: str, known: tuple[str, ...]) -> None:
    if what not in known:
        raise InterventionError(f"no look {brief(what)}; {expected_one_of(what, known)}")


def readout_of(encoded: Sequence[EncodedPair]) -> str:
    """What is read off prompts where nothing was asked for: the margin, or without a wrong answer the log probability."""
    return "margin" if all(e.pair.wrong for e in encoded) else "logprob"


def unit_of(kind: Readout) -> str:
    """The unit of a readout."""
    return {MARGIN.kind: "logits", "logprob": "nats"}.get(kind.kind, kind.kind)


def _changed(
    lab: Lab,
    encoded: list[EncodedPair],
    sets: dict[str, Heads],
    what: str,
    kind: Readout,
    align: Alignment,
    progress: Progress,
) -> tuple[pd.DataFrame, bool]:
    """The effects table of a world for each set, all its heads written, with ``change``; and whether they were written where
    the answer is read alone, because these prompts have too few tokens in common to lend to every one."""
    some = encoded if what == "patch" else [e.swapped() for e in encoded]
    # so few can lend to no claim; for a glance the mean over all of one length will do
    material = Material({LOOKED: some}) if what in FROM_OTHERS and len(some) > LEAST else None

    def worlds(**more: Any) -> list[World]:
        edit: dict[str, Any] = {"align": align} if what == "patch" else {} if material is None else {"over": LOOKED}
        return [World(name, across(lab.grid, heads, write=what, **edit, **more)) for name, heads in sets.items()]

    made, at_read = worlds(), False
    if material is not None:
        try:
            material.check(some, made[:1])
        except InterventionError:
            made, at_read = worlds(roles=("read",)), True
    with recalling(lab):
        table = sweep(lab, some, made, readouts=(kind,), material=material, progress=progress, what=what)
    table["change"] = table["edited"] - table["corrupted"]
    return table, at_read


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
        raise ValueError(f"no score {name!r}; {expected_one_of(name, known)}")
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
    figure, seen = cells_of(rows, f"{name} score of each head", unit), tuple(e.pair for e in pairs)
    read = () if pairs else tuple(str(x) for x in list(texts))  # type: ignore[arg-type]
    return Look(pd.DataFrame(rows), figure, unit, seen, read, ranked(rows, 1), tokenizer=lab.tokenizer)


def placed(made: pd.DataFrame, of: Mapping[str, Head]) -> pd.DataFrame:
    """A table of worlds that are a head each, with ``layer`` and ``head``."""
    heads = [of[world] for world in made["world"]]
    return made.assign(layer=[h.layer for h in heads], head=[h.index for h in heads])


def means_of(made: pd.DataFrame, encoded: Sequence[EncodedPair], seed: int) -> list[dict[str, Any]]:
    """The mean ``change`` of each head over pairs, with its interval: clusters resampled."""
    wide = made.pivot(index="pair", columns=["layer", "head"], values="change")
    found = estimates(wide.to_numpy(), encoded, seed)
    return [{"layer": int(at), "head": int(h), **e} for (at, h), e in zip(wide.columns, found, strict=True)]  # type: ignore[misc]


def estimates(table: np.ndarray, encoded: Sequence[EncodedPair], seed: int) -> list[dict[str, float | None]]:
    """The mean of each column over pairs (rows), its 95 % interval (clusters resampled; undefined for one) and ``n``."""
    means = bootstrap_means(table, [cluster_of(e) for e in encoded], unit="pairs", seed=seed)
    return [
        {"value": float(v), "low": m.low, "high": m.high, "n": m.n} for v, m in zip(table.mean(0), means, strict=True)
    ]


def whole_layer(lab: Lab, layer: int) -> tuple[tuple[Head, ...], dict[str, object]]:
    """What a look that points to a layer ranks, and how a claim of it is written: all its heads, among those of any layer."""
    return tuple(every_of(lab.grid, layer)), {"heads": lab.grid.n_heads, "alternatives": "match: []"}


def ranked(rows: list[dict[str, Any]], sign: int) -> tuple[Head, ...]:
    """The heads of a table, the most promising first: the largest ``sign`` · value."""
    some = [r for r in rows if r["head"] >= 0 and r["value"] is not None]
    return tuple(Head(r["layer"], r["head"]) for r in sorted(some, key=lambda r: -sign * r["value"]))


def cells_of(rows: list[dict[str, Any]], title: str, value: str) -> Figure:
    """The figure of a number for each head: layers down, heads across."""
    cells = tuple({"x": f"H{r['head']}", "y": f"L{r['layer']}", "value": r["value"]} for r in rows)
    options = {"x_title": "head", "y_title": "layer", "value_title": value}
    return Figure("heatmap", "heads", title, "", cells, options)
