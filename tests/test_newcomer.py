"""What a newcomer types first: which version, a model that is not there, what it would take, a trial in few lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from headlab.cli import main

TRIAL = ["trial", "parity", "--model", "decimals-planted-even", "--layer", "1", "--pairs", "6", "--matched-sets", "3"]
TRIAL += ["--anyway"]


def test_the_version_says_what_decides_numbers(capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (version("headlab"), version("torch"), version("transformers"), "Python 3."))


@pytest.mark.parametrize(
    ("offline", "claim"), [("1", "parity"), ("0", "parity"), ("1", "head-count-as-document"), ("1", "scorecard")]
)
def test_a_hub_id_out_of_reach_is_said_before_anything_heavy_is_loaded(offline, claim, tmp_path, monkeypatch):
    """Offline by choice, and with a hub at which nobody listens; a claim of the docket, one of the library, a scorecard."""
    script = f"""
        import sys
        from headlab.cli import main
        code = main(["trial", "{claim}", "--model", "someone/some-model"])
        sys.exit(10 * ("torch" in sys.modules) + code)
    """
    for name, value in {
        "HF_HUB_OFFLINE": offline,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    out = subprocess.run([sys.executable, "-c", "\n".join(map(str.strip, script.splitlines()))], capture_output=True)
    assert out.returncode == 2, out.stderr
    assert out.stderr.decode().startswith("headlab: cannot reach the hub for 'someone/some-model'")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["trial", "partiy", "--model", "decimals-natural"],
            "no claim 'partiy'; did you mean parity? expected one of ",
        ),
        (
            ["trial", "ioi-circiut", "--model", "gpt2"],
            "no claim 'ioi-circiut'; did you mean ioi-circuit? expected one of ",
        ),
        (["trial", "partiy", "--full", "--model", "x"], "sizes 'partiy'; did you mean parity? expected one of "),
        (["check", "partiy"], "no claim 'partiy'; did you mean parity? expected one of "),
        (["calibrate", "parity", "head-cuont"], "no claim 'head-cuont'; did you mean head-count? expected one of "),
        (["trial", "parity", "--model", "decimals-natrual"], "did you mean the shipped organism decimals-natural?"),
    ],
)
def test_what_is_misspelt_is_said_before_anything_heavy_is_loaded(words, told):
    """It took twelve seconds, and what was meant stood behind seventy names."""
    script = (
        "import sys; from headlab.cli import main; c = main(sys.argv[1:]); sys.exit(10 * ('torch' in sys.modules) + c)"
    )
    out = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert out.returncode == 2 and told in out.stderr and out.stderr.count("\n") == 1, out.stderr


def test_the_names_of_the_docket_are_those_of_its_files():
    from headlab.cli.claims import SCORECARDS, docket
    from headlab.experiments import builtin_claims, slugs

    assert docket() == list(builtin_claims()) and {*docket(), *SCORECARDS} == {*slugs()}


def test_view_without_its_extra_says_how_it_is_installed(monkeypatch, capsys):
    for name in [n for n in sys.modules if n.partition(".")[0] == "starlette" or n.startswith("headlab.view")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["view", "--no-open"]) == 2
    ways = "is not installed; install the extra: pip install 'headlab[view]', in a clone pip install -e '.[view]'\n"
    assert capsys.readouterr().err.endswith(ways)


def test_only_the_docket_has_publication_sizes_whatever_the_model(capsys):
    for name in ("ioi-circuit", "my.yaml"):
        assert main(["trial", name, "--full", "--model", "someone/some-model"]) == 2
        said = capsys.readouterr().err
        assert f"no experiment with publication sizes '{name}'" in said and "the hub" not in said
    assert main(["trial", "--heads", "L0H1", "--full", "--model", "someone/some-model"]) == 2
    assert "--full goes with experiments of the docket" in capsys.readouterr().err


def test_what_is_cached_is_within_reach_and_a_data_set_is_no_model(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from headlab.engine.hub import within_reach

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for kind in ("models--someone--a-model", "datasets--someone--a-set"):
        (tmp_path / kind / "snapshots" / "0123").mkdir(parents=True)
    assert within_reach("someone/a-model") and not within_reach("someone/a-set") and not within_reach("someone/other")


@pytest.mark.parametrize(
    "some", [["parity", "layer-scan", "weight-clusters"], pytest.param(None, marks=pytest.mark.accept)]
)
def test_a_scorecard_says_what_it_would_take(some, monkeypatch, capsys):
    """Of every experiment in accept, of three every day; and in words, with the time of all together."""
    from headlab.experiments import scorecard

    if some:
        monkeypatch.setattr(scorecard, "slugs", lambda thinking=False: some)
    assert main(["trial", "scorecard", "--model", "decimals-null-0", "--pairs", "2", "--dry-run", "--json"]) == 0
    rows = {row["experiment"]: row for row in json.loads(capsys.readouterr().out)}
    assert (list(rows) == some if some else len(rows) > 20) and all(
        row["reason"] or row["passes"] >= 1 for row in rows.values()
    )
    assert main(["trial", "parity", "--model", "decimals-null-0", "--pairs", "2", "--dry-run", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert {k: rows["parity"][k] for k in ("worlds", "passes", "rows")} == {
        k: alone[k] for k in ("worlds", "passes", "rows")
    }


def test_what_no_dry_run_counts_is_said_in_the_help(capsys):
    assert main(["trial", "--help"]) == 0
    assert "run nothing; not of thoughts" in " ".join(capsys.readouterr().out.split())
    for words in (["thought-scorecard"], ["hubs", "--pairs", "2"]):
        assert main(["trial", *words, "--model", "thoughts-gpt2", "--dry-run"]) == 2
        assert "runs the latent loop, whose passes --dry-run does not count" in capsys.readouterr().err


def test_a_trial_says_what_decides_and_show_says_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HEADLAB_STORE", str(tmp_path))
    assert main(TRIAL) == 0
    few = capsys.readouterr().out
    assert "measured, not ruled" in few and "repair:even > 0.5" in few and "passed  no-op" in few
    assert "even heads: pairs repaired" not in few
    assert main(["show", re.search(r"parity-\w+", few)[0]]) == 0
    assert "even heads: pairs repaired" in capsys.readouterr().out
