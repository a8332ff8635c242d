"""A trial runs no unedited prompt twice, and its tables are bit for bit those of one that does.

The laws: the tables of a document and of docket entries with what is kept off, filling, hit by a second trial of the same
Lab, without room for anything, and after Ctrl-C in the middle of the second sweep.  Looked for of the kind "a trial gives
other numbers because another one ran before it": the same claim again, another claim on the same prompts, a broken-off run.
Broken on purpose: a key without the prompts' tokens, and a copy of a Lab that takes what its original kept.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from sizes import DECIMALS, small

from headlab.claims import Claim
from headlab.engine.model import Lab
from headlab.engine.recall import recall
from headlab.experiments.trial import trial
from headlab.trials import recorded
from headlab.trials.loading import load
from headlab.trials.subject import Language


def claim(n: int = 12) -> dict[str, Any]:
    return {
        "id": "three-heads",
        "words": "These heads carry the format.",
        "source": "planted",
        "chosen_on": "other",
        "task": {"name": "decimals"},
        "edit": "corrupted",
        "pairs": 24,
        "eligible": {"pairs": 20},
        "decide": "fixed",
        "sets": {"named": "L1H0 L1H2 L1H4"},
        "worlds": {"named": {"heads": "named", "write": "patch"}},
        "reference": {"redraw": "named", "n": n},
        "predictions": [{"statistic": "rank:recovery:named", "op": "rank<", "threshold": 0.2}],
    }


def equal(a: Any, b: Any) -> None:
    """The same tables, estimates and verdicts, to the last bit."""
    assert a.tables.keys() == b.tables.keys()
    for name, table in a.tables.items():
        assert table.equals(b.tables[name]), name
    assert [r.model_dump() for r in a.record.readings] == [r.model_dump() for r in b.record.readings]


def compared(what: Any, lab: Lab, folder: Path, patch: pytest.MonkeyPatch) -> Any:
    """The trial without anything kept, with it, and again where everything is there; its passes by then."""
    with patch.context() as off:
        off.setattr(recorded, "recalling", lambda *_, **__: nullcontext())
        plain = trial(what, lab, store=folder / "off")
    equal(trial(what, lab, store=folder / "filling"), plain)
    passes = recall(lab).passes
    equal(trial(what, lab, store=folder / "hit"), plain)
    return plain, recall(lab).passes - passes


def test_a_document_on_the_same_model_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = load("decimals-planted-even")
    plain, more = compared(claim(), lab, tmp_path, monkeypatch)
    assert more == 0, "the same prompts, unedited: nothing runs again"
    assert not recall(lab).open and recall(lab).bytes
    recall(lab).limit = 0
    equal(trial(claim(), lab, store=tmp_path / "no room"), plain)
    recall(lab).limit = 2**29
    real = Language.measure

    def interrupted(self: Language, worlds: Any, readouts: Any, what: str, **told: Any) -> Any:
        if what.startswith("alternatives"):
            raise KeyboardInterrupt
        return real(self, worlds, readouts, what, **told)

    with monkeypatch.context() as patch:
        patch.setattr(Language, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trial(claim(), lab, store=tmp_path / "broken")
    assert not recall(lab).open
    equal(trial(claim(), lab, store=tmp_path / "broken"), plain)
    before = recall(lab).passes
    trial(claim(9), lab, store=tmp_path / "another")
    assert recall(lab).passes == before, "another claim on the same prompts"


def tiny(slug: str) -> Claim:
    return small(slug, DECIMALS[slug], layer=1, readings=("standard", "published"))


@pytest.mark.accept
@pytest.mark.parametrize("slug", DECIMALS)
def test_every_entry_of_the_docket(slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(tiny(slug), load("decimals-planted-even"), tmp_path, monkeypatch)
