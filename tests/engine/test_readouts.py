"""Readouts beside the margin, against plain hooks and transformers' own loss; and the laws that hold for each of them.

The oracle imports nothing of headlab's engine: one row at a time, a hook on the module behind the heads, logits of every
position, log probabilities in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from laws import red
from test_law_plan import SOME, constant, only, tight
from torch import Tensor, nn

from headlab.engine import captures, reader, run, work
from headlab.engine.model import Lab
from headlab.engine.run import EngineError
from headlab.interventions import InterventionError, World
from headlab.prompts import EncodedPair, Pair, Prompt, PromptError
from headlab.readouts import KINDS, MARGIN, PER_TOKEN, Readout

EVERY = tuple(Readout(kind) for kind in KINDS)
FAMILIES = ("llama", "gpt_neox", "gpt2", "gemma2", "gemma", "qwen3", "mixtral", "phi", "olmo2", "opt")
DAILY = ("llama", "gemma2")
ANSWERS, WRONGS = (1, 5, 9), (2, 7)


def swept(*given: Any, **named: Any) -> Any:
    return run.sweep(*given, **named)


def with_answers(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    """Every second pair has three right and two wrong answers."""
    made = []
    for n, p in enumerate(pairs):
        more = {"more_answer_ids": ANSWERS[1:], "more_wrong_ids": WRONGS[1:]} if n % 2 else {}
        made.append(replace(p, clean=replace(p.clean, **more), corrupted=replace(p.corrupted, **more)))
    return made


def windows(n: int = 4, length: int = 13) -> list[EncodedPair]:
    """Prompts without answers or partner, scored from different tokens on."""
    made = []
    for i, ids in enumerate(tiny.prompts(n, length, seed=7)):
        one = replace(tiny.encoded(ids), answer_id=-1, wrong_id=-1, scored=1 + 3 * (i % 2))
        prompt = Prompt(f"w{i}", ids=tuple(ids), scored=one.scored)
        made.append(EncodedPair(Pair(f"w{i}", prompt, prompt, "", "", partner=False), one, one))
    return made


# -- the oracle ---------------------------------------------------------------------------------------------------

BEHIND = ("self_attn.o_proj", "attn.c_proj", "attention.dense", "self_attn.dense", "self_attn.out_proj")


def behind_heads(model: Any, layer: int) -> nn.Module:
    """The linear map that takes the heads of a layer, by its path in transformers' own code."""
    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == tiny.LAYERS)
    return next(m for n, m in blocks[layer].named_modules() if n in BEHIND)


@contextmanager
def scaled(model: Any, cuts: Sequence[tuple[int, Sequence[int], float, int]], width: int) -> Iterator[None]:
    """Each (layer, heads, factor, first position): what these heads give out from there on, times the factor."""
    handles = []
    for layer, heads, factor, first in cuts:

        def hook(
            _: Any, args: tuple[Tensor, ...], heads: Any = heads, factor: float = factor, first: int = first
        ) -> Any:
            z = args[0].clone()
            for h in heads:
                z[..., first:, h * width : (h + 1) * width] *= factor
            return (z, *args[1:])

        handles.append(behind_heads(model, layer).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


CUTS: dict[str, list[tuple[int, tuple[int, ...], float, int]]] = {
    "as it is": [],
    "zero": [(1, (0, 3), 0.0, 0)],
    "half": [(0, (2,), 0.5, 0)],
    "last layer": [(2, (1, 4), 0.0, 0)],
    "two layers": [(0, (1,), 0.0, 0), (2, (0, 2), 1.5, 0)],
    "late": [(1, (0, 1, 2), 0.0, -1)],
}


def expected(model: Any, pairs: Sequence[EncodedPair], cuts: Any, width: int) -> np.ndarray:
    """[pair, kind] one row at a time."""
    out = []
    for p in pairs:
        e = p.corrupted
        ids = torch.tensor([e.ids])
        with torch.no_grad():
            plain = model(ids).logits[0].double()
            with scaled(model, cuts, width):
                logits = model(ids).logits[0].double()
        base, edited = torch.log_softmax(plain, -1), torch.log_softmax(logits, -1)
        kl = (base.exp() * (base - edited)).sum(-1)
        nats = -edited[:-1].gather(1, ids[0, 1:, None])[:, 0]
        row = dict.fromkeys(KINDS, float("nan"))
        row["loss"], row["kl"] = nats[e.scored - 1 :].mean().item(), kl[e.scored - 1 : -1].mean().item()
        if e.answer_ids:
            right, wrong = list(e.answer_ids), list(e.wrong_ids)
            prob, last = edited[-1].exp(), logits[-1]
            margin = (torch.logsumexp(last[right], 0) - last[wrong].max()).item()
            row |= {
                "margin": margin,
                "accuracy": float(margin > 0),
                "probability": prob[right].sum().item(),
                "logprob": prob[right].sum().log().item(),
                "probability-gap": (prob[right].sum() - prob[wrong].sum()).item(),
                "place": 1 + int((last > last[right].max()).sum()),
                "kl": kl[-1].item(),
            }
        out.append([row[k] for k in KINDS])
    return np.array(out)


def worlds(lab: Lab) -> list[World]:
    made = []
    for name, cuts in CUTS.items():
        ones = [
            tiny.edit(lab, at, "z", heads, write="rescale", amount=factor, **({"roles": ("last",)} if first else {}))
            for at, heads, factor, first in cuts
        ]
        made.append(World(name, tuple(ones)))
    return made


def column(readout: Readout, first: Readout) -> str:
    return "edited" if readout is first else f"edited@{readout.name}"


def against_hooks(lab: Lab, pairs: list[EncodedPair], readouts: Sequence[Readout], **options: Any) -> None:
    """Every readout of every world is the oracle's, within 1e-5 of its largest value."""
    found = swept(lab, pairs, worlds(lab), readouts=readouts, **options)
    for name, cuts in CUTS.items():
        wanted = expected(lab.model, pairs, cuts, lab.head_dim)
        rows = found[found["world"] == name]
        for readout in readouts:
            want = wanted[:, KINDS.index(readout.kind)]
            got = rows[column(readout, readouts[0])].to_numpy()
            size = max(np.abs(want).max(), 1e-3 if readout.kind == "kl" else 1e-2)
            assert np.abs(got - want).max() <= 1e-5 * size, (name, readout.kind, got, want)


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in DAILY else pytest.mark.accept) for f in FAMILIES])
def test_every_readout_is_that_of_plain_hooks(family: str) -> None:
    """Ten families: grouped and joined projections, soft-caps, windows, experts, parallel blocks, learned positions."""
    lab = tiny.lab(family)
    against_hooks(lab, with_answers(tiny.equal_pairs()), EVERY)
    against_hooks(lab, windows(), (Readout("kl"), Readout("loss")))


def test_loss_is_the_models_own() -> None:
    for family in ("llama", "gpt2", "gemma2"):
        lab, pairs = tiny.lab(family), [replace(w, corrupted=replace(w.corrupted, scored=1)) for w in windows()]
        found = swept(lab, pairs, [World("as it is")], readouts=(Readout("loss"),))
        for p, loss, tokens in zip(pairs, found["edited"], found["tokens"], strict=True):
            ids = torch.tensor([p.corrupted.ids])
            own = lab.model(ids, labels=ids).loss.item()
            assert abs(loss - own) <= 1e-6 * abs(own) and tokens == len(p.corrupted.ids) - 1


# -- laws ---------------------------------------------------------------------------------------------------------


def numbers(lab: Lab, pairs: list[EncodedPair], readouts: Sequence[Readout], **options: Any) -> Any:
    made = swept(lab, pairs, worlds(lab), readouts=readouts, **options).set_index(["pair_id", "world"]).sort_index()
    return made[[column(r, readouts[0]) for r in readouts]]


def law_1(lab: Lab, pairs: list[EncodedPair], readouts: Sequence[Readout]) -> None:
    """Batches, memory bound, order, blocks of logits, every step that saves work: the same table."""

    def same(found: Any) -> None:
        gap = (found - wanted).abs().max() / wanted.abs().max().clip(lower=1e-3)
        assert gap.max() <= 1e-5, gap

    with only(lab):
        wanted = numbers(lab, pairs, readouts, tokens=37)
    moved = (wanted.groupby("pair_id").std() > 0).any()
    assert moved.all(), f"every readout must move in some world; unmoved: {list(moved.index[~moved])}"
    same(numbers(lab, pairs, readouts))
    same(numbers(lab, pairs[::-1], readouts, tokens=1))
    with pytest.MonkeyPatch.context() as m, constant("MANY", 1), constant("FIXED_BYTES", 0):
        for module in (reader, run):
            m.setattr(module, "LOGITS_HELD", 1)
        m.setattr(work, "KEPT_LOGITS", 1)
        same(numbers(lab, pairs, readouts))
        bound = tight(lab, pairs, worlds(lab), readouts=readouts)
        same(numbers(lab, pairs, readouts, memory=bound))
        narrow, wide = (
            run.plan_of(lab, pairs, worlds(lab), tokens=None, memory=b, readouts=readouts) for b in (bound, None)
        )
        assert narrow.flight < wide.flight
    for flags in SOME:
        with only(lab, *flags):
            same(numbers(lab, pairs, readouts))


TOKENS = (Readout("loss"), Readout("kl"))


def undecided(lab: Lab, pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    """The answers of a pair are the two tokens between which the model decides least."""
    made = []
    for p in pairs:
        with torch.inference_mode():
            told, tokens = lab.model(torch.tensor([p.corrupted.ids])).logits[0, -1].sort()
        gaps = told.diff()
        at = int(gaps.where(gaps > 2e-5, 1e9).argmin())  # rounding does not decide
        ids = {"answer_id": int(tokens[at]), "wrong_id": int(tokens[at + 1])}
        made.append(replace(p, clean=replace(p.clean, **ids), corrupted=replace(p.corrupted, **ids)))
    return made


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma2", marks=pytest.mark.accept)])
def test_a_plan_never_changes_a_readout(family: str) -> None:
    lab = tiny.lab(family)
    law_1(lab, undecided(lab, with_answers(tiny.mixed_pairs())), EVERY)
    law_1(lab, windows(), TOKENS)


def test_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: tokens before the edit forgotten; a neighbour's unedited run; the largest of the right answers
    instead of all; a divergence the other way round; one position late."""
    lab, base = tiny.lab("llama"), reader.Base.divergence

    def neighbour(self: Any, edited: Tensor, runs: Any) -> Any:
        return base(self, edited.roll(1, 0), runs)

    def backwards(self: Any, edited: Tensor, runs: Any) -> Any:
        own = torch.cat([self.share[n : n + 1].expand(end - first, *self.share.shape[1:]) for n, first, end in runs])
        kl = (edited.softmax(-1) * (edited.log_softmax(-1) - own.log())).sum(-1)
        return kl, base(self, edited, runs)[1]

    over = reader.Reader.over_tokens

    def forgetful(
        self: Any, ids: Any, prompts: Any, start: int, edited: Any, unedited: Any, before: Any, **more: Any
    ) -> None:
        over(self, ids, prompts, start, edited, unedited, None, **more)

    def late(self: Any, ids: Tensor, *more: Any, **named: Any) -> None:
        over(self, ids.roll(-1, 1), *more, **named)

    def best(self: Any, logits: Tensor, prompts: Any = None) -> Tensor:
        last = logits[:, -1].double()
        right = self._of(last, self.answer, self.many_answers, prompts).max(1).values
        return right - self._of(last, self.wrong, self.many_wrongs, prompts).max(1).values

    broken: list[tuple[Any, str, Callable[..., Any], list[EncodedPair], tuple[Readout, ...]]] = [
        (reader.Base, "divergence", neighbour, windows(), TOKENS),
        (reader.Base, "divergence", backwards, windows(), TOKENS),
        (reader.Reader, "over_tokens", forgetful, windows(), TOKENS),
        (reader.Reader, "over_tokens", late, windows(), TOKENS),
        (reader.Reader, "difference", best, with_answers(tiny.equal_pairs()), EVERY),
    ]
    for where, name, wrong, pairs, readouts in broken:
        with monkeypatch.context() as m:
            m.setattr(where, name, wrong)
            red(lambda pairs=pairs, readouts=readouts: against_hooks(lab, pairs, readouts))


class Kept(dict[str, pd.DataFrame]):
    """Shards in memory, and how many were found again."""

    found = 0

    def stored(self, name: str) -> pd.DataFrame | None:
        self.found += name in self
        return self.get(name)

    def store(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        self[name] = frame
        return frame

    def warn(self, text: str) -> None:
        raise AssertionError(text)


def test_a_sweep_goes_on_and_never_with_the_shards_of_other_readouts() -> None:
    lab, pairs, keep = tiny.lab("llama"), with_answers(tiny.mixed_pairs()), Kept()
    whole = swept(lab, pairs, worlds(lab), readouts=EVERY, keep=keep)
    made = len(keep)
    pd.testing.assert_frame_equal(swept(lab, pairs, worlds(lab), readouts=EVERY, keep=keep), whole)
    assert keep.found == made
    for others in ((Readout("margin"),), EVERY[::-1], (Readout("loss"),), (Readout("loss", "nats"),)):
        before = keep.found
        swept(lab, pairs, worlds(lab), readouts=others, keep=keep)
        assert keep.found == before


def test_equal_prompts_run_once_and_others_do_not_take_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of equal tokens that ask for another answer, or are scored from elsewhere, are other prompts."""
    lab, one = tiny.lab("llama"), tiny.encoded([3, 4, 5, 6, 7])
    asked = [one, replace(one, answer_id=2, wrong_id=1), tiny.encoded([3, 4, 5, 6, 8]), replace(one, scored=3), one]
    alone = [captures.read_out(lab, [e], (MARGIN, Readout("loss"))) for e in asked]
    ran, real = [], captures._read
    monkeypatch.setattr(captures, "_read", lambda lab, some, readouts: ran.extend(some) or real(lab, some, readouts))
    together = captures.read_out(lab, asked, (MARGIN, Readout("loss")))
    assert len(ran) == 4 and torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-5)
    assert (
        together[1, 0] == -together[0, 0] and together[3, 1] != together[0, 1] and torch.equal(together[4], together[0])
    )


def test_the_first_readout_keeps_the_tables_columns_and_the_margin_its_numbers() -> None:
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    plain, both = (
        swept(lab, pairs, worlds(lab), **o) for o in ({}, {"readouts": (Readout(), Readout("loss", "nats"))})
    )
    assert list(plain.columns) == [c for c in both.columns if "@" not in c and c != "tokens"]
    assert {"clean@nats", "corrupted@nats", "edited@nats", "tokens"} <= set(both.columns)
    assert np.abs(plain["edited"] - both["edited"]).max() <= 1e-5 * plain["edited"].abs().max()
    assert (
        both[both["world"] == "as it is"]["edited@nats"] - both[both["world"] == "as it is"]["corrupted@nats"]
    ).abs().max() < 1e-6


def test_a_swapped_pair_edits_the_other_run() -> None:
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    found = swept(lab, [p.swapped() for p in pairs], worlds(lab), readouts=(Readout("logprob"),))
    there = swept(lab, pairs, worlds(lab), readouts=(Readout("logprob"),))
    assert np.allclose(found["corrupted"], there["clean"]) and np.allclose(found["clean"], there["corrupted"])
    wanted = expected(lab.model, [p.swapped() for p in pairs], CUTS["zero"], lab.head_dim)[:, KINDS.index("logprob")]
    assert np.allclose(found[found["world"] == "zero"]["edited"], wanted, rtol=1e-5)


def test_what_a_prompt_does_not_have_is_refused_by_name() -> None:
    """Looked for: no answer, no wrong answer, no partner; prompts of both kinds; equal names, none at all, unknown."""
    lab, alone = tiny.lab("llama"), windows()
    nothing = [World("w")]
    for kind in set(KINDS) - PER_TOKEN:
        with pytest.raises(PromptError, match=f"'{kind}' needs answers"):
            swept(lab, alone, nothing, readouts=(Readout(kind),))
    pairs = [
        replace(p, corrupted=replace(p.corrupted, wrong_id=-1), clean=replace(p.clean, wrong_id=-1))
        for p in tiny.equal_pairs()
    ]
    for kind in ("margin", "accuracy", "probability-gap"):
        with pytest.raises(PromptError, match=f"'{kind}' needs a wrong answer"):
            swept(lab, pairs, nothing, readouts=(Readout(kind),))
    assert swept(lab, pairs, nothing, readouts=(Readout("logprob"), Readout("place")))["edited"].notna().all()
    with pytest.raises(InterventionError, match=r"'w' patches from another prompt, which 'w0' does not have"):
        swept(lab, alone, [World("w", (tiny.edit(lab, 1, "z"),))], readouts=TOKENS)
    with pytest.raises(EngineError, match="4 of 8 prompts have no answer"):
        swept(lab, [*alone, *tiny.equal_pairs()], nothing, readouts=(Readout("kl"),))
    for some in ((), (Readout(), Readout())):
        with pytest.raises(EngineError, match="readouts need names of their own"):
            swept(lab, alone, nothing, readouts=some)
    with pytest.raises(ValueError, match="no readout 'perplexity'; expected one of margin, "):
        Readout("perplexity")
