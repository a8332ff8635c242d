"""What populations and directions lend to a sweep, as tensors.

The means of a population are sums over its donors, cell by cell, taken once for all sites that the sweep's worlds
write at; the target's own cluster is taken off again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headlab.engine.captures import capture, tokens_for
from headlab.engine.model import Lab
from headlab.interventions import Intervention, InterventionError
from headlab.material import READ, Cell, Material, Population
from headlab.prompts import EncodedPair

Key = tuple[int, str]


class Lender:
    """Lends to the pairs of one sweep.  ``ones``: every intervention that may ask."""

    def __init__(
        self,
        lab: Lab,
        material: Material,
        pairs: Sequence[EncodedPair],
        ones: Sequence[Intervention],
        *,
        tokens: int | None,
    ) -> None:
        self.lab, self.material, self.pairs, self.tokens = lab, material, pairs, tokens or tokens_for(lab)
        self.keys: dict[tuple[str, str], list[Key]] = {}
        self.asked = list({one.shape: one for one in ones if one.over}.values())
        for one in self.asked:
            known = self.keys.setdefault((one.write, str(one.over)), [])
            if key_of(one) not in known:
                known.append(key_of(one))
        self._sums: dict[str, tuple[dict[Cell, int], dict[Key, Tensor]]] = {}
        self._captured: dict[Any, dict[Key, dict[int, Tensor]]] = {}

    def lend(self, one: Intervention, pairs: Sequence[EncodedPair]) -> tuple[list[Tensor], list[Tensor]]:
        """For each pair what it receives [position, head, rest], and what a generated token does [1, head, rest]."""
        if one.write == "mean":
            return self.means(one, pairs)
        if one.write == "resample":
            return self.resampled(one, pairs), []
        vectors = [self.added(one)[None]] * len(pairs)
        return vectors, vectors if one.when == "every_step" else []

    def means(self, one: Intervention, pairs: Sequence[EncodedPair]) -> tuple[list[Tensor], list[Tensor]]:
        """For each pair what it receives [position, head, rest], and what a generated token does [1, head, rest]."""
        population, key = self.material.population(one), key_of(one)
        rows, sums = self._summed(population)
        own = [sorted(population.own(pair)) for pair in pairs]
        kept = self._capture(population, "mean", sorted({d for some in own for d in some}))
        made: dict[Any, Tensor] = {}

        def mean(cells: Sequence[Cell], without: Sequence[int]) -> Tensor:
            which = (tuple(cells), tuple(without))
            if which not in made:
                total = sums[key][[rows[c] for c in cells]]
                count = torch.tensor([len(population.lent[c]) for c in cells], dtype=torch.float64)
                for n, cell in enumerate(cells):
                    for d in without:
                        if d in population.lent[cell]:
                            total[n] -= kept[key][d][population.lent[cell][d]].double()
                            count[n] -= 1
                made[which] = (total / count.to(total.device)[:, None, None]).to(self.lab.dtype)
            return made[which]

        values, beyond = [], []
        for pair, without in zip(pairs, own, strict=True):
            cells = population.cells(one, pair)
            value = mean(list(cells.values()), without)
            whole = value.new_zeros(len(pair.corrupted.ids), *value.shape[1:])
            whole[list(cells)] = value
            values.append(whole)
            if one.when == "every_step":
                beyond.append(mean([READ], without))
        return values, beyond

    def resampled(self, one: Intervention, pairs: Sequence[EncodedPair]) -> list[Tensor]:
        """For each pair what its donor lends, [position, head, rest]."""
        population, key = self.material.population(one), key_of(one)
        drawn = [population.donor(one, pair) for pair in pairs]
        kept = self._capture(population, "resample", sorted({d for d, _ in drawn}))[key]
        out = []
        for pair, (d, moves) in zip(pairs, drawn, strict=True):
            whole = kept[d].new_zeros(len(pair.corrupted.ids), *kept[d].shape[1:])
            whole[list(moves)] = kept[d][list(moves.values())]
            out.append(whole)
        return out

    def added(self, one: Intervention) -> Tensor:
        """[head, rest]: the vectors of a direction in a layer, zero where it has none.

        Raises InterventionError for a vector of another size than the site has.
        """
        lab, direction = self.lab, self.material.direction(one)
        n_heads = 1 if one.site == "resid" else lab.grid.n_kv_heads if one.site in {"k", "v"} else lab.grid.n_heads
        sizes = {"resid": lab.d_model, "out_block": lab.d_model // lab.grid.n_heads}
        made = {"q": lab.geometry.q, "k": lab.geometry.k}.get(one.site)
        size = sizes.get(one.site, len(made.channels[0]) if made else lab.head_dim)
        out = torch.zeros(n_heads, size, dtype=lab.dtype, device=lab.device)
        for index, name in direction.named(one).items():
            vector = direction.vectors[name]
            if vector.size != size:
                raise InterventionError(
                    f"direction {one.direction!r} has {vector.size} channels for {name}; {one.site!r} has {size}"
                )
            out[index] = torch.from_numpy(vector).to(out)
        return out

    def _capture(self, population: Population, write: str, chosen: Sequence[int]) -> dict[Key, dict[int, Tensor]]:
        """Activations of some donors at all sites asked for; the last ones are kept."""
        name = (population.name, write, tuple(chosen))
        if name not in self._captured:
            self._captured.clear()
            keys = self.keys[write, population.name]
            some = [population.pairs[d].corrupted for d in chosen]
            kept = capture(self.lab, some, keys, tokens=self.tokens) if some else {key: [] for key in keys}
            self._captured[name] = {key: dict(zip(chosen, kept[key], strict=True)) for key in keys}
        return self._captured[name]

    @torch.inference_mode()
    def _summed(self, population: Population) -> tuple[dict[Cell, int], dict[Key, Tensor]]:
        """Float64 sums over a population's donors: the row of each cell, and [cell, head, rest] for each site."""
        if population.name in self._sums:
            return self._sums[population.name]
        means = [one for one in self.asked if one.write == "mean" and one.over == population.name]
        wanted = {cell for one in means for pair in self.pairs for cell in population.cells(one, pair).values()} | {
            READ
        }
        rows = {cell: n for n, cell in enumerate(sorted(wanted, key=str))}
        at: dict[int, list[tuple[int, int]]] = {}
        for cell, n in rows.items():
            for d, p in population.lent[cell].items():
                at.setdefault(d, []).append((n, p))
        order = sorted(at, key=lambda d: (len(population.pairs[d].corrupted.ids), d))
        longest = max(len(population.pairs[d].corrupted.ids) for d in order)
        step, keys, sums = max(1, self.tokens // longest), self.keys["mean", population.name], {}
        for first in range(0, len(order), step):
            part = order[first : first + step]
            kept = capture(self.lab, [population.pairs[d].corrupted for d in part], keys, tokens=self.tokens)
            for key in keys:
                for d, value in zip(part, kept[key], strict=True):
                    total = sums.setdefault(key, value.new_zeros(len(rows), *value.shape[1:], dtype=torch.float64))
                    cells, positions = zip(*at[d], strict=True)
                    total[list(cells)] += value[list(positions)].double()
        self._sums[population.name] = rows, sums
        return rows, sums


def key_of(one: Intervention) -> Key:
    """What is captured for an intervention."""
    return one.layer, "out_block" if one.site == "subspace" else one.site
