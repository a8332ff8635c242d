"""head-similarity: a duplicated head is found, planted parity is told from no parity, controls bite."""

from __future__ import annotations

from typing import Any

import torch

from headlab.experiments import load, trial
from headlab.experiments.attention import head_similarity as room
from headlab.experiments.trial import EXPERIMENTS
from headlab.trials import likeness

EXPERIMENTS.setdefault("head-similarity", room.EXPERIMENT)
SMALL: dict[str, Any] = {"pairs": 30, "matched_sets": 700}


def findings(result) -> dict[str, dict]:
    return {e.name: e.estimate for e in result.record.readings[0].estimates if not e.arm}


def test_planted_parity_is_found_and_natural_is_not(store) -> None:
    """The planted organism's even heads share a job, and their patterns show it; the natural one's do not."""
    planted = trial("head-similarity", "decimals-planted-even", store=store, layer=1, **SMALL)
    natural = trial("head-similarity", "decimals-natural", store=store, layer=0, **SMALL)
    assert planted.verdict.outcome == "upheld", planted.verdict.sentence
    assert natural.verdict.outcome == "refuted", natural.verdict.sentence
    assert all(c.passed for c in (*planted.verdict.controls, *natural.verdict.controls))
    assert [r.protocol for r in natural.record.readings] == ["standard", "naive", "published"]
    assert len(natural.tables["similarity"]) == 3 * 120
    assert [f.kind for f in natural.figures] == ["estimates", "null"]
    assert findings(natural)["contrast:kv"]["low"] > 0  # heads that share keys are alike


def test_a_duplicated_head_is_the_most_similar(store) -> None:
    lab = load("decimals-natural")
    module: Any = lab.attentions[1]
    weight, size = module.q_proj.weight, lab.head_dim
    weight.data[6 * size : 7 * size] = weight.data[4 * size : 5 * size]  # heads 4 and 6 read the same keys
    rows = trial("head-similarity", lab, store=store, layer=1, **SMALL).tables["similarity"]
    top = rows[rows["layer"] == 1].nlargest(1, "similarity").iloc[0]
    assert (top["head"], top["other"]) == (4, 6) and top["similarity"] > 1 - 1e-6


def test_a_duplicate_across_groups_needs_its_keys_too(store) -> None:
    """Queries and keys of group 0 given to group 2: head 8 then attends as head 0 does."""
    lab = load("decimals-natural")
    module: Any = lab.attentions[1]
    size = lab.head_dim
    module.q_proj.weight.data[8 * size : 9 * size] = module.q_proj.weight.data[:size]
    module.k_proj.weight.data[2 * size : 3 * size] = module.k_proj.weight.data[:size]
    rows = trial("head-similarity", lab, store=store, layer=1, **SMALL).tables["similarity"]
    top = rows[rows["layer"] == 1].nlargest(1, "similarity").iloc[0]
    assert (top["head"], top["other"]) == (0, 8)


def test_a_copy_that_copies_nothing_voids_the_trial(store, monkeypatch) -> None:
    monkeypatch.setattr(likeness, "copying", lambda grid, at, source, target: {(at, "q"): torch.clone})
    result = trial("head-similarity", "decimals-natural", store=store, layer=0, protocol="standard", **SMALL)
    assert result.verdict.outcome == "void" and "duplicate" in result.verdict.sentence


def test_heads_of_their_own_keys(store) -> None:
    """Without KV groups labels move freely, and the copied head takes its keys along."""
    result = trial("head-similarity", "decimals-natural-neox", store=store, layer=0, **SMALL)
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    assert "contrast:kv" not in findings(result)


def test_the_contrast_by_hand() -> None:
    import numpy as np
    import pytest

    from headlab.stats.distances import side_weights

    mean = np.array([[1, 0.1, 0.9, 0.2], [0.1, 1, 0.3, 0.7], [0.9, 0.3, 1, 0.4], [0.2, 0.7, 0.4, 1.0]])
    assert (side_weights(np.array([[1, 0, 1, 0]])) @ mean[np.triu_indices(4, 1)])[0] == pytest.approx(
        (0.9 + 0.7) / 2 - (0.1 + 0.2 + 0.3 + 0.4) / 4
    )
