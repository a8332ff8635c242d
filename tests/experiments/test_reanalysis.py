"""The published table says what was found in it, by independent means; other tables and bad files are handled."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact, mannwhitneyu, rankdata
from sklearn.svm import LinearSVC
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint
from statsmodels.tools import add_constant

import headlab.cli.tree
from headlab.cli import main
from headlab.experiments.subsets import reanalysis
from headlab.stats import Estimate
from headlab.store import Store
from headlab.tasks import outcomes
from headlab.tasks.outcomes import family, read, shipped

SHIPPED = Path(outcomes.__file__).parent / "data" / "even_head_subsets.csv"


def rows() -> list[dict[str, str]]:
    """The table by the standard library alone."""
    return list(csv.DictReader(SHIPPED.read_text("utf-8").splitlines()))


def blocks(row: dict[str, str]) -> set[int]:
    return set(map(int, row["blocks"].split()))


def worked(some: list[dict[str, str]]) -> int:
    return sum(r["success"] == "1" for r in some)


EVEN = [r for r in rows() if r["size"] == "8" and not any(b % 2 for b in blocks(r))]
DRAWN = [r for r in EVEN if r["sources"] in {"spec", "spatial+spec"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("reanalysis") / "runs")


@pytest.fixture(scope="module")
def published(home):
    return reanalysis.reanalyse(store=home)


@pytest.fixture(scope="module")
def numbers(published) -> dict[str, Estimate]:
    return {e.name: Estimate.from_dict(e.estimate) for e in published.record.readings[0].estimates}


# -- the published table ------------------------------------------------------------------------------------


def test_the_tabulation_is_the_one_the_statistics_were_tried_on():
    old = (Path(__file__).parents[1] / "stats" / "even_head_subsets.csv").read_text("utf-8").splitlines()
    table = list(csv.DictReader(line for line in old if not line.startswith("#")))
    assert [(r["blocks"], r["success"]) for r in table] == [(r["blocks"], r["success"]) for r in rows()]


@pytest.mark.parametrize(
    ("name", "some", "counts"),
    [
        ("success:all", rows(), (39, 93)),
        ("success:family", EVEN, (34, 54)),
        ("success:random", DRAWN, (19, 30)),
        ("success:present", [r for r in DRAWN if 14 in blocks(r)], (2, 13)),
        ("success:absent", [r for r in DRAWN if 14 not in blocks(r)], (17, 17)),
        ("success:size:16", [r for r in rows() if r["size"] == "16"], (3, 7)),
        ("success:source:proper", [r for r in rows() if "proper" in r["sources"].split("+")], (5, 13)),
    ],
)
def test_rates_and_their_wilson_intervals(numbers, name, some, counts):
    assert (worked(some), len(some)) == counts
    e = numbers[name]
    assert (e.value, e.n, e.unit) == (counts[0] / counts[1], counts[1], "subsets")
    assert (e.low, e.high) == pytest.approx(proportion_confint(*counts, method="wilson"), abs=1e-9)


def test_the_even_eights_lie_between_half_and_three_quarters(numbers):
    assert (numbers["success:family"].low, numbers["success:family"].high) == pytest.approx((0.50, 0.75), abs=0.005)


def test_block_14_decides_among_the_random_ones(published, numbers):
    p = fisher_exact([[2, 11], [17, 0]]).pvalue
    assert p == pytest.approx(1.4e-6, rel=0.05)
    assert numbers["p:member"].value == pytest.approx(p) and numbers["p:member:holm"].value == pytest.approx(16 * p)
    assert (numbers["failures:member"].value, numbers["failures:member"].n) == (1, 11)
    members = published.tables["members"].set_index("member")
    assert members["p"].idxmin() == 14 and members["p"].notna().sum() == 16
    assert (members["p_holm"].drop(14).dropna() > 0.5).all()


def test_all_outcomes_are_separable_and_shuffled_ones_are_not(published, numbers):
    assert (numbers["separable:all"].value, numbers["separable:all"].n) == (1, 93)
    table = shipped()
    svc = LinearSVC(C=1e6, max_iter=500_000, dual=True, random_state=0).fit(table.membership, table.worked)
    assert (svc.predict(table.membership) == table.worked).all(), "a second solver separates them too"
    weights = published.tables["members"]["weight"].to_numpy()
    sums = table.membership @ weights
    assert sums[table.worked].min() - sums[~table.worked].max() == pytest.approx(2, abs=1e-6), "a margin of 1 each side"
    assert weights[14] < 0
    assert numbers["separable:shuffled"].n == 200 and numbers["separable:shuffled"].high < 0.05


def test_an_additive_rule_predicts_what_it_has_not_seen_and_size_alone_does_not(numbers):
    assert numbers["left_out:family:majority"].value == 34 / 54
    assert numbers["left_out:family"].low > numbers["left_out:family:majority"].value
    assert numbers["left_out:all"].low > numbers["left_out:all:majority"].high
    assert numbers["deviance:additive"].high < numbers["deviance:count"].low


def test_spacing_does_not_predict_success(published, numbers):
    spread = {True: [], False: []}
    for r in EVEN:
        gaps = np.diff(sorted(blocks(r)))
        spread[r["success"] == "1"].append(np.sqrt(np.mean((gaps - gaps.mean()) ** 2)))
    rank_sum = mannwhitneyu(spread[True], spread[False]).pvalue
    assert rank_sum == pytest.approx(0.24, abs=0.01)
    assert numbers["rank:gap_sd"].value == pytest.approx(rank_sum, abs=0.015)
    assert numbers["correlation:gap_sd"].n == 54 and numbers["correlation:gap_sd"].above(0) == "unsure"
    assert numbers["rank:gap_sd:after"].low > 0.05
    before = published.tables["spacing"].query("members == 'before'")
    assert len(before) == 9 and (before["p_holm"] > 0.3).all(), "none of nine descriptions stands out"


def test_what_stands_out_after_the_members_effects_is_told(published):
    """Compact sets succeed more often than their members say: found by looking, so told, and ruled on by nothing.

    The oracle is the t test of the last coefficient of an ordinary regression.
    """
    x = np.array([[m in blocks(r) for m in range(2, 32, 2)] for r in EVEN], dtype=float)
    span = rankdata([max(blocks(r)) - min(blocks(r)) for r in EVEN])
    fit = OLS([r["success"] == "1" for r in EVEN], add_constant(np.column_stack([x, span]))).fit()
    row = published.tables["spacing"].query("members == 'after' and metric == 'span'").iloc[0]
    t = fit.tvalues[-1]
    assert row["correlation"] == pytest.approx(t / np.sqrt(t**2 + fit.df_resid)) and row["correlation"] < -0.4
    assert row["p"] == pytest.approx(fit.pvalues[-1], abs=0.002) and row["p_holm"] < 0.05
    text = next(s["text"] for s in published.record.sections if s["heading"] == "Spacing")
    assert "span (-0.48" in text and "found by looking" in text


def test_the_claim_is_refuted_with_its_controls(published):
    verdict = published.verdict
    assert verdict.outcome == "refuted" and [r.outcome for r in verdict.rulings] == ["refuted", "refuted"]
    assert {c.name: c.passed for c in verdict.controls} == {"shuffled outcomes": True, "planted member": True}
    assert "n = 30 subsets" in verdict.sentence


def test_it_is_stored_repeated_and_shown(published, home):
    from headlab.report import page

    record = home.record(published.record.id)
    assert (record.kind, record.slug, record.status) == ("run", "reanalysis", "complete")
    assert record.claim_hash and set(record.tables) == {"subsets", "rates", "members", "spacing", "metrics"}
    text = page(record, home.tables(record.id))
    for said in ("Block 14", "2 of 13", "17 of 17", "When this misleads", "One additive margin", "n = 54 subsets"):
        assert said in text, said
    assert {s["heading"] for s in record.sections} >= {"When this misleads", "Spacing"}
    assert all(e.estimate["n"] and e.estimate["unit"] for r in record.readings for e in r.estimates)


# -- the command --------------------------------------------------------------------------------------------


def test_the_command_prints_findings_with_interval_n_and_unit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(headlab.cli.tree, "make_page", lambda record, home: f"<html>{record.title}</html>")
    assert main(["reanalyse", "--store", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rate = next(s for s in lines if s.startswith("even 8-subsets that succeed"))
    assert rate.split()[-5:] == ["0.63", "[0.50,", "0.75]", "54", "subsets"]
    assert any(s.startswith("Refuted: ") for s in lines)
    (report,) = tmp_path.glob("*/report.html")
    assert "read again" in report.read_text("utf-8")


def test_the_command_reads_a_file_as_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(headlab.cli.tree, "make_page", lambda record, home: "<html></html>")
    path = tmp_path / "mine.csv"
    halves(lambda s: 7 in s).assign(
        blocks=lambda f: [" ".join(map(str, s)) for s in f["blocks"]], sources=["drawn"] * 30 + ["chosen"] * 10
    ).to_csv(path, index=False)
    words = ["--size", "5", "--pool", "any", "--random", "drawn", "--seed", "3", "--store", str(tmp_path), "--json"]
    assert main(["reanalyse", str(path), *words]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["slug"] == "reanalysis" and record["settings"]["random_sources"] == ["drawn"]
    assert record["claim"]["seed"] == 3
    assert "--size 5 --pool any --seed 3 --random drawn" in record["call"]["command"]
    (n,) = [e["estimate"]["n"] for e in record["readings"][0]["estimates"] if e["name"] == "success:random"]
    assert n == 30
    assert main(["reanalyse", str(path), "--pool", "evn", "--store", str(tmp_path)]) == 2
    assert "did you mean even" in capsys.readouterr().err


# -- other tables -------------------------------------------------------------------------------------------


def halves(rule, n=40, seed=0) -> pd.DataFrame:
    """Random 5-subsets of 11 members whose outcome is ``rule(members)``."""
    rng = np.random.default_rng(seed)
    sets = {tuple(sorted(rng.choice(11, 5, replace=False).tolist())): None for _ in range(4 * n)}
    kept = list(sets)[:n]
    return pd.DataFrame({"blocks": [list(s) for s in kept], "success": [rule(s) for s in kept]})


def test_a_planted_needed_member_is_named_and_equal_gaps_are_found(tmp_path):
    found = reanalysis.reanalyse(halves(lambda s: 7 in s), shuffles=199, store=tmp_path)
    numbers = {e.name: e for e in found.record.readings[0].estimates}
    assert "lack block 7" in numbers["failures:member"].label and numbers["separable:all"].estimate["value"] == 1
    spaced = reanalysis.reanalyse(halves(lambda s: np.diff(s).std() < 1.0, seed=1), shuffles=1999, store=tmp_path)
    ruling = spaced.verdict.rulings[1]
    assert ruling.outcome == "upheld" and ruling.value < 0.001, "the spacing test can find something"


def test_a_stored_run_repeats_from_its_own_rows(tmp_path):
    home = Store(tmp_path)
    first = reanalysis.reanalyse(halves(lambda s: 7 in s), pool="any", seed=4, shuffles=199, store=home)
    again = reanalysis.repeat(first.record, home)
    assert again.record.id != first.record.id and again.record.key == first.record.key
    assert again.record.readings == first.record.readings
    assert all(again.tables[name].equals(first.tables[name]) for name in first.tables)


def test_random_outcomes_name_nobody_and_a_parity_rule_is_not_separable(tmp_path):
    rng = np.random.default_rng(2)
    found = reanalysis.reanalyse(halves(lambda s: bool(rng.random() < 0.5)), shuffles=199, store=tmp_path)
    assert "p:member" not in {e.name for e in found.record.readings[0].estimates}
    twisted = reanalysis.reanalyse(halves(lambda s: (0 in s) ^ (1 in s)), shuffles=199, store=tmp_path)
    numbers = {e.name: Estimate.from_dict(e.estimate) for e in twisted.record.readings[0].estimates}
    assert numbers["separable:all"].value == 0


def test_a_table_in_which_all_succeed_upholds_any_and_cannot_test_spacing(tmp_path):
    found = reanalysis.reanalyse(halves(lambda s: True, n=90), shuffles=199, store=tmp_path)
    assert [r.outcome for r in found.verdict.rulings] == ["upheld", "untestable"]


def test_too_few_subsets_are_void(tmp_path):
    found = reanalysis.reanalyse(halves(lambda s: 7 in s, n=6), shuffles=199, store=tmp_path)
    assert found.verdict.outcome == "void" and "too few" in found.verdict.sentence


def test_the_family_is_the_commonest_size_from_the_pool_most_of_it_is_from():
    table = shipped()
    group = family(table, None, None, ())
    assert (group.size, group.pool, int(group.kept.sum()), group.sampled) == (8, "even", 54, False)
    assert int(family(table, 8, "any", ()).kept.sum()) == 61
    with pytest.raises(ValueError, match="size 7"):
        family(table, 7, None, ())


# -- bad files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no lines"),
        ("success\n1\n", "line 1: there is no column 'blocks'"),
        ("# a note\nblocks,works\n0 1,1\n", "line 2: there is no column 'success'"),
        ("blocks,success,blocks\n", "'blocks' stands twice"),
        ("blocks,success\n0 1,1\n0 x,1\n", "line 3: column 'blocks' holds '0 x'"),
        ("blocks,success\n0 1,1\n\n# a note\n0 -2,1\n", "line 5: column 'blocks'"),
        ("blocks,success\n0 0,1\n", "line 2: column 'blocks' holds '0 0'; expected distinct"),
        ("blocks,success\n,1\n", "line 2: column 'blocks'"),
        ("blocks,success\n0 1,0.5\n", "line 2: column 'success' holds '0.5'; expected 0 or 1"),
        ("blocks,success\n0 1,1\n1 0,0\n", "line 3: the subset '0 1' stood at line 2 already"),
        ("size,blocks,success\n3,0 1,1\n", "line 2: column 'size' says 3, but 'blocks' holds 2"),
        ("blocks,success\n0 1\n", "line 2: 1 cells, expected 2"),
        ("blocks,success\n0 1,1\n", "1 subset"),
    ],
)
def test_a_bad_file_gets_one_line_that_names_the_place(tmp_path, capsys, text, told):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    assert main(["reanalyse", str(path), "--store", str(tmp_path / "runs")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and told in err, err
    assert not (tmp_path / "runs").exists()


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no such file: .*absent\.csv"):
        read(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="given list"):
        read([1, 2])
    with pytest.raises(ValueError, match="row 1: column 'success'"):
        read(pd.DataFrame({"blocks": ["0 1", "0 2"], "success": [1, 2]}))
    with pytest.raises(ValueError, match="sources"):
        family(shipped(), None, None, ("nobody",))


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("# mine\nsuccess, blocks ,note\nyes,0 2,a\nno,3,b\ntrue,1 5,c\n")
    table = read(path)
    assert table.subsets == ((0, 2), (3,), (1, 5)) and table.success == (True, False, True) and table.places == 6
