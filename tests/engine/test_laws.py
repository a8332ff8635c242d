"""Laws 2, 3, 7 and 8, each with mutants that must turn it red.

A law is a function that asserts; ``red`` runs it against an implementation broken on purpose and demands that it
fails.  Law 1 stands in ``test_law_plan.py``, laws 4, 5 and 6 in ``test_claims.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from laws import close, red, tape_of, worlds_for
from torch import Tensor

from headlab.engine import attention, captures, decode, edits, passes, plan, reader, resume, run, work
from headlab.engine.attention import Tape
from headlab.engine.model import Lab
from headlab.engine.passes import forward
from headlab.engine.run import EngineError, sweep
from headlab.heads import Grid, Heads
from headlab.interventions import SITES, Intervention, World

# -- law 2: writing what was there changes nothing ----------------------------------------------------------------

NOTHING: dict[str, dict[str, Any]] = {
    "noop": {"write": "noop"},
    "patch by 0": {"write": "patch", "amount": 0.0},
    "rescale by 1": {"write": "rescale", "amount": 1.0},
    "exchange with itself": {"write": "exchange"},
}


def nothing(lab: Lab, layer: int, site: str, kind: str) -> Intervention | None:
    """An intervention that writes what is there, or None where that write is not defined at the site."""
    heads = tiny.some(lab, layer, site, (0, 3))
    fields = dict(NOTHING[kind])
    if kind == "exchange with itself":
        fields["donors"] = heads.at(layer)
        if site in {"out_block", "subspace", "resid"}:
            return None
    if kind == "rescale by 1" and site == "pattern":
        return None
    return Intervention(heads, site, **fields)  # type: ignore[arg-type]


def law_2(lab: Lab) -> None:
    """Every site × every write of nothing.

    Same kernels and batch shape (the site is read in the reference pass): bit-equal, but for two cases within 1e-6:
    q, k and v in families that join them from parts (the written copy lies otherwise in memory, and sdpa sums in
    another order), and ``noop`` at ``subspace``, whose captured value went through the rotation in another product.
    Through the sweep, where reading a site may take other kernels than sdpa, 1e-5 of the largest logit.
    """
    pairs, layer = tiny.equal_pairs(), tiny.softmax_layer(lab)
    ids = torch.tensor([p.corrupted.ids for p in pairs])
    worlds = []
    for site in SITES:
        if site == "scores" and not lab.slots[0].scores:
            continue
        if site in {"out_block", "subspace"} and lab.d_model % lab.grid.n_heads:
            continue
        looked = Tape(wanted=frozenset({(layer, "out_block" if site == "subspace" else site)}))
        with torch.inference_mode(), lab.tape(looked):
            wanted = forward(lab, ids).logits
        for kind in NOTHING:
            one = nothing(lab, layer, site, kind)
            if one is None:
                continue
            worlds.append(World(f"{site} {kind}", (one,)))
            tape, planned = tape_of(lab, pairs, one)
            with torch.inference_mode(), lab.tape(tape):
                got = forward(lab, ids).logits
            work.check_fired(tape, planned)
            if site in {"q", "k", "v"} or (site, kind) == ("subspace", "noop"):
                assert tiny.gap(got, wanted) <= 1e-6, f"{site} {kind}"
            else:
                assert torch.equal(got, wanted), f"{site} {kind}: {tiny.gap(got, wanted):.1e}"
    effects = sweep(lab, pairs, worlds)
    close(lab, effects["edited"], effects["corrupted"])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_law_2_writing_what_was_there_changes_nothing(family: str) -> None:
    law_2(tiny.lab(family))


def test_law_2_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: heads and positions swapped on the way back; a no-op fed from the clean run; amounts ignored;
    a soft-cap forgotten in the scores; a value of the neighbouring pair.
    """
    lab = tiny.lab("gemma2")
    back = edits.from_layout

    def swapped(site: str, new: Tensor, old: Tensor, own: Tensor, rotation: Any) -> Tensor:
        return back(site, new.flip(2), old, own, rotation)

    with monkeypatch.context() as m:
        m.setattr(edits, "from_layout", swapped)
        red(lambda: law_2(lab))
    with monkeypatch.context() as m:
        m.setattr(captures, "needs", lambda one: "clean" if edits.needs(one) else None)
        red(lambda: law_2(lab))

    written = edits._written

    def whole(write: str, own: Tensor, value: Any, rows: Any, seeds: Any) -> Tensor:
        return written(write, own, value, replace(rows, amount=torch.full_like(rows.amount, 0.999)), seeds)

    with monkeypatch.context() as m:
        m.setattr(edits, "_written", whole)
        red(lambda: law_2(lab))
    with monkeypatch.context() as m:
        raw = attention.raw_scores
        m.setattr(attention, "raw_scores", lambda q, k, scaling, softcap: raw(q, k, scaling, None))
        red(lambda: law_2(lab))

    make = captures.make_source

    def neighbour(*args: Any) -> Any:
        source = make(*args)
        return source if source.value is None else replace(source, value=source.value.roll(1, dims=0))

    with monkeypatch.context() as m:
        m.setattr(captures, "make_source", neighbour)
        red(lambda: law_2(lab))
    law_2(lab)


# -- law 3: what was planned fired ---------------------------------------------------------------------------------


def law_3(lab: Lab) -> None:
    """An edit that cannot take hold raises; here the edited layer's attention is bypassed, as a skip too far would."""
    pairs = tiny.equal_pairs(2)
    for site in ("z", "q", "v", "pattern", "out_block"):
        world = World("w", (tiny.edit(lab, 1, site, (0,), write="patch"), tiny.edit(lab, 2, "z", (1,))))
        raised = False
        with passes.replaced(lab.layers[1], lambda hidden, *_a, **_k: hidden):
            try:
                sweep(lab, pairs, [world])
            except (EngineError, KeyError):  # KeyError: the source could not be captured
                raised = True
        assert raised, site
        world = World("w", (tiny.edit(lab, 1, site, (0,), write="rescale" if site != "pattern" else "exchange",
                                      amount=2.0, **({"donors": (1,)} if site == "pattern" else {})),))  # fmt: skip
        raised = False
        with passes.replaced(lab.layers[1], lambda hidden, *_a, **_k: hidden):
            try:
                sweep(lab, pairs, [world])
            except EngineError as error:
                assert "planned edits did not fire as planned" in str(error)
                raised = True
        assert raised, site


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_law_3_an_edit_that_does_not_fire_raises(family: str) -> None:
    law_3(tiny.lab(family))


def test_law_3_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: the count is not compared; or what was planned is read off what fired."""
    lab = tiny.lab("llama")
    with monkeypatch.context() as m:
        m.setattr(work, "check_fired", lambda *_: None)
        red(lambda: law_3(lab))
    check = work.check_fired
    with monkeypatch.context() as m:
        m.setattr(work, "check_fired", lambda tape, planned, passes=1: check(tape, tape.fired, 1))
        red(lambda: law_3(lab))
    law_3(lab)


def test_law_3_a_count_that_is_not_kept_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: drop the fired-count where edits take hold, and every edited sweep stops."""

    def uncounted(self: Tape, layer: int, site: str, value: Tensor) -> Tensor:
        for edit in self.edits.get((layer, site), ()):
            value = edit(value)
        if (layer, site) in self.wanted:
            self.kept[layer, site] = value.detach()
        return value

    lab = tiny.lab("llama")
    monkeypatch.setattr(Tape, "touch", uncounted)
    with pytest.raises(EngineError, match=r"planned \{\(1, 'q'\): 1\}, fired \{\}"):
        sweep(lab, tiny.equal_pairs(2), [World("w", (tiny.edit(lab, 1, "q", (0,)),))])


def test_law_3_a_resumed_pass_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edited layer must ask for its attention output exactly once."""
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs(2)
    world = World("w", (tiny.edit(lab, 1, "z"),))
    call = resume._call

    def passed_by(lab: Lab, corrupted: Any, at: int, hidden: Tensor, chosen: slice, cache: Any) -> Tensor:
        return hidden if at == 1 else call(lab, corrupted, at, hidden, chosen, cache)

    monkeypatch.setattr(plan, "MANY", 1)

    monkeypatch.setattr(resume, "_call", passed_by)
    with pytest.raises(EngineError, match="the edit at layer 1 took hold 0 times instead of once"):
        sweep(lab, pairs, [world])


def test_law_3_no_position_to_write_at_raises() -> None:
    """Prompts without a shared start have no answer tokens: an edit there would fire and write nothing."""
    lab = tiny.lab("llama")
    for write in ("patch", "zero"):
        world = World("w", (tiny.edit(lab, 1, "z", write=write, roles=("answer",)),))
        with pytest.raises(ValueError, match=rf"pair p0: '{write}' at 'z' finds no position to write at"):
            sweep(lab, tiny.equal_pairs(2), [world])


def test_law_3_in_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """An every-step edit must fire at every step: a step planned once too often raises."""
    lab = tiny.lab("llama")
    world = World("w", (tiny.edit(lab, 1, "z", write="zero", when="every_step"),))
    check = decode.check_fired
    monkeypatch.setattr(decode, "check_fired", lambda tape, planned, n=0: check(tape, planned, n + 1))
    with pytest.raises(EngineError, match=r"planned \{\(1, 'z'\): 4\}, fired \{\(1, 'z'\): 3\}"):
        decode.generate(lab, tiny.equal_pairs(2), [world], max_new_tokens=4)


# -- law 7: batching and padding never change an answer --------------------------------------------------------------


def law_7(lab: Lab) -> None:
    """Prompts of several lengths together = one by one = a plain call of the model: sweep, capture, generate."""
    pairs = tiny.mixed_pairs()
    worlds = [w for w in worlds_for(lab) if w.name in {"baseline", "z", "z zero", "v", "noise"}]
    together = sweep(lab, pairs, worlds)
    alone = pd.concat([sweep(lab, [p], worlds) for p in pairs])
    for column in ("clean", "corrupted", "edited"):
        close(lab, together[column], alone[column])

    own = tiny.hf_model(lab.info["family"])
    with torch.no_grad():
        plain = [own(torch.tensor([p.corrupted.ids])).logits[0, -1] for p in pairs]
    baseline = together[together["world"] == "baseline"]
    close(lab, baseline["edited"], [x[1] - x[2] for x in plain])

    layer = tiny.softmax_layer(lab)
    prompts = [p.clean for p in pairs]
    many = captures.capture(lab, prompts, [(layer, "z"), (layer, "pattern"), (layer, "resid")])
    for i, prompt in enumerate(prompts):
        one = captures.capture(lab, [prompt], list(many))
        for key, values in many.items():
            assert values[i].shape == one[key][0].shape and values[i].shape[0] == len(prompt.ids)
            assert (values[i] - one[key][0]).abs().max() <= 1e-5 * values[i].abs().max(), key

    text = decode.generate(lab, pairs, worlds, max_new_tokens=5)["text"].tolist()
    assert text == [t for p in pairs for t in decode.generate(lab, [p], worlds, max_new_tokens=5)["text"]]
    assert text[:: len(worlds)] == [greedy(own, p.corrupted.ids, 5) for p in pairs]


def greedy(model: Any, ids: Any, n: int) -> str:
    """Greedy words by whole passes without a cache."""
    made = list(ids)
    with torch.no_grad():
        for _ in range(n):
            made.append(int(model(torch.tensor([made])).logits[0, -1].argmax()))
            if made[-1] == tiny.EOS:
                break
    return tiny.words().decode(made[len(ids) :], skip_special_tokens=True)


SLOW = [pytest.param(family, marks=pytest.mark.accept) for family in ("gemma2", "gpt_oss", "qwen3_next", "deepseek_v3")]


@pytest.mark.parametrize("family", ["llama", "gpt2", *SLOW])
def test_law_7_batching_never_changes_an_answer(family: str) -> None:
    law_7(tiny.lab(family))


def test_law_7_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: prompts padded on the left into one group; position ids that start at 0 at every cached step."""
    lab = tiny.lab("llama")

    def padded(lab: Lab, encoded: Any, *, tokens: int | None = None) -> Tensor:
        longest = max(len(e.ids) for e in encoded)
        ids = torch.tensor([[0] * (longest - len(e.ids)) + list(e.ids) for e in encoded])
        with torch.no_grad():
            return reader.Reader(lab, encoded).difference(forward(lab, ids).logits)

    with monkeypatch.context() as m:
        m.setattr(run, "logit_differences", padded)
        red(lambda: law_7(lab))
    for family in ("llama", "gpt2"):
        broken = tiny.lab(family)

        def from_zero(lab: Lab, ids: Tensor, *, past: Any = None, start: int = 0, **kwargs: Any) -> Any:
            return forward(lab, ids, past=past, start=0, **kwargs)

        with monkeypatch.context() as m:
            m.setattr(decode, "forward", from_zero)
            red(lambda: law_7(broken))  # noqa: B023
    law_7(lab)


# -- law 8: a head is a head -------------------------------------------------------------------------------------------


def _projection(lab: Lab, layer: int) -> Any:
    names = ("o_proj", "c_proj", "dense", "out_proj")
    return next(m for n, m in lab.attentions[layer].named_modules() if n in names)


def law_8(lab: Lab) -> None:
    """``Head(l, h)`` is columns h·d … of what the output projection receives, on its way into it; ``out_block`` is not."""
    pairs, size = tiny.equal_pairs(), lab.head_dim
    seen: list[Tensor] = []
    for layer in range(3):
        handle = _projection(lab, layer).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        captured = captures.capture(lab, [p.corrupted for p in pairs], [(layer, "z")])[layer, "z"]
        handle.remove()
        entered = seen.pop()
        for h in range(lab.grid.n_heads):
            for i in range(len(pairs)):
                assert torch.equal(captured[i][:, h], entered[i, :, h * size : (h + 1) * size])

    ids = torch.tensor([p.corrupted.ids for p in pairs])
    n = lab.grid.n_heads
    for h in range(n):
        world = World("w", (Intervention(Heads.of(1, [h]), "z", "zero"),))
        blocks = World("b", (Intervention(Heads.of(1, [h]), "out_block", "zero"),))
        effects = sweep(lab, pairs, [world, blocks]).set_index("world")["edited"]

        def without(_m: Any, args: tuple[Tensor], h: int = h) -> tuple[Tensor]:
            x = args[0].clone()
            x[..., h * size : (h + 1) * size] = 0
            return (x,)

        handle = _projection(lab, 1).register_forward_pre_hook(without)
        with torch.no_grad():
            logits = forward(lab, ids).logits[:, -1]
        handle.remove()
        close(lab, effects["w"], logits[:, 1] - logits[:, 2])
        assert np.abs(effects["w"].to_numpy() - effects["b"].to_numpy()).max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "gemma"])
def test_law_8_a_head_is_a_head(family: str) -> None:
    law_8(tiny.lab(family))


@pytest.mark.parametrize("family", tiny.CORE)
def test_out_block_is_a_slice_of_the_modules_output(family: str) -> None:
    """The published slice, computed by a hook on the attention module's *output*: residual coordinates, all heads in it."""
    lab = tiny.lab(family)
    pairs, width = tiny.equal_pairs(), lab.d_model // lab.grid.n_heads
    effects = sweep(lab, pairs, [World("b", (Intervention(Heads.of(1, [1, 4]), "out_block", "zero"),))])
    own = tiny.hf_model(family)
    place = next(n for n, m in lab.model.named_modules() if m is lab.attentions[1])

    def hook(_m: Any, _args: Any, out: Any) -> Any:
        x = (out[0] if isinstance(out, tuple) else out).clone()
        for h in (1, 4):
            x[..., h * width : (h + 1) * width] = 0
        return (x, *out[1:]) if isinstance(out, tuple) else x

    own.get_submodule(place).register_forward_hook(hook)
    with torch.no_grad():
        logits = own(torch.tensor([p.corrupted.ids for p in pairs])).logits[:, -1]
    close(lab, effects["edited"], logits[:, 1] - logits[:, 2])


def test_law_8_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: the edited head is the next one; "z" is read and written after the output projection."""
    lab = tiny.lab("gemma")
    of = edits.Rows.of.__func__

    def next_head(cls: Any, ones: Any, pair: Any, grid: Grid, device: Any) -> Any:
        rows = of(cls, ones, pair, grid, device)
        return replace(rows, heads=rows.heads.roll(1, dims=1))

    with monkeypatch.context() as m:
        m.setattr(edits.Rows, "of", classmethod(next_head))
        red(lambda: law_8(lab))

    edits_of = work.edits_of

    def after(lab: Lab, ones: Any, *args: Any, **kwargs: Any) -> Any:
        return edits_of(lab, [replace(one, site="out_block") for one in ones], *args, **kwargs)

    with monkeypatch.context() as m:
        m.setattr(work, "edits_of", after)
        red(lambda: law_8(lab))
    law_8(lab)
