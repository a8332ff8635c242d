"""A key holds everything that its numbers depend on, and the ``again`` line is the very trial.

Of the kind "stored work is taken up though what made it changed" were looked at: the inputs of a trial, of scorecards,
of cross-model, null-rates and demo (whose parts are trials, each under its own key), the shards of sweeps, greedy texts,
thoughts (own model and twins), the looks of a series; and what each stands on: weights (two values swapped as well),
config, generation config, tokenizer, dtype, device, prompts, claim, threads, versions, headlab's own code.
"""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headlab import organisms
from headlab.engine.identity import identity
from headlab.engine.model import open_model
from headlab.engine.plan import Cost, make_plan
from headlab.experiments.scorecard import scorecard
from headlab.experiments.training.across_models import cross_model
from headlab.experiments.trial import trial
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.prompts import PromptSet, encode
from headlab.report.compared import compare, lines
from headlab.store import Store, content_hash
from headlab.tasks.decimals import decimals
from headlab.trials.record import versions

NAME = "decimals-planted-even"
way_in = importlib.import_module("headlab.experiments.trial")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(organisms.path(NAME), tmp_path / "model"))


def edited(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / name
        data = json.loads(path.read_text()) if path.is_file() else {}
        change(data)
        path.write_text(json.dumps(data))

    return act


def swapped(folder: Path) -> None:
    """Two values of one weight change places: its sum stays."""
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    name = next(n for n, w in weights.items() if w.dim() == 2)
    flat = weights[name].view(-1)
    flat[[1, 2]] = flat[[2, 1]].clone()
    save_file(weights, path, {"format": "pt"})


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "two weights swapped": ("weights", swapped),
    "epsilon": ("config", edited("config.json", lambda d: d.update(rms_norm_eps=0.01))),
    "end token": ("generation", edited("generation_config.json", lambda d: d.update(eos_token_id=[3, 4]))),
    "normaliser": ("tokenizer", edited("tokenizer.json", lambda d: d.update(normalizer={"type": "Lowercase"}))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_model_has_another_identity(folder: Path, change: str) -> None:
    """Each change moves its own part of :func:`identity`, and no other but the fingerprint."""
    part, act = CHANGES[change]
    before = identity(open_model(str(folder)))
    act(folder)
    after = identity(open_model(str(folder)))
    assert {k for k in before if before[k] != after[k]} - {"fingerprint"} == {part}


def test_the_same_model_elsewhere_is_the_same_and_use_changes_nothing(folder: Path, tmp_path: Path) -> None:
    lab = open_model(str(folder))
    before = identity(lab)
    lab.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=4) if lab.tokenizer.pad_token else None
    other = identity(open_model(str(shutil.copytree(folder, tmp_path / "elsewhere"))))
    assert identity(lab) == before == other
    with torch.no_grad():
        next(lab.model.parameters()).view(-1)[0] += 1
    assert identity(lab)["weights"] != before["weights"], "weights changed in memory, after the model was opened"


class Stopped(Exception):
    pass


def test_an_interrupted_trial_is_taken_up_by_the_same_model_only(folder: Path, store: Path, monkeypatch: Any) -> None:
    """The example of the issue: the same weights under another config began where the first had stopped."""

    def stop(_experiment: Any, _case: Any) -> Any:
        raise Stopped

    monkeypatch.setattr(type(way_in.EXPERIMENTS["parity"]), "tried", stop)

    def tried() -> None:
        with pytest.raises(Stopped):
            trial("parity", str(folder), layer=1, pairs=4, store=store)

    tried(), tried()
    assert len(Store(store).records()[0]) == 1
    edited("generation_config.json", lambda d: d.update(eos_token_id=[3, 4]))(folder)
    tried()
    assert len(Store(store).records()[0]) == 2


def test_an_interrupted_summary_takes_up_the_same_models_only(folder: Path, store: Path, monkeypatch: Any) -> None:
    """cross-model names its models by folders: another config in the folder, and what the first one left is not taken up."""
    parity = type(way_in.EXPERIMENTS["parity"])
    real, cut = parity.tried, {"pairs": 12, "matched_sets": 19, "protocol": "standard", "store": store}

    def interrupted(experiment: Any, case: Any) -> Any:
        real(experiment, case)  # everything is measured and stored, and the run has not ended
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parity, "tried", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cross_model([str(folder)], **cut)
    (left,) = (r for r in Store(store).records()[0] if r.kind == "trial")
    assert left.status == "interrupted"
    edited("generation_config.json", lambda d: d.update(eos_token_id=[3, 4]))(folder)
    summary = cross_model([str(folder)], **cut).record
    own = Store(store).record(summary.children[0])
    assert own.model["name"] == str(folder) and own.status == "complete"
    assert own.id != left.id and own.model["identity"]["generation"] != left.model["identity"]["generation"]


def test_a_shard_is_named_by_tokens_and_by_every_pair_of_its_sweep() -> None:
    """Means and donors are taken over all pairs: fewer pairs, other tokens or another tokenizer give other names."""
    lab = open_model(str(organisms.path(NAME)))
    pairs = [encode(p, lab.tokenizer) for p in decimals(6, tokenizer=lab.tokenizer)]
    worlds = [World("w", (Intervention(Heads.of(1, [0]), write="mean"),))]

    def first(chosen: list) -> str:
        plan = make_plan(chosen, worlds, Cost(1, 1), tokens=100_000)
        return plan.shards[0].name

    assert first(pairs) == first(list(pairs)) != first(pairs[:5])


def test_headlabs_own_code_is_among_the_versions() -> None:
    assert len(versions()["source"]) == 12 and versions()["peft"] != ""


def test_again_is_the_very_trial(folder: Path, store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Every option stands in the line: given again as it is printed, it has the same key.  Looked at: own pairs from a
    file, memory, device, dtype, seed, protocol, matched sets, the store; pairs that no file holds."""
    from headlab.cli import main

    pairs = tmp_path / "my pairs.csv"
    rows = [f'"1.{n} or 1.{n}1?","Which: 1.{n} or 1.{n}1?",yes{n},no' for n in range(9)]
    pairs.write_text("\n".join(["clean,corrupted,answer,wrong", *rows]))
    calls: list[dict] = []

    def opened(self: Store, *, inputs: Any, draft: Any, **more: Any) -> Any:
        calls.append({"inputs": json.loads(json.dumps(inputs, default=str)), "call": draft["call"], "root": self.root})
        raise Stopped

    monkeypatch.setattr(Store, "open", opened)
    monkeypatch.setattr(way_in, "draw", lambda claim, tokenizer, prompts: (prompts, prompts))
    words = ["trial", "parity", "--model", str(folder), "--layer", "1", "--seed", "3", "--memory", "1GB", "--dtype", "float32",
             "--protocol", "standard", "--matched-sets", "7", "--prompts", str(pairs), "--anyway"]  # fmt: skip
    main(words)
    again = shlex.split(calls[0]["call"]["command"])
    assert again[0] == "headlab"
    main(again[1:])
    main(["run", *again[2:]])  # as older records say it
    assert again[1] == "trial" and calls[0] == calls[1] == calls[2]
    with pytest.raises(Stopped):
        trial("parity", str(folder), layer=1, prompts=PromptSet.from_file(pairs), store=store)
    assert calls[3]["call"]["command"] == "headlab repeat {id}"


def test_a_scorecard_on_other_prompts_is_another_and_again_names_all(
    folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Own prompts once stood neither in its key nor in its line: an unfinished one was gone on with on others.  The line
    lacked how the model was loaded as well, and the pairs that were given beside publication sizes."""
    own, calls = tmp_path / "my pairs.csv", []

    def opened(self: Store, *, inputs: Any, draft: Any, **more: Any) -> Any:
        calls.append((content_hash(inputs), draft["call"]))
        raise Stopped

    monkeypatch.setattr(Store, "open", opened)
    for answer in ("yes", "no", None):
        rows = [f"1.{n} or 1.{n}1?,Which: 1.{n} or 1.{n}1?,{answer}{n},maybe" for n in range(9)]
        own.write_text("\n".join(["clean,corrupted,answer,wrong", *rows]))
        for prompts in (own, PromptSet.from_file(own)) if answer else (None,):
            with pytest.raises(Stopped):
                scorecard(
                    str(folder), experiments=["architecture"], prompts=prompts, dtype="float32", full=True, pairs=7
                )
    assert len({key for key, _ in calls}) == len(calls) == 5
    line = f"headlab trial scorecard --model {folder} --pairs 7 --dtype float32"
    assert calls[0][1]["command"] == f"{line} --prompts '{own}' --full --anyway"
    assert calls[4][1]["command"] == f"{line} --full --anyway"
    assert calls[4][1]["python"] == f"headlab.run('scorecard', '{folder}', pairs=7, dtype='float32', full=True)"


def test_again_names_the_file_of_problems(store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """As above on a thinking model: own problems stand in the line."""
    from headlab.cli import main
    from headlab.tasks.word_problems import word_problems

    problems = tmp_path / "my problems.jsonl"
    made = [{"question": p.question, "answer": f"#### {p.answer}"} for p in word_problems(12, seed=1)]
    problems.write_text("\n".join(map(json.dumps, made)))
    calls: list[dict] = []

    def opened(self: Store, *, inputs: Any, draft: Any, **more: Any) -> Any:
        calls.append({"inputs": json.loads(json.dumps(inputs, default=str)), "call": draft["call"]})
        raise Stopped

    monkeypatch.setattr(Store, "open", opened)
    main(["trial", "head-ablation", "--model", "thoughts-gpt2", "--problems", str(problems), "--pairs", "4", "--store", str(store),
          "--anyway"])  # fmt: skip
    again = shlex.split(calls[0]["call"]["command"])
    assert again[again.index("--problems") + 1] == str(problems)
    main(again[1:])
    assert calls[0] == calls[1]


def test_repeat_names_what_changed_first(tmp_path: Path) -> None:
    """By hand: other weights and another commit, the same numbers; and what else can be another: the resolved revision, the
    tokenizer, the configs, the prompts, the claim."""
    store = Store(tmp_path)

    def made(n: int, weights: str, commit: str) -> Any:
        model = {"name": "hub/model", "fingerprint": weights * 64, "commit": commit * 40, "dtype": "float32"}
        with store.open(kind="trial", slug="x", title="", inputs={"n": n}, draft={"model": model}) as run:
            return run.finish()

    old, new = made(1, "a", "c"), made(2, "b", "d")
    found = compare(old, {}, new, {})
    assert set(found.asked) == {"weights", "commit"} and not found.same
    assert lines(found)[1].startswith("not the same trial: weights aaaaaaaaaaaa → bbbbbbbbbbbb, commit")
    assert compare(old, {}, old, {}).same and "asked: the same" in lines(compare(old, {}, old, {}))[1]
    changes: dict[str, dict[str, Any]] = {
        "revision": {"model": {**old.model, "revision": "step9"}},
        **{
            k: {"model": {**old.model, "identity": {k: "e" * 64}}}
            for k in ("tokenizer", "config", "generation", "weights")
        },
        "test prompts": {"prompts": {"test": {"hash": "e" * 64}}},
        "claim": {"claim_hash": "e" * 64},
    }
    before = {
        "model": {
            **old.model,
            "revision": "main",
            "identity": dict.fromkeys(("tokenizer", "config", "generation", "weights"), "d"),
        },
        "prompts": {"test": {"hash": "d" * 64}},
        "claim_hash": "d" * 64,
    }
    plain = old.model_copy(update=before)
    for name, change in changes.items():
        if "identity" in change.get("model", {}):
            change = {
                "model": {**before["model"], "identity": {**before["model"]["identity"], **change["model"]["identity"]}}
            }
        found = compare(plain, {}, plain.model_copy(update=change), {})
        wanted = "every weight" if name == "weights" else name
        assert set(found.asked) == {wanted} and not found.same and wanted in lines(found)[1], name
