"""docs/coverage.md has every interval and test of headlab.stats, and says what these do: a sample here, all under `accept`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import covering
import pytest
from scipy.stats import binom

from headlab import stats

SAMPLE = [c for c in covering.CELLS if c.function not in {"psychometric", "dip", "linear_margin_null"}]
OTHERS = {"sequential", "tails"}
"""Modules with coverage tests of their own."""


def rows() -> dict[str, tuple[str, float, float, int]]:
    """The page by cell: asked, measured, standard error, draws."""
    found = re.findall(
        r"^\| `(\w+)` \| (.+) \| (.+) \| \**([\d.]+|nan)\** \| ([\d.]+) \| ([\d,]+) \|$",
        covering.PAGE.read_text(),
        re.M,
    )
    return {f"{f}: {s}": (a, float(m), float(e), int(n.replace(",", ""))) for f, s, a, m, e, n in found}


def test_every_interval_and_test_has_a_row_or_a_reason() -> None:
    """Looked for: public functions of every module that take a level or an alpha, and those that give a p without one."""
    public = set()
    for module in pkgutil.iter_modules(stats.__path__):
        if module.name.startswith("_") or module.name in OTHERS:
            continue
        room = importlib.import_module(f"headlab.stats.{module.name}")
        for name, f in inspect.getmembers(room, inspect.isfunction):
            if f.__module__ == room.__name__ and not name.startswith("_"):
                given = set(inspect.signature(f).parameters)
                public |= {name} if given & {"level", "alpha"} else set()
    public |= {"mcnemar", "holm", "benjamini_hochberg", "fisher", "rate_over_sets"}
    have = {c.function for c in covering.CELLS} | set(covering.EXEMPT)
    assert not public - have, f"no row in docs/coverage.md: {sorted(public - have)}"
    assert {c.name for c in covering.CELLS} == set(rows()), "run python tests/stats/covering.py"


def test_a_seeded_sample_is_as_the_page_says() -> None:
    """The first few draws of one cell of each function lie where the page's share would put them, each by itself."""
    page = rows()
    for cell in {c.function: c for c in SAMPLE}.values():
        share, _, n = covering.measured(cell, 8)
        _, told, _, draws = page[cell.name]
        assert n >= 4 or draws < cell.draws, f"{cell.name}: defined in {n} of 8 draws"
        if n:
            hits, p = round(share * n), min(max(told, 0.02), 0.98)
            assert min(binom.cdf(hits, n, p), binom.sf(hits - 1, n, p)) > 1e-5, (cell.name, share, told)


FAR = {
    "wilson: 20 trials at 0.95",
    "bootstrap_mean: 10 clusters of 3, normal",
    "bootstrap_mean: 10 clusters of 3, exponential",
    "bootstrap_mean: 10 clusters of 3, exponential, expanded",
    "bootstrap_mean: 20 clusters of 3, exponential",
    "bootstrap_ratio: 20 clusters, two variances (chi-squared on 2)",
    "leave_one_out: 20 prompts, normal",
    "heterogeneity: 10 models that differ: expected",
    "tost_paired: 46 clusters of 1, normal, a true difference of the margin",
    "tost_paired: 46 clusters of 1, exponential, a true difference of the margin",
}


def test_what_is_far_from_what_is_asked_is_marked_and_named() -> None:
    """Rows in bold are those that these functions' docstrings warn of, no others."""
    far = {name for name, (asked, told, error, _) in rows().items() if covering.wrong(asked, told, error)}
    bold = re.findall(r"^\| `(\w+)` \| (.+?) \| [^|]+ \| \*\*", covering.PAGE.read_text("utf-8"), re.M)
    assert {f"{f}: {s}" for f, s in bold} == far == FAR


@pytest.mark.accept
@pytest.mark.parametrize("cell", covering.CELLS, ids=lambda c: c.name)
def test_the_whole_page(cell: covering.Cell) -> None:
    share, error, n = covering.measured(cell, cell.draws)
    asked, told, _, draws = rows()[cell.name]
    assert (asked, n) == (cell.asked, draws) and share == pytest.approx(told, abs=max(6e-4, error))
