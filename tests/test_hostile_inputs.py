"""Whatever a file holds, it is read, or refused in one line of at most 500 characters; within 2 s and 500 MB.

A hundred thousand inputs run in `make accept` (HEADLAB_HOSTILE=N: that many thousandths of them); a seeded sample here.  Looked
for: claims (YAML, TOML), documents about named heads (YAML), prompts (CSV, JSONL, with encoding), word problems (JSONL, text),
tables of outcomes, records, codi.json,
config.json of a model and of a CODI checkpoint, adapter_config.json, and the command line itself with each of them.  Time is
the process's own; memory is the growth of its largest resident size.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import hostile
from headlab import organisms
from headlab.claims import Claim, ClaimError
from headlab.cli import main
from headlab.experiments import trial
from headlab.experiments.fitting import check_fit
from headlab.experiments.trial import builtin_claims, experiment
from headlab.prompts import PromptError, PromptSet, encode
from headlab.store import Record, StoreError
from headlab.tasks import outcomes
from headlab.tasks.word_problems import read_gsm8k, read_gsm8k_aug
from headlab.thoughts.model import ThoughtError, spec_of
from headlab.trials.document import Document
from headlab.trials.explain import explain

SECONDS, MEGABYTES, CHARACTERS = 2.0, 500, 500
THOUSANDTHS = int(os.environ.get("HEADLAB_HOSTILE", "1000"))


@dataclass(frozen=True)
class Kind:
    """A file that headlab reads: what it holds, how it is written and read, and how it may be refused."""

    name: str
    data: Any
    write: Callable[[Any], str]
    read: Callable[[Path], Any]
    error: type[Exception]
    share: int  # of the hundred thousand, in accept
    sample: int  # every day


def _claim(path: Path) -> None:
    claim = Claim.from_file(path)
    tried = experiment(claim.experiment)
    tried.check(claim)
    check_fit(claim, {}, builtin_claims().get(tried.slug))
    claim.content_hash()


def _document(path: Path) -> None:
    document = Document.from_file(path)
    explain(document, folder=path.parent)
    document.content_hash()


DOCUMENT: dict[str, Any] = {
    "language": 1,
    "id": "named-heads",
    "words": "The heads are needed.",
    "source": "a hunch",
    "chosen_on": "other",
    "task": {"name": "decimals"},
    "edit": "clean",
    "scores": {"alone": "drop:one/mean"},
    "sets": {
        "named": "L0H1 L1H2",
        "one": {"singles": {"not": "named"}},
        "best": {"top": 3, "by": "alone"},
        "half": {"pool": "even", "layer": 1},
        "some": {"draw": 2, "from": "half", "n": 5},
    },
    "worlds": {
        "cut": {"heads": "named", "write": {"each": ["mean", "zero", "resample"]}},
        "one": {"heads": "one", "write": {"each": ["mean", "zero", "resample"]}},
        "best": {"heads": ["best", "half"], "roles": ["read"], "write": {"each": ["mean", "zero", "resample"]}},
        "sent": {"heads": "some", "site": "q", "write": "patch", "computed_in": "cut"},
        "steered": {"heads": "named", "write": "add", "direction": "other", "amount": {"each": [0.5, 1.0]}},
    },
    "readout": {"margin": "margin", "rate": {"kind": "accuracy"}},
    "reference": {"redraw": "named", "match": ["layer"], "n": 99, "exclude": ["best"]},
    "predictions": [
        {"statistic": "drop:cut", "op": ">", "threshold": 0.1, "words": "worse"},
        {"statistic": "rank:drop:cut/mean", "op": "rank<", "threshold": 0.05, "words": "more than others"},
        {"statistic": "drop:cut/mean - drop:cut/zero", "op": "within", "threshold": [-1.0, 1.0], "words": "alike"},
    ],
    "over": {"settings": {"as_written": {}, "other_draw": {"seed": 1}, "half": {"dtype": "bfloat16", "pairs": 150}}},
    "eligible": {"clean": 0.9},
    "waive": {"whole": "a reason"},
}


def _claim_data(slug: str) -> Any:
    return json.loads(builtin_claims()[slug].model_dump_json(exclude_none=True))


ROWS = [
    {
        "id": f"r{n}",
        "clean": f"{n}.8 or {n}.11? Answer:",
        "corrupted": f"{n}.8 or {n}.85? Answer:",
        "answer": f" {n}.8",
        "wrong": f" {n}.11",
        "cluster": f"c{n % 3}",
        "category": "k",
        "clean_spans": '{"a": [0, 3], "b": [7, 11]}',
        "corrupted_spans": '{"a": [0, 3]}',
    }
    for n in range(2, 9)
]
PROBLEMS = [
    {"question": f"Ann has {n} pens and buys 3.", "answer": f"She has {n}+3=<<{n}+3={n + 3}>>.\n#### {n + 3}"}
    for n in range(5)
]
SUBSETS = [{"size": 2, "blocks": f"{n} {n + 2}", "success": n % 2, "sources": "spec"} for n in range(6)]
CODI = {"pad": 60, "bot": 61, "eot": 62, "prj_dim": 32, "n_thoughts": 6, "mode": "codi"}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Kind]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(organisms.path("decimals-planted-even"))
    record = trial("cross-model", "decimals-null-0", pairs=20, store=tmp_path_factory.mktemp("runs")).record

    def prompts(path: Path) -> None:
        for pair in PromptSet.from_file(path).pairs[:20]:
            encode(pair, tokenizer)

    def aug(rows: Any) -> str:
        return "\n".join(
            f"{r.get('question')}||{str(r.get('answer')).split(chr(10))[0]} #### 3"
            for r in (rows if isinstance(rows, list) else [rows])
            if isinstance(r, dict)
        )

    def codi(path: Path) -> None:
        shutil.copyfile(path, path.parent / "codi.json")
        spec_of(path.parent)

    return [
        Kind("parity.yaml", _claim_data("parity"), hostile.as_yaml, _claim, ClaimError, 18_000, 80),
        Kind("hubs.yml", _claim_data("hubs"), hostile.as_yaml, _claim, ClaimError, 6_000, 20),
        Kind("count.toml", _claim_data("head-count"), hostile.as_toml, _claim, ClaimError, 18_000, 80),
        Kind("heads.yaml", DOCUMENT, hostile.as_yaml, _document, ClaimError, 10_000, 60),
        Kind("pairs.csv", ROWS, hostile.as_csv, prompts, PromptError, 15_000, 80),
        Kind("pairs.jsonl", ROWS, hostile.as_json_lines, prompts, PromptError, 15_000, 80),
        Kind("gsm.jsonl", PROBLEMS, hostile.as_json_lines, read_gsm8k, PromptError, 5_000, 30),
        Kind("aug.txt", PROBLEMS, aug, read_gsm8k_aug, PromptError, 4_000, 30),
        Kind("subsets.csv", SUBSETS, hostile.as_csv, outcomes.read, ValueError, 5_000, 30),
        Kind(
            "record.json",
            json.loads(record.to_json()),
            hostile.as_json,
            lambda p: Record.from_json(p.read_bytes()),
            StoreError,
            6_000,
            40,
        ),
        Kind("spec.json", CODI, hostile.as_json, codi, ThoughtError, 6_000, 40),
    ]


def largest() -> float:
    """The largest resident size of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def wrong(kind: Kind, n: int, folder: Path) -> str:
    """What went wrong with input ``n`` of a kind; empty where it was read, or refused as promised."""
    path = folder / kind.name
    path.write_bytes(hostile.mutated(kind.data, kind.write, kind.name, n))
    before, start = largest(), time.process_time()
    said = ""
    try:
        kind.read(path)
    except kind.error as error:
        line = str(error)
        if len(line) > CHARACTERS or "\n" in line or not line:
            said = f"{len(line)} characters: {line[:200]!r}"
        elif kind.error is ValueError and type(error) is not ValueError:
            said = f"raw {type(error).__name__}: {line[:200]}"
    except Exception as error:
        said = f"{type(error).__name__}: {str(error)[:300]}"
    spent, grown = time.process_time() - start, largest() - before
    if spent > SECONDS:
        said += f" took {spent:.1f} s"
    if grown > MEGABYTES:
        said += f" took {grown:.0f} MB"
    return f"{kind.name} {n}: {said}" if said else ""


def run(kinds: list[Kind], counts: dict[str, range], folder: Path) -> Iterator[str]:
    for kind in kinds:
        for n in counts[kind.name]:
            if said := wrong(kind, n, folder):
                yield said


def test_a_sample_of_mutated_files_is_read_or_refused_in_one_line(kinds: list[Kind], tmp_path: Path) -> None:
    found = list(run(kinds, {k.name: range(k.sample) for k in kinds}, tmp_path))
    assert not found, f"{len(found)}: " + "\n".join(found[:20])


@pytest.mark.accept
@pytest.mark.parametrize("which", range(11))
def test_a_hundred_thousand_mutated_files_are_read_or_refused_in_one_line(
    kinds: list[Kind], which: int, tmp_path: Path
) -> None:
    assert len(kinds) == 11 and sum(k.share for k in kinds) + CONFIGS + ADAPTERS >= 100_000
    kind = kinds[which]
    found = list(run([kind], {kind.name: range(1000, 1000 + kind.share * THOUSANDTHS // 1000)}, tmp_path))
    assert not found, f"{len(found)}: " + "\n".join(found[:40])


def test_most_of_what_is_tried_is_wrong_and_some_is_not(kinds: list[Kind], tmp_path: Path) -> None:
    """The mutants are worth something: of each kind some are read and most are refused, and few are the same.  Of a document,
    whose parts name one another, one in thirty is read."""
    for kind in kinds[:6]:
        tried = 120 if kind.data is DOCUMENT else 40
        made = [hostile.mutated(kind.data, kind.write, kind.name, n) for n in range(tried)]
        assert len(set(made)) > 0.875 * tried
        refused = 0
        for text in made:
            (tmp_path / kind.name).write_bytes(text)
            try:
                kind.read(tmp_path / kind.name)
            except kind.error:
                refused += 1
        assert 15 <= refused < tried, kind.name


# -- model folders ------------------------------------------------------------------------------------------------------

CONFIGS, ADAPTERS = 1_500, 500


def _folder(tmp_path: Path, name: str = "decimals-null-0") -> Path:
    folder = tmp_path / "model"
    shutil.copytree(organisms.path(name), folder)
    return folder


def refusals(what: str, folder: Path, file: str, numbers: range, arguments: list[str]) -> list[str]:
    """Loads a folder whose ``file`` is mutated, in this process; anything but a model or a ModelError is told."""
    from headlab.engine.model import ModelError, open_model

    path, found = folder / file, []
    data = json.loads(path.read_text())
    for n in numbers:
        path.write_bytes(hostile.mutated(data, hostile.as_json, what, n))
        before, start, said = largest(), time.process_time(), ""
        try:
            open_model(arguments[0], adapter=arguments[1] if len(arguments) > 1 else None)
        except ModelError as error:
            line = " ".join(str(error).split())
            said = f"{len(line)} characters: {line[:200]!r}" if len(line) > CHARACTERS else ""
        except Exception as error:
            said = f"{type(error).__name__}: {str(error)[:300]}"
        if (spent := time.process_time() - start) > SECONDS:
            said += f" took {spent:.1f} s"
        if (grown := largest() - before) > MEGABYTES:
            said += f" took {grown:.0f} MB"
        if said:
            found.append(f"{what} {n}: {said}")
    path.write_text(json.dumps(data))
    return found


@pytest.mark.parametrize("numbers", [range(6), pytest.param(range(1000, 1000 + CONFIGS), marks=pytest.mark.accept)])
def test_mutated_configs(numbers: range, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    found = refusals("config.json", folder, "config.json", numbers, [str(folder)])
    assert not found, f"{len(found)}: " + "\n".join(found[:40])


@pytest.mark.parametrize("numbers", [range(4), pytest.param(range(1000, 1000 + ADAPTERS), marks=pytest.mark.accept)])
def test_mutated_adapters(numbers: range, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    folder = _folder(tmp_path)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(tmp_path / "adapter")
    found = refusals(
        "adapter_config.json",
        tmp_path / "adapter",
        "adapter_config.json",
        numbers,
        [str(folder), str(tmp_path / "adapter")],
    )
    assert not found, f"{len(found)}: " + "\n".join(found[:40])


# -- the command line -----------------------------------------------------------------------------------------------------


def commands(kind: Kind, path: Path, store: Path) -> list[str]:
    """What a user would have typed."""
    model = ["--model", "decimals-null-0", "--store", str(store)]
    return {
        "pairs": ["trial", "parity", *model, "--prompts", str(path), "--dry-run"],
        "gsm": ["trial", "hubs", *model[:1], "thoughts-gpt2", *model[2:], "--problems", str(path), "--dry-run"],
        "aug": ["trial", "hubs", *model[:1], "thoughts-gpt2", *model[2:], "--problems", str(path), "--dry-run"],
        "subsets": ["reanalyse", str(path), "--store", str(store)],
    }.get(path.stem, ["trial", str(path), *model, "--dry-run"])


def said_by(kind: Kind, n: int, folder: Path, capsys: Any) -> tuple[int, str]:
    path = folder / kind.name
    path.write_bytes(hostile.mutated(kind.data, kind.write, kind.name, n))
    code = main(commands(kind, path, folder / "store"))
    return code, capsys.readouterr().err


@pytest.mark.parametrize("sample", [2, pytest.param(60, marks=pytest.mark.accept)])
def test_the_command_line_says_one_line_and_ends_with_two(
    kinds: list[Kind], sample: int, tmp_path: Path, capsys: Any
) -> None:
    tried = 0
    for kind in kinds[:8]:
        for n in range(5000, 5000 + sample):
            path = tmp_path / kind.name
            path.write_bytes(hostile.mutated(kind.data, kind.write, kind.name, n))
            try:
                kind.read(path)
            except kind.error:
                code, said = said_by(kind, n, tmp_path, capsys)
                assert code == 2 and said.count("\n") == 1 and len(said) <= CHARACTERS, (kind.name, n, code, said[:600])
                assert "Traceback" not in said
                tried += 1
    assert tried >= sample


@pytest.mark.parametrize("sample", [1, pytest.param(6, marks=pytest.mark.accept)])
def test_the_same_as_a_process_of_its_own(kinds: list[Kind], sample: int, tmp_path: Path) -> None:
    """Exit code, lines and memory of real processes, on files that are refused."""
    for kind in [k for k in kinds[:8] if sample > 1 or k.name in {"parity.yaml", "pairs.csv"}]:
        done = 0
        for n in range(9000, 9400):
            path = tmp_path / kind.name
            path.write_bytes(hostile.mutated(kind.data, kind.write, kind.name, n))
            try:
                kind.read(path)
                continue
            except kind.error:
                pass
            code = (  # VmHWM: what getrusage tells is never less than the parent's at the start
                "import sys; from headlab.cli import main; rc = main(sys.argv[1:]); status = open('/proc/self/status').read(); "
                "print(int(status.split('VmHWM:')[1].split()[0]) // 1024); sys.exit(rc)"
            )
            arguments = commands(kind, path, tmp_path / "store")
            ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
            assert ran.returncode == 2, (kind.name, n, ran.stderr[-500:])
            assert ran.stderr.count("\n") == 1 and len(ran.stderr) <= CHARACTERS, (kind.name, n, ran.stderr[:600])
            assert int(ran.stdout.split()[-1]) <= MEGABYTES, (kind.name, n, ran.stdout)
            done += 1
            if done == sample:
                break
