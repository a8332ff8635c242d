"""Runs of a Hugging Face model under interventions, by hooks on its own modules; nothing here knows headlab.

Llama- and GPT-2-shaped models, one prompt at a time.  A run is read by its logits [position, vocabulary].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

Heads = Mapping[int, Sequence[int]]
"""Head numbers by layer."""


class Plain:
    """A model's attention modules and where their heads lie."""

    def __init__(self, model: Any) -> None:
        model.set_attn_implementation("eager")
        self.model, self.config = model.eval(), model.config
        self.gpt2 = hasattr(model, "transformer")
        blocks = model.transformer.h if self.gpt2 else model.model.layers
        self.attention = [b.attn if self.gpt2 else b.self_attn for b in blocks]
        self.out = [a.c_proj if self.gpt2 else a.o_proj for a in self.attention]
        self.n = self.config.num_attention_heads
        self.kv = getattr(self.config, "num_key_value_heads", None) or self.n
        self.d = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.n

    def logits(self, ids: Sequence[int], hooks: Sequence[tuple[Any, Callable[..., Any], str]] = ()) -> Tensor:
        """Float64 logits under hooks: (module, function, "in", "out" or "kwargs")."""
        with ExitStack() as stack, torch.no_grad():
            for module, function, kind in hooks:
                if kind == "out":
                    handle = module.register_forward_hook(lambda m, a, y, f=function: f(y))
                elif kind == "kwargs":
                    handle = module.register_forward_pre_hook(lambda m, a, kw, f=function: (a, f(kw)), with_kwargs=True)
                else:
                    handle = module.register_forward_pre_hook(lambda m, a, f=function: (f(a[0]), *a[1:]))
                stack.callback(handle.remove)
            return self.model(torch.tensor([list(ids)])).logits[0].double()

    # -- what is written ----------------------------------------------------------------------------------------

    def z(self, heads: Heads, new: Callable[[int, int, Tensor], Tensor], at: Sequence[int] | None = None) -> list[Any]:
        """Hooks that replace z of heads: ``new(layer, head, own [position, d])`` at some positions (None: all)."""

        def of(layer: int) -> Any:
            def f(x: Tensor) -> Tensor:
                x = x.clone()
                for h in heads[layer]:
                    part = slice(h * self.d, (h + 1) * self.d)
                    which = slice(None) if at is None else list(at)
                    x[0, which, part] = new(layer, h, x[0, :, part])[which]
                return x

            return f

        return [(self.out[layer], of(layer), "in") for layer in heads]

    def held(self, ids: Sequence[int], hooks: Sequence[Any] = ()) -> dict[int, Tensor]:
        """z of every layer [position, head, d] in a run."""
        kept: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            def f(x: Tensor) -> Tensor:
                kept[layer] = x[0].unflatten(-1, (self.n, self.d)).clone()
                return x

            return f

        self.logits(ids, [*hooks, *((self.out[at], keep(at), "in") for at in range(len(self.out)))])
        return kept

    def zero(self, heads: Heads, at: Sequence[int] | None = None) -> list[Any]:
        return self.z(heads, lambda layer, h, own: torch.zeros_like(own), at)

    def patch(self, heads: Heads, other: Mapping[int, Tensor], at: Sequence[int] | None = None) -> list[Any]:
        """z of another run with as many tokens."""
        return self.z(heads, lambda layer, h, own: other[layer][:, h], at)

    def masked(self, heads: Heads, keys: Sequence[int], rows: Sequence[int] | None = None) -> list[Any]:
        """Heads that do not attend to some keys (in rows that have another key to attend to)."""

        def of(layer: int) -> Any:
            def f(kw: dict[str, Any]) -> dict[str, Any]:
                mask = kw.get("attention_mask")
                n = kw["hidden_states"].shape[1] if mask is None else mask.shape[-1]
                causal = torch.full((n, n), float("-inf")).triu(1)
                whole = causal.expand(1, self.n, n, n).clone()
                for h in heads[layer]:
                    for q in range(n) if rows is None else rows:
                        if any(k not in keys for k in range(q + 1)):
                            whole[0, h, q, list(keys)] = float("-inf")
                return {**kw, "attention_mask": whole}

            return f

        return [(self.attention[layer], of(layer), "kwargs") for layer in heads]

    def scaled_q(self, heads: Heads, amount: float) -> list[Any]:
        def of(layer: int) -> Any:
            def f(y: Tensor) -> Tensor:
                y = y.clone()
                for h in heads[layer]:
                    y[..., h * self.d : (h + 1) * self.d] *= amount
                return y

            return f

        return [(self.attention[layer].q_proj, of(layer), "out") for layer in heads]

    def path_to_k(self, ids: Sequence[int], senders: list[Any], first: int, receivers: Heads) -> list[Any]:
        """Hooks that give receivers' keys what they held in a run in which ``senders`` act and every other head from layer
        ``first`` up keeps its z; one receiving layer."""
        (layer,) = receivers
        base, got = self.held(ids), {}
        acting = {id(module) for module, _, _ in senders}

        def keep(y: Tensor) -> Tensor:
            got["k"] = y.clone()
            return y

        held = [
            (self.out[at], lambda x, at=at: base[at].flatten(1)[None].clone(), "in")
            for at in range(first, layer)
            if id(self.out[at]) not in acting
        ]
        self.logits(ids, [*self._others_held(senders, base, first), *held, (self.attention[layer].k_proj, keep, "out")])
        group = self.n // self.kv

        def put(y: Tensor) -> Tensor:
            y = y.clone()
            for g in {h // group for h in receivers[layer]}:
                y[..., g * self.d : (g + 1) * self.d] = got["k"][..., g * self.d : (g + 1) * self.d]
            return y

        return [(self.attention[layer].k_proj, put, "out")]

    def _others_held(self, senders: list[Any], base: Mapping[int, Tensor], first: int) -> list[Any]:
        """The senders' own hooks on unedited z: other heads of their layers stay as they are (layer ``first`` alone)."""
        out = []
        for module, function, kind in senders:
            at = next(n for n, m in enumerate(self.out) if m is module)
            out.append((module, lambda x, at=at, f=function: f(base[at].flatten(1)[None].clone()), kind))
        return out

    def frozen(self, ids: Sequence[int], inner: Heads, amount: float = 0.0) -> list[Any]:
        """Every head keeps the pattern of the unedited run; z of ``inner`` heads is scaled."""
        with torch.no_grad():
            patterns = self.model(torch.tensor([list(ids)]), output_attentions=True).attentions
        values: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            def f(y: Tensor) -> Tensor:
                values[layer] = y[0].unflatten(-1, (self.kv, self.d)).repeat_interleave(self.n // self.kv, 1)
                return y

            return f

        def put(layer: int) -> Any:
            def f(x: Tensor) -> Tensor:
                z = torch.einsum("hqk,khd->qhd", patterns[layer][0], values[layer])
                for h in inner.get(layer, ()):
                    z[:, h] *= amount
                return z.flatten(1)[None]

            return f

        layers = range(len(self.out))
        return [(self.attention[at].v_proj, keep(at), "out") for at in layers] + [
            (self.out[at], put(at), "in") for at in layers
        ]


def margin(logits: Tensor, right: Sequence[int], wrong: Sequence[int]) -> float:
    return float(logits[-1, list(right)].logsumexp(0) - logits[-1, list(wrong)].max())


def gap(logits: Tensor, right: Sequence[int], wrong: Sequence[int]) -> float:
    p = logits[-1].softmax(0)
    return float(p[list(right)].sum() - p[list(wrong)].sum())


def nats(logits: Tensor, ids: Sequence[int], first: int, last: int) -> float:
    """Mean nats of tokens ``first … last − 1``."""
    spread = logits.log_softmax(-1)
    return -float(torch.stack([spread[i - 1, ids[i]] for i in range(max(1, first), min(last, len(ids)))]).mean())
