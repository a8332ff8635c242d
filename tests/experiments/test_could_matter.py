"""A claim that something does not matter is upheld only beside something that shows that it could have mattered."""

from __future__ import annotations

import pytest

from headlab.experiments.trial import builtin_claims, experiment

LITTLE = ("kept:", "agreement:")
SMALL = ("drop:", "relative:", "lost:", "repair:", "share:", "sequential", "skip", "std")
"""``> threshold`` of the first, and ``<`` or ``within`` of either, say that little happens."""
SHOWN_BY = {
    "hub-rerouting": {"cut-all"},
    "forced-patterns": {"relative:uniform", "relative:sequential"},
    "transplant": {"gain:zero", "gain:weights"},
    "difficulty": {"drop:hard", "silence-all"},
    "position-patching": {"drop:hub", "swap-all"},
    "head-exchange": {"patch-all", "takes-hold"},
    "robustness": {"sensitivity"},
    "thought-attention": {"planted-chain"},
    "parity": {"patch-all"},
    "layer-scan": {"patch-all"},
    "pattern-swap": {"patch-all"},
    "head-count": {"patch-all"},
    "bandwidth": {"pointed"},
}


def says_little(op: str, statistic: str) -> bool:
    if op == ">":
        return statistic.startswith(LITTLE)
    return op == "within" or (op == "<" and statistic.startswith((*LITTLE, *SMALL)))


def test_every_claim_that_says_that_little_happens_is_known() -> None:
    """All shipped claims are looked through: "kept", "within", "agreement", and small drops, shares and repairs."""
    found = {c.id for c in builtin_claims().values() if any(says_little(p.op, p.statistic) for p in c.predictions)}
    assert found == set(SHOWN_BY)


@pytest.mark.parametrize("slug", sorted(SHOWN_BY))
def test_something_in_the_claim_shows_that_it_could(slug: str) -> None:
    """A positive control that the claim names (void), its own predictions of a cost, or ``cut-all`` (untestable)."""
    claim = builtin_claims()[slug]
    own = {*claim.controls, *(p.statistic for p in claim.predictions), *experiment(slug).controls}
    assert SHOWN_BY[slug] <= own
