"""Corrections against their definitions, written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from headlab.stats import benjamini_hochberg, holm

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def holm_by_definition(p):
    order, adjusted, worst = np.argsort(p), np.empty(len(p)), 0.0
    for place, i in enumerate(order):
        worst = max(worst, (len(p) - place) * p[i])
        adjusted[i] = min(1.0, worst)
    return adjusted


def bh_by_definition(p):
    order, adjusted, best = np.argsort(p)[::-1], np.empty(len(p)), 1.0
    for place, i in enumerate(order):
        best = min(best, p[i] * len(p) / (len(p) - place))
        adjusted[i] = best
    return adjusted


@settings(max_examples=10, deadline=None)  # the oracle collects garbage on every call
@given(p_values)
def test_both_follow_their_definition_and_statsmodels(p):
    pairs = (holm, holm_by_definition, "holm"), (benjamini_hochberg, bh_by_definition, "fdr_bh")
    for ours, definition, name in pairs:
        adjusted = ours(p)
        assert adjusted == pytest.approx(definition(p), abs=1e-12)
        assert adjusted == pytest.approx(multipletests(p, method=name)[1], abs=1e-12)
        assert (adjusted >= np.array(p) - 1e-15).all() and (adjusted <= 1).all()


def test_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert benjamini_hochberg([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.04, 0.04])


@given(p_values, st.lists(st.integers(0, 30), max_size=5))
def test_undefined_tests_stay_undefined_and_do_not_count(p, places):
    for adjust in (holm, benjamini_hochberg):
        padded = list(p)
        for place in places:
            padded.insert(min(place, len(padded)), None)
        adjusted = adjust(padded)
        missing = np.array([x is None for x in padded])
        assert (np.isnan(adjusted) == missing).all()
        assert adjusted[~missing] == pytest.approx(adjust(p))


def test_nothing_in_nothing_out_and_bad_p_refused():
    assert len(holm([])) == 0 and np.isnan(holm([None, float("nan")])).all()
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match=r"\[0, 1\], got \[1\.2\]"):
            adjust([0.1, 1.2])
        with pytest.raises(ValueError, match="shape"):
            adjust(np.zeros((2, 2)))
