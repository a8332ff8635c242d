"""Every experiment about the decimals, by one rule: it ends, its no-op is exact, and its positive control fires where it
must and stays silent where it must not.

The experiments are those of :data:`sizes.DECIMALS`; what is about weights or thoughts has tests of its own.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest
import torch
from sizes import DECIMALS as SMALL
from sizes import small as sized

from headlab.effects import repair
from headlab.experiments import load, trial
from headlab.experiments.trial import EXPERIMENTS, builtin_claims
from headlab.measures import edited
from headlab.trials import sweeps
from headlab.trials.pairs import protocol_patch

SLOW = {"robustness": pytest.mark.accept}  # every setting is a trial; daily in test_robustness
EXACT = ("no-op", "identity", "own-share")


@pytest.fixture(scope="module")
def natural():
    return load("decimals-natural")


def small(slug: str, **fields: Any):
    return sized(slug, SMALL[slug], **{"layer": 0, "readings": ("standard",), **fields})


def test_the_list_is_the_docket_of_the_decimals() -> None:
    assert set(SMALL) <= set(EXPERIMENTS) and len(SMALL) == 20 and "cross-model" in EXPERIMENTS


@pytest.mark.parametrize("slug", [pytest.param(s, marks=SLOW.get(s, ())) for s in SMALL])
def test_it_ends_with_an_exact_no_op_and_a_positive_control_that_fires(slug: str, natural, store) -> None:
    result = trial(small(slug), natural, store=store)
    assert result.record.status == "complete" and result.verdict.sentence and result.record.figures
    assert result.tables and all(len(t) for t in result.tables.values())
    assert any("misleads" in s["heading"] for s in result.record.sections)
    controls = {k: [c for c in result.verdict.controls if c.kind == k] for k in ("negative", "positive")}
    assert controls["positive"] and all(c.passed for c in controls["positive"]), controls["positive"]
    exact = [c for c in controls["negative"] if c.name in EXACT]
    assert exact and all(c.passed for c in exact), exact
    values = [c.value for c in exact if c.value is not None]
    assert len(values) == len(exact) and max(map(abs, values)) < 1e-4  # in logits or shares; logits here are about 10


PATCHED = [s for s in SMALL if "patch-all" in builtin_claims()[s].controls]
POINTED = [s for s in SMALL if "pointed" in builtin_claims()[s].controls]


def patches_nothing(protocol: Any, name: str, heads: Any, **fields: Any) -> Any:
    """A patch that leaves the corrupted run as it is."""
    return protocol_patch(protocol, name, heads, **({} if "write" in fields else {"amount": 0.0}), **fields)


@pytest.mark.parametrize("slug", [pytest.param(s, marks=SLOW.get(s, ())) for s in PATCHED])
def test_where_nothing_repairs_the_positive_control_stays_silent(slug: str, natural, store, monkeypatch) -> None:
    """At the last layer of the organism patching every head repairs nothing: the trial must be void, whatever it found.
    ``layer-scan`` patches all layers at once; there the patch is broken instead."""
    if slug == "layer-scan":
        monkeypatch.setattr(sweeps, "protocol_patch", lambda *a, amount=0.0, **f: patches_nothing(*a, **f))
    result = trial(small(slug, layer=2), natural, store=store)
    silent = [c for c in result.verdict.controls if c.name == "patch-all"]
    assert silent and not any(c.passed for c in silent)
    assert result.verdict.outcome == "void" and "patch-all" in result.verdict.sentence


@pytest.mark.parametrize("slug", POINTED)
def test_where_nothing_is_pointed_at_the_positive_control_stays_silent(slug: str, natural, store, monkeypatch) -> None:
    monkeypatch.setattr(edited, "pointing", lambda encoded, heads: torch.clone)
    result = trial(small(slug), natural, store=store)
    assert result.verdict.outcome == "void" and "pointed" in result.verdict.sentence


def test_every_positive_control_is_held_silent_somewhere() -> None:
    """The others have controls of their own kind: test_bug_rate (scoring), test_critical_paths (knock-out-all),
    test_head_similarity (duplicate)."""
    assert set(SMALL) - {*PATCHED, *POINTED} == {"bug-rate", "critical-paths", "head-similarity"}


def test_what_is_asked_under_a_name_that_nothing_has_says_which_there_are() -> None:
    """Sweeps, ranks, numbers, and text where none was graded; worlds said so before (``of_world``).  Left as they are: an
    option that the experiment does not declare, which its own line of code names."""
    rows = pd.DataFrame({"pair": [0], "world": ["all"], "cluster": ["a"], "edited": [1.0]})
    seen: Any = sweeps.Seen(None, {"named": rows})  # type: ignore[arg-type]
    for ask, said in (
        (lambda: seen["nmaed"], "no sweep ran as 'nmaed'; expected one of named; did you mean named?"),
        (lambda: seen.values("sets", ["all"]), "no sweep ran as 'sets'; expected one of named"),
        (lambda: seen.place("rank:odd"), "nothing was ranked as 'rank:odd'; expected one of none"),
        (lambda: seen.estimate("repair:odd"), "no number was told before as 'repair:odd'"),
        (lambda: repair(seen["named"], "all"), "no text of world 'all' was graded; expected a sweep that asks for it"),
    ):
        with pytest.raises(KeyError, match=re.escape(said)):
            ask()
