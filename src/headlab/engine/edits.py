"""From an intervention (plain data) to a row-wise tensor operation.

Every site is brought to one layout, ``[row, position, head, rest]``; a write there is
``where(heads and positions of this row, new value, own value)``, so rows of one batch may edit different heads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headlab.heads import Grid
from headlab.interventions import Intervention, InterventionError, key_positions, written
from headlab.prompts import EncodedPair, align

HEAD_FIRST = {"q", "k", "v", "scores", "pattern"}


def basis(d_model: int, seed: int, like: Tensor) -> Tensor:
    """A random orthonormal basis of the residual stream, [d_model, d_model] (QR of a seeded Gaussian)."""
    g = torch.randn(d_model, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(g)[0].to(like)


def to_layout(site: str, x: Tensor, n_heads: int, rotation: Tensor | None) -> Tensor:
    """A site's own layout → [row, position, head, rest]."""
    if site in HEAD_FIRST:
        return x.transpose(1, 2)
    if site == "z":
        return x
    if site == "resid":
        return x.unsqueeze(2)
    if x.shape[-1] % n_heads:
        raise InterventionError(
            f"{site!r} is undefined: {x.shape[-1]} residual channels do not divide into {n_heads} heads"
        )
    return (x if rotation is None else x @ rotation).unflatten(2, (n_heads, -1))


def from_layout(site: str, new: Tensor, old: Tensor, own: Tensor, rotation: Tensor | None) -> Tensor:
    """Back again; ``old`` is the site before the edit, ``own`` the same in our layout."""
    if site in HEAD_FIRST:
        return new.transpose(1, 2)
    if site == "z":
        return new
    if site == "resid":
        return new.squeeze(2)
    if rotation is None:
        return new.flatten(2)
    return old + (new - own).flatten(2) @ rotation.T  # an unchanged row stays bit for bit what it was


@dataclass
class Source:
    """What an intervention writes, for every pair of a length group.

    ``value`` [pair, position, head, rest] or None where the write needs none; ``where`` [pair, position] says which
    positions are written; ``beyond`` [pair, 1, head, rest] is written at generated tokens;
    ``seeds`` [pair] of ``noise``; ``keys`` and ``from_keys`` [pair, position] of writes that move weight between keys.
    """

    value: Tensor | None
    where: Tensor
    beyond: Tensor | None = None
    seeds: tuple[int, ...] = ()
    keys: Tensor | None = None
    from_keys: Tensor | None = None


def needs(intervention: Intervention) -> str | None:
    """Which run an intervention's source is captured from: clean, corrupted or none."""
    return {"patch": "clean", "noop": "corrupted", "mean": "corrupted", "resample": "corrupted"}.get(intervention.write)


def make_source(one: Intervention, pairs: Sequence[EncodedPair], lent: Sequence[Tensor] | None, like: Tensor) -> Source:
    """The source of an intervention for pairs whose corrupted prompts have one length.

    ``lent``: for each pair the activation [position, head, rest] that it receives: the clean run's for ``patch``,
    with the clean prompt's positions; the corrupted one's own, mean or donor's for ``noop``, ``mean``, ``resample``;
    [1, head, rest] for ``add``, the same for all pairs.
    """
    n, length = len(pairs), len(pairs[0].corrupted.ids)
    where = torch.zeros(n, length, dtype=torch.bool)
    moves = [written(one, pair) for pair in pairs]
    for i, move in enumerate(moves):
        where[i, [m[0] for m in move]] = True
    if one.write == "patch":
        assert lent is not None
        return _patched(one, pairs, lent, moves, where, like.device)
    if one.write in {"noop", "mean", "resample"}:
        assert lent is not None
        return Source(torch.stack(list(lent)).to(like.device), where.to(like.device))
    if one.write == "add":
        assert lent is not None
        return Source(lent[0].expand(n, length, *lent[0].shape[1:]), where.to(like.device))
    if one.keys:
        sides = torch.zeros(2, n, length, dtype=torch.bool)
        for i, pair in enumerate(pairs):
            for side, chosen in zip(sides, key_positions(one, pair.corrupted), strict=True):
                side[i, chosen] = True
        keys, from_keys = sides.to(like.device)
        return Source(None, where.to(like.device), keys=keys, from_keys=from_keys)
    seeds = [hashlib.sha256(f"{one.seed} {p.pair.id}".encode()).digest()[:7] for p in pairs]
    return Source(None, where.to(like.device), seeds=tuple(int.from_bytes(s) for s in seeds))


def donors(ids: Sequence[str], seed: int) -> Tensor:
    """Which pair lends to which: a derangement of the ids, whatever order they come in."""
    by_id = torch.tensor(sorted(range(len(ids)), key=ids.__getitem__))
    out = torch.empty_like(by_id)
    out[by_id] = by_id[derangement(len(ids), seed)]
    return out


def derangement(n: int, seed: int) -> Tensor:
    """A cyclic shift of a random order: nobody donates to itself."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    out = torch.empty_like(order)
    out[order] = order.roll(1)
    return out


def _patched(
    one: Intervention,
    pairs: Sequence[EncodedPair],
    lent: Sequence[Tensor],
    moves: Sequence[Sequence[tuple[int, int]]],
    where: Tensor,
    device: Any,
) -> Source:
    length = where.shape[1]
    values, beyond = [], []
    for pair, source, move in zip(pairs, lent, moves, strict=True):
        target, origin = torch.tensor([m[0] for m in move]), torch.tensor([m[1] for m in move])
        if one.site in {"scores", "pattern"}:
            values.append(_aligned_pattern(one, source, target, origin, align(pair, one.align), length, pair))
        else:
            value = source.new_zeros(length, *source.shape[1:])
            value[target.to(source.device)] = source[origin.to(source.device)]
            values.append(value)
        if one.beyond is not None:
            beyond.append(source[:1] if one.beyond == "first" else source[-1:])
    return Source(torch.stack(values).to(device), where.to(device), torch.stack(beyond).to(device) if beyond else None)


def _aligned_pattern(
    intervention: Intervention,
    source: Tensor,
    target: Tensor,
    origin: Tensor,
    aligned: Sequence[tuple[int, int]],
    length: int,
    pair: EncodedPair,
) -> Tensor:
    """[query, head, key]: clean rows on aligned keys, each rescaled to the clean row's sum.

    ``target`` and ``origin`` are the queries; keys are all ``aligned`` positions.  Where the alignment changes the
    order of tokens, a weight on a key that the corrupted query cannot see is lost like one without a partner.
    """
    whole = source.shape[0] == length and list(aligned) == [(i, i) for i in range(length)]
    if intervention.site == "scores" and not whole:
        raise InterventionError(
            f"pair {pair.pair.id}: scores can be patched only between prompts that align token by token"
        )
    keys, lent = torch.tensor([a[0] for a in aligned]), torch.tensor([a[1] for a in aligned])
    taken = source[origin][:, :, lent]
    if not whole:
        taken = taken * (keys[None, :] <= target[:, None])[:, None].to(taken)
        kept = taken.sum(-1, keepdim=True)
        if not bool((kept > 0).all()):
            lost = int(target[(kept <= 0).flatten(1).any(1)][0])
            raise InterventionError(
                f"pair {pair.pair.id}: the clean row for corrupted position {lost} puts no weight on any key that has a "
                "partner there, so no pattern can be written; name other roles, or patch z"
            )
        taken = taken * (source[origin].sum(-1, keepdim=True) / kept)
    value = source.new_zeros(length, source.shape[1], length)
    rows = value.new_zeros(len(target), source.shape[1], length)
    rows[:, :, keys] = taken
    value[target] = rows
    return value


@dataclass
class Rows:
    """The part of a batch that differs by row: ``pair`` [row], ``heads`` [row, head], ``amount`` [row], ``donors``
    [row, head]; ``pairs`` is ``pair`` as plain numbers, so that nobody waits for a device to read it.
    """

    pairs: list[int]
    pair: Tensor
    heads: Tensor
    amount: Tensor
    donors: Tensor

    @classmethod
    def of(cls, interventions: Sequence[Intervention], pair: Sequence[int], grid: Grid, device: Any) -> Rows:
        """Row r: ``interventions[r]`` (all of one shape) on the pair with index ``pair[r]``."""
        first = interventions[0]
        n_heads = 1 if first.site == "resid" else grid.n_kv_heads if first.site in {"k", "v"} else grid.n_heads
        heads = torch.zeros(len(pair), n_heads, dtype=torch.bool)
        donors = torch.arange(n_heads).repeat(len(pair), 1)
        for r, one in enumerate(interventions):
            index = [0] if first.site == "resid" and one.indices else list(one.indices)
            heads[r, index] = True
            if one.donors:
                donors[r, index] = torch.tensor(one.donors)
        amount = torch.tensor([one.amount for one in interventions])
        return cls(list(pair), *(upload(t, device) for t in (torch.tensor(pair), heads, amount, donors)))

    def take(self, members: Sequence[int], pairs: list[int], index: Tensor) -> Rows:
        """Rows that apply ``members[r]`` of these rows' interventions to the pair ``pairs[r]`` (``index``: the same)."""
        chosen = upload(members, self.heads.device)
        return Rows(pairs, index, self.heads[chosen], self.amount[chosen], self.donors[chosen])


def upload(numbers: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """Numbers of this process on the device, without waiting for it."""
    made = torch.as_tensor(numbers)
    return (made.pin_memory() if device.type == "cuda" else made).to(device, non_blocking=True)


def compile_edit(
    one: Intervention,
    source: Source,
    rows: Rows,
    rotation: Tensor | None,
    *,
    here: slice | None = None,
    step: bool = False,
) -> Any:
    """The operation on the site's own tensor.

    ``here``: the positions that the pass computes, where that is not the whole prompt (keys and values always reach
    back to the first position).  ``step``: one generated token instead of the prompt.
    """
    head_mask = rows.heads[:, None, :, None]
    n_heads, site, write = rows.heads.shape[1], one.site, one.write
    part = slice(None) if here is None or site in {"k", "v"} else here

    def edit(x: Tensor) -> Tensor:
        own = to_layout(site, x, n_heads, rotation)
        if step:
            mask = head_mask
            value = source.beyond[rows.pair] if source.beyond is not None else None
        else:
            mask = head_mask & source.where[:, part][rows.pair][:, :, None, None]
            value = source.value[:, part][rows.pair] if source.value is not None else None
        if source.keys is not None:
            assert source.from_keys is not None
            made = _moved(write, own, source.keys[rows.pair], source.from_keys[rows.pair], rows.amount)
        else:
            noise = _directions(source, rows, own, part) if write == "noise" else None
            made = _written(write, own, value, rows, noise)
        new = torch.where(mask, made, own)
        return from_layout(site, new, x, own, rotation)

    return edit


def _moved(write: str, own: Tensor, keys: Tensor, from_keys: Tensor, amount: Tensor) -> Tensor:
    """Pattern rows [row, query, head, key] with weight moved between keys; every row keeps its sum.

    ``keys`` and ``from_keys`` [row, position], ``amount`` [row].  Rows that cannot be written stay as they are.
    """
    longer = own.shape[-1] - keys.shape[-1]  # generated tokens are keys of no role
    on, source = (torch.nn.functional.pad(k, (0, longer))[:, None, None].to(own.dtype) for k in (keys, from_keys))
    amount = amount[:, None, None, None].to(own.dtype)
    total, mass = own.sum(-1, keepdim=True), (own * on).sum(-1, keepdim=True)
    least = torch.finfo(own.dtype).tiny
    if write == "mask":
        kept = own * (1 - amount * on)
        left = kept.sum(-1, keepdim=True)
        return torch.where(left > least, kept * (total / left.clamp(min=least)), own)
    if write == "force":
        rest = (own * (1 - on)).sum(-1, keepdim=True)  # total - mass would be rounding where nearly all is on the keys
        fits = (mass > least) & (rest > least)
        up, down = amount * total / mass.clamp(min=least), (1 - amount) * total / rest.clamp(min=least)
        return torch.where(fits, own * torch.where(on > 0, up, down), own)
    taken = own * source * (1 - on) * amount
    gained = mass + taken.sum(-1, keepdim=True)
    return torch.where(mass > least, own * (1 + on * (gained / mass.clamp(min=least) - 1)) - taken, own)


def _directions(source: Source, rows: Rows, own: Tensor, part: slice) -> Tensor:
    """One random direction for each pair, position and head, whatever batch and pass they come in."""
    shape = (source.where.shape[1], *own.shape[2:])
    seeds = [source.seeds[p] for p in rows.pairs]
    made = {s: torch.randn(shape, generator=torch.Generator().manual_seed(s))[part] for s in set(seeds)}
    g = upload(torch.stack([made[s] for s in seeds]), own.device).to(own.dtype)
    return g / g.norm(dim=-1, keepdim=True)


def _written(write: str, own: Tensor, value: Tensor | None, rows: Rows, noise: Tensor | None) -> Tensor:
    amount = rows.amount[:, None, None, None].to(own.dtype)
    if write in {"patch", "noop", "mean", "resample"}:
        assert value is not None
        return (1 - amount) * own + amount * value
    if write == "add":
        assert value is not None
        return own + amount * value
    if write == "zero":
        return torch.zeros_like(own)
    if write == "rescale":
        return amount * own
    if write == "exchange":
        index = rows.donors[:, None, :, None].expand_as(own)
        return own.gather(2, index)
    if write == "noise":
        assert noise is not None
        return noise * own.norm(dim=-1, keepdim=True) * amount
    raise InterventionError(f"unknown write {write!r}")
