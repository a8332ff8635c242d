"""Every head of a model at once: what changing it does to the answers, and how it attends."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd

from headlab.effects import Figure
from headlab.engine.gradients import attribution_patching
from headlab.engine.model import Lab
from headlab.engine.run import sweep
from headlab.heads import Head, Heads
from headlab.interventions import Intervention, InterventionError, World
from headlab.looking.look import Look
from headlab.prompts import Alignment, Pair, PromptSet, encode
from headlab.readouts import MARGIN, Readout
from headlab.stats.intervals import bootstrap_means
from headlab.trials import scores

if TYPE_CHECKING:
    pass

WRITES = ("patch", "mean", "zero", "resample", "attribution")
NAMED = ("previous", "sink", "induction", "duplicate", "norm")


def heatmap(
    lab: Lab,
    pairs: PromptSet | Iterable[Pair],
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
    if what not in WRITES:
        raise InterventionError(f"no look {what!r}; expected one of {', '.join(WRITES)}")
    some = tuple(pairs)
    encoded = [encode(p, lab.tokenizer) for p in some]
    if not encoded:
        raise ValueError("no pairs to look at; give a PromptSet, such as PromptSet.from_file('pairs.csv')")
    kind = Readout(readout)
    if what == "attribution":
        if kind.kind != MARGIN.kind:
            raise InterventionError(
                "attribution estimates the margin; for another readout patch, or write mean or zero"
            )
        made = attribution_patching(lab, encoded, align=align)
        made["change"] = made["attribution"]
    else:
        heads = [Head(layer, h) for layer in sorted(lab.attentions) for h in range(lab.grid.n_heads)]
        edit: dict[str, Any] = {"align": align} if what == "patch" else {}
        worlds = [World(str(h), (Intervention(Heads([h]), "z", what, **edit),)) for h in heads]
        made = sweep(lab, encoded if what == "patch" else [e.swapped() for e in encoded], worlds, readouts=(kind,))
        made["change"] = made["edited"] - made["corrupted"]
        of = {str(h): h for h in heads}
        made["layer"], made["head"] = ([getattr(of[w], k) for w in made["world"]] for k in ("layer", "index"))
    wide = made.pivot(index="pair", columns=["layer", "head"], values="change")
    means = bootstrap_means(wide.to_numpy(), [p.cluster or p.id for p in some], unit="pairs", seed=seed)
    rows = [
        {"layer": int(at), "head": int(h), "value": m.value, "low": m.low, "high": m.high, "n": m.n}
        for (at, h), m in zip(wide.columns, means, strict=True)  # type: ignore[misc]
    ]
    unit = "logits" if kind.kind == "margin" else kind.kind
    title = f"{what} of each head alone: change of the {readout}, {len(some)} pairs"
    return Look(pd.DataFrame(rows), _grid(rows, title, f"change of the {readout}"), unit, some)


def head_scores(lab: Lab, name: str = "induction", pairs: PromptSet | Iterable[Pair] = ()) -> Look:
    """A score of every head: ``induction`` and ``duplicate`` on random tokens written twice, others on clean prompts of pairs.

    ``previous``: attention to the token before, ``sink``: to the first; ``induction``: to the token after the earlier
    occurrence, ``duplicate``: to the occurrence itself (all mean shares, 0 … 1); ``norm``: the norm of what the head
    writes.  Table: ``layer``, ``head``, ``value``.

    Raises ValueError for another name, or where prompts are needed and none are given.
    """
    if name not in NAMED:
        raise ValueError(f"no score {name!r}; expected one of {', '.join(NAMED)}")
    some = tuple(pairs)
    if not some and name not in {"induction", "duplicate"}:
        raise ValueError(f"the score {name!r} is measured on prompts; give pairs")
    chosen = [encode(p, lab.tokenizer).swapped() for p in some]
    found = scores.builtin(SimpleNamespace(lab=lab, chosen=chosen, doc=SimpleNamespace(thinking=False)), name)
    rows = [{"layer": h.layer, "head": h.index, "value": v} for h, v in sorted(found.items())]
    unit = "norm" if name == "norm" else "share of attention"
    return Look(pd.DataFrame(rows), _grid(rows, f"{name} score of each head", unit), unit, some)


def _grid(rows: list[dict[str, Any]], title: str, value: str) -> Figure:
    cells = tuple({"x": f"H{r['head']}", "y": f"L{r['layer']}", "value": r["value"]} for r in rows)
    options = {"x_title": "head", "y_title": "layer", "value_title": value}
    return Figure("heatmap", "heads", title, "", cells, options)
