"""Documents over models and over revisions: each cell a trial of its own, one verdict over all.

Looked for beside what stands here: names given twice in another spelling, a revision of what has none, one model under two
names, models of both kinds, too few heads or layers, a model given that is none of those named, cells that are not eligible or
void, tokenizers that take other prompts, an axis without cells, pooled ranks.
"""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from put_on_trial import LOST, PUT, SERIES, read, values
from scipy import stats as oracle

import headlab
from headlab import organisms, report
from headlab.claims import ClaimError
from headlab.engine.model import Lab, ModelError
from headlab.experiments import documents, load, plan
from headlab.report.compared import compare
from headlab.stats import Estimate
from headlab.store import Store, content_hash
from headlab.trials import prompts, subject
from headlab.trials.cells import cells, lacking, one_cell
from headlab.trials.check_cells import explained
from headlab.trials.document import Document
from headlab.trials.loading import revised
from headlab.trials.over_cells import Over, Tried
from headlab.trials.run import Trial

TWO = ["decimals-planted-even", "decimals-natural"]
THREE = [*TWO, "decimals-planted-random"]
POOLED_RANK = {"statistic": "pooled:rank:recovery:put", "op": "rank<", "threshold": 0.5}
BASE: dict[str, Any] = PUT | {"id": "over-two", "sets": {"named": {"pool": "even", "layer": 1}}}
OVER = BASE | {"over": {"models": TWO}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document by itself on three models: upheld, upheld, refuted."""
    folder = tmp_path_factory.mktemp("cells")
    return {n: headlab.trial(BASE, n, store=folder) for n in THREE}


@pytest.fixture
def records(alone: dict[str, Any]) -> dict[str, Any]:
    return {n: r.record for n, r in alone.items()}


def test_cells_are_the_trials_that_each_model_gives_by_itself(
    alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the digit; killed within the second cell it goes on without the first; one model is in memory at a time."""
    alive: list[weakref.ref[Lab]] = []
    at_once: list[int] = []
    ran: list[str] = []
    tried = Trial.findings

    def counted(self: Trial) -> Any:
        gc.collect()
        alive.append(weakref.ref(self.subject.lab))
        at_once.append(sum(r() is not None for r in alive))
        ran.append(self.subject.lab.name)
        if ran == TWO:
            raise KeyboardInterrupt
        return tried(self)

    monkeypatch.setattr(Trial, "findings", counted)
    with pytest.raises(KeyboardInterrupt):
        headlab.trial(OVER, store=tmp_path / "a")
    found = headlab.trial(OVER, store=tmp_path / "a")
    assert ran == [*TWO, TWO[1]] and max(at_once) == 1
    home, by_cell = Store(tmp_path / "a"), found.tables["by_cell"]
    for name, child in zip(TWO, found.children, strict=True):
        row = by_cell[by_cell["cell"] == name][["value", "low", "high", "outcome"]].to_numpy()[0]
        assert values(alone[name])["recovery:put"] == tuple(row)
        assert home.tables(child.id)["effects"].equals(alone[name].tables["effects"])
    assert found.verdict.outcome == "upheld" and [c.outcome for c in found.children] == ["upheld"] * 2
    assert set(values(found)) == {f"recovery:put [{n}]" for n in TWO}
    assert "All cells read the same prompts." in found.record.notes
    (drawn,) = found.figures
    assert [d["label"] for d in drawn.data] == TWO and [d["value"] for d in drawn.data] == list(by_cell["value"])


@pytest.mark.accept
def test_a_repeat_over_cells_is_the_same_and_one_model_under_two_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    found, home = headlab.trial(OVER, store=tmp_path / "a"), Store(tmp_path / "a")
    html = report.of_run(home, found.record.id)
    assert all(f'href="#{c.id}"' in html for c in found.children)
    again = headlab.repeat(found.record, store=home)
    assert again.record.id != found.record.id
    assert compare(found.record, dict(found.tables), again.record, dict(again.tables)).same
    with pytest.raises(ClaimError, match="copy has the weights of decimals-planted-even"):
        headlab.trial(BASE | {"over": {"models": [TWO[0], "copy"]}}, store=tmp_path / "s")


def test_a_document_over_models_on_a_file_that_changed_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts from a file stood in its key by the file's name: another's table was handed on, or gone on with."""
    own, keys = tmp_path / "pairs.csv", []

    def opened(self: Store, *, inputs: Any, **more: Any) -> Any:
        keys.append(content_hash(inputs))
        raise RuntimeError

    monkeypatch.setattr(Store, "open", opened)
    monkeypatch.setattr(Store, "open", opened)
    for answer in ("yes", "no", "yes"):
        own.write_text(f"clean,corrupted,answer,wrong\n1.9 or 1.11?,Which: 1.9 or 1.11?,{answer},maybe\n")
        with pytest.raises(RuntimeError):
            headlab.trial(OVER, prompts=own, store=tmp_path)
    assert keys[0] == keys[2] != keys[1]


def test_a_model_given_narrows_to_its_cell(tmp_path: Path) -> None:
    """The record is that of an ordinary trial, and says that it is one of several."""
    found = headlab.trial(OVER, TWO[1], store=tmp_path)
    assert found.record.model["name"] == TWO[1] and not found.children
    assert any("One cell of a claim over models" in n for n in found.record.notes)
    with pytest.raises(ClaimError, match="decimals-null-0 is none of them"):
        headlab.trial(OVER, "decimals-null-0", store=tmp_path)


def run_of(tmp_path: Path) -> str:
    for step in (384, 1296):
        shutil.copytree(organisms.checkpoints(SERIES)[step], tmp_path / "run" / f"checkpoint-{step:04}")
    return str(tmp_path / "run")


def test_a_revision_is_the_checkpoint_of_that_step(tmp_path: Path) -> None:
    """Of a shipped run and of a folder of checkpoints: by its name, or by the step that it says; its tokenizer that of another."""
    folder = run_of(tmp_path)
    for name, revision in ((SERIES, "step384"), (folder, "step384"), (folder, "checkpoint-0384")):
        found = revised(name, revision)
        assert found is not None
        assert (Path(found.model) / "config.json").read_bytes() == (
            Path(folder) / "checkpoint-0384/config.json"
        ).read_bytes()
        assert Path(found.model).name != "checkpoint-1296"
    lab = load(folder, revision="step384")
    assert (lab.name, lab.revision) == (folder, "step384")
    assert lab.fingerprint == headlab.load(str(organisms.checkpoints(SERIES)[384]), tokenizer=lab.tokenizer).fingerprint


@pytest.mark.accept
def test_over_revisions_the_same_weights_give_the_same_numbers_however_they_are_named(tmp_path: Path) -> None:
    data = BASE | {"over": {"revisions": ["step384", "step1296"]}}
    shipped = headlab.trial(data, SERIES, store=tmp_path / "a")
    copied = headlab.trial(data, run_of(tmp_path), store=tmp_path / "b")
    assert [c.tried_on for c in shipped.children] == [f"{SERIES}@step384", f"{SERIES}@step1296"]
    assert np.array_equal(shipped.tables["by_cell"]["value"], copied.tables["by_cell"]["value"])
    assert len({c.model["fingerprint"] for c in shipped.children}) == 2
    again = headlab.repeat(shipped.record, store=Store(tmp_path / "a"))
    assert compare(shipped.record, dict(shipped.tables), again.record, dict(again.tables)).same


def in_folder(tmp_path: Path) -> str:
    shutil.copytree(organisms.path(TWO[0]), tmp_path / "copy")
    return "copy"


@pytest.mark.parametrize(
    ("over", "model", "said"),
    [
        ({"models": [TWO[0], "decimals-planted-evn"]}, None, "over decimals-planted-evn: .* did you mean decimals-planted-even"),
        ({"models": [TWO[0], "./nowhere"]}, None, "no model at ./nowhere"),
        ({"models": [TWO[0], "no/such-model-here"]}, None, "cannot reach the hub"),
        ({"models": [TWO[0], "thoughts-gpt2"]}, None, "thinks in vectors"),
        ({"models": [TWO[0], f"{TWO[1]}@step3"]}, None, "has no revision 'step3'"),
        ({"models": ["./copy", "copy"]}, None, "one model twice, as ./copy and as copy"),
        ({"revisions": ["step0", "step7"]}, SERIES, "no revision 'step7'; it holds step0, step16"),
        ({"revisions": ["step0"]}, TWO[0], "drop the revision"),
        ({"revisions": ["step0", "step1"]}, "copy", "a local folder, which has no revision 'step0'"),
        ({"revisions": ["step0", "checkpoint-0"]}, SERIES, "one model twice"),
        ({"revisions": ["step0"]}, None, "name it: --model"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_cell_is_said_before_a_model_is_loaded(
    over: dict[str, Any], model: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = in_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(documents, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises((ClaimError, ModelError), match=said) as told:
        headlab.trial(BASE | {"over": over}, model, store=tmp_path / "s")
    assert "\n" not in str(told.value) and copy


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sets": {"named": "L7H0"}}, "over decimals-natural: .*L7H0"),
        ({"sets": {"named": {"pool": "even"}}, "layer": 9}, "over decimals-natural: layer 9"),
        ({"worlds": {"put": {"heads": "L0H99", "write": "patch"}}}, "over decimals-natural: .*L0H99"),
    ],
)
def test_heads_that_a_model_lacks_are_said_before_a_model_is_loaded(fields: dict[str, Any], said: str) -> None:
    doc = read(OVER | {"over": {"models": [TWO[1]]}} | fields)
    some = cells(doc, None, Path("."))
    with pytest.raises(ClaimError, match=said):
        lacking(doc, some, Path("."))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"over": {"models": []}}, "list of names"),
        ({"over": {"models": "gpt2"}}, "list of names"),
        ({"over": {"models": ["a", "a"]}}, "a is named twice"),
        ({"over": {"revisions": [1000]}}, "list of names"),
        ({"over": {"models": ["a"], "stratum": "category"}}, "alone, or some of"),
        ({"predictions": [{"statistic": "upheld:cells", "op": ">", "threshold": 0.5}]}, "give one"),
        ({"predictions": [LOST, {"statistic": "upheld:cells", "op": "rank<", "threshold": 0.5}]}, "upheld:cells"),
        ({"predictions": [LOST, {"statistic": "upheld:heads", "op": ">", "threshold": 0.5}]}, "upheld:cells"),
        ({"reference": {"redraw": "named"}, "predictions": [POOLED_RANK]}, "of one model"),
        ({"over": {}, "predictions": [LOST, {"statistic": "upheld:cells", "op": ">", "threshold": 0.5}]}, "models"),
    ],
)
def test_what_over_cannot_mean_is_refused_when_it_is_read(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ClaimError, match=said):
        read(OVER | fields)


# -- the verdict over cells ---------------------------------------------------------------------------------


def over(records: dict[str, Any], *names: str, **fields: Any) -> Over:
    doc = read(OVER | {"over": {"models": list(names)}} | fields)
    return Over(doc, [Tried(c, records[c.name]) for c in cells(doc, None, Path("."))])


def changed(record: Any, **eligible: Any) -> Any:
    return record.model_copy(update={"eligibility": {**record.eligibility, **eligible}})


def test_all_must_hold_in_every_cell(records: dict[str, Any]) -> None:
    """Upheld in each; refuted where one is; untestable where one cannot decide, unless another refutes; void where one is."""
    random = "decimals-planted-random"
    assert [records[n].outcome for n in (*TWO, random)] == ["upheld", "upheld", "refuted"]
    assert over(records, *TWO).verdict().outcome == "upheld"
    assert over(records, *TWO, random).verdict().outcome == "refuted"
    short = {**records, TWO[1]: changed(records[TWO[1]], ok=False, reason="it cannot")}
    assert over(short, *TWO).verdict().outcome == "untestable"
    assert f"{TWO[1]}: it cannot" in over(short, *TWO).verdict().sentence
    assert over(short, *TWO, random).verdict().outcome == "refuted"
    reading = records[TWO[1]].readings[0]
    failed = reading.verdict.controls[0].model_copy(update={"passed": False})
    void = reading.verdict.model_copy(update={"outcome": "void", "controls": (failed,)})
    broken = records[TWO[1]].model_copy(update={"readings": [reading.model_copy(update={"verdict": void})]})
    assert over({**records, TWO[1]: broken}, *TWO, random).verdict().outcome == "void"
    assert over(records, *TWO, chosen_on="these").verdict().outcome == "undecided"


def test_models_are_the_unit_of_what_is_pooled(records: dict[str, Any]) -> None:
    """Against Hartung and Knapp's formula written out, scipy's quantiles; one model, or revisions of one, give undefined."""
    pooled = {"statistic": "pooled:recovery:put", "op": ">", "threshold": 0}
    found = over(records, *records, predictions=[pooled])
    x, se = [], []
    for r in records.values():
        e = Estimate.from_dict(next(k.estimate for k in r.readings[0].estimates if k.name == "recovery:put"))
        x.append(e.value)
        se.append((e.high - e.low) / (2 * oracle.norm.ppf(0.975)))
    a, w = np.array(x), 1 / np.array(se) ** 2
    q = (w * (a - (w * a).sum() / w.sum()) ** 2).sum()
    tau = max(0, (q - 2) / (w.sum() - (w**2).sum() / w.sum()))
    v = 1 / (1 / w + tau)
    middle = (v * a).sum() / v.sum()
    half = oracle.t.ppf(0.975, 2) * max(1, np.sqrt((v * (a - middle) ** 2).sum() / 2)) / np.sqrt(v.sum())
    got = found.over_models("recovery:put")[0]
    assert (got.value, got.low, got.high, got.n, got.unit) == pytest.approx(
        (middle, middle - half, middle + half, 3, "models")
    )
    assert {r.prediction.statistic for r in found.verdict().rulings} == {"pooled:recovery:put"}
    alone = over(records, TWO[0], predictions=[pooled])
    assert not alone.over_models("recovery:put")[0].defined and alone.verdict().outcome == "untestable"
    doc = read(BASE | {"over": {"revisions": ["step0", "step1"]}, "predictions": [pooled]})
    steps = [Tried(c, records[TWO[0]]) for c in cells(doc, "m", Path("."))]
    assert "no further models" in Over(doc, steps).verdict().sentence


def test_the_share_of_models_counts_those_that_cannot_decide(records: dict[str, Any]) -> None:
    """Against scipy: 2 of 3; with one that cannot decide, from 1 of 3 to 2 of 3."""
    share = {"statistic": "upheld:cells", "op": ">", "threshold": 0.05}
    found = over(records, *records, predictions=[LOST, share])
    two = oracle.binomtest(2, 3).proportion_ci(method="exact")
    assert (found.share.value, found.share.low, found.share.high) == pytest.approx((2 / 3, two.low, two.high))
    assert [r.prediction.statistic for r in found.verdict().rulings] == ["upheld:cells"]
    assert found.verdict().outcome == "upheld"
    reading = records[TWO[1]].readings[0]
    open_ = reading.model_copy(update={"verdict": reading.verdict.model_copy(update={"outcome": "untestable"})})
    short = {**records, TWO[1]: records[TWO[1]].model_copy(update={"readings": [open_]})}
    one = oracle.binomtest(1, 3).proportion_ci(method="exact")
    got = over(short, *records, predictions=[LOST, share]).share
    assert (got.value, got.low, got.high) == pytest.approx((1 / 3, one.low, two.high))


def test_what_is_checked_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many trials on which models; what so few can never uphold: 2 of 2 has the lower bound .025 ** .5 = .158."""
    monkeypatch.setattr(documents, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    share = {"statistic": "upheld:cells", "op": ">", "threshold": 0.2}
    got = explained(read(OVER | {"predictions": [LOST, share]}), None, Path("."))
    assert got.lines["over"][0].startswith("2 trials, one model in memory at a time")
    assert [f for f in got.faults if "bound of 0.158" in f] and f"on {TWO[0]}" in got.lines
    away = explained(read(OVER | {"over": {"models": [TWO[0], "no/such-model-here"]}}), None, Path("."))
    assert away.lines["over"][-1].endswith("out of reach: no/such-model-here") and f"on {TWO[0]}" in away.lines
    revisions = read(BASE | {"over": {"revisions": ["step0", "step16"]}})
    assert "of the model that it will be given" in explained(revisions, None, Path(".")).lines["over"][0]
    assert explained(revisions, SERIES, Path(".")).lines["over"][0].startswith("2 trials")


RANKED = {
    **BASE,
    "reference": {"redraw": "named", "match": ["layer"], "n": 20},
    "decide": "fixed",
    "predictions": [LOST, {"statistic": "rank:recovery:put", "op": "rank<", "threshold": 0.1}],
}


def test_a_dry_run_counts_every_world() -> None:
    """By hand: the named one, the whole layer, one that does nothing, 20 alternatives; 16 pairs each."""
    found = plan(RANKED | {"over": {"models": TWO}}, TWO[0])
    assert (found["cells"], found["worlds"], found["rows"]) == (1, 23, 23 * 16) and len(found["cell"]) == 1


@pytest.mark.accept
def test_a_dry_run_counts_the_worlds_that_run_in_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the sweeps of the trial itself, alternatives all run; over models it is the sum of its cells."""
    seen: set[str] = set()
    real = subject.sweep

    def counted(lab: Any, pairs: Any, worlds: Any, **more: Any) -> Any:
        seen.update(w.name for w in worlds if w.name != subject.UNEDITED)
        return real(lab, pairs, worlds, **more)

    monkeypatch.setattr(subject, "sweep", counted)
    one = [plan(RANKED, n) for n in THREE]
    assert not seen
    headlab.trial(RANKED, TWO[0], store=tmp_path)
    assert one[0]["worlds"] == len(seen)
    every = plan(RANKED | {"over": {"models": THREE}})
    assert every["cells"] == 3 and len(every["cell"]) == 3
    assert all(every[k] == sum(p[k] for p in one) for k in ("worlds", "passes", "rows", "tokens"))


def test_where_tokenizers_differ_all_cells_read_what_each_can_take(shared: Path) -> None:
    """Two real tokenizers: the same prompts for all, split by cluster; alone each would draw others."""
    from transformers import AutoTokenizer

    some = [AutoTokenizer.from_pretrained(shared / "data/tokenizers" / n) for n in ("gpt2", "gpt-neox-20b")]
    doc = one_cell(
        read(OVER | {"task": {"name": "ioi"}, "edit": "clean", "predictions": [LOST | {"statistic": "lost:put"}]})
    )
    doc = doc.model_copy(update={"worlds": {"put": {"heads": "named", "write": "mean"}}, "selection_pairs": 12})
    got = prompts.split_for_all(doc, some, Path("."))
    alone = [prompts.split(doc, t, None, Path(".")) for t in some]
    assert got is not None and len({t.content_hash() for t, _ in alone}) > 1
    test, selection = got
    assert not set(prompts.clusters(test)) & set(prompts.clusters(selection)) and len(test) == doc.pairs
    for tokenizer in some:
        assert len(prompts.encoded(test, tokenizer)) == doc.pairs


# -- the library --------------------------------------------------------------------------------------------


@pytest.mark.accept
def test_the_published_claim_over_seeds_runs_to_its_end_here(tmp_path: Path) -> None:
    """``parity-across-seeds`` on three organisms, equal to its trials one by one to the digit, ranks and all."""
    amend = {"over.models": THREE, "pairs": 100, "reference.n": 199, "layer": 1}
    found = headlab.trial("parity-across-seeds", amend=amend, store=tmp_path / "a")
    doc, home = Document.from_data(found.record.claim), Store(tmp_path / "a")
    for name, child in zip(THREE, found.children, strict=True):
        by_itself = headlab.trial(one_cell(doc), name, store=tmp_path / "b")
        assert values(by_itself) == values(home.load(child.id))
        assert home.tables(child.id)["effects"].equals(by_itself.tables["effects"])
        assert home.tables(child.id)["alternatives"].equals(by_itself.tables["alternatives"])
    said = {r.prediction.statistic: r for r in found.verdict.rulings}
    assert set(said) == {"pooled:recovery:even - recovery:odd", "upheld:cells"}
    assert [c.outcome for c in found.children] == ["upheld", "refuted", "refuted"]
    assert said["upheld:cells"].value == pytest.approx(1 / 3) and found.verdict.outcome == "undecided"


@pytest.mark.parametrize("claim", ["parity", "codi-critical-heads", "hubs", BASE])
def test_a_claim_that_names_no_model_needs_one(claim: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model given"):
        headlab.trial(claim, store=tmp_path)
    if claim in ("parity", BASE):
        with pytest.raises(ModelError, match="no model given"):
            plan(claim)
