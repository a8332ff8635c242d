"""Prompts with roles, patterns written by hand, and models whose attention is uniform."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from headlab.engine import attention
from headlab.engine.attention import repeat_kv
from headlab.engine.model import Lab
from headlab.prompts import Encoded

REFUSED = (ValueError, TypeCheckError)
"""What an unknown word raises: ours, or that of the check of signatures where it runs first."""
KIND = {"a_int": "numeric", "a_frac": "numeric", "b_frac": "numeric", "or": "format", "cue": "format"}


def prompts() -> list[Encoded]:
    """Seven prompts of three lengths, with and without a shared start of the answer, roles at different places."""
    out = []
    for i, (length, forced) in enumerate([(7, 0), (11, 2), (13, 3), (11, 0), (7, 1), (11, 2), (13, 0)]):
        roles = {"bos": (0,), "a_int": (1 + i % 2,), "a_frac": (3,), "or": (4,)}
        if length > 7:
            roles |= {"b_frac": (5, 6 + i % 2), "cue": (length - forced - 1,)}
        out.append(tiny.encoded(tiny.prompts(1, length, seed=40 + i)[0], forced=forced, roles=roles))
    return out


def classes_by_hand(e: Encoded, first: str = "sink") -> list[str]:
    """The class of each token, from :data:`KIND` alone."""
    out = ["other"] * e.n_prompt + ["answer"] * (len(e.ids) - e.n_prompt)
    for role, places in e.roles.items():
        for place in places:
            out[place] = KIND.get(role, out[place])
    out[0] = first
    return out


def asked(e: Encoded, queries: str) -> list[int]:
    """Query positions."""
    return {"last": [e.n_prompt - 1], "decision": [len(e.ids) - 1], "all": list(range(e.n_prompt))}[queries]


def uniform(family: str) -> Lab:
    """A model whose queries and keys are zero: every head spreads its attention evenly over the keys it sees."""
    model = tiny.hf_model(family)
    made = tiny.open_model(model, tokenizer=tiny.words())
    with torch.no_grad():
        for module in made.attentions.values():
            for projection in (made.geometry.q, made.geometry.k):
                assert projection is not None
                target: Any = module.get_submodule(projection.path)
                channels = [c for head in projection.channels for c in head]
                if isinstance(target, torch.nn.Linear):
                    target.weight[channels] = 0
                else:
                    target.weight[:, channels] = 0
                if target.bias is not None:
                    target.bias[channels] = 0
    return made


def impose(monkeypatch: pytest.MonkeyPatch, pattern: Tensor) -> None:
    """Every layer's attention is ``pattern`` [head, query, key], cut to the prompt's length."""

    def fixed(_module: Any, q: Tensor, _k: Tensor, v: Tensor, _mask: Any, _kwargs: Any) -> tuple[Tensor, Tensor]:
        n = q.shape[2]
        made = pattern[:, :n, :n].to(q).expand(len(q), -1, -1, -1)
        return (made @ repeat_kv(v, q.shape[1])).transpose(1, 2), made

    monkeypatch.setattr(attention, "_eager", fixed)
