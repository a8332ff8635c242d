"""Linear probes over layers or heads, each beside its control task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from headlab.effects import Figure
from headlab.engine.directions import contrast
from headlab.engine.model import Lab
from headlab.engine.recall import recalling
from headlab.heads import Head, Heads
from headlab.looking.given import HeadsLike, Pairs, heads_of, pairs_of
from headlab.looking.grids import ranked, whole_layer
from headlab.looking.look import Look
from headlab.material import cluster_of
from headlab.prompts import PromptError
from headlab.stats.rates import clustered_rate
from headlab.thoughts import probing


def probe(
    lab: Lab,
    pairs: Pairs,
    heads: HeadsLike | None = None,
    labels: Sequence[str] | None = None,
    *,
    role: str = "read",
    folds: int = 5,
    seed: int = 0,
) -> Look:
    """How well a linear probe reads something off each layer's output, or each head's, beside its control task.

    Definition: the share of prompts whose class a linear discriminant (covariance shrunk by 0.05) tells that was fitted on the
        other ``folds``, no cluster in two of them.  Classes: which of a pair's two prompts it is; or ``labels``, one for each
        pair, of its clean prompt.  What is read: the mean over the positions of ``role``, of what leaves each layer, or of z
        of ``heads``.
    Table: ``layer``, ``head`` (−1: the layer's output), ``value`` with its 95 % interval ``low`` … ``high`` (clustered),
        ``control`` (the same probe on classes drawn for each cluster, with folds that share clusters: what memory alone
        gives), ``chance`` (share of the commonest class), ``n`` prompts.
    Units: share of prompts.  Range: 0 … 1; value − control is the selectivity.
    Raises: PromptError for fewer clusters than folds or a single class, ValueError for no pairs or no such head.
    Source: Alain & Bengio 2016, arXiv:1610.01644; Hewitt & Liang 2019, arXiv:1909.03368 (control tasks).
    When it misleads: what can be read off is there, which does not say that the model reads it; many places are looked at, and
        the best of them is best partly by chance.
    """
    from sklearn.model_selection import GroupKFold, KFold

    encoded = pairs_of(lab, pairs)
    whole = heads is None
    named = Heads(Head(at, 0) for at in range(lab.grid.n_layers)) if heads is None else heads_of(lab, heads)
    names = [cluster_of(e) for e in encoded]
    y, groups = _classes(names, labels, folds)
    with recalling(lab):
        held = contrast(lab, encoded, named, site="resid" if whole else "z", role=role, runs=True)
    assert held.other is not None
    apart = list(GroupKFold(folds, shuffle=True, random_state=seed).split(y, groups=groups))
    mixed = list(KFold(folds, shuffle=True, random_state=seed).split(y))
    drawn, chance = probing.control_labels(y, groups, seed), float(np.unique(y, return_counts=True)[1].max() / len(y))
    rows = []
    for head in named:
        name = f"L{head.layer}" if whole else str(head)
        clean = held.other[name]
        x = np.concatenate([clean, held.held[name]]) if labels is None else clean
        found = clustered_rate(probing.probe(x, y, apart) == y, groups, unit="prompts")
        control = float((probing.probe(x, drawn, mixed) == drawn).mean())
        seen = {"value": found.value, "low": found.low, "high": found.high}
        place = {"layer": head.layer, "head": -1 if whole else head.index}
        rows.append({**place, **seen, "control": control, "chance": chance, "n": found.n})
    title = f"A linear probe at {role} of {len(y)} prompts, beside its control task"
    options = {"threshold": chance, "x_title": "share of prompts told"}
    figure = Figure("estimates", "probe", title, "", _points(rows, whole), options)
    best, terms = ranked(rows, 1), {}
    if whole:
        top = max((r for r in rows if r["layer"] in lab.attentions), key=lambda r: r["value"] or 0.0)["layer"]
        best, terms = whole_layer(lab, top)
    shown = tuple(e.pair for e in encoded)
    table = pd.DataFrame(rows)
    return Look(table, figure, "share of prompts", shown, ranked=best, terms=terms, tokenizer=lab.tokenizer)


def _classes(names: list[str], labels: Sequence[str] | None, folds: int) -> tuple[np.ndarray, np.ndarray]:
    """The class and the cluster of each prompt; ``names`` are the clusters of the pairs."""
    if labels is None:
        y, groups = np.repeat(["clean", "corrupted"], len(names)), np.array(names * 2)
    else:
        y, groups = np.array([str(v) for v in labels]), np.array(names)
    if len(y) != len(groups) or len(set(y.tolist())) < 2 or len(set(names)) < folds:
        raise PromptError(
            f"a probe with {folds} folds takes a label for each of {len(names)} pairs, of two classes at least, and as many "
            f"clusters as folds; given {len(y)} label(s) of {len(set(y.tolist()))} class(es) in {len(set(names))} cluster(s)"
        )
    return y, groups


def _points(rows: Sequence[Mapping[str, object]], whole: bool) -> tuple[dict[str, object], ...]:
    """Each place twice: the probe with its interval, and its control task, a point."""
    return tuple(
        {
            "label": f"L{r['layer']}" if whole else f"L{r['layer']}H{r['head']}",
            "group": group,
            "value": r[key],
            "low": r["low"] if key == "value" else r[key],
            "high": r["high"] if key == "value" else r[key],
        }
        for r in rows
        for group, key in (("probe", "value"), ("control task", "control"))
    )
