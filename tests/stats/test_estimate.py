"""A number is never alone, and what is undefined never looks like a number."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headlab.stats as stats
from headlab.stats import Estimate

# What is not even of the right type may be refused by the checked signature, before our own message.
REFUSED = (ValueError, TypeError)
finite = st.floats(-1e6, 1e6)


def make(value=0.63, low=0.5, high=0.75, **more):
    return Estimate(value, low, high, **{"n": 54, "unit": "pairs", "method": "Wilson", **more})


def test_reads_as_one_line():
    assert str(make()) == "0.63 [0.50, 0.75] (n=54 pairs, Wilson 95%)"
    assert str(make(seed=3, level=0.9)) == "0.63 [0.50, 0.75] (n=54 pairs, Wilson 90%, seed 3)"
    assert str(make(0.00123, 0.00119, 0.00127)) == "0.001230 [0.001190, 0.001270] (n=54 pairs, Wilson 95%)"
    assert str(make(-1e-9, -0.5, 0.5)).startswith("0.00 [-0.50, 0.50]")
    assert str(Estimate.undefined("pairs", 1, "one row")) == "undefined (n=1 pairs: one row)"


def test_the_whole_interval_decides():
    e = make(0.63, 0.5, 0.75)
    assert [e.above(t) for t in (0.49, 0.5, 0.6, 0.75, 0.76)] == ["yes", "unsure", "unsure", "unsure", "no"]
    assert [e.below(t) for t in (0.49, 0.5, 0.6, 0.75, 0.76)] == ["no", "unsure", "unsure", "unsure", "yes"]
    nothing = Estimate.undefined("pairs", 0, "no rows")
    assert nothing.above(0.5) == nothing.below(0.5) == "undefined" and not nothing.defined and e.defined


@given(low=finite, width=st.floats(0, 1e6), threshold=finite)
def test_above_and_below_mirror_each_other(low, width, threshold):
    e = make(low, low, low + width)
    assert (e.above(threshold) == "yes") == (e.below(threshold) == "no")
    assert (e.above(threshold) == "no") == (e.below(threshold) == "yes")
    flipped = make(-low, -low - width, -low)
    assert flipped.above(-threshold) == e.below(threshold)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), "much", True])
@pytest.mark.parametrize("field", ["value", "low", "high"])
def test_refuses_what_is_not_a_finite_number(field, bad):
    with pytest.raises(REFUSED, match=field):
        make(**{field: bad})


def test_refuses_half_an_estimate():
    with pytest.raises(ValueError, match="together"):
        make(low=None)
    with pytest.raises(ValueError, match="together"):
        make(value=None)
    with pytest.raises(ValueError, match="reason"):
        Estimate.undefined("pairs", 0, "")
    with pytest.raises(ValueError, match="exceed"):
        make(low=0.8)
    with pytest.raises(ValueError, match="level"):
        make(level=95.0)
    with pytest.raises(REFUSED, match="n"):
        make(n=54.0)
    with pytest.raises(ValueError, match="whole number"):
        make(n=-1)
    with pytest.raises(ValueError, match="threshold"):
        make().above(float("nan"))
    with pytest.raises(AttributeError):
        make().value = 1.0


@pytest.mark.parametrize("e", [make(seed=7, note="x"), Estimate.undefined("pairs", 1, "one row")])
def test_survives_json(e):
    assert Estimate.from_dict(json.loads(json.dumps(e.to_dict()))) == e


def test_from_dict_names_the_wrong_fields():
    with pytest.raises(ValueError, match=r"unknown fields \['mean'\], missing \['unit'\]"):
        Estimate.from_dict({"value": 1.0, "low": 0.0, "high": 2.0, "n": 3, "method": "m", "mean": 1})


def test_contents_page_is_complete_and_light():
    assert len(stats.__all__) <= 25 and list(stats.__all__) == sorted(stats.__all__)
    assert all(getattr(stats, name).__doc__ for name in stats.__all__)
    heavy = "('scipy', 'statsmodels', 'sklearn', 'pandas', 'torch')"
    code = f"import sys, headlab.stats; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env())
    assert done.stdout.strip() == "[]"


def _env():
    import os
    from pathlib import Path

    source = Path(stats.__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(source)}


MEASURES = sorted(name for name in stats.__all__ if name[0].islower())


@pytest.mark.parametrize("name", MEASURES)
def test_docstrings_say_what_a_reader_needs(name):
    text = getattr(stats, name).__doc__
    for line in ("Definition:", "Shapes, units:", "Range", "ean over", "Raises:", "ource", "hen it misleads:"):
        assert line in text, f"{name} lacks {line}"
