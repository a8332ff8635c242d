"""Law 1: a plan never changes a number, only the time.  With mutants that must turn it red."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from laws import close, red, table, worlds_for
from torch import Tensor

from headlab.engine import edits, reader, resume, run, work
from headlab.engine import plan as planning
from headlab.engine.model import ABILITIES, Lab
from headlab.engine.run import sweep
from headlab.heads import Heads
from headlab.interventions import Intervention, World

EVERY_PLAN = ("llama", "gemma2")  # GQA through sdpa; windows and soft-caps through eager mathematics
FEW = ("baseline", "z", "z half", "noise", "v", "two")
SOME = (
    ("can_skip",),
    ("can_skip", "can_resume"),
    ("can_skip", "can_resume", "can_reuse"),
    ("can_narrow",),
    ("can_skip", "can_resume", "can_end"),
)
"""Steps that are tried without the others."""


@contextmanager
def only(lab: Lab, *flags: str) -> Iterator[None]:
    """The steps that save work, cut down to these."""
    before = {f: getattr(lab, f) for f in ABILITIES}
    try:
        for f in ABILITIES:
            setattr(lab, f, before[f] and f in flags)
        yield
    finally:
        for f in ABILITIES:
            setattr(lab, f, before[f])


@contextmanager
def constant(name: str, value: int) -> Iterator[None]:
    before = getattr(planning, name)
    setattr(planning, name, value)
    try:
        yield
    finally:
        setattr(planning, name, before)


def tight(lab: Lab, pairs: Any, worlds: Any, **more: Any) -> int:
    """A memory bound that holds a plan, while half of it does not."""
    bound = 1000
    while True:
        try:
            run.plan_of(lab, pairs, worlds, tokens=None, memory=bound, **more)
            return bound
        except ValueError:
            bound = bound * 5 // 4


def law_1(lab: Lab, names: tuple[str, ...] = ()) -> None:
    """Batch size, memory bound, order of pairs and worlds, every step that saves work on or off: the same table.

    ``names``: these worlds (a mutant shows on a few).
    """
    pairs, worlds = tiny.mixed_pairs(), [w for w in worlds_for(lab) if not names or w.name in names]
    with only(lab):
        wanted = table(lab, pairs, worlds, tokens=37)
    changed = wanted.unstack().sub(wanted.unstack()["baseline"], axis=0).abs().max()
    assert (changed.drop("baseline") > 1e-3).all(), "every world must move some number"
    shuffled, mixed = pairs.copy(), worlds.copy()
    random.Random(1).shuffle(shuffled)
    random.Random(2).shuffle(mixed)
    close(lab, table(lab, pairs, worlds), wanted)
    with constant("MANY", 1):  # every linear world from deltas
        close(lab, table(lab, pairs, worlds), wanted)
        close(lab, table(lab, pairs, worlds, tokens=1), wanted)
        close(lab, table(lab, shuffled, mixed, tokens=50), wanted)
        with constant("FIXED_BYTES", 0):
            close(lab, table(lab, pairs, worlds, memory=tight(lab, pairs, worlds)), wanted)
        with constant("BLOCK_BYTES", 1):  # a block for each pair, and no room for deltas
            close(lab, table(lab, pairs, worlds), wanted)
    for flags in SOME:
        with only(lab, *flags):
            close(lab, table(lab, pairs, worlds), wanted)


@pytest.mark.parametrize("family", EVERY_PLAN)
def test_a_plan_never_changes_a_number(family: str) -> None:
    law_1(tiny.lab(family))


@pytest.mark.accept
@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if f not in EVERY_PLAN])
def test_in_every_family(family: str) -> None:
    law_1(tiny.lab(family))


@pytest.mark.parametrize(
    "layers",
    [("linear", "full", "linear", "full"), pytest.param(("full", "linear", "full", "full"), marks=pytest.mark.accept)],
)
def test_a_hybrid_with_linear_layers_after_the_edit_reuses_no_positions(layers: tuple[str, ...]) -> None:
    """A linear layer carries a state along the prompt that no cache of keys and values restores."""
    sizes = tiny.FAMILIES["qwen3_next"] | {
        "num_hidden_layers": 4,
        "layer_types": [f"{kind}_attention" for kind in layers],
    }
    lab = tiny.proved(tiny.hf_model("qwen3_next", sizes))
    assert not lab.can_reuse
    law_1(lab, ("baseline", "z", "z half", "two"))


def equal_worlds(lab: Lab) -> list[World]:
    return [
        World("a", (tiny.edit(lab, 1, "z", (0, 3)),)),
        World("b", (Intervention(Heads.of(1, [3, 0])),)),
        World("c", (tiny.edit(lab, 1, "z", (0, 2)),)),
        World("d"),
        World("e"),
    ]


def test_equal_worlds_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds that differ in name alone have one row of the plan, and every one of them its rows in the table."""
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    worlds = equal_worlds(lab)
    plan = run.plan_of(lab, pairs, worlds, tokens=None, memory=None)
    assert dict(plan.same) == {1: 0, 4: 3} and plan.rows == 3 * len(pairs)
    ran: list[int] = []
    batch = work.Worker._batch
    monkeypatch.setattr(
        work.Worker, "_batch", lambda self, shard, rows, start: ran.append(len(rows)) or batch(self, shard, rows, start)
    )
    found = sweep(lab, pairs, worlds).pivot(index="pair", columns="world", values="edited")
    assert sum(ran) == 3 * len(pairs)
    assert found["a"].equals(found["b"]) and found["d"].equals(found["e"]) and not found["a"].equals(found["c"])


def test_rows_begin_where_an_edit_can_first_change_something() -> None:
    """Equal first tokens of clean and corrupted prompt, and of all prompts for a mean, are not run again; a no-op is."""
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs(6)  # the first two tokens agree within a pair, no further
    for write, site, first in (
        ("patch", "z", 2),
        ("noop", "z", 0),
        ("mean", "z", 0),
        ("zero", "q", 0),
        ("patch", "pattern", 2),
    ):
        plan = run.plan_of(lab, pairs, [World("w", (tiny.edit(lab, 1, site, write=write),))], tokens=None, memory=None)
        assert {c.start for s in plan.shards for c in s.cuts} == {first}, (write, site)
    last = run.plan_of(lab, pairs, [World("w", (tiny.edit(lab, 2, "z"),))], tokens=None, memory=None)
    assert {c.start for s in last.shards for c in s.cuts} == {10}, "in the last layer only the last position matters"
    same = [replace(p, corrupted=replace(p.corrupted, ids=(7, 7, 7, *p.corrupted.ids[3:]))) for p in pairs]
    mean = run.plan_of(lab, same, [World("w", (tiny.edit(lab, 1, "z", write="mean"),))], tokens=None, memory=None)
    assert {c.start for s in mean.shards for c in s.cuts} == {3}


class Kept:
    """Shards in memory."""

    def __init__(self) -> None:
        self.shards: dict[str, pd.DataFrame] = {}
        self.computed: list[str] = []
        self.warnings: list[str] = []

    def stored(self, name: str) -> pd.DataFrame | None:
        return self.shards.get(name)

    def store(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        assert name not in self.shards
        self.computed.append(name)
        self.shards[name] = frame
        return frame

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_stored_shards_are_the_same_rows() -> None:
    """An interrupted sweep that reads half its shards back ends in the same table, bit for bit."""
    lab, pairs = tiny.lab("gpt2"), tiny.mixed_pairs()
    worlds = [w for w in worlds_for(lab) if w.name in (*FEW, "resample")]
    kept = Kept()
    whole = sweep(lab, pairs, worlds, keep=kept)
    names = list(kept.shards)
    for name in names[::2]:
        del kept.shards[name]
    kept.computed.clear()
    pd.testing.assert_frame_equal(sweep(lab, pairs, worlds, keep=kept), whole, check_exact=True)
    assert kept.computed == names[::2]


def test_memory_that_runs_out_halves_the_batch_and_the_sweep_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table to law 1's tolerance, the shard named in the table and in the record; other errors are not caught."""
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs(6)
    worlds = [World(f"w{h}", (tiny.edit(lab, 1, "z", (h,)),)) for h in range(9)]
    wanted = sweep(lab, pairs, worlds)
    resumed, tried = work.resume, []

    def small(*args: Any, **kwargs: Any) -> Any:
        tried.append(len(args[3]))
        if len(args[3]) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return resumed(*args, **kwargs)

    monkeypatch.setattr(work, "resume", small)
    kept = Kept()
    found = sweep(lab, pairs, worlds, keep=kept)
    assert tried == [54, 27, 14, 13, 14, 13], "halved until it fits, and no later batch of the shard is larger"
    close(lab, found["edited"], wanted["edited"])
    assert found.attrs["halved"] == list(kept.shards) and "not bit for bit" in kept.warnings[0]
    assert "halved" not in wanted.attrs

    monkeypatch.setattr(
        work, "resume", lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    )
    with pytest.raises(run.EngineError, match="one row of 11 tokens does not fit in the memory of cpu"):
        sweep(lab, pairs, worlds)
    monkeypatch.setattr(work, "resume", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        sweep(lab, pairs, worlds)


def test_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: a batch that uses its first row's heads for all rows; what enters a layer, or the cached keys,
    of a neighbouring pair; a pass that starts one position late; deltas in the wrong order of heads; noise seeded by
    place in the batch; logits of the neighbouring vocabulary entry.
    """
    lab = tiny.lab("llama")

    def mutant(home: Any, name: str, broken: Callable[..., Any]) -> None:
        real = getattr(home, name)
        with monkeypatch.context() as m:
            m.setattr(home, name, lambda *args, **kwargs: broken(real, *args, **kwargs))
            red(lambda: law_1(lab, FEW))

    mutant(edits.Rows, "take", lambda real, self, members, *rest: real(self, [members[0]] * len(members), *rest))

    def neighbour(real: Any, *args: Any, **kwargs: Any) -> Any:
        run = real(*args, **kwargs)
        return replace(run, entering={at: x.roll(1, dims=0) for at, x in run.entering.items()})

    mutant(work, "run_corrupted", neighbour)

    def other_keys(real: Any, corrupted: Any, layer: int, pairs: Any, index: Tensor, start: int) -> Any:
        n = len(next(iter(corrupted.entering.values())))
        return real(corrupted, layer, [(p + 1) % n for p in pairs], (index + 1) % n, start)

    mutant(resume, "_cache", other_keys)
    mutant(planning, "first_change", lambda real, *args: real(*args) + 1)

    def reversed_heads(real: Any, *args: Any) -> Any:
        found = real(*args)
        return replace(found, delta=found.delta.flip(1))

    mutant(work, "make_deltas", reversed_heads)

    def by_place(real: Any, source: Any, rows: Any, *rest: Any) -> Any:
        return real(
            replace(source, seeds=tuple(range(len(rows.pairs)))),
            replace(rows, pairs=list(range(len(rows.pairs)))),
            *rest,
        )

    mutant(edits, "_directions", by_place)

    def next_entry(real: Any, self: Any, lab: Lab, encoded: Any, *more: Any) -> None:
        real(self, lab, encoded, *more)
        if self.vocabulary is not None:
            self.vocabulary = self.vocabulary + 1

    mutant(reader.Reader, "__init__", next_entry)
    law_1(lab, FEW)
