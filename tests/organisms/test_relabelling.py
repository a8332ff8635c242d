"""Relabelling moves heads and changes nothing else."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from headlab import organisms
from headlab.organisms.relabelling import orders, relabel


def test_relabelling_keeps_the_function_and_can_be_undone() -> None:
    model = AutoModelForCausalLM.from_pretrained(organisms.path("decimals-natural"), dtype=torch.float32)
    ids = torch.arange(5, 25)[None]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        wanted = model(ids).logits
        relabel(model, 7)
        assert (model(ids).logits - wanted).abs().max() < 1e-4
        moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
        assert {k.split(".")[-2] for k in moved} == {"q_proj", "o_proj"}
        # moving only one of the two projections is another function: the test above can fail
        model.model.layers[0].self_attn.o_proj.weight.copy_(before["model.layers.0.self_attn.o_proj.weight"])
        assert (model(ids).logits - wanted).abs().max() > 1e-2
    model.load_state_dict(before)
    relabel(model, 7)
    relabel(model, 7, undo=True)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_orders_stay_inside_kv_groups() -> None:
    for order in orders(3, 16, 4, seed=1):
        assert sorted(order) == list(range(16)) and order != list(range(16))
        assert all(new // 4 == old // 4 for new, old in enumerate(order))
