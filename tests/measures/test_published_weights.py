"""The published features and the published cut, rebuilt to be told apart from what heads are."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from sklearn.metrics import adjusted_rand_score

from headlab.engine.model import Lab, ModelError, open_model
from headlab.measures import head_weights, published_features, reshape_artefact
from headlab.measures.published_weights import block_identity, fused_qkv, published_reshape

HEADS, SIZE = 12, 8


def neox() -> Lab:
    """As many heads as Pythia-160m, 8 channels each."""
    sizes = {"num_hidden_layers": 2, "vocab_size": 101, "max_position_embeddings": 64, "num_attention_heads": HEADS,
             "hidden_size": HEADS * SIZE, "intermediate_size": 53}  # fmt: skip
    return open_model(tiny.hf_model("gpt_neox", sizes), tokenizer=tiny.words())


@pytest.fixture(scope="module")
def pythia() -> Lab:
    return neox()


@pytest.mark.parametrize(("block", "head"), [(6, 2), (12, 4), (27, 9)])
def test_perturbed_blocks_belong_to_other_heads(pythia: Lab, block: int, head: int) -> None:
    """The published singletons Q-head 6, K-head 0 and V-head 3 are the query matrices of heads 2, 4 and 9: changing
    those rows changes W_Q of that head in the running model, and nothing else."""
    before = head_weights(pythia, [1])
    fused = fused_qkv(pythia, 1)
    rows = slice(block * SIZE, (block + 1) * SIZE)
    saved = fused[rows].clone()
    try:
        fused[rows] *= 4.5
        after = head_weights(pythia, [1])
    finally:
        fused[rows] = saved
    for which in ("q", "k", "v"):
        changed = (after.of(which, 1) != before.of(which, 1)).flatten(1).any(1)
        assert changed.nonzero().flatten().tolist() == ([head] if which == "q" else [])
    row = block_identity(HEADS).loc[block]
    assert (row["claimed"], row["claimed_head"]) == ("qkv"[block // 12], block % 12)
    assert (row["really"], row["really_head"]) == ("q", head)


def test_the_published_cut_is_detected(pythia: Lab) -> None:
    """Found on the matrix itself, it is what the arithmetic says for all 36 blocks; r = 3·head + type meets
    r = 12·type + head only in q of head 0 (block 0) and v of head 11 (35).  The right cut is found right."""
    weights, fused = head_weights(pythia, [1]), fused_qkv(pythia, 1)
    found = reshape_artefact(weights, 1, published_reshape(fused, HEADS, SIZE))
    assert found and list(found.blocks.loc[found.blocks["right"], "block"]) == [0, 35]
    told = block_identity(HEADS)
    assert (found.blocks[told.columns] == told).to_numpy().all()
    assert found.sentence == (
        "34 of 36 blocks are not what they were called: block 1, called q of head 1, is k of head 0"
    )
    proper = fused.view(HEADS, 3, SIZE, HEADS * SIZE).transpose(0, 1)
    right = reshape_artefact(weights, 1, proper)
    assert not right and right.wrong == 0 and "all 36 blocks" in right.sentence
    mixed = proper.clone()
    mixed[1, 4, 0] += 1
    one = reshape_artefact(weights, 1, mixed)
    assert one.wrong == 1 and "is no single head's" in one.sentence and one.blocks.loc[16, "really_head"] == -1


def test_the_cut_fits_where_projections_are_stored_one_after_another() -> None:
    """GPT-2 stores [Q | K | V], so there the same cut is right: the detector looks at the matrix, not at the name."""
    lab = tiny.lab("gpt2")
    cut = published_reshape(fused_qkv(lab, 2), 5, 14)
    assert not reshape_artefact(head_weights(lab, [2]), 2, cut)


def test_equal_blocks_cannot_be_told_apart() -> None:
    """All-zero matrices: nothing is claimed to be wrong."""
    lab = neox()
    fused_qkv(lab, 1).zero_()
    weights = head_weights(lab, [1])
    assert not reshape_artefact(weights, 1, published_reshape(fused_qkv(lab, 1), HEADS, SIZE))


def test_what_does_not_fit_is_said(pythia: Lab) -> None:
    with pytest.raises(ModelError, match="3 projections"):
        fused_qkv(tiny.lab("llama"), 1)
    with pytest.raises(ModelError, match="2 KV heads for 10 heads"):
        reshape_artefact(head_weights(tiny.lab("llama"), [1]), 1, torch.zeros(3, 10, 14, 110))
    with pytest.raises(ValueError, match="has 288 rows, given 280"):
        published_reshape(torch.zeros(280, 96), HEADS, SIZE)
    with pytest.raises(ValueError, match=r"given \(3, 12, 8, 90\)"):
        reshape_artefact(head_weights(pythia, [1]), 1, torch.zeros(3, 12, 8, 90))
    with pytest.raises(ValueError, match="at least one head"):
        block_identity(0)


def test_published_features_repeat_what_a_group_shares() -> None:
    """By hand from the model's own modules: rows of q_proj, k_proj, v_proj and columns of o_proj, K and V repeated;
    then (x − mean) / standard deviation over heads."""
    lab = tiny.lab("llama")
    attention = lab.model.model.layers[1].self_attn
    rows = []
    for h in range(10):
        g = h // 5
        parts = [
            p.weight[i * 14 : (i + 1) * 14]
            for p, i in ((attention.q_proj, h), (attention.k_proj, g), (attention.v_proj, g))
        ]
        parts.append(attention.o_proj.weight[:, h * 14 : (h + 1) * 14].T)
        rows.append(torch.cat([p.flatten() for p in parts]).double().numpy())
    flat = np.stack(rows)
    weights = head_weights(lab)
    assert np.array_equal(published_features(weights, 1, scaled=False), flat)
    scaled = published_features(weights, 1)
    assert np.allclose(scaled, (flat - flat.mean(0)) / flat.std(0), atol=1e-9)
    block = 14 * 110
    assert np.array_equal(scaled[:5, block : 3 * block], np.repeat(scaled[:1, block : 3 * block], 5, 0))


def test_published_features_make_kv_groups_and_a_forced_mean() -> None:
    """32 heads on 8 KV heads, all random: Ward clusters are the KV groups, their ARI against parity is −0.0598 (8 blocks
    of 4 against two of 16), and the mean cosine between heads is −1/31 although nothing is anything."""
    from sklearn.cluster import AgglomerativeClustering

    sizes = {**tiny.FAMILIES["llama"], "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 6,
             "hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 101}  # fmt: skip
    weights = head_weights(open_model(tiny.hf_model("llama", sizes), tokenizer=tiny.words()))
    features = published_features(weights, 0)
    labels = AgglomerativeClustering(8).fit_predict(features)
    assert adjusted_rand_score(np.arange(32) // 4, labels) == 1
    assert adjusted_rand_score(np.arange(32) % 2, labels) == pytest.approx(-0.05982905982905983)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = (unit @ unit.T)[~np.eye(32, dtype=bool)].mean()
    assert cosine == pytest.approx(-1 / 31, abs=0.001)
