"""An attention of its own: plain mathematics put where a family's file keeps its eager function.  No headlab here.

Sites are those of one attention call: ``q`` ``k`` ``v`` [row, head, position, d] as they are given, ``scores`` and
``pattern`` [row, head, query, key], ``z`` [row, position, head, d]; and, by plain forward hooks, ``out_block``, what
the calling module puts out, and ``resid``, what the block around it puts out, [row, position, d_model].
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Edits = Mapping[tuple[int, str], Callable[[Tensor], Tensor]]


@dataclass
class Passed:
    """Logits [row, position, vocabulary] of one pass, what every site held, and the modules that called, in order."""

    logits: Tensor
    kept: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    modules: list[Any] = field(default_factory=list)

    @property
    def last(self) -> Tensor:
        return self.logits[:, -1]


def run(model: Any, ids: Tensor, edits: Edits | None = None, *, sinks_scale: bool = False) -> Passed:
    """One pass; ``edits`` write at (n-th attention call, site) where it is read.

    ``sinks_scale``: a sink takes its share of z after the softmax, weight sigmoid(logsumexp − sink), instead of a
    column beside the scores; the pattern holds it either way.
    """
    edits, done = dict(edits or {}), Passed(torch.empty(0))

    def attend(
        module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, **more: Any
    ) -> tuple[Tensor, Tensor]:
        at = len(done.modules)
        done.modules.append(module)

        def touch(site: str, x: Tensor) -> Tensor:
            done.kept[at, site] = x = edits[at, site](x) if (at, site) in edits else x
            return x

        q, k, v = touch("q", q), touch("k", k), touch("v", v)
        scores = touch("scores", _scores(q, k, more.get("scaling"), more.get("softcap")))
        if more.get("position_bias") is not None:
            scores = scores + more["position_bias"]
        mask = attention_mask
        if mask is None:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        pattern = touch("pattern", _softmax(scores, _sinks(module, more), sinks_scale))
        z = torch.einsum("bhqk,bhkd->bqhd", pattern, v.repeat_interleave(q.shape[1] // v.shape[1], 1))
        return touch("z", z.contiguous()), pattern

    with torch.no_grad(), _placed(model, attend), ExitStack() as stack:
        if outer := {key: edit for key, edit in edits.items() if key[1] in {"out_block", "resid"}}:
            modules = run(model, ids).modules
            for (at, site), edit in outer.items():
                place = modules[at] if site == "out_block" else block(model, modules[at])
                stack.callback(place.register_forward_hook(_after(edit)).remove)
        done.logits = model(input_ids=ids, use_cache=False).logits
    return done


def through_projection(model: Any, ids: Tensor, at: int, edit: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Last logits with z of one call edited by a hook before the linear map that receives it, with the family's own
    attention throughout; None where no one map receives z."""
    with torch.no_grad():
        passed, got = run(model, ids), []
        z = passed.kept[at, "z"]
        inside = [m for m in passed.modules[at].modules() if m is not passed.modules[at]]
        handles = [
            m.register_forward_pre_hook(lambda m, args: got.append((m, args[0])) if args else None) for m in inside
        ]
        run(model, ids)
        for handle in handles:
            handle.remove()
        homes = {m for m, x in got if isinstance(x, Tensor) and x.shape == z.flatten(2).shape and x.equal(z.flatten(2))}
        homes = {m for m in homes if getattr(m, "weight", torch.empty(0)).dim() == 2}
        if len(homes) != 1:
            return None
        handle = homes.pop().register_forward_pre_hook(
            lambda _m, args: (edit(args[0].unflatten(2, z.shape[2:])).flatten(2), *args[1:])
        )
        try:
            return model(input_ids=ids, use_cache=False).logits[:, -1]
        finally:
            handle.remove()


def block(model: Any, module: Any) -> Any:
    """The element of a list of layers in which a module stands: its path up to its last number."""
    path = next(name for name, m in model.named_modules() if m is module).split(".")
    last = max(n for n, part in enumerate(path) if part.isdigit())
    return model.get_submodule(".".join(path[: last + 1]))


def _scores(q: Tensor, k: Tensor, scale: float | None, cap: float | None) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k.repeat_interleave(q.shape[1] // k.shape[1], 1))
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    return scores if cap is None else cap * torch.tanh(scores / cap)


def _sinks(module: Any, more: Mapping[str, Any]) -> Tensor | None:
    """One number a head, or one a query: [1 or row, head, 1 or query, 1]."""
    found = [x for x in (more.get("s_aux"), more.get("sinks"), getattr(module, "sinks", None)) if isinstance(x, Tensor)]
    return None if not found else found[0] if found[0].dim() == 4 else found[0].view(1, -1, 1, 1)


def _softmax(scores: Tensor, sinks: Tensor | None, after: bool) -> Tensor:
    top = scores.amax(-1, keepdim=True)
    weights = (scores - top).exp()
    total = weights.sum(-1, keepdim=True)
    if sinks is None:
        return weights / total
    if after:
        return weights / total * torch.sigmoid(total.log() + top - sinks)
    return weights / (total + (sinks - top).exp())


def _after(edit: Callable[[Tensor], Tensor]) -> Any:
    return lambda _m, _a, out: (edit(out[0]), *out[1:]) if isinstance(out, tuple) else edit(out)


@contextmanager
def _placed(model: Any, function: Any) -> Any:
    """``function`` stands in for the eager function of every file that this model's classes come from."""
    homes = {sys.modules[c.__module__] for m in model.modules() for c in type(m).__mro__ if c.__module__ in sys.modules}
    homes = {h for h in homes if "eager_attention_forward" in vars(h)}
    before = {h: h.eager_attention_forward for h in homes}
    try:
        for home in homes:
            vars(home)["eager_attention_forward"] = function
        yield
    finally:
        for home, was in before.items():
            vars(home)["eager_attention_forward"] = was
