"""A stranger's own prompts on the bench: whatever of them can be looked at can be, and what cannot be decided is said before.

Tried as a newcomer types them; looked for: prompts alone with and without a wrong answer, pairs of different length, one pair to
look at, fewer than asked for, the same prompts parted anew, a text of one's own (a sealed one, too), a trial too small to decide
anything, a page that comes back while a trial runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from headlab.heads import Head
from headlab.looking import heatmap, read
from headlab.prompts import PromptError, prompts_of
from headlab.trials.document import Document
from headlab.view import drafts
from headlab.view.asked import Asked
from headlab.view.bench import Bench, direct, edit, grid, opened, pattern
from headlab.view.looks import Looks

MODEL = "decimals-natural"
SAID = [(f"{a}.9 or {a}.1{b}? Answer:", f"{a}.9", f"{a}.1{b}") for a in range(1, 9) for b in range(1, 4)]
KINDS = {
    "alone": "clean,answer\n" + "".join(f"{c},{r}\n" for c, r, _ in SAID),
    "alone, with a wrong answer": "clean,answer,wrong\n" + "".join(f"{c},{r},{w}\n" for c, r, w in SAID),
    "of different length": "clean,corrupted,answer,wrong\n"
    + "".join(f"{c},Q: Which is bigger: {c},{r},{w}\n" for c, r, w in SAID),
}


def bench_of(folder: Path, text: str, looks: dict[tuple[str, str], Looks] | None = None, seed: int = 0) -> Bench:
    return opened(Asked(MODEL, text=text, pairs=12, looked_at=6, seed=seed), folder, {} if looks is None else looks)


@pytest.mark.parametrize("kind", KINDS)
def test_every_look_that_is_offered_is_given_and_its_claim_can_be_read(kind: str, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, KINDS[kind])
    state = bench.plain()
    for name in [state["effects"][0], state["effects"][-1], *state["direct"], "previous"]:
        assert len(grid(bench, name)["rows"]) == 48
    found = edit(bench, [Head(1, 3)], bench.write)
    if kind == "alone":
        assert found["unit"] == "nats" and found["right"] is None and not state["direct"]
        assert "give pairs with a wrong one" in direct(bench, Head(1, 3))["why"]
    else:
        assert found["unit"] == "logits" and len(found["right"]) == 2
    made = Document.from_text(drafts.draft(bench)["yaml"])
    assert next(iter(made.readouts.values()))["kind"] == ("logprob" if kind == "alone" else "margin")
    assert (made.align == "end") == ("patch" in bench.writes) == (kind == "of different length")
    if made.align == "end":
        plain = heatmap(bench.lab, bench.selection, "patch", align="end").table["value"]
        assert [r["value"] for r in bench.grids["patch"]["rows"]] == plain.tolist()
        assert "from the end" in bench.parted


def test_what_was_looked_at_is_sealed_on_no_other_bench(tmp_path: Path) -> None:
    """The same prompts parted by another seed: those that were looked at are no test prompts, and the page says so."""
    looks: dict[tuple[str, str], Looks] = {}
    first = bench_of(tmp_path, KINDS["alone"], looks)
    assert not first.seen and bench_of(tmp_path, KINDS["alone"], looks, seed=1).seen == 0  # nobody has looked yet
    grid(first, "previous")
    again = bench_of(tmp_path, KINDS["alone"], looks, seed=1)
    assert again.seen and f"{again.seen} that were looked at" in again.parted
    known = {prompts_of(p)[0] for p in first.selection}
    assert not known & {prompts_of(p)[0] for p in again.test}


def test_a_text_of_one_s_own_is_read_unless_it_is_sealed(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, KINDS["alone"])
    found = pattern(bench, Head(1, 3), 0, "clean", text="7.9 or 7.25? Answer:")
    seen = read(bench.lab, "7.9 or 7.25? Answer:")
    assert (
        found["tokens"] == list(seen.tokens) and [r["token"] for r in found["next"]] == seen.next(3)["token"].tolist()
    )
    assert found["weights"][-1] == [round(float(w), 4) for w in seen["pattern", 1][-1, 3]]
    with pytest.raises(PromptError, match="sealed"):
        pattern(bench, Head(1, 3), 0, "clean", text=bench.test[0].clean.text)
    assert bench.looks.patterns == 1


def test_a_trial_that_could_decide_nothing_is_said_before_its_prompts_are_opened(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, KINDS["of different length"])
    drafts.choose(bench, {"heads": "L1H3", "write": "patch"})
    made = drafts.draft(bench)
    assert any("100" in fault for fault in made["faults"])
    assert "eligibility" in drafts.register(bench, made["yaml"], tmp_path / "store", anyway=False)["ask"]
    assert not bench.looks.begun and not (tmp_path / "store").exists()
    assert any(f"between the {len(bench.test)} prompts" in line for line in made["says"]["can be seen"])
    fewer = opened(Asked(MODEL, text=KINDS["of different length"]), tmp_path, {})  # than the 260 that are asked for
    drafts.choose(fewer, {"heads": "L1H3", "write": "patch"})
    assert any(f"between the {len(fewer.test)} prompts" in s for s in drafts.draft(fewer)["says"]["can be seen"])


def test_one_pair_to_look_at_has_a_number_and_no_interval(tmp_path: Path) -> None:
    lines = KINDS["of different length"].splitlines(keepends=True)
    bench = bench_of(tmp_path, "".join([lines[0], *lines[1::3][:5]]))
    assert len(bench.selection) == 1 and "there are 5" in bench.parted
    rows, found = grid(bench, "zero")["rows"], edit(bench, [Head(1, 3)], "zero")
    assert all(r["low"] is None for r in rows) and found["mean"]["low"] is None
    assert found["mean"]["value"] == pytest.approx(
        next(r["value"] for r in rows if (r["layer"], r["head"]) == (1, 3)), abs=1e-4
    )
