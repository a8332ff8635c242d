"""Directions from activations: the difference of means between two kinds of prompts, head by head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headlab.engine.captures import capture
from headlab.engine.model import Lab
from headlab.heads import Heads
from headlab.interventions import PATH_SITES, InterventionError, Site, across, role_positions
from headlab.material import Direction
from headlab.prompts import EncodedPair


@dataclass(frozen=True)
class Contrast:
    """What heads held on some prompts, to take differences of means from again and again (permuted labels).

    ``held`` by vector name: [prompt, channel], float64, the mean over the role's positions; ``other`` the same of each
    pair's other run.
    """

    held: dict[str, np.ndarray]
    other: dict[str, np.ndarray] | None = None

    def direction(self, labels: Sequence[bool] | None = None) -> Direction:
        """Mean of the prompts labelled True − mean of the others.  Where both runs were read: other run − edited run,
        a label False turning its pair round.

        Raises InterventionError for labels that leave a side empty, or of another number than the prompts.
        """
        n = len(next(iter(self.held.values())))
        if labels is not None and len(labels) != n:
            raise InterventionError(f"a difference of means over {n} prompts takes as many labels, given {len(labels)}")
        chosen = np.asarray([True] * n if labels is None else list(labels), dtype=bool)
        if self.other is not None:
            sign = np.where(chosen, 1.0, -1.0)[:, None]
            return Direction({name: ((self.other[name] - x) * sign).mean(0) for name, x in self.held.items()})
        if chosen.all() or not chosen.any():
            raise InterventionError("a difference of means needs labels with prompts on both sides")
        return Direction({name: x[chosen].mean(0) - x[~chosen].mean(0) for name, x in self.held.items()})


def contrast(
    lab: Lab,
    population: Sequence[EncodedPair],
    heads: Heads,
    *,
    site: Site = "z",
    role: str = "read",
    runs: bool = False,
    tokens: int | None = None,
) -> Contrast:
    """What ``heads`` hold at ``role`` in the edited run of each prompt (``runs``: and in its other run).

    At k and v heads mean their KV groups; at ``resid`` their layers.  Raises InterventionError for an unknown role.
    """
    if site not in {*PATH_SITES, "out_block", "resid"}:
        raise InterventionError(f"a direction is defined at q, k, v, z, out_block and resid, not at {site!r}")
    where = across(lab.grid, heads, site=site)
    keys = [(one.layer, one.site) for one in where]

    def means(which: str) -> dict[str, np.ndarray]:
        some = [getattr(pair, which) for pair in population]
        kept = capture(lab, some, keys, tokens=tokens)
        out: dict[str, list[np.ndarray]] = {}
        for one, key in zip(where, keys, strict=True):
            kind = {"resid": "", "k": "KV", "v": "KV"}.get(site, "H")
            for encoded, x in zip(some, kept[key], strict=True):
                mean = x[list(role_positions(encoded, role))].double().mean(0).cpu().numpy()
                for i in one.indices if kind else (0,):
                    out.setdefault(f"L{one.layer}{kind}{i}" if kind else f"L{one.layer}", []).append(mean[i])
        return {name: np.stack(rows) for name, rows in out.items()}

    with torch.inference_mode():
        return Contrast(means("corrupted"), means("clean") if runs else None)


def difference_of_means(
    lab: Lab,
    population: Sequence[EncodedPair],
    heads: Heads,
    labels: Sequence[bool] | None = None,
    *,
    site: Site = "z",
    role: str = "read",
) -> Direction:
    """Mean activation of the prompts labelled True minus that of the others; without labels, of each pair's other run
    minus its edited run.  Adding it with amount 1 moves a prompt by one mean difference.

    One vector for each head (KV head, layer), in activation units.  Raises InterventionError.
    """
    made = contrast(lab, population, heads, site=site, role=role, runs=labels is None)
    return made.direction(labels)
