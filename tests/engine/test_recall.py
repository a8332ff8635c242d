"""What is kept from look to look changes no number, and is dropped by whatever would change one.

The laws: the same table, bit for bit, with the cache off, filling, hit, too small, after an exception, and for other worlds on
the same prompts.  Broken on purpose: a key without the batch (numbers of other prompts come back), a mark without the sums
(a weight written through ``.data`` gives the old numbers), a value changed in place after it was kept.

Looked for of the kind "something a number depends on changes between two looks": a weight written under no_grad, through
``.data``, through numpy, by swapping two rows, by turning signs (the top bits of words cancel); a buffer; a hook, also one that
begins to do something else, or stands on all modules; a module's attribute, plain or a tuple; its class, its class's forward; the
config; another model's forward in the place of a module's; dropout switched on; autocast; threads.

Inside one trial: what the docket itself does to its model
(re-indexing, scrambling, another head's weights, edits under which a copy of the Lab runs), a write under no_grad, a hook, a
forward, dropout, a buffer, another parameter in a module's place, threads.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from headlab.engine.captures import capture
from headlab.engine.model import Lab, open_model
from headlab.engine.recall import AGE, LIMIT, recall, recalling
from headlab.engine.reindexing import Relabelling, reindexed, scrambled
from headlab.engine.run import plan_of, row_cost, sweep
from headlab.engine.work import Worker
from headlab.heads import Head, Heads
from headlab.interventions import Intervention, World
from headlab.measures.edited import edited
from headlab.readouts import MARGIN, Readout

PAIRS = tiny.equal_pairs(3) + tiny.equal_pairs(2, 7, 3)
WRITES = ("zero", "patch", "mean", "resample", "rescale", "noop")


def worlds(made: Lab, layer: int) -> list[World]:
    at = tiny.softmax_layer(made, layer)
    out = [
        World(w, (Intervention(Heads.of(at, [1, 3]), "z", w, amount=0.5 if w == "rescale" else 1.0),)) for w in WRITES
    ]  # type: ignore[arg-type]
    out.append(World("resid", (Intervention(Heads.of(at, [0]), "resid", "zero"),)))
    out.append(World("v", (tiny.edit(made, at, "v", (0,), write="zero"),)))
    if made.slots[0].pattern:
        out.append(World("pattern", (Intervention(Heads.of(at, [2]), "pattern", "patch"),)))
    sender = Intervention(Heads([Head(tiny.softmax_layer(made, 0), 1)]), "z", "patch")
    receiver = Heads.of(sorted(made.attentions)[-1], [0])
    out.append(World("path", (Intervention(receiver, "q", "patch", computed_in=(sender,)),)))
    return out


def table(made: Lab, layer: int = 1, readouts: Any = (MARGIN,)) -> np.ndarray:
    some = sweep(made, PAIRS, worlds(made, layer), readouts=readouts)
    return some.select_dtypes("number").to_numpy()


def margins(made: Lab) -> np.ndarray:
    """As :func:`table`, of two worlds."""
    some = [World(w, (Intervention(Heads.of(1, [1, 3]), "z", w),)) for w in ("zero", "patch")]  # type: ignore[arg-type]
    return sweep(made, PAIRS, some)[["clean", "corrupted", "edited"]].to_numpy()


OTHERS = [pytest.param(f, marks=pytest.mark.accept) for f in tiny.FAMILIES if f != "gpt2"]


@pytest.mark.parametrize("family", ["gpt2", *OTHERS])
def test_a_hit_is_what_a_pass_gives(family: str) -> None:
    made = tiny.lab(family)
    off = {at: table(made, at) for at in (0, 2)}
    with recalling(made) as kept:
        for at in (0, 2):
            assert np.array_equal(table(made, at), off[at])
        full, passes = kept.bytes, kept.passes
        for at in (2, 0):
            assert np.array_equal(table(made, at), off[at])
        assert kept.passes == passes, "the same worlds on the same prompts: nothing unedited runs again"
    kept.limit = full // 4
    kept.clear()
    with recalling(made):
        assert all(np.array_equal(table(made, at), off[at]) for at in (0, 2))
        assert 0 < kept.bytes <= full // 4
    kept.limit = LIMIT
    kept.clear()


def test_other_readouts_prompts_and_sites_have_keys_of_their_own() -> None:
    made = tiny.lab("llama")
    kinds = [(MARGIN,), (Readout("probability"), Readout("kl"))]
    sites = [(1, "z"), (1, "pattern"), (2, "q"), (0, "resid")]
    some = [p.clean for p in PAIRS]

    def every() -> list[Any]:
        kept = capture(made, some, sites), capture(made, some[:3], sites), capture(made, some[::-1], sites)
        return [x for one in kept for key in sites for x in one[key]]

    off, plain = [table(made, 1, k) for k in kinds], every()
    with recalling(made):
        for _ in range(2):
            assert all(np.array_equal(table(made, 1, k), o) for k, o in zip(kinds, off, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(every(), plain, strict=True))


def test_after_an_exception_nothing_half_made_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import headlab.engine.captures as captures

    made = tiny.lab("llama")
    off, real, calls = table(made), captures.forward, []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    recall(made).clear()
    monkeypatch.setattr(captures, "forward", failing)
    with pytest.raises(KeyboardInterrupt), recalling(made):
        table(made)
    assert not recall(made).open
    with recalling(made):
        assert np.array_equal(table(made), off) and np.array_equal(table(made), off)


def test_what_no_look_asks_for_any_more_goes() -> None:
    """A thousand looks at other prompts keep what the last few left; what is asked for again and again stays."""
    made, often = tiny.lab("llama"), [PAIRS[0].clean]
    recall(made).clear()
    sizes, z = [], [(1, "z")]
    for n in range(3 * AGE):
        with recalling(made) as kept:
            capture(made, often, z)
            capture(made, [tiny.encoded([3 + n, 4, 5, 6])], z)
        sizes.append(kept.bytes)
    assert sizes[0] < sizes[AGE] and len({*sizes[AGE + 1 :]}) == 1, sizes
    with recalling(made):
        passes = kept.passes
        capture(made, often, z)
        assert kept.passes == passes
    for _ in range(AGE + 1):
        with recalling(made):
            pass
    assert kept.bytes == 0 and not kept._held.total()


INSIDE = ("no_grad", "buffer", "hook", "forward", "dropout", "another parameter")


@pytest.mark.parametrize("what", INSIDE)
def test_what_a_trial_does_to_its_model_drops_what_was_kept(what: str) -> None:
    """A sweep, the change, the same sweep, all inside: the numbers are those of the changed model."""
    made = open_model(tiny.hf_model("llama"), tokenizer=tiny.words())
    with recalling(made) as kept, torch.no_grad():
        before = margins(made)
        assert kept.bytes
        CHANGES[what](made)
        now, passes = margins(made), kept.passes
        assert np.array_equal(margins(made), now)
        if what in {"hook", "forward"}:
            assert kept.bytes == 0, "code of others may do something else at the next pass"
        else:
            assert kept.passes == passes
    assert np.array_equal(now, margins(made))
    assert np.array_equal(before, now) == (what == "dropout")


def test_the_dockets_own_changes_of_weights_are_noticed_and_so_is_their_end() -> None:
    made = tiny.lab("llama")
    order = Relabelling(made.grid, tuple(tuple(range(made.grid.n_heads))[::-1] for _ in range(made.grid.n_layers)))
    changes = [lambda: reindexed(made, order), lambda: scrambled(made, 1, range(made.grid.n_heads)[::-1])]
    off = [margins(made)]
    for change in changes:
        with change():
            off.append(margins(made))
    with recalling(made):
        found = [margins(made)]
        for change in changes:
            with change():
                found.append(margins(made))
        assert all(np.array_equal(a, b) for a, b in zip(found, off, strict=True))
        assert np.array_equal(margins(made), off[0]) and not np.array_equal(off[1], off[0])


def test_a_copy_of_a_lab_takes_nothing_from_it() -> None:
    """Its passes run under edits: what the original kept is of other passes, and the other way round."""
    made, some = tiny.lab("llama"), [p.clean for p in PAIRS[:3]]
    copied = edited(made, {(1, "v"): torch.zeros_like})
    plain, other = (capture(m, some, [(1, "z")])[1, "z"] for m in (made, copied))
    with recalling(made), recalling(copied):
        for _ in range(2):
            for lab, wanted in ((made, plain), (copied, other)):
                found = capture(lab, some, [(1, "z")])[1, "z"]
                assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert all(not bool(x.any()) for x in other) and recall(copied) is not recall(made)
    assert pickle.loads(pickle.dumps(recall(made))).bytes == 0


def test_a_bound_of_memory_leaves_what_the_plan_does_not_take() -> None:
    made = tiny.lab("llama")
    off, some = table(made), worlds(made, 1)
    plan = plan_of(made, PAIRS, some, tokens=None, memory=None)
    least = plan.peak_bytes(row_cost(made))
    bounds = [least + extra for extra in (0, 40_000, 2**20)]
    with recalling(made, wide=False) as kept:
        for bound in bounds:
            kept.clear()
            found = sweep(made, PAIRS, some, memory=bound).select_dtypes("number").to_numpy()
            held = plan_of(made, PAIRS, some, tokens=None, memory=bound).peak_bytes(row_cost(made))
            assert kept.bytes <= kept.most <= bound - held
            assert np.allclose(found, off, rtol=1e-4, atol=1e-5)
        assert kept.bytes, "a roomy bound keeps something"
        kept.within(0)
        assert not kept.bytes
    kept.clear()


def test_when_memory_runs_out_what_is_kept_goes_before_a_batch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.lab("llama")
    off, real, refused = table(made), Worker._batch, []

    def full(self: Worker, *args: Any) -> Any:
        if recall(made).bytes:
            refused.append(recall(made).bytes)
            raise torch.OutOfMemoryError("as long as anything is kept")
        return real(self, *args)

    monkeypatch.setattr(Worker, "_batch", full)
    with recalling(made):
        found = sweep(made, PAIRS, worlds(made, 1))
    assert refused and "halved" not in found.attrs
    assert np.array_equal(found.select_dtypes("number").to_numpy(), off)
    recall(made).within(None)


def _other_parameter(made: Lab) -> None:
    head: Any = made.model.lm_head
    head.weight = torch.nn.Parameter(head.weight.flip(0).clone(), requires_grad=False)


def _config(made: Lab) -> None:
    made.model.config.note = "another"


def _dropout(made: Lab) -> None:
    made.model.model.layers[1].train()


def _signs(made: Lab) -> None:
    flat = made.model.model.layers[0].self_attn.o_proj.weight.data.view(-1)
    flat[[1, 3, 2049, 2051]] *= -1


class _Straight(torch.nn.SiLU):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


def _class(made: Lab) -> None:
    made.model.model.layers[0].mlp.act_fn.__class__ = _Straight


CHANGES: dict[str, Callable[[Lab], object]] = {
    "no_grad": lambda m: m.model.lm_head.weight[1].add_(0.1),
    "data": lambda m: m.model.model.layers[0].mlp.down_proj.weight.data.mul_(1.01),
    "one element": lambda m: m.model.model.layers[2].self_attn.q_proj.weight.data[5, 7].add_(1e-3),
    "numpy": lambda m: np.add(w := m.model.model.norm.weight.numpy(), 0.1, out=w),
    "signs": _signs,
    "class": _class,
    "two rows": lambda m: (
        (w := m.model.model.embed_tokens.weight.data)[[3, 4]].copy_(w[[4, 3]].clone())
        is w.__setitem__([3, 4], w[[4, 3]].clone())
    ),
    "buffer": lambda m: m.model.model.rotary_emb.inv_freq.mul_(1.1),
    "hook": lambda m: m.model.model.layers[1].mlp.register_forward_hook(lambda _m, _a, out: out * 2),
    "attribute": lambda m: setattr(m.model.model.norm, "variance_epsilon", 0.5),
    "forward": lambda m: setattr(m.model.model.layers[1].mlp, "forward", lambda x: x),
    "config": _config,
    "dropout": _dropout,
    "another parameter": _other_parameter,
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_a_number_drops_what_was_kept(what: str) -> None:
    made = open_model(tiny.hf_model("llama"), tokenizer=tiny.words())
    with recalling(made), torch.no_grad():
        before = margins(made)
    with torch.no_grad():
        CHANGES[what](made)
        off = margins(made)
        with recalling(made) as kept:
            assert kept.bytes == 0
            assert np.array_equal(margins(made), off)
    assert np.array_equal(before, off) == (what in {"config", "dropout"})


OUTSIDE = ("a hook's own state", "a hook on all", "a tuple", "autocast", "a class's forward")


@pytest.mark.parametrize("what", OUTSIDE)
def test_what_stands_in_no_weight_drops_what_was_kept_too(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = open_model(tiny.hf_model("llama"), tokenizer=tiny.words())
    mlp, state = made.model.model.layers[0].mlp, {"times": 1.0}
    forward = type(mlp).forward
    with ExitStack() as stack:
        if what == "a hook's own state":
            mlp.register_forward_hook(lambda _m, _a, out: out * state["times"])
        elif what == "a tuple":
            mlp.times = (1.0,)
            monkeypatch.setattr(
                type(mlp), "forward", lambda self, x: forward(self, x) * getattr(self, "times", (1.0,))[0]
            )
        with recalling(made):
            before = margins(made)
        if what == "a hook on all":
            hooked = torch.nn.modules.module.register_module_forward_hook(
                lambda m, _a, out: out * 2 if m is mlp else None
            )
            stack.callback(hooked.remove)
        elif what == "autocast":
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        elif what == "a class's forward":
            monkeypatch.setattr(type(mlp), "forward", lambda self, x: forward(self, x) * 2)
        state["times"], mlp.times = 2.0, (2.0,)
        off = margins(made)
        with recalling(made):
            assert np.array_equal(margins(made), off) and not np.array_equal(before, off)


@pytest.mark.parametrize("limit", [0, 1, -5])
def test_a_limit_that_holds_nothing_keeps_nothing(limit: int) -> None:
    made = tiny.lab("llama")
    off = margins(made)
    recall(made).clear()
    recall(made).limit = limit
    try:
        with recalling(made) as kept:
            assert np.array_equal(margins(made), off) and np.array_equal(margins(made), off) and kept.bytes == 0
    finally:
        recall(made).limit = LIMIT


def test_threads_and_a_change_back_and_forth() -> None:
    made = tiny.lab("gpt2")
    with recalling(made) as kept:
        table(made)
        assert kept.bytes
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with recalling(made):
            assert kept.bytes == 0
    finally:
        torch.set_num_threads(threads)
    with recalling(made), recalling(made):
        table(made)
    assert not kept.open and kept.bytes


@pytest.mark.parametrize("name", ["sdpa", "scores", "pattern", "unit"])
def test_attention_that_is_computed_in_another_way_is_read_anew(name: str) -> None:
    """Between two sweeps of a trial, too: the settings of ``robustness`` switch the kernel of one Lab.  Looked for: whatever
    of a Lab's own the package sets after loading (``slot.proved``; abilities are set at loading alone)."""
    lab = tiny.lab("llama")
    one = tiny.mixed_pairs()[0].clean
    slot = lab.slots[0]
    was = getattr(slot, name)
    with recalling(lab) as kept:
        capture(lab, [one], [(1, "z")])
        passes = kept.passes
        capture(lab, [one], [(1, "z")])
        assert kept.passes == passes
        setattr(slot, name, not was)
        try:
            capture(lab, [one], [(1, "z")])
            assert kept.passes == passes + 1
        finally:
            setattr(slot, name, was)
