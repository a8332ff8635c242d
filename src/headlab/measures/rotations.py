"""What happens to q, k and v between their projections and their use: norms, and the rotation by position.

Probed, so that no name in a config is trusted.  One pass in which the projections' outputs are replaced by known
vectors u, the same at every position:

1. Row 0 forces +u, row 1 −u, row 2 u/2, row 3 u + 1, with u = ±4 balanced in each head (mean 0, mean square 16, so
   that an RMS norm or layer norm over a head or over all heads leaves gain × sign).  Without a norm u arrives as it
   is, or times one constant (OPT's 1/√d_head, YaRN's attention factor), which all heads share and which is not kept;
   a norm is seen by row 2 not arriving halved; one that subtracts the mean by row 3 arriving like row 0.
2. All further rows force random signs.  What arrives at position p is what arrives at position 0 times M_p, the same
   for every head and token: found by least squares and checked to be orthogonal, and to hold for k as for q.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headlab.engine.attention import Tape
from headlab.engine.model import Lab, ModelError

OFFSETS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)
"""Relative positions over which W_QK of a rotary model is averaged: dense where most attention goes."""
SIZE, PLAIN = 4.0, 4
TOLERANCE = 1e-3


@dataclass(frozen=True)
class HeadNorm:
    """A norm between projection and use: y = gain · (u − mean(u) if ``centred``) / scale(u) + shift.

    The scale depends on the token (and over which channels it is taken on the family), the rest does not.
    """

    gain: Float[Tensor, "head d_head"]
    shift: Float[Tensor, "head d_head"]
    centred: bool


@dataclass(frozen=True)
class Between:
    """What :func:`between` found: norms and rotation of each layer, the offsets probed, and why a product is missing.

    ``why_no_qk`` is a sentence where q and k do not meet as one bilinear form of what their projections make (channels in
    another order, a map by position that is no rotation), ``why_no_ov`` where v is not what its projection makes; empty
    elsewhere.
    """

    layers: dict[int, dict[str, Any]]
    offsets: tuple[int, ...]
    why_no_qk: str = ""
    why_no_ov: str = ""


@torch.no_grad()
def between(lab: Lab, layers: Sequence[int], offsets: tuple[int, ...]) -> Between:
    """Norms on q, k, v and the rotation by each of ``offsets`` positions, for each of ``layers``.

    Raises ModelError where the model has positions for none of them; those it has no position for are left out.
    """
    last = getattr(lab.model.config.get_text_config(), "max_position_embeddings", None)
    kept = tuple(n for n in offsets if last is None or n < last)
    if last is not None and not kept:
        raise ModelError(f"{lab.name} has positions 0 to {last - 1}, offsets are {offsets}; give smaller ones")
    places = sorted({0, *kept})
    sites = [s for s in "qkv" if getattr(lab.geometry, s) is not None]
    if not sites:
        return Between({n: {} for n in layers}, kept, lab.geometry.why, lab.geometry.why)
    rows = -(-3 * max(len(getattr(lab.geometry, s).channels[0]) for s in sites) // lab.grid.n_heads)
    forced = {s: _forced(getattr(lab.geometry, s).channels, rows, sum(map(ord, s))) for s in sites}
    arrived = _arrive(lab, layers, forced, places)
    tolerance = max(TOLERANCE, 20 * torch.finfo(lab.dtype).eps)
    found: dict[int, dict[str, Any]] = {}
    wrong = {"qk": "", "ov": ""}
    for layer in layers:
        norms = {s: _norm(forced[s], arrived[layer, s][:, :, 0]) for s in sites}
        for site, norm in norms.items():
            if isinstance(norm, str):
                wrong["ov" if site == "v" else "qk"] = f"layer {layer}, {site}: {norm}"
        if norms.get("v") is not None and not wrong["ov"]:
            wrong["ov"] = f"layer {layer}: a norm of v stands between W_V and W_O"
        rotation = None
        if {"q", "k"} <= set(sites):
            q, k = (arrived[layer, s][PLAIN:].double() for s in "qk")
            rotation = _rotation(q, k, [places.index(n) for n in kept], tolerance)
        if isinstance(rotation, str):
            wrong["qk"], rotation = f"layer {layer}: {rotation}", None
        found[layer] = {f"{s}_norm": n for s, n in norms.items() if not isinstance(n, str)}
        found[layer]["rotation"] = None if rotation is None else rotation.to(lab.device)
    return Between(found, kept, wrong["qk"], wrong["ov"])


def _forced(channels: Sequence[Sequence[int]], rows: int, seed: int) -> Tensor:
    """The vectors that replace a projection's output, [row, head, d_head]; the rows are those of the module's steps."""
    heads, size = len(channels), len(channels[0])
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand((heads, size), generator=generator).argsort(1)
    u = torch.where(order < size // 2, -SIZE, SIZE)
    more = torch.randint(0, 2, (rows, heads, size), generator=generator) * 2 - 1
    return torch.cat([torch.stack([u, -u, u / 2, u + 1]), SIZE * more])


def _arrive(lab: Lab, layers: Sequence[int], forced: dict[str, Tensor], places: list[int]) -> dict[Any, Tensor]:
    """q, k and v as attention receives them, [row, head, place, d_head], with the projections' outputs forced."""
    accepted = inspect.signature(type(lab.model).forward).parameters
    explicit = "position_ids" in accepted
    positions = torch.tensor(places) if explicit else torch.arange(places[-1] + 1)
    rows = next(iter(forced.values())).shape[0]
    ids = torch.zeros(rows, len(positions), dtype=torch.long, device=lab.device)
    extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    if explicit:
        extra["position_ids"] = positions.to(lab.device).expand(rows, -1)
    wanted = frozenset((n, s) for n in layers for s in forced)
    with _forcing(lab, layers, forced), lab.tape(Tape(wanted=wanted)) as tape:
        lab.model(input_ids=ids, use_cache=False, **extra)
    pick = slice(None) if explicit else places
    return {key: x[:, :, pick].float().cpu() for key, x in tape.kept.items()}


@contextmanager
def _forcing(lab: Lab, layers: Sequence[int], forced: dict[str, Tensor]) -> Iterator[None]:
    def hook(module: nn.Module, site: str) -> Any:
        projection = getattr(lab.geometry, site)
        index = torch.tensor(projection.channels).flatten()

        def force(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
            made = out.clone()
            u = forced[site].flatten(1).to(out)
            made[..., index.to(out.device)] = u.view(len(u), *[1] * (out.dim() - 2), -1)
            return made

        return module.get_submodule(projection.path).register_forward_hook(force)

    handles = [hook(lab.attention_of(n), s) for n in layers for s in forced]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _norm(u: Tensor, got: Tensor) -> HeadNorm | str | None:
    """The norm that turned the forced ``u`` into ``got`` [row, head, d_head], None where there is none, a sentence
    where it is something else."""
    size = got.abs().max()
    close = lambda a, b: bool((a - b).abs().max() <= 0.01 * size)  # noqa: E731
    if close(got[2] * 2, got[0]) and close(-got[1], got[0]):
        if close((got[0] / u[0]).mean() * u[0], got[0]):
            return None
        return "the channels of a head arrive in another order, or scaled, than the projection makes them"
    sign = u[0].sign()
    gain, shift = (got[0] - got[1]) / 2 * sign, (got[0] + got[1]) / 2
    if not close(got[2], got[0]):
        return "something other than a norm stands between a projection and its use"
    return HeadNorm(gain, shift, close(got[3], got[0]))


def _rotation(q: Tensor, k: Tensor, places: list[int], tolerance: float) -> Tensor | str | None:
    """M [offset, d, d], with x_p = x_0·M_p for q and k alike; None where it is the identity throughout."""
    start = q[:, :, 0].flatten(0, 1)
    later = q.flatten(0, 1).flatten(1)  # [row and head, place and d_head]
    maps = torch.linalg.lstsq(start, later).solution.unflatten(1, q.shape[2:]).transpose(0, 1)
    left, strength, right = torch.linalg.svd(maps)
    if (strength.amax(1) / strength.amin(1)).max() > 1 + tolerance:
        return "what position does to q and k is not a rotation"
    maps = left @ right
    for x in (q, k):
        lengths = x.norm(dim=3, keepdim=True) / x.norm(dim=3, keepdim=True)[:, :, :1]
        told = torch.einsum("rhd,pde->rhpe", x[:, :, 0], maps) * lengths
        if (told - x).abs().max() > tolerance * x.abs().max():
            return "position turns q and k differently, or not every head alike"
    eye = torch.eye(maps.shape[1], dtype=maps.dtype)
    return None if (maps - eye).abs().max() < tolerance / 10 else maps[places].float()
