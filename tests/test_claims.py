"""Claims, their hash, and the one rule that decides; laws 4, 5 and 6, each with mutants that turn it red.

A law is a function that asserts about an implementation; ``red`` hands it one that is broken on purpose.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headlab import claims
from headlab.claims import Claim, ClaimError, Control, Prediction, Verdict, decide
from headlab.stats import Estimate, clustered_rate, rank
from headlab.stats.intervals import bootstrap_means

YAML = """\
id: parity-even
words: Even heads of layer 10 repair the decimal bug, odd heads do not.
source: arXiv 2508.19414
experiment: parity
layer: 10
pairs: 100
task: {clean: simple, corrupted: qa}
predictions:
  - {statistic: recovery even, op: ">", threshold: 0.5}
  - {statistic: recovery odd, op: "<", threshold: 0.2, words: odd heads do not}
  - {statistic: even among matched, op: "rank<", threshold: 0.05}
controls: [no-op, patch all]
"""
TOML = """\
id = "parity-even"
words = "Even heads of layer 10 repair the decimal bug, odd heads do not."
source = "arXiv 2508.19414"
experiment = "parity"
layer = 10
pairs = 100
controls = ["no-op", "patch all"]

[task]
clean = "simple"
corrupted = "qa"

[[predictions]]
statistic = "recovery even"
op = ">"
threshold = 0.5

[[predictions]]
statistic = "recovery odd"
op = "<"
threshold = 0.2
words = "odd heads do not"

[[predictions]]
statistic = "even among matched"
op = "rank<"
threshold = 0.05
"""


def claim() -> Claim:
    return Claim.from_text(YAML, ".yaml", "claim.yaml")


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, n=100, unit="pairs", method="bootstrap", seed=3)


def findings(**changes: Any) -> dict[str, Any]:
    """What upholds the claim: 1 of 99 sampled sets at least as extreme would not; none of 999 does."""
    own = {
        "recovery even": estimate(0.9, 0.8, 0.95),
        "recovery odd": estimate(0.05, 0.0, 0.1),
        "even among matched": rank(0.9, [0.1] * 999, enumerated=False),
    }
    return {**own, **{k.replace("_", " "): v for k, v in changes.items()}}


PASSED = (
    Control(name="no-op", kind="negative", passed=True, words="nothing changed", value=0.0),
    Control(name="patch all", kind="positive", passed=True, words="everything was repaired", value=1.0),
)


def red(law: Callable[..., None], *broken: Any) -> None:
    failed = False
    try:
        law(*broken)
    except AssertionError:
        failed = True
    assert failed, "the law still holds although the implementation was broken on purpose"


# -- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "upheld"),
        ({"recovery_even": estimate(0.4, 0.3, 0.46)}, "refuted"),
        ({"recovery_even": estimate(0.4, 0.3, 0.49)}, "undecided"),  # refuted alone, not among three
        ({"recovery_even": estimate(0.6, 0.45, 0.7)}, "undecided"),
        ({"recovery_even": estimate(0.6, 0.5, 0.7)}, "undecided"),  # touching the threshold is not beyond it
        ({"recovery_odd": estimate(0.3, 0.25, 0.4)}, "refuted"),
        ({"recovery_odd": estimate(0.2, 0.1, 0.3)}, "undecided"),
        ({"recovery_even": Estimate.undefined("pairs", 1, "too few rows")}, "untestable"),
        ({"recovery_even": None}, "untestable"),
        ({"even_among_matched": rank(0.1, [0.2] * 999, enumerated=False)}, "refuted"),
        ({"even_among_matched": rank(0.9, [0.1] * 9, enumerated=False)}, "untestable"),  # 10 sets cannot give p < .05
        # one refuted prediction refutes, whatever else is open
        ({"recovery_even": estimate(0.6, 0.4, 0.7), "recovery_odd": estimate(0.3, 0.25, 0.4)}, "refuted"),
        # untestable outranks undecided
        ({"recovery_even": estimate(0.6, 0.4, 0.7), "recovery_odd": None}, "untestable"),
    ],
)
def test_the_rule(changes: dict[str, Any], outcome: str) -> None:
    given = {k: v for k, v in findings(**changes).items() if v is not None}
    verdict = decide(claim(), given, PASSED)
    assert verdict.outcome == outcome
    assert verdict.sentence.startswith(outcome.capitalize() + ": ")
    assert verdict == decide(claim(), given, PASSED)


def test_what_cannot_be_decided_blames_what_was_measured() -> None:
    """The model is no reason where too few sets were drawn; nor where a number is undefined, or was not measured."""
    few = decide(claim(), findings(even_among_matched=rank(0.9, [0.1] * 9, enumerated=False)), PASSED)
    assert "what was measured cannot decide whether" in few.sentence
    assert "the least p that so many can give is 0.1)" in few.sentence
    assert "the least p" not in decide(claim(), findings(), PASSED).sentence


def many(n: int) -> Claim:
    asked = [{"statistic": f"s{i}", "op": ">", "threshold": 0.5} for i in range(n)]
    return claim().model_copy(update={"predictions": tuple(Prediction.model_validate(p) for p in asked)})


def test_refutation_is_adjusted_for_the_number_of_predictions() -> None:
    """z of the threshold: 2.1 refutes alone (1.96) and not among six (2.64); 2.7 does, and then 2.6 of the five left."""
    at = {z: estimate(0.5 - 0.1 * z, 0.5 - 0.1 * z - 0.196, 0.5 - 0.1 * z + 0.196) for z in (2.1, 2.6, 2.7, -3)}
    assert decide(many(1), {"s0": at[2.1]}, PASSED).outcome == "refuted"
    six = {f"s{i}": at[-3] for i in range(6)}
    one = decide(many(6), six | {"s0": at[2.1]}, PASSED)
    assert one.outcome == "undecided" and one.refutes_at == 0.025
    assert "refuted alone, not at 0.0042 for 6 predictions" in one.sentence
    two = decide(many(6), six | {"s0": at[2.7], "s1": at[2.6], "s2": at[2.1]}, PASSED)
    assert [r.outcome for r in two.rulings[:3]] == ["refuted", "refuted", "undecided"] and two.outcome == "refuted"


def test_six_predictions_at_their_thresholds_are_refuted_far_less_often() -> None:
    """Any of six 95 % intervals refutes 17 % of claims that hold just so (14 % were the intervals exact); with Holm 4.0 %
    over 80 normal rows, 5.6 % over skewed ones (500 trials, 2,000 draws; bootstraps of 80 rows are a little narrow)."""
    rng, sims = np.random.default_rng(6), 120
    asked, falls, raw = many(6), {"normal": 0, "skewed": 0, "rates": 0}, 0
    for i in range(sims):
        rows = {"normal": rng.normal(0.5, 1, (80, 6)), "skewed": rng.gamma(4, 0.125, (80, 6))}
        for kind, x in rows.items():
            found = bootstrap_means(x, unit="pairs", seed=i, draws=1000)
            falls[kind] += decide(asked, {f"s{j}": e for j, e in enumerate(found)}, PASSED).outcome == "refuted"
            raw += any(e.above(0.5) == "no" for e in found)
        hits = rng.random((40, 6)).repeat(2, 0) < 0.5
        rates = {f"s{j}": clustered_rate(x, np.arange(80) // 2, unit="pairs") for j, x in enumerate(hits.T)}
        falls["rates"] += decide(asked, rates, PASSED).outcome == "refuted"
    assert all(n / sims <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / sims) for n in falls.values()), falls
    assert raw / (2 * sims) > 0.11


def test_what_is_withheld_is_never_upheld_and_may_be_refuted() -> None:
    verdict = decide(claim(), findings(), PASSED, withheld="its references are false for any model")
    assert verdict.outcome == "undecided" and "false for any model" in verdict.sentence
    against = findings(recovery_even=estimate(0.4, 0.1, 0.45))
    assert decide(claim(), against, PASSED, withheld="its references are false").outcome == "refuted"


def test_what_could_not_have_mattered_is_untestable_unless_refuted() -> None:
    verdict = decide(claim(), findings(), PASSED, idle="all can be cut at no cost")
    assert (
        verdict.outcome == "untestable"
        and "at no cost" in verdict.sentence
        and "cutting everything" in verdict.would_change
    )
    against = findings(recovery_even=estimate(0.4, 0.1, 0.45))
    assert decide(claim(), against, PASSED, idle="all can be cut at no cost").outcome == "refuted"


def test_what_was_short_is_what_is_advised() -> None:
    few = decide(
        claim(),
        findings(),
        PASSED,
        ineligible="the model is not eligible: eligibility needs at least 100 pairs, given 60",
    )
    assert "At least 100 pairs" in few.would_change and "model" not in few.would_change.lower()
    poor = decide(
        claim(), findings(), PASSED, ineligible="the model is not eligible: it answers only 60% of the clean prompts"
    )
    assert poor.would_change.startswith("A model that shows")


def test_a_model_that_is_not_eligible() -> None:
    verdict = decide(claim(), findings(), PASSED, ineligible="this model answers corrupted prompts too")
    assert verdict.outcome == "untestable" and "answers corrupted prompts too" in verdict.sentence


def test_a_rank_and_an_estimate_need_their_own_comparison() -> None:
    with pytest.raises(ClaimError, match="recovery even is a rank; its prediction must use 'rank<', not '>'"):
        decide(claim(), findings(recovery_even=rank(1, [0] * 99, enumerated=False)), PASSED)
    with pytest.raises(ClaimError, match="even among matched is an estimate; 'rank<' needs a rank in a null"):
        decide(claim(), findings(even_among_matched=estimate(0.9, 0.8, 1.0)), PASSED)


def test_what_would_change_the_verdict_names_side_and_bound() -> None:
    assert "recovery even wholly below 0.5" in decide(claim(), findings(), PASSED).would_change
    against = decide(claim(), findings(recovery_even=estimate(0.4, 0.3, 0.49)), PASSED).would_change
    assert "recovery even wholly above 0.5" in against and "recovery odd" not in against


# -- law 4: no verdict without controls ---------------------------------------------------------------------------------


def law_4(judge: Callable[..., Verdict]) -> None:
    """A control that failed, or was not run, voids whatever was found; a claim cannot be written without controls."""
    failed = PASSED[0].model_copy(update={"passed": False, "words": "writing nothing moved the logits by 0.3"})
    other = Control(name="of the runner's own", kind="negative", passed=False, words="it failed")
    against = findings(recovery_even=estimate(0.1, 0.0, 0.2))
    for found in (findings(), against, {}):
        for controls, words in (
            ((), "control 'no-op' was not run; control 'patch all' was not run"),
            (PASSED[:1], "control 'patch all' was not run"),
            ((failed, PASSED[1]), "control 'no-op' failed: writing nothing moved the logits by 0.3"),
        ):
            verdict = judge(claim(), found, controls)
            assert verdict.outcome == "void"
            assert words in verdict.sentence
            assert verdict.would_change == "Nothing can be said until every control passes."
    assert judge(claim(), findings(), (failed, PASSED[1]), ineligible="anyway").outcome == "void"
    assert judge(claim(), findings(), PASSED).outcome == "upheld"
    # one that the claim does not name is shown and binds nothing
    beside = judge(claim(), findings(), (*PASSED, other))
    assert beside.outcome == "upheld" and other in beside.controls


def test_law_4_no_verdict_without_controls() -> None:
    law_4(decide)


def test_law_4_mutants() -> None:
    """Mutate, see red: controls ignored; failures ignored; missing ones ignored; eligibility asked first."""

    def without(c: Claim, f: Any, controls: Any, **more: Any) -> Verdict:
        return decide(c.model_copy(update={"controls": ()}), f, [x for x in controls if x.passed], **more)

    def failures_ignored(c: Claim, f: Any, controls: Any, **more: Any) -> Verdict:
        return decide(c, f, [x.model_copy(update={"passed": True}) for x in controls], **more)

    def missing_ignored(c: Claim, f: Any, controls: Any, **more: Any) -> Verdict:
        named = tuple(x.name for x in controls)
        return decide(c.model_copy(update={"controls": named}), f, controls, **more)

    def eligibility_first(c: Claim, f: Any, controls: Any, *, ineligible: str = "") -> Verdict:
        return without(c, f, controls, ineligible=ineligible) if ineligible else decide(c, f, controls)

    for broken in (without, failures_ignored, missing_ignored, eligibility_first):
        red(law_4, broken)


def test_a_claim_without_controls_or_predictions_cannot_be_written() -> None:
    predictions = YAML[YAML.index("predictions") : YAML.index("controls")]
    for line, field in (("controls: [no-op, patch all]", "controls"), (predictions, "predictions")):
        with pytest.raises(ClaimError, match=f"{field}.*at least 1 item"):
            Claim.from_text(YAML.replace(line, f"{field}: []\n"), ".yaml", "c.yaml")


# -- law 5: a claim is hashed before the first forward pass ------------------------------------------------------------------


def law_5(digest: Callable[[Claim], str]) -> None:
    """The hash is of the content: not of the order of keys, the file's kind or the process, and of every field."""
    original = claim()
    lines = YAML.splitlines(keepends=True)
    turned = "".join([*lines[6:7], *lines[7:12], *reversed(lines[:6])])
    same = [
        Claim.from_text(TOML, ".toml", "c.toml"),
        Claim.from_text(
            turned.replace("{clean: simple, corrupted: qa}", "{corrupted: qa, clean: simple}"), ".yml", "c.yml"
        ),
        Claim.model_validate(original.model_dump()),
        Claim.model_validate(json.loads(original.model_dump_json())),
        original.model_copy(update={"seed": 0}),
    ]
    assert {digest(c) for c in same} == {digest(original)}

    changes: dict[str, Any] = {
        "id": "other", "words": "Odd heads do.", "source": "elsewhere", "published": "100 %", "experiment": "head-count",
        "options": {"dose": 0.5},
        "task": original.task.model_copy(update={"split": "all"}), "layer": 11, "layer_rule": "the last", "pairs": 101,
        "selection_pairs": 61, "predictions": original.predictions[::-1], "controls": original.controls[::-1],
        "matched_sets": 998, "subsets_per_size": 49, "pool": "even", "alpha": 0.01, "seed": 1,
        "readings": ("standard", "published"), "decide": "fixed",
    }  # fmt: skip
    assert set(changes) == set(Claim.model_fields), "a new field must be part of the hash"
    for name in type(original.task).model_fields:
        changed = original.task.model_copy(update={name: "something else"})
        changes[f"task.{name}"] = changed
    near = original.predictions[0].model_copy(update={"threshold": 0.5000001})
    changes["predictions.threshold"] = (near, *original.predictions[1:])
    digests = [digest(original.model_copy(update={name.split(".")[0]: value})) for name, value in changes.items()]
    assert len({*digests, digest(original)}) == len(digests) + 1


def test_law_5_a_claim_is_hashed() -> None:
    law_5(Claim.content_hash)


def test_law_5_mutants() -> None:
    """Mutate, see red: a hash of the text, of the words alone, of everything but the seed, rounded, or by identity."""
    red(law_5, lambda c: json.dumps(c.model_dump(mode="json"))[:200])
    red(law_5, lambda c: c.words)
    red(law_5, lambda c: c.model_copy(update={"seed": 0}).content_hash())
    red(law_5, lambda c: c.model_copy(update={"alpha": round(c.alpha)}).content_hash())
    red(law_5, lambda c: str(id(c)))


def test_law_5_the_hash_is_the_same_in_another_process() -> None:
    """And needs no torch: the claim is hashed before a model is loaded."""
    code = (
        "import sys; from headlab.claims import Claim\n"
        "print(Claim.from_text(sys.stdin.read(), '.yaml', 'c').content_hash())\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    source = str(Path(claims.__file__).parents[2])
    env = {"PYTHONPATH": source, "PYTHONHASHSEED": "7", "PATH": ""}
    out = subprocess.run([sys.executable, "-c", code], input=YAML, capture_output=True, text=True, env=env, check=True)
    assert out.stdout.strip() == claim().content_hash()
    assert len(claim().content_hash()) == 64


def test_a_claim_cannot_be_changed_after_it_was_hashed() -> None:
    one = claim()
    with pytest.raises(ValueError, match="frozen"):
        one.alpha = 0.5  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        one.predictions[0].threshold = 0.1


# -- law 6: a number is never alone -------------------------------------------------------------------------------------------


def law_6(judge: Callable[..., Verdict]) -> None:
    """Each ruling carries value, interval, n and unit (a rank: p, how many of how many), and so does the sentence.

    Method, level and seed stand on the estimate itself, which cannot be made without them.
    """
    verdict = judge(claim(), findings(), PASSED)
    even, odd, among = verdict.rulings
    assert (even.value, even.low, even.high) == (0.9, 0.8, 0.95)
    assert (odd.value, odd.low, odd.high) == (0.05, 0.0, 0.1)
    for part in ("0.90", "[0.80, 0.95]", "n = 100 pairs"):
        assert part in even.shown and part in verdict.sentence
    assert among.value == pytest.approx(1 / 1000) and among.low is not None and among.high is not None
    for part in ("p = 0.001", "[", "of 999 matched sets at least as extreme"):
        assert part in among.shown and part in verdict.sentence
    missing = judge(claim(), findings(recovery_even=Estimate.undefined("pairs", 1, "one pair only")), PASSED)
    assert missing.rulings[0].value is None and "n=1 pairs: one pair only" in missing.rulings[0].shown
    assert "bootstrap 95%, seed 3" in str(findings()["recovery even"])
    with pytest.raises(ValueError, match="needs value, low and high together"):
        Estimate(0.9, None, None, n=100, unit="pairs", method="bootstrap")


def test_law_6_a_number_is_never_alone() -> None:
    law_6(decide)


def test_law_6_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: a bare number in the text; n left out; an undefined value shown as 0; an interval lost."""
    shown = claims.verdict._shown
    for broken in (
        lambda f: shown(f) if not isinstance(f, Estimate) else f"{f.value:.2f}" if f.defined else shown(f),
        lambda f: shown(f).split(", n =")[0],
        lambda f: shown(f) if not isinstance(f, Estimate) or f.defined else "0.00",
    ):
        with monkeypatch.context() as m:
            m.setattr(claims.verdict, "_shown", broken)
            red(law_6, decide)

    def forgetful(*args: Any, **more: Any) -> Verdict:
        verdict = decide(*args, **more)
        bare = tuple(r.model_copy(update={"low": r.value, "high": r.value}) for r in verdict.rulings)
        return verdict.model_copy(update={"rulings": bare})

    red(law_6, forgetful)
    law_6(decide)


# -- reading claims -------------------------------------------------------------------------------------------------------------


def test_yaml_and_toml_say_the_same() -> None:
    assert claim() == Claim.from_text(TOML, ".toml", "c.toml")
    assert claim().predictions[2] == Prediction(statistic="even among matched", op="rank<", threshold=0.05)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pairs: 100", "pairs: many", "line 6: pairs: expected a whole number .given 'many'"),
        ("pairs: 100", "pairs: 1", "line 6: pairs: expected at least 2 .given 1"),
        ("layer: 10", "layr: 10", "line 5: layr: is not read; did you mean layer"),
        (
            "corrupted: qa}",
            "corrupted: qa, colour: red}",
            "line 7: task.colour: is not read; the keys here are .*corrupted, ",
        ),
        ('op: "<", threshold: 0.2', 'op: "<=", threshold: 0.2', "line 10: predictions.1.op: .*given '<='"),
        ("threshold: 0.2,", "threshold: low,", "line 10: predictions.1.threshold: .*given 'low'"),
        ("id: parity-even\n", "", "is not a claim: id is missing"),
        ("layer: 10", "layer: 10\nlayer: 11", "line 6: 'layer' stands twice"),
        (
            "experiment: parity",
            "experiment: Phrenology!",
            "line 4: experiment: expected a name of small letters, digits and -, a letter first .given 'Phrenology!'",
        ),
        ("controls: [no-op, patch all]", "controls: [no-op", "is not YAML"),
        (
            "controls: [no-op, patch all]",
            "controls: [no-op, patch all]\nalpha: 1.5",
            "line 13: alpha: expected less than 1.* .given 1.5",
        ),
        (
            "controls: [no-op, patch all]",
            "controls: [no-op]\nreadings: [standard, standard]",
            "line 13: readings: .*each once",
        ),
    ],
)
def test_a_malformed_yaml_claim_names_its_lines(old: str, new: str, words: str) -> None:
    assert old in YAML
    with pytest.raises(ClaimError, match="c.yaml.*" + words):
        Claim.from_text(YAML.replace(old, new), ".yaml", "c.yaml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pairs = 100", 'pairs = "many"', "line 6: pairs: expected a whole number"),
        ('clean = "simple"', 'clear = "simple"', "line 10: task.clear: is not read; did you mean clean"),
        ("threshold = 0.2", 'threshold = "low"', "line 21: predictions.1.threshold"),
        ("layer = 10", "layer = = 10", "is not TOML.*line 5"),
    ],
)
def test_a_malformed_toml_claim_names_its_lines(old: str, new: str, words: str) -> None:
    assert old in TOML
    with pytest.raises(ClaimError, match="c.toml.*" + words):
        Claim.from_text(TOML.replace(old, new), ".toml", "c.toml")


def test_what_is_no_claim_file(tmp_path: Path) -> None:
    with pytest.raises(ClaimError, match=r"no such claim file: .*expected a \.yaml or \.toml file"):
        Claim.from_file(tmp_path / "none.yaml")
    (tmp_path / "c.txt").write_text(YAML)
    with pytest.raises(ClaimError, match=r"expected a \.yaml or \.toml file, given \.txt"):
        Claim.from_file(tmp_path / "c.txt")
    (tmp_path / "c.yaml").write_text("- a\n- b\n")
    with pytest.raises(ClaimError, match="expected keys and values, given list"):
        Claim.from_file(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text(YAML)
    assert Claim.from_file(tmp_path / "c.yaml") == claim()


def test_what_cannot_be_measured_is_untestable_and_shows_no_controls() -> None:
    """Nothing was run, so no control may be shown as passed; a control that merely was not run still voids a trial."""
    from headlab.experiments import builtin_claims

    parity = builtin_claims()["parity"]
    verdict = decide(parity, {}, [], impossible="it cannot run: 64 channels do not divide into 12 slices")
    assert verdict.outcome == "untestable" and verdict.controls == () and "12 slices" in verdict.sentence
    assert decide(parity, {}, [], ineligible="no bug to repair").outcome == "void"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("threshold: 0.2,", "threshold: 050,", "c.yaml: line 10: '050' is read as a number"),
        ("layer: 10", "layer: 010", "c.yaml: line 5: '010' is read as a number"),
        ("pairs: 100", "pairs: 2:00", "c.yaml: line 6: '2:00' is read as a number"),
        ("threshold: 0.2,", "threshold: .nan,", "c.yaml: line 10: '.nan' is read as"),
        ("threshold: 0.2,", "threshold: 1.0e999,", "c.yaml: line 10: inf is no finite number"),
        ("pairs: 100", "pairs: &n 100", "c.yaml: line 6: an anchor or alias"),
        ("pairs: 100", "pairs: !!int 100", "c.yaml: line 6: the tag"),
        ("pairs: 100", "pairs: 100001", "line 6: pairs: expected at most 100000"),
    ],
)
def test_numbers_of_a_claim_are_what_they_look_like(old: str, new: str, words: str) -> None:
    """The whole list of guesses: tests/test_reading.py.  Looked for: layers, sizes, thresholds; YAML, TOML, Python."""
    assert old in YAML
    with pytest.raises(ClaimError, match=words):
        Claim.from_text(YAML.replace(old, new), ".yaml", "c.yaml")


def test_a_number_that_is_none_is_refused_in_toml_and_python_too() -> None:
    for word in ("nan", "inf", "-inf"):
        with pytest.raises(ClaimError, match=f"line 21: {word} is no finite number"):
            Claim.from_text(TOML.replace("threshold = 0.2", f"threshold = {word}"), ".toml", "c.toml")
        with pytest.raises(ValueError, match="finite"):
            Prediction(statistic="x", op=">", threshold=float(word))
    for options in ({"dose": float("nan")}, {"list": [1, [float("inf")]]}, {"x": {1: 2}}, {"when": object()}):
        with pytest.raises(ValueError, match=r"finite|plain value|string"):
            Claim.model_validate({**claim().model_dump(), "options": options})


def test_a_wrong_type_is_told_once_and_many_problems_are_counted() -> None:
    with pytest.raises(ClaimError) as refused:
        Claim.from_text(YAML.replace("threshold: 0.2,", "threshold: low,"), ".yaml", "c.yaml")
    said = str(refused.value)
    expected = "expected a number or a list (given 'low')"
    assert said == f"c.yaml is not a claim: line 10: predictions.1.threshold: {expected}"
    with pytest.raises(ClaimError) as refused:
        Claim.from_text(YAML.replace("layer: 10", "layer: ten"), ".yaml", "c.yaml")
    assert "layer: expected a whole number or 'auto' (given 'ten')" in str(refused.value)
    many = YAML + "".join(f"colour{n}: red\n" for n in range(4000))
    with pytest.raises(ClaimError, match=r"and 3997 more$") as refused:
        Claim.from_text(many, ".yaml", "c.yaml")
    assert len(str(refused.value)) < 500


def test_claim_files_of_other_encodings(tmp_path: Path) -> None:
    for name, text in (("c.yaml", YAML), ("c.toml", TOML)):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert Claim.from_file(tmp_path / name) == claim()
        (tmp_path / name).write_bytes(text.replace("Even", "Évén", 1).encode("latin-1"))
        with pytest.raises(ClaimError, match=f"{name}, line .: not UTF-8 .*; save the file as UTF-8"):
            Claim.from_file(tmp_path / name)


def test_numpys_booleans_and_numbers_are_taken_in_a_control() -> None:
    import numpy as np

    made = Control(name="a", kind="negative", passed=np.bool_(True), words="w", value=np.float32(0.5))  # type: ignore[arg-type]
    assert made.passed is True and made.value == 0.5 and type(made.value) is float
    with pytest.raises(ValueError, match="valid boolean"):
        Control(name="a", kind="negative", passed=np.int64(1), words="w")  # type: ignore[arg-type]
