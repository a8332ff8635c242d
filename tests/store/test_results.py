"""What a trial in Python hands back: its report beside the record, a light card, and the same again from the store.

Looked for beside the trial: a run that is handed on, a store that holds its runs (the command line writes the report), a report
that cannot be written, hostile words in the card.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import headlab
from headlab.claims import Control, Prediction, Ruling, Verdict
from headlab.store import Result, Store, StoreError, StoreLookupError

SMALL = {"layer": 1, "pairs": 6, "matched_sets": 9}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    root = tmp_path_factory.mktemp("here") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADLAB_PAGES", "1")
        return headlab.trial("parity", "decimals-planted-even", store=root, **SMALL), root  # type: ignore[arg-type]


def test_a_trial_writes_its_report_and_the_store_gives_it_back(
    tried: tuple[Result, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, root = tried
    monkeypatch.chdir(root.parent)
    store, id = Store(root), result.record.id
    assert result.page == store.page(id) == root / id / "report.html" and not [
        f for f in store.verify(id) if f.state == "broken"
    ]
    again = store.load(id[:-1])
    assert again.record == result.record and again.page == result.page and set(again.tables) == set(result.tables)
    assert again.effects.equals(store.table(id, "effects")) and again.verdict == result.verdict
    with pytest.raises(StoreLookupError, match="no run 'parity-nothing'"):
        store.load("parity-nothing")
    card = again._repr_html_()
    assert len(card.encode()) <= 30_000 and f'href="runs/{id}/report.html"' in card
    assert result.verdict is not None and result.verdict.outcome in card and "controls passed" in card
    (root / id / "report.html").unlink()
    assert "--html report.html" in store.load(id)._repr_html_()


def test_whoever_holds_the_store_writes_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADLAB_PAGES", "1")
    held = Store(tmp_path, hold=True)
    first = headlab.trial("parity", "decimals-planted-even", store=held, **SMALL)  # type: ignore[arg-type]
    assert first.page is None and held.page(first.record.id) is None

    def full(*_: object) -> Path:
        raise StoreError("no room")

    monkeypatch.setattr(Store, "keep_page", full)
    handed = headlab.trial("parity", "decimals-planted-even", store=Store(tmp_path), **SMALL)  # type: ignore[arg-type]
    assert handed.record.id == first.record.id and handed.page is None, "the run stands whether or not a report does"


def test_a_card_is_light_and_shows_hostile_words_as_text(tried: tuple[Result, Path]) -> None:
    result, _ = tried
    bad = "<script>alert(1)</script>" * 400
    asked = Prediction(statistic="repair:even", op=">", threshold=0.5, words=bad)
    ruling = Ruling(prediction=asked, outcome="upheld", shown=bad, value=None, low=None, high=None)
    controls = tuple(Control(name=bad, kind="positive", passed=False, words=bad) for _ in range(50))
    verdict = Verdict(outcome="void", sentence=bad, rulings=(ruling,) * 90, controls=controls, would_change=bad)
    reading = result.record.readings[0].model_copy(update={"verdict": verdict})
    record = result.record.model_copy(update={"title": bad, "readings": [reading]})
    card = Result(record, {}, page=Path(f"/{bad}"))._repr_html_()
    assert len(card.encode()) <= 30_000 and "<script" not in card and "and 78 more" in card
    assert card.count(">measured, not ruled<") == 12 and ">upheld<" not in card, (
        "what a void trial measured upholds nothing"
    )
