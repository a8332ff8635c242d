"""Path patching: how much of what a head does arrives at other heads, and by which of their inputs."""

from __future__ import annotations

import pandas as pd

from headlab.engine.model import Lab
from headlab.engine.recall import recalling
from headlab.engine.run import sweep
from headlab.heads import Head, Heads
from headlab.interventions import PATH_SITES, Intervention, InterventionError, Site, World, across
from headlab.looking.given import HeadsLike, Pairs, heads_of, pairs_of
from headlab.looking.grids import BACK, cells_of, means_of, placed, ranked, unit_of
from headlab.looking.look import Look
from headlab.prompts import Alignment
from headlab.readouts import Readout


def paths(
    lab: Lab,
    pairs: Pairs,
    to: HeadsLike,
    site: Site = "q",
    *,
    readout: str = "margin",
    align: Alignment = "role",
    seed: int = 0,
) -> Look:
    """How much of each head's clean output reaches the heads ``to`` directly, and what that does to a readout.

    Definition: the corrupted run is edited.  In a first run one head (the sender) gets its z from the clean run, every other
        head up to the receivers keeps the corrupted run's z, MLPs and norms run; what the receivers' ``site`` holds there is
        written in a second run, in which all else runs.  Value: readout of the second run less that of the corrupted run.
    Table: ``layer``, ``head`` (the sender, of a layer below a receiver's), ``value`` with its 95 % interval ``low`` … ``high``
        (clusters of pairs resampled), ``n`` pairs.  ``site``: q, k, v (of the receivers' KV groups) or z.
    Units: those of the readout (margin: logits).
    Raises: InterventionError for another site, or receivers that nothing lies below; ValueError for no pairs or no such head.
    Source: Wang et al. 2022, arXiv:2211.00593, §3.1; Goldowsky-Dill et al. 2023, arXiv:2304.05969.
    When it misleads: what goes by way of a third head is not seen; receivers that share a KV group are written together.
    """
    if site not in PATH_SITES:
        raise InterventionError(f"a path ends at {', '.join(PATH_SITES)} of its receivers, given {site!r}")
    encoded, named, kind = pairs_of(lab, pairs), heads_of(lab, to), Readout(readout)
    worlds, of = [], {}
    for at in sorted(a for a in lab.attentions if a < max(named.layers)):
        above = Heads(h for h in named if h.layer > at)
        for sender in (Head(at, h) for h in range(lab.grid.n_heads)):
            run = (Intervention(Heads([sender]), "z", "patch", align),)
            worlds.append(World(str(sender), across(lab.grid, above, site=site, write="patch", computed_in=run)))
            of[str(sender)] = sender
    if not worlds:
        raise InterventionError(f"no layer with heads lies below {named}, so nothing can arrive there")
    with recalling(lab):
        made = sweep(lab, encoded, worlds, readouts=(kind,))
    made["change"] = made["edited"] - made["corrupted"]
    rows, some = means_of(placed(made, of), encoded, seed), tuple(e.pair for e in encoded)
    title = f"From each head to {site} of {named}: change of the {readout}, {len(some)} pairs"
    figure = cells_of(rows, title, f"change of the {readout}")
    arrived = f"{{heads: {named}, site: {site}, write: patch, computed_in: sent}}"
    worlds_so = {"sent": "{heads: named, write: patch}", "arrived": arrived}
    below = f"match: [], among: {{pool: all, layer: {sorted({h.layer for h in of.values()})}}}"
    said = f"What the heads write for the answer reaches {site} of {named}."
    terms = {**BACK, "worlds": worlds_so, "alternatives": below, "words": said}
    return Look(
        pd.DataFrame(rows), figure, unit_of(kind), some, ranked=ranked(rows, 1), terms=terms, tokenizer=lab.tokenizer
    )
