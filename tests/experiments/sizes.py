"""Small sizes at which every entry of the docket ends in seconds, and the trials whose numbers are kept (test_golden).

Whoever changes a size writes the kept numbers anew: ``python tests/experiments/golden.py CASE …``.
"""

from __future__ import annotations

from typing import Any

from headlab.claims import Claim
from headlab.experiments.trial import adjusted, find_claim

TINY: dict[str, Any] = {"pairs": 12, "selection_pairs": 6, "matched_sets": 8, "subsets_per_size": 4, "decide": "fixed"}
DECIMALS: dict[str, dict[str, Any]] = {
    "parity": {},
    "head-count": {"pool": "even"},
    "layer-scan": {},
    "bug-rate": {"options": {"formats": ["qa"], "classes": ["conflict"]}},
    "robustness": {},
    "subset-sweep": {"options": {"masks": 40, "permutations": 4}},
    "spatial-patterns": {"subsets_per_size": 60, "options": {"shuffles": 99, "renamings": 99}},
    "pattern-threshold": {"options": {"step": 0.25, "tolerance": 0.1, "norm_pairs": 2}},
    "bandwidth": {},
    "bandwidth-dose": {"options": {"steps": 2, "random_halves": 2}},
    "bandwidth-repair": {"options": {"doses": [0.0, 0.5, 1.0], "random_halves": 2}},
    "format-masking": {"options": {"doses": [0.0, 1.0], "random_halves": 2}},
    "format-injection": {"options": {"words": [8, 16], "shares": [0.0, 0.5, 1.0]}},
    "routing": {},
    "critical-paths": {},
    "position-sensitivity": {},
    "head-similarity": {},
    "pattern-swap": {},
    "head-exchange": {"options": {"shuffles": 2}},
    "architecture": {},
}
"""About the decimals and one model.  ``cross-model`` is about several: tests/experiments/test_cross_model.py."""

WEIGHTS: dict[str, dict[str, Any]] = {
    "weight-clusters": {"matched_sets": 99, "options": {"draws": 49, "subsets": 4, "views": ["pca"]}},
    "mechanism": {"matched_sets": 99, "options": {"sets": 49, "pairs_by_set": 4, "views": ["pca"]}},
    "cluster-behaviour": {"matched_sets": 99, "options": {"pairs_by_head": 6, "all_layers": False}},
    "reindexing": {
        "options": {"reindexings": 2, "prompts": 6, "outcome_pairs": 6, "random_halves": 2, "scrambled_pairs": 4}
    },
}
"""About heads by their weights."""

SERIES: dict[str, dict[str, Any]] = {"training-dynamics": {"options": {"draws": 2, "pairs_elsewhere": 6}}}
"""About the checkpoints of a training run."""

THOUGHTS: dict[str, dict[str, Any]] = {
    "head-ablation": {"matched_sets": 6},
    "position-patching": {},
    "forced-patterns": {},
    "hub-rerouting": {},
    "transplant": {"matched_sets": 2, "options": {"other": "thoughts-gpt2-plain"}},
    "thought-attention": {"matched_sets": 19, "options": {"untrained": 1, "references": "", "max_new_tokens": 3}},
    "hubs": {"matched_sets": 19, "options": {"untrained": 1, "references": "", "max_new_tokens": 3}},
    "head-metrics": {"matched_sets": 19, "options": {"untrained": 1, "references": "", "max_new_tokens": 3}},
    "compare-models": {"matched_sets": 19, "options": {"other": "thoughts-llama", "max_new_tokens": 3}},
    "layer-probes": {"pairs": 120, "options": {"heads": "L1H5 L0H2", "folds": 3}},
    "attribution": {"pairs": 6, "matched_sets": 49, "options": {"heads": "L1H5", "steps": 4}},
    "difficulty": {"pairs": 24, "matched_sets": 2, "options": {"heads": "L1H5", "k": 1}},
}
"""About models that think in vectors."""


def small(slug: str, own: dict[str, Any], **fields: Any) -> Claim:
    """The shipped claim at a small size: ``own`` of the tables above, then ``fields``."""
    claim = find_claim(slug)
    options = {**claim.options, **own.get("options", {}), **fields.pop("options", {})}
    return adjusted(claim, **{**TINY, **own, "options": options, **fields})
