"""Output shares and the published ones: against loops over single vectors, and against what they must not depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
import worked

from headlab.engine.captures import capture
from headlab.engine.loading import ModelError
from headlab.engine.model import Lab
from headlab.measures import bandwidth, output_bandwidth

NAMES = ("sink", "numeric", "format", "other")


def kept(lab: Lab) -> Any:
    return capture(lab, worked.prompts(), [(n, s) for n in range(3) for s in ("pattern", "v", "z", "out_block")])


@pytest.mark.parametrize(
    ("family", "queries"), [*((f, "last") for f in tiny.CORE), ("llama", "decision"), ("gemma2", "all")]
)
def test_outputs_equal_a_loop_over_single_writes(family: str, queries: Any) -> None:
    """v of KV head h // group, weighted and projected one token at a time; all of them add up to z·W_O."""
    lab, encoded = tiny.lab(family), worked.prompts()
    seen, group = kept(lab), lab.grid.n_heads // lab.grid.n_kv_heads
    tables = {sink: output_bandwidth(lab, encoded, queries=queries, sink=sink) for sink in ("in", "out")}  # type: ignore[arg-type]
    share: dict[str, list[float]] = {"in": [], "out": []}
    norm = []
    names = (*NAMES, "answer") if queries == "decision" else NAMES
    for i, e in enumerate(encoded):
        kind = np.array(worked.classes_by_hand(e))
        for layer in range(3):
            pattern, v, z = (seen[layer, s][i].double() for s in ("pattern", "v", "z"))
            weight = lab.weight("o", layer).double()
            for head in range(lab.grid.n_heads):
                sizes = {"in": [], "out": []}
                total = []
                for q in worked.asked(e, queries):
                    writes = [pattern[q, head, s] * (v[s, head // group] @ weight[head]) for s in range(len(e.ids))]
                    torch.testing.assert_close(
                        torch.stack(writes).sum(0), z[q, head] @ weight[head], rtol=1e-3, atol=1e-4
                    )
                    lengths = np.array([w.norm().item() for w in writes])
                    total.append([lengths[kind == c].sum() for c in names])
                    sizes["in"].append([x / lengths.sum() for x in total[-1]])
                    if q:
                        sizes["out"].append([x / lengths[kind != "sink"].sum() for x in total[-1]])
                absent = np.where([(kind == c).any() for c in names], 0, np.nan)
                share["in"] += list(np.mean(sizes["in"], 0) + absent)
                share["out"] += list((np.mean(sizes["out"], 0) + absent)[1:])
                norm += list(np.mean(total, 0) + absent)
    for sink, wanted in share.items():
        np.testing.assert_allclose(tables[sink].share, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tables["in"].norm, norm, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", tiny.CORE)
def test_published_shares_equal_a_literal_loop(family: str) -> None:
    """Last prompt token's weights over their sum; norms of a block of the module's output by position, over their sum."""
    lab, encoded = tiny.lab(family), worked.prompts()
    seen, size = kept(lab), lab.d_model // lab.grid.n_heads
    table = output_bandwidth(lab, encoded)
    weights, outputs = [], []
    for i, e in enumerate(encoded):
        kind = worked.classes_by_hand(e)[: e.n_prompt]
        for layer in range(3):
            for head in range(lab.grid.n_heads):
                last = seen[layer, "pattern"][i][e.n_prompt - 1, head].tolist()
                module = seen[layer, "out_block"][i].flatten(1)[:, head * size : (head + 1) * size]
                block = [module[t].norm().item() for t in range(e.n_prompt)]
                for name in NAMES:
                    inside = [t for t, k in enumerate(kind) if k == name]
                    weights.append(sum(last[t] for t in inside) / sum(last) if inside else np.nan)
                    outputs.append(sum(block[t] for t in inside) / sum(block) if inside else np.nan)
    np.testing.assert_allclose(table.published_weight_share, weights, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table.published_output_share, outputs, rtol=1e-5, atol=1e-7)
    for fields in ({"queries": "all"}, {"sink": "out"}, {"queries": "decision"}):
        other = output_bandwidth(lab, encoded, **fields)  # type: ignore[arg-type]
        other, same = other[other.token_class == "numeric"], table[table.token_class == "numeric"]
        for name in ("published_weight_share", "published_output_share"):
            np.testing.assert_allclose(other[name], same[name], atol=1e-7)


def test_the_published_output_share_is_the_share_of_positions_for_equal_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of twelve positions give .5 whatever the head looks at: here every head looks at the first token only."""
    first = torch.zeros(5, 13, 13)
    first[..., 0] = 1
    worked.impose(monkeypatch, first)
    lab, roles = tiny.lab("gpt2"), {"bos": (0,), "a_int": (1, 2, 3), "a_frac": (5, 6, 7), "cue": (11,)}
    table = output_bandwidth(lab, [tiny.encoded(tiny.prompts(1, 12)[0], roles=roles)])
    numeric = table[table.token_class == "numeric"]
    assert numeric.published_output_share.to_numpy() == pytest.approx(0.5, abs=1e-6)
    assert (numeric.published_weight_share == 0).all()
    assert (numeric.share == 0).all()


@pytest.mark.parametrize("dead", [0, 1])
def test_query_heads_read_the_values_of_their_own_group(dead: int) -> None:
    """Without the values of one KV head, its five query heads write nothing, and the other five do."""
    model = tiny.hf_model("llama")
    lab = tiny.open_model(model, tokenizer=tiny.words())
    assert lab.geometry.v is not None
    for module in lab.attentions.values():
        module.get_submodule(lab.geometry.v.path).weight.data[list(lab.geometry.v.channels[dead])] = 0
    table = output_bandwidth(lab, worked.prompts())
    written = table[table.tokens > 0].groupby("head").norm.sum()
    assert [h for h in range(10) if written[h] == 0] == list(range(5 * dead, 5 * dead + 5))


def test_equal_writes_give_the_attention_share() -> None:
    """Where all keys are one token in the first layer, every value is the same and size is α times a constant."""
    lab = tiny.lab("llama")
    e = tiny.encoded([7] * 11, roles=worked.prompts()[1].roles)
    output, weight = output_bandwidth(lab, [e], layers=[0]), bandwidth(lab, [e], layers=[0])
    np.testing.assert_allclose(output.share, weight.share, atol=1e-6)


def test_batches_change_no_number_and_sixteen_bits_run() -> None:
    lab, encoded = tiny.lab("gpt_neox"), worked.prompts()
    whole, single = output_bandwidth(lab, encoded), output_bandwidth(lab, encoded, tokens=1)
    for name in ("share", "norm", "published_weight_share", "published_output_share"):
        np.testing.assert_allclose(single[name], whole[name], rtol=1e-4, atol=1e-6)
    half = output_bandwidth(tiny.proved(tiny.hf_model("gpt_neox").to(torch.bfloat16)), encoded, layers=[0])
    assert (half.share - whole[whole.layer == 0].reset_index(drop=True).share).abs().max() < 0.02


def test_blocks_that_do_not_divide_are_undefined_and_gates_are_refused() -> None:
    """106 coordinates are no ten blocks.  qwen3_next gates z before the projection."""
    sizes = {**tiny.FAMILIES["qwen3"], "hidden_size": 106}
    table = output_bandwidth(tiny.proved(tiny.hf_model("qwen3", sizes)), worked.prompts())
    assert table.published_output_share.isna().all()
    assert table[table.tokens > 0].share.notna().all()
    with pytest.raises(ModelError, match="W_O"):
        output_bandwidth(tiny.lab("qwen3_next"), worked.prompts())
