"""The schemas that ship are those of the readers, and refuse nothing that these read.

Looked for: every shipped claim, every YAML block of docs/claims.md, 200 changed documents (a value for another of the same
corpus, a field left out, a field of another document; 16,000 once, seeds 15 to 18), every malformed document of
``test_malformed_documents``, records of each status and of both layouts.  A schema whose writes lack ``zero`` fails here.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from test_malformed_documents import CASES, GOOD
from typer.testing import CliRunner

from headlab.claims import Claim, ClaimError, Control, Verdict, read_text
from headlab.cli import app
from headlab.stats import Estimate
from headlab.store import NamedEstimate, Reading, Store, StoreError
from headlab.store.records import Record
from headlab.trials import registry, schema

PAGE = Path(__file__).resolve().parents[2] / "docs" / "claims.md"
TASKS, STATISTICS = {"no task 'decimal'", "no option 'celan'"}, {"only ranks", "needs where", "low < high"}
OF_THE_WHOLE = {"sets", "keys belong", "query role", "needs a direction", "expected other", "no field 'grader'"}
OF_THE_WHOLE |= {"needs reference", "is a family", "edit: corrupted", "share of a lead", "has doses", "needs a dose"}
OF_THE_WHOLE |= {"needs a world over", "needs a world over a family", "made from itself", "tail belongs to ranks"}
OF_THE_WHOLE |= {"chosen_on", "only_because"}
DECLARED = re.compile(r"no (set|score|world|cell|readout)\b(?!.*margni)|no score")


def validator(name: str) -> Draft202012Validator:
    found = json.loads(schema.shipped(name))
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


CLAIM = validator("claim")


def shipped() -> Iterator[tuple[str, Any]]:
    for room, folder in (("experiments", "claims"), ("trials", "library")):
        for file in sorted((files("headlab") / room / folder).iterdir(), key=lambda f: f.name):
            if file.name.endswith(".yaml"):
                yield file.name, read_text(file.read_text("utf-8"), ".yaml", file.name)[0]


@pytest.mark.parametrize("name", schema.NAMES)
def test_what_ships_is_what_the_readers_say_now(name: str) -> None:
    wanted = schema.text(schema.made(name))
    assert schema.shipped(name) == wanted, "python -m headlab.trials.schema writes it anew"
    said = CliRunner().invoke(app, ["schema", name])
    assert said.exit_code == 0 and said.output == wanted


def test_every_claim_that_ships_is_one() -> None:
    found = dict(shipped())
    blocks = [b for b in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.S) if re.search("^id:", b, re.M)]
    found |= {f"claims.md {n}": yaml.safe_load(b) for n, b in enumerate(blocks)}
    wrong = {name: e.message[:200] for name, data in found.items() for e in CLAIM.iter_errors(data)}
    assert not wrong and len(found) >= 70
    kept = [d.plain() for d in registry.library().values()]
    assert all(CLAIM.is_valid(d) for d in kept), "as records keep them"


def test_a_schema_refuses_nothing_that_is_read() -> None:
    """Both must happen often: read and valid, refused and invalid."""
    rng, all_of_them = random.Random(14), [d for _, d in shipped()]
    values = [(k, v) for d in all_of_them for part in _mappings(d) for k, v in part.items()]
    counts = {True: 0, False: 0}
    for _ in range(200):
        data = copy.deepcopy(rng.choice(all_of_them))
        part = rng.choice(list(_mappings(data)))
        key = rng.choice(list(part) or ["id"])
        if rng.random() < 0.2:
            part.pop(key, None)
        elif rng.random() < 0.5:
            part[key] = copy.deepcopy(rng.choice([v for k, v in values if k == key] or [1]))
        else:
            key, value = rng.choice(values)
            part[key] = copy.deepcopy(value)
        try:
            registry.from_data(data, "changed", {})
        except ClaimError:
            counts[False] += not CLAIM.is_valid(data)
        else:
            counts[True] += 1
            assert CLAIM.is_valid(data), f"{key}: {next(CLAIM.iter_errors(data)).message[:300]}"
    assert min(counts.values()) > 30, counts


def _mappings(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict):
        yield data
    for inner in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _mappings(inner)


@pytest.mark.parametrize(("data", "said"), CASES, ids=[said for _, said in CASES])
def test_what_a_schema_can_tell_of_a_malformed_document_it_tells(data: dict[str, Any], said: str) -> None:
    """It cannot tell what one field asks of another, nor which tasks are installed."""
    beyond = said in TASKS | STATISTICS | OF_THE_WHOLE or DECLARED.match(said)
    told = not CLAIM.is_valid(data)
    assert told or beyond, said


def test_it_tells_of_more_than_a_third() -> None:
    assert CLAIM.is_valid(GOOD)
    assert sum(not CLAIM.is_valid(data) for data, _ in CASES) >= len(CASES) / 3


def test_entries_of_the_docket() -> None:
    own = next(d for n, d in shipped() if n == "parity.yaml")
    for wrong in (
        {"pairs": 1},
        {"alpha": 2},
        {"experiment": 3},
        {"controls": []},
        {"wrods": "x"},
        {"readings": ["mine"]},
    ):
        data = {**own, **wrong}
        assert not CLAIM.is_valid(data)
        with pytest.raises(ClaimError):
            Claim.from_data(data, "mine", {})


def test_records(store: Path) -> None:
    found, home = validator("record"), Store(store)
    one = Estimate(0.5, 0.4, 0.6, n=100, unit="pairs", method="bootstrap", seed=3)
    control = Control(name="no-op", kind="negative", passed=True, words="nothing changed", value=0.0)
    verdict = Verdict(outcome="void", sentence="s", rulings=(), controls=(control,), would_change="")
    reading = Reading(
        protocol="standard",
        words="w",
        verdict=verdict,
        estimates=(NamedEstimate(name="a", label="a", estimate=one.to_dict()),),
    )
    with home.open(kind="trial", slug="parity", title="t", inputs={"n": 1}, draft={}) as run:
        begun = json.loads((store / run.id / "record.json").read_text())
        run.finish(readings=[reading])
    data = json.loads((store / run.id / "record.json").read_text())
    for kept in (begun, data, {k: v for k, v in {**data, "schema_version": 1}.items() if k != "digest"}):
        assert not list(found.iter_errors(kept))
    for wrong in ({"status": "done"}, {"readings": [{}]}, {"schema_version": 99}, {"more": 1}, {"tables": {"a": {}}}):
        assert not found.is_valid({**data, **wrong})
        with pytest.raises(StoreError):
            Record.from_json(json.dumps({**data, **wrong}))
