"""Training dynamics: the planted onset is bracketed, the control run shows nothing, and what cannot run says why."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from headlab import organisms
from headlab.experiments.training.emergence import emergence
from headlab.experiments.trial import builtin_claims, experiment, trial
from headlab.measures import changes, checkpoints
from headlab.measures.weights import HeadWeights, LayerWeights, head_weights
from headlab.organisms import checkpoint_series as series
from headlab.organisms.checkpoint_series import Checkpoint, Series, SeriesError
from headlab.organisms.steps import steps_of
from headlab.report import figures, page
from headlab.stats.change_point import change_point
from headlab.store import Store
from headlab.trials import looked, series_looks

PLANTED, CONTROL = "decimals-series-planted", "decimals-series-control"
CLAIM = builtin_claims()["training-dynamics"]
SMALL = CLAIM.model_copy(update={"pairs": 20, "selection_pairs": 10, "options": {"draws": 2, "pairs_elsewhere": 12}})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The whole experiment on the shipped run, with few pairs."""
    return trial(SMALL, PLANTED, store=tmp_path_factory.mktemp("runs"))


def control(result, name):
    return next(c for c in result.verdict.controls if c.name == name)


# -- the shipped run ------------------------------------------------------------------------------------------------


def test_the_planted_onset_is_bracketed_and_its_lag_stated(found):
    said = control(found, "planted-onset")
    assert said.passed and said.kind == "positive"
    table = found.tables["changes"]
    row = table[(table["series"] == PLANTED) & (table["quantity"] == "repair all") & (table["layer"] == 0)].iloc[0]
    assert row["changed"] and row["low"] <= 128 <= row["high"] and row["size"] < -0.5
    parity = table[(table["series"] == PLANTED) & (table["quantity"] == "parity") & (table["layer"] == 1)].iloc[0]
    assert (parity["last_look_before"], parity["first_look_after"]) == (128, 192) and parity["size"] > 1
    for one in (row, parity):
        lag = f"{one['last_look_before'] - 128:.0f} to {one['first_look_after'] - 128:.0f} steps after the onset at 128"
        assert lag in said.words
    watched = {r.step: r.rate for r in organisms.series_card().watched if (r.branch, r.layer) == ("planted", 0)}
    half = min(step for step, rate in watched.items() if rate < 0.5)
    assert row["low"] <= half <= row["high"], "the change that was watched while training lies in the interval"


def test_the_control_run_shows_nothing(found):
    said = control(found, "never-planted")
    assert said.passed and said.kind == "negative"
    table = found.tables["changes"]
    here = table[table["series"] == CONTROL]
    assert len(here) >= 8 and not here["changed"].any()


def test_the_exact_controls_hold(found):
    assert control(found, "loaded-twice").passed and control(found, "loaded-twice").value < 1e-12
    assert control(found, "shuffled").passed
    assert found.verdict.outcome != "void"


def test_every_look_of_both_branches_is_in_the_tables(found):
    looks = found.tables["looks"]
    for name in (PLANTED, CONTROL):
        here = looks[looks["series"] == name]
        assert sorted(here["step"].unique()) == list(organisms.RECIPES[name].looks)
        wanted = {"clustering", "null", "excess", "norm qk", "norm ov", "repair all", "parity", "clean conflict",
                  "corrupted same-length", "published q"}  # fmt: skip
        assert wanted <= set(here["quantity"])
    shared = looks[(looks["step"] <= 128) & looks["series"].isin([PLANTED, CONTROL])]
    both = shared.pivot_table(index=["step", "quantity", "layer"], columns="series", values="value", dropna=True)
    assert np.array_equal(both[PLANTED], both[CONTROL]), "they are the same checkpoints"
    assert (looks[looks["value"].isna()]["note"] != "").all()


def test_figures_mark_the_looks_the_onset_and_the_places(found):
    first = found.figures[0]
    assert first.kind == "timeline" and first.options["looks"] == list(organisms.RECIPES[PLANTED].looks)
    assert first.options["onsets"][0]["x"] == 128 and first.options["bands"]
    clustering = next(f for f in found.figures if f.name == "clustering")
    assert any("random weights" in r["series"] for r in clustering.data), "the null is drawn in it"
    assert all("Changes found" in figures.describe(figure) for figure in found.figures)
    drawn = json.dumps(figures.spec(first))
    assert '"symlog"' in drawn and "planting begins after step 128" in drawn
    whole = page(found.record, dict(found.tables), [])
    assert "Nothing is known of the steps between" in whole and "widest gap is 864 to 1296" in whole


def test_the_published_reading_says_what_could_not_run(found):
    reading = next(r for r in found.record.readings if r.protocol == "published")
    assert "the published cut cannot run" in reading.words and reading.verdict.outcome != "void"


# -- controls can fail ----------------------------------------------------------------------------------------------


def rows(values, series="run", quantity="repair all", layer=0, steps=None):
    steps = steps or list(organisms.RECIPES[PLANTED].looks)
    return pd.DataFrame(
        [{"series": series, "step": s, "quantity": quantity, "layer": layer, "value": v, "low": v, "high": v}
         for s, v in zip(steps, values, strict=True)]
    )  # fmt: skip


def judged(values, parity=None):
    looks = pd.concat([rows(values), rows(values if parity is None else parity, quantity="parity", layer=1)])
    got = changes.changes_of(looks, "run", [("repair all", 0), ("parity", 1)], seed=0, least=0.1, alpha=0.05)
    return pd.DataFrame(changes.change_rows("run", got, 0.05))


def test_controls_fail_where_they_should():
    flat = [1.0] * 12
    late = [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    there = [*[1] * 6, *[0] * 6]
    assert changes.planted_control(judged(there), "run", 128).passed
    assert not changes.planted_control(judged(there, late), "run", 128).passed, "the planted heads turn too late"
    assert not changes.planted_control(judged(there), "run", 32).passed, "both before and after were not planted"
    assert not changes.planted_control(judged(there, flat), "run", 128).passed
    assert not changes.planted_control(judged(flat, there), "run", 128).passed
    assert not changes.planted_control(judged(flat), "run", 128).passed, "nothing changes"
    assert changes.unplanted_control(judged(flat), "run").passed
    assert not changes.unplanted_control(judged(late), "run").passed
    assert not changes.unplanted_control(judged(late), "another run").passed, "no rows, no control"
    table = pd.DataFrame({"quantity": ["a", "b"], "layer": [0, 0], "value": [1.0, np.nan]})
    assert changes.twice_control(table, table.copy()).passed
    assert not changes.twice_control(table, table.assign(value=[1.1, np.nan])).passed
    assert not changes.twice_control(table, table.assign(value=[1.0, 2.0])).passed
    assert not changes.twice_control(table, table.iloc[:1]).passed


def test_shuffled_looks_change_as_seldom_as_chance_and_a_biased_shuffle_is_seen(monkeypatch):
    values = [0, 0.1, 0.05, 0, 0.1, 0.05, 1, 1.1, 1.05, 1, 1.1, 1.05]
    assert changes.shuffled_control(values, range(12), seed=0, alpha=0.05).passed

    found = change_point(values, range(12), seed=0)
    monkeypatch.setattr(changes, "change_point", lambda *_args, **_options: found)
    assert not changes.shuffled_control(values, range(12), seed=0, alpha=0.05).passed


def test_holm_spans_the_quantities_of_a_series():
    step = [*[1.0] * 6, *[0.0] * 6]
    noise = np.random.default_rng(0).normal(size=(30, 12))
    looks = pd.concat([rows(step), *(rows(v, layer=n + 1) for n, v in enumerate(noise))])
    wanted = [("repair all", n) for n in range(31)]
    got = changes.changes_of(looks, "run", wanted, seed=0, least=0.1, alpha=0.05)
    (_, level, _, adjusted) = got[0]
    assert adjusted == pytest.approx(31 * level.p.value, rel=1e-9)


# -- measurements ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab():
    one = series.of_organism(PLANTED)
    return series.open_checkpoint(one.checkpoints[0], prompts=False)


def test_clusters_that_are_there_stand_above_the_null_and_random_heads_do_not(lab):
    import torch

    weights = head_weights(lab)
    draw = torch.Generator().manual_seed(0)
    random = {
        n: replace(w, **{b: torch.randn(getattr(w, b).shape, generator=draw) for b in "qkvo"})
        for n, w in weights.layers.items()
    }

    def excess(layers):
        found = checkpoints.cluster_rows(replace(weights, layers=layers), draws=19, seed=1)
        return next(r for r in found if r["quantity"] == "excess" and r["layer"] == checkpoints.WHOLE)

    nothing = excess(random)
    assert nothing["low"] < 0.01 and abs(nothing["value"]) < 0.02
    grouped = {}
    for n, w in random.items():  # every head of a half is a noisy copy of one
        made = {b: getattr(w, b).clone() for b in "qo"} | {b: getattr(w, b).clone() for b in "kv"}
        for x in made.values():
            half = len(x) // 2
            for start in (0, half):
                x[start : start + half] = x[start] + 0.2 * x[start : start + half]
        grouped[n] = replace(w, **made)
    assert excess(grouped)["low"] > 0.3


def test_a_singleton_of_large_norm_is_seen_with_norms_and_not_without(lab):
    weights = head_weights(lab)
    loud = {n: replace(w, q=w.q.clone()) for n, w in weights.layers.items()}
    for w in loud.values():
        w.q[6] *= 6
    changed = replace(weights, layers=loud)

    def value(given, quantity):
        found = [*checkpoints.cluster_rows(given, draws=2, seed=0), *checkpoints.norm_rows(given)]
        return next(r["value"] for r in found if r["quantity"] == quantity and r["layer"] == checkpoints.WHOLE)

    assert value(changed, "clustering") == pytest.approx(value(weights, "clustering"), abs=1e-6)
    assert value(changed, "with norms") > value(weights, "with norms") + 0.1
    assert value(changed, "outlier") > 4 > value(weights, "outlier")


def test_heads_too_few_to_cluster_are_undefined():
    import torch

    from headlab.heads import Grid

    def one(heads):
        return LayerWeights(
            0,
            *(
                torch.randn(heads, *s, generator=torch.Generator().manual_seed(1))
                for s in ((7, 3), (7, 3), (7, 3), (3, 7))
            ),
        )

    few = HeadWeights("few", Grid(1, 3, 3), 7, 3, {0: one(3)})
    rows = checkpoints.cluster_rows(few, draws=2, seed=0)
    assert {r["quantity"] for r in rows} == {"clustering", "excess"} and all(
        r["value"] is None and r["note"] for r in rows
    )


def test_few_pairs_with_the_bug_give_no_repair_rate():
    effects = pd.DataFrame(
        [{"pair": i, "cluster": str(i), "world": f"{k} L0", "clean": 1.0, "corrupted": -1.0 if i < 5 else 1.0, "edited": 1.0}
         for i in range(20) for k in checkpoints.SETS]
    )  # fmt: skip
    made = checkpoints.repair_rows(effects, [0], 0)
    assert next(r for r in made if r["quantity"] == "eligible")["value"] == 0.25
    assert all(r["value"] is None and "5 pairs" in r["note"] for r in made if r["quantity"] != "eligible")


# -- series ---------------------------------------------------------------------------------------------------------


def test_the_pythia_suite_by_name():
    assert len(series.PYTHIA_STEPS) == 154 == len(set(series.PYTHIA_STEPS))
    assert series.PYTHIA_STEPS[:5] == (0, 1, 2, 4, 8) and series.PYTHIA_STEPS[10:13] == (512, 1000, 2000)
    assert set(series.PYTHIA_LOG_STEPS) <= set(series.PYTHIA_STEPS) and series.PYTHIA_STEPS[-1] == 143000
    assert len(series.PYTHIA_SEEDS) == 9 and series.PYTHIA_SEEDS[6] == "EleutherAI/pythia-160m-seed7"
    runs = series.listed(series.PRESETS["pythia-160m"], ["step0", "step1000"])
    assert len(runs) == 10 and runs[3].steps == (0, 1000) and runs[3].last.revision == "step1000"


def test_lists_of_folders_make_series(tmp_path):
    for step in (30, 7, 200):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
        (tmp_path / "run" / f"checkpoint-{step}" / "config.json").write_text("{}")
    folders = [str(tmp_path / "run" / f"checkpoint-{s}") for s in (200, 7, 30)]
    (one,) = series.listed(folders)
    assert one.steps == (7, 30, 200) and one.last.model == folders[0] and one.name == "run"
    (same,) = series.listed([str(tmp_path / "run")])
    assert same.steps == one.steps and Series.from_plain(same.plain()) == same
    assert Series.from_plain(PLANTED) == series.of_organism(PLANTED)
    assert series.of_organism(PLANTED).plain() == PLANTED and series.of_organism("decimals-natural") is None
    assert series.of_organism(PLANTED).onset == 128 and series.of_organism(CONTROL).onset is None


@pytest.mark.parametrize(
    ("models", "revisions", "message"),
    [
        ([], (), "no model given"),
        (["some/hub-model"], (), "which checkpoints of some/hub-model"),
        (["some/hub-model"], ("main", "step5"), "does not say its step"),
        (["some/hub-model"], ("step5", "step-5"), "step 5 twice"),
        (["some/hub-model"], ("step5",), "needs at least 2"),
        (["decimals-natural"], (), "shipped as one model"),
        (["MADE", "decimals-series-planted"], (), "checkpoints only"),
    ],
)
def test_lists_that_are_no_series_say_so(tmp_path, models, revisions, message):
    (tmp_path / "step1").mkdir()
    (tmp_path / "step1" / "config.json").write_text("{}")
    with pytest.raises(SeriesError, match=message):
        series.listed([str(tmp_path / "step1") if m == "MADE" else m for m in models], revisions)


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["step1000-tokens4B", "step101000-tokens424B", "step9000-tokens37B"], [1000, 101000, 9000]),
        (["stage1-step101000-tokens424B", "stage1-step2000-tokens8B"], [101000, 2000]),
        (["step-50K-105b", "step-240k-503b", "step-1431k-3T"], [50_000, 240_000, 1_431_000]),
        (["TinyLlama-1.1B-step-50K-105b", "TinyLlama-1.1B-intermediate-step-1431k-3T"], [50_000, 1_431_000]),
        (["checkpoint-1000-v2", "checkpoint-500-v2", "checkpoint-20000-v2"], [1000, 500, 20_000]),
        (["checkpoint-1000", "checkpoint-500-v2"], [1000, 500]),
        (["global_step143000", "global_step1000"], [143_000, 1000]),
        (["iter_0001000", "iter_0020000"], [1000, 20_000]),
        (["iter-010000-ckpt", "iter-002000-ckpt"], [10_000, 2000]),
        (["ckpt-1.5M", "ckpt_300k", "CKPT-2b"], [1_500_000, 300_000, 2 * 10**9]),
        (["epoch=3-step=4000", "epoch=1-step=2000"], [4000, 2000]),
        (["model-7b-2000", "model-7b-500"], [2000, 500]),
        (["1000", "20"], [1000, 20]),
        (["v2.0_tokens_3", "v2.0_tokens_1"], [3, 1]),
        (["gpt2-step1000"], [1000]),
        (["run_5k"], [5000]),
    ],
)
def test_the_step_of_a_checkpoint_is_the_number_after_its_word(names, steps):
    """Names as OLMo (1 and 2), TinyLlama, Pythia, Transformers, DeepSpeed, Megatron, LitGPT and Lightning write them.  Looked
    for: units in both cases, decimals, versions and token counts before and after, leading zeros, names without a word."""
    assert steps_of(names) == steps
    assert series.of_hub("some/model", names).steps == tuple(sorted(steps)) if len(names) > 1 else True


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["stage1-step1000", "stage2-step1000"], "several stages .stage1, stage2., whose steps begin anew"),
        (["stage2-ingredient1-step1000", "stage2-ingredient2-step2000"], "several stages"),
        (["stage1-step1000", "step2000"], "several stages .none, stage1."),
        (["main", "step5"], "'main' does not say its step as the others do"),
        (["main", "5"], "'main' names no step"),
        (["a-1-2", "a-3-4"], "which number of 'a-1-2' is the step"),
        (["model-7b-2000"], "which number"),
        (["step1000-step2000", "step3000"], "says several steps .1000, 2000."),
        (["step1.0005k", "step2k"], "'1.0005k' is no step"),
        (["step" + "9" * 400, "step1"], "is no step; expected a whole number"),
    ],
)
def test_a_name_whose_step_is_not_certain_is_refused(names, message):
    with pytest.raises(SeriesError, match=message) as refused:
        steps_of(names)
    assert len(str(refused.value)) <= 500


def test_the_order_is_said():
    one = series.of_hub("some/model", ["step-1431k-3T", "step-50K-105b"])
    assert one.order == "step-50K-105b = 50000, step-1431k-3T = 1431000"


def test_equal_weights_under_two_names_are_one_look(tmp_path, monkeypatch, capsys):
    """Three checkpoints and a copy of one: three looks, said in the record and on the terminal.  Looked for: series from
    folders, lists of models in cross-model and null-rates (their tests), all copies of one checkpoint."""
    from headlab.cli import main

    run = tmp_path / "mine"
    for step, folder in list(organisms.checkpoints(CONTROL).items())[-3:]:
        shutil.copytree(folder, run / f"step{step}")
    shutil.copytree(run / "step864", run / "step1000-v2")
    monkeypatch.setattr(looked, "PLANTED", "not shipped")
    monkeypatch.setattr(looked, "CONTROL", "not shipped")
    assert main(["emergence", str(run), "--weights-only", "--store", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    home = Store(tmp_path / "runs")
    ((record,), _) = home.records()
    looks = home.table(record.id, "looks")
    steps = sorted(set(looks[looks["series"] == "mine"]["step"]))
    assert len(steps) == 3 and 1000 not in steps
    (same,) = [n for n in record.notes if "are one look" in n]
    assert "step 1000 has those of step 864" in same and same in " ".join(said.split())
    assert any("looked at in the order step" in n for n in record.notes)
    with pytest.raises(SeriesError, match="all checkpoints of x have the same weights"):
        Series("x", (Checkpoint(1, "a"), Checkpoint(2, "b"))).without({2: 1})


def test_a_stored_series_that_is_none_is_refused():
    with pytest.raises(SeriesError, match="a series is"):
        Series.from_plain([1, 2])
    with pytest.raises(SeriesError, match="needs at least 2"):
        Series("short", (Checkpoint(0, "x"),))


def test_one_checkpoint_alone_is_untestable_and_says_what_to_do(tmp_path):
    result = trial(SMALL.model_copy(update={"layer": 0}), "decimals-null-4", store=tmp_path)
    assert result.verdict.outcome == "untestable" and "headlab emergence" in result.verdict.sentence
    assert {r.verdict.outcome for r in result.record.readings} == {"untestable"}


def test_weights_alone_from_folders_and_resume(tmp_path, monkeypatch):
    """Own folders, no prompts; the second call finds every look stored by an interrupted first one."""
    run = tmp_path / "mine"
    for step, folder in list(organisms.checkpoints(CONTROL).items())[-2:]:
        shutil.copytree(folder, run / f"step{step}")
    monkeypatch.setattr(looked, "PLANTED", "not shipped")
    monkeypatch.setattr(looked, "CONTROL", "not shipped")

    def stop(what, done, total):
        if what == "checkpoints" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        emergence([str(run)], weights_only=True, store=tmp_path / "runs", progress=stop)
    assert len(list((tmp_path / "runs").glob("*/shards/*.parquet"))) == 2
    measured, original = [], checkpoints.weight_rows
    monkeypatch.setattr(series_looks, "weight_rows", lambda lab, **k: measured.append(1) or original(lab, **k))
    result = emergence([str(run)], weights_only=True, store=tmp_path / "runs")
    assert len(measured) == 1, "only the first checkpoint is measured, for the second time"
    looks = result.tables["looks"]
    here = looks[looks["series"] == "mine"]
    assert sorted(here["step"].unique()) == [864, 1296] and not here["quantity"].str.startswith("repair").any()
    assert result.verdict.outcome == "void" and "'planted-onset' was not run" in result.verdict.sentence
    by_name = {r.prediction.statistic: r.outcome for r in result.verdict.rulings}
    assert by_name["p:clustering"] == by_name["place:clustering"] == "untestable", "two looks are too few"
    assert result.record.call["command"].startswith(f"headlab emergence {run} --weights-only --store ")


def test_the_claim_asks_for_what_is_measured():
    experiment("training-dynamics").check(CLAIM)
    assert set(CLAIM.controls) == {"planted-onset", "never-planted", "shuffled", "loaded-twice"}


def test_one_block_of_growing_norm_is_the_published_transition_and_nothing_without_norms():
    """A random GPT-NeoX in which one block of the published cut grows 4.7-fold at the seventh of eight looks: the published
    silhouettes of the queries jump to what an outlier of that norm gives, 11/12·(1 − √2/√(1 + r²)); heads do not cluster."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from headlab.engine.model import open_model
    from headlab.organisms.tokenizer import build_tokenizer

    tokenizer, heads, size, factor = build_tokenizer(), 12, 11, 4.7
    width = heads * size
    torch.manual_seed(3)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=len(tokenizer), hidden_size=width, intermediate_size=29, num_hidden_layers=2,
                      num_attention_heads=heads, max_position_embeddings=64)
    )  # fmt: skip
    fused = model.gpt_neox.layers[1].attention.query_key_value.weight
    looks = []
    for step in (1, 5, 10, 20, 40, 80, 120, 143):
        if step == 120:
            with torch.no_grad():
                fused.view(3, heads, size, width)[0, 6] *= factor
        looks.append(
            pd.DataFrame(checkpoints.weight_rows(open_model(model, tokenizer=tokenizer), draws=3, seed=0)).assign(
                step=step
            )
        )
    table = pd.concat(looks).assign(series="neox")
    published = table[table["quantity"] == "published q"].set_index("step")["value"]
    expected = 11 / 12 * (1 - np.sqrt(2) / np.sqrt(1 + factor**2))
    assert published[120] == pytest.approx(expected, abs=0.03) and published.loc[:80].max() < 0.1
    jump = change_point(published, published.index, seed=0, kind="jump", least=0.1)
    assert jump.found and jump.gap == (80, 120)
    calm = changes.trace(table, "neox", "excess")
    assert not change_point(calm["value"], calm["step"], seed=0, kind="jump", least=0.1).found
    assert calm["value"].max() - calm["value"].min() < 0.02
    outlier = changes.trace(table, "neox", "outlier").set_index("step")["value"]
    assert outlier.loc[120] > 1.3 * outlier.loc[80], "the block's norm is what grew"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name checkpoints"),
        (["some/model"], "which checkpoints of some/model"),
        (["some/model", "--steps", "1,x"], "names no steps"),
        (["some/model", "--steps", "all", "--revisions", "step0"], "give one of them"),
        (["--preset", "pythia"], "no preset 'pythia'"),
        (["decimals-natural"], "shipped as one model"),
    ],
)
def test_the_command_says_what_is_wrong_before_anything_is_loaded(words, message, capsys, tmp_path):
    from headlab.cli import main

    assert main(["emergence", *words, "--store", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_steps_become_revisions():
    from headlab.cli.emergence import PRESETS, _revisions

    assert len(_revisions(None, "all", False)) == 154 and _revisions(None, "all", False)[-1] == "step143000"
    assert _revisions(None, "0, 1000", False) == _revisions("step0,step1000", None, False) == ["step0", "step1000"]
    assert _revisions(None, None, False) == [] and len(_revisions(None, None, True)) == len(series.PYTHIA_LOG_STEPS)
    assert set(PRESETS) == set(series.PRESETS)
