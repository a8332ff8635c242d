"""One family under headlab and under :mod:`oracle`: sites offered, steps left out, and how far the two are apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import oracle
import tiny
import torch
import zoo
from torch import Tensor

from headlab.engine.model import Lab, ModelError, open_model
from headlab.engine.passes import forward
from headlab.engine.run import sweep
from headlab.engine.selfcheck import prove
from headlab.heads import Heads, KVHeads
from headlab.interventions import PATH_SITES, SITES, Intervention, World
from headlab.material import Direction, Material
from headlab.prompts import EncodedPair

LENGTH, KEYS = 11, (2, 5)
NOT_OFFERED = ("is not available for this model", "is undefined")
Change = Callable[[Tensor], Tensor]
Case = tuple[World, Callable[[], oracle.Edits]]


@dataclass
class Found:
    """What was measured of one model: ``sites`` offered, ``left_out`` of the steps that save work, ``gaps`` by check
    (of a logit, relative to the largest), ``refused``: why the model is not opened."""

    sites: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    gaps: dict[str, float] = field(default_factory=dict)
    refused: str = ""

    @property
    def largest(self) -> float:
        return max(self.gaps.values(), default=0.0)


def pairs(n: int = 3, seed: int = 0, mark: str = "p") -> list[EncodedPair]:
    """Prompts of one length with a role of two keys; the first two tokens agree."""
    out = []
    for i, pair in enumerate(tiny.equal_pairs(n, LENGTH, seed)):
        clean, corrupted = (tiny.encoded(getattr(pair, s).ids, roles={"keys": KEYS}) for s in ("clean", "corrupted"))
        out.append(tiny.pair(f"{mark}{i}", clean, corrupted))
    return out


def ids_of(some: list[EncodedPair], side: str) -> Tensor:
    return torch.tensor([getattr(p, side).ids for p in some])


def measure(model: zoo.Model) -> Found:
    """Everything about one model.  An exception that is no refusal goes up."""
    own, found = model.made, Found()
    try:
        lab = open_model(copy.deepcopy(own), tokenizer=tiny.words())
        prove(lab)
    except ModelError as error:
        return Found(refused=str(error))
    found.left_out = [name for name, used in lab.info["selfcheck"]["steps"].items() if not used]
    found.left_out += ["decoding"] if lab.no_decoding else []
    some = pairs()
    corrupted, clean = ids_of(some, "corrupted"), ids_of(some, "clean")
    with torch.no_grad():
        plain = own(input_ids=corrupted, use_cache=False).logits
        found.gaps["unedited"] = tiny.gap(forward(lab, corrupted, last=False).logits, plain)
    told = Told.of(own, corrupted, clean, plain)
    if len(told.base.modules) != len(lab.attentions):
        raise AssertionError(f"{len(told.base.modules)} calls of attention, {len(lab.attentions)} layers with heads")
    found.gaps["the oracle itself"] = tiny.gap(told.base.logits, plain)
    cases = {site: list(_cases(lab, site, told)) for site in SITES}
    table = _swept(lab, some, cases, found)
    every = [case for site in found.sites for case in cases[site]]
    made = told.together([edits() for _, edits in every]).unflatten(0, (len(every), len(some)))
    logits = {world.name: one for (world, _), one in zip(every, made, strict=True)}
    for site in found.sites:
        names = [world.name for world, _ in cases[site]]
        found.gaps |= {name: _gap(table.loc[name, "edited"].to_numpy(), logits[name]) for name in names}
        if not max(tiny.gap(logits[name], plain[:, -1]) for name in names) > 1e-3:
            raise AssertionError(f"no edit of {site} moves a logit: nothing was compared")
    _compare_projections(told, len(lab.attentions) // 2, found)
    return found


def _gap(edited: Any, logits: Tensor) -> float:
    wanted = (logits[:, 1] - logits[:, 2]).double()
    return ((torch.tensor(edited) - wanted).abs().max() / logits.abs().max()).item()


def _swept(lab: Lab, some: list[EncodedPair], cases: Mapping[str, Sequence[Case]], found: Found) -> Any:
    """One sweep over all cases of the sites that the model offers; those it does not are found one by one."""

    def table(sites: Sequence[str]) -> Any:
        worlds = [world for site in sites for world, _ in cases[site]]
        return sweep(lab, some, worlds, material=_material(lab)).set_index("world")

    found.sites = list(SITES)
    try:
        return table(SITES)
    except (RuntimeError, ValueError):
        for site in SITES:
            try:
                table([site])
            except (RuntimeError, ValueError) as error:
                if not any(words in str(error) for words in NOT_OFFERED):
                    raise
                found.sites.remove(site)
        return table(found.sites)


def _compare_projections(told: Told, n: int, found: Found) -> None:
    """The oracle against itself: z set to zero in the attention, and by a hook before the output projection."""
    edit = heads(lambda z: z * 0, [0], 2)
    hooked = oracle.through_projection(told.model, told.corrupted, n, edit)
    if hooked is not None:
        found.gaps["hook before the projection"] = tiny.gap(hooked, told.run(told.corrupted, {(n, "z"): edit}).last)


@dataclass(frozen=True)
class Told:
    """The oracle on one model: its unedited passes over the corrupted, the clean and the donors' prompts."""

    model: Any
    corrupted: Tensor
    clean: Tensor
    scale: bool
    base: oracle.Passed
    lent: oracle.Passed
    donors: oracle.Passed

    @classmethod
    def of(cls, own: Any, corrupted: Tensor, clean: Tensor, plain: Tensor) -> Told:
        """The way to treat sinks is the one that gives the model's own logits."""
        scale = tiny.gap(oracle.run(own, corrupted).logits, plain) > 1e-5
        ids = (corrupted, clean, ids_of(donors(), "corrupted"))
        return cls(own, corrupted, clean, scale, *(oracle.run(own, i, sinks_scale=scale) for i in ids))

    def run(self, ids: Tensor, edits: oracle.Edits) -> oracle.Passed:
        return oracle.run(self.model, ids, edits, sinks_scale=self.scale)

    def together(self, cases: Sequence[oracle.Edits]) -> Tensor:
        """Last logits [case · row, vocabulary] of all cases in one pass, each on rows of its own."""
        n = len(self.corrupted)
        parts: dict[tuple[int, str], list[tuple[slice, Change]]] = {}
        for at, edits in enumerate(cases):
            for key, edit in edits.items():
                parts.setdefault(key, []).append((slice(at * n, (at + 1) * n), edit))

        def of(some: list[tuple[slice, Change]]) -> Change:
            def edit(x: Tensor) -> Tensor:
                out = x.clone()
                for rows, change in some:
                    out[rows] = change(x[rows])
                return out

            return edit

        return self.run(self.corrupted.repeat(len(cases), 1), {key: of(some) for key, some in parts.items()}).last

    def clean_residual(self, n: int) -> Tensor:
        """What the block around the n-th call puts out on the clean prompts."""
        seen: list[Tensor] = []
        self.run(self.clean, {(n, "resid"): lambda x: seen.append(x) or x})
        return seen[0]


def donors() -> list[EncodedPair]:
    return pairs(9, 7, "d")


def heads(change: Change, which: Sequence[int], axis: int) -> Change:
    """``change`` for some heads on an axis, the others as they are."""

    def edit(x: Tensor) -> Tensor:
        out, new = x.clone(), change(x)
        for h in which:
            out.select(axis, h).copy_(new.select(axis, h))
        return out

    return edit


def _material(lab: Lab) -> Material:
    generator = torch.Generator().manual_seed(5)
    vectors = {
        f"L{layer}H{h}": torch.randn(lab.head_dim, generator=generator).numpy()
        for layer in lab.attentions
        for h in range(lab.grid.n_heads)
    }
    return Material({"others": donors()}, {"some": Direction(vectors)})


def _cases(lab: Lab, site: str, told: Told) -> Iterator[Case]:
    """Worlds at a site in every layer with heads, and the oracle's edits that say the same."""
    layers = sorted(lab.attentions)
    for n, layer in enumerate(layers):
        for name, fields, which, change in _writes(lab, site, told, n):
            axis, some = heads_at(lab, site, layer, which)
            one = Intervention(some, site, **fields)  # type: ignore[arg-type]
            edits = {(n, "out_block" if site == "subspace" else site): heads(change, which, axis) if axis else change}
            yield World(f"{site} {name}, {layer}", (one,)), lambda edits=edits: edits
    if site in PATH_SITES and len(layers) > 1:
        which = [0, lab.grid.n_kv_heads - 1 if site in {"k", "v"} else lab.grid.n_heads - 1]
        axis, some = heads_at(lab, site, layers[-1], which)
        sender = Intervention(Heads.of(layers[0], [0, 1]), "z", "zero")
        yield (
            World(f"{site} path", (Intervention(some, site, computed_in=(sender,)),)),
            lambda: _path(told, site, which, axis),
        )  # type: ignore[arg-type]


def _path(told: Told, site: str, which: Sequence[int], axis: int) -> oracle.Edits:
    """What the receivers of the last call hold when two heads of the first are zero and the others between are held."""
    top = len(told.base.modules) - 1
    held: dict[tuple[int, str], Change] = {(n, "z"): (lambda _z, n=n: told.base.kept[n, "z"]) for n in range(1, top)}
    sent = told.run(told.corrupted, {(0, "z"): heads(torch.zeros_like, [0, 1], 2), **held}).kept[top, site]
    return {(top, site): heads(lambda _x: sent, which, axis)}


def heads_at(lab: Lab, site: str, layer: int, which: Sequence[int]) -> tuple[int, Heads | KVHeads]:
    """On which axis the heads of a site stand (0: none), and the heads."""
    if site in {"k", "v"}:
        return 1, KVHeads(layer, tuple(sorted(set(which))))
    return {"z": 2, "out_block": 0, "subspace": 0, "resid": 0}.get(site, 1), Heads.of(layer, which)


def _writes(lab: Lab, site: str, told: Told, n: int) -> Iterator[tuple[str, dict[str, Any], list[int], Change]]:
    """(name, fields of the intervention, heads, what the oracle does) for one layer."""
    last = lab.grid.n_heads - 1
    lent = told.lent.kept.get((n, site))

    def given(_x: Tensor) -> Tensor:
        assert lent is not None
        return lent

    middle, odd = n == len(lab.attentions) // 2, n % 2
    if site == "z":
        yield "zero", {"write": "zero"}, [0, last], torch.zeros_like
        for h in range(4 if middle and last > 2 else 1):  # from four worlds on edits are added after the projection
            yield f"patch {h}", {}, [h], given
        if middle:
            mean = told.donors.kept[n, "z"].mean(0)
            yield "mean", {"write": "mean", "over": "others"}, [0, last], lambda z: mean.expand_as(z)
            vectors = _material(lab).directions["some"].vectors
            layer = sorted(lab.attentions)[n]
            added = torch.stack([torch.tensor(vectors[f"L{layer}H{h}"]) for h in range(last + 1)])
            yield "add", {"write": "add", "direction": "some", "amount": 0.7}, [1, last], lambda z: z + 0.7 * added
    elif site in {"k", "v"} and odd:
        yield "zero", {"write": "zero"}, [0], torch.zeros_like
    elif site in {"k", "v"}:
        yield "patch", {}, [lab.grid.n_kv_heads - 1], given
    elif site == "q":
        yield "patch", {}, [0, last], given
    elif site == "scores":
        yield "half", {"amount": 0.5}, [0, last], lambda x: 0.5 * x + 0.5 * given(x)
    elif site == "pattern" and odd:
        yield "mask", {"write": "mask", "keys": ("keys",)}, [0, last], masked
    elif site == "pattern":
        yield "patch", {}, [0, last], given
    elif not middle:
        return
    elif site in {"out_block", "subspace"}:  # the first block, of the stream or in a seeded random basis
        basis = torch.eye(lab.d_model, dtype=torch.float64)
        if site == "subspace":
            noise = torch.randn(
                lab.d_model, lab.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
            )
            basis = torch.linalg.qr(noise)[0]
        first = basis[:, : lab.d_model // lab.grid.n_heads].float()
        yield "zero", {"write": "zero"}, [0], lambda x: x - x @ first @ first.T
    else:
        clean = told.clean_residual(n)
        yield "half", {"amount": 0.5}, [0], lambda x: 0.5 * x + 0.5 * clean


def masked(pattern: Tensor) -> Tensor:
    """The weight on two keys given to the others in proportion; a row that has none left stays."""
    out = pattern.clone()
    out[..., list(KEYS)] = 0
    left = out.sum(-1, keepdim=True)
    return torch.where(left > 0, out * pattern.sum(-1, keepdim=True) / left, pattern)
