"""Writes that move weight between the keys of a pattern: by hand, on the simplex, causal, and through the sweep."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from laws import close, tape_of
from torch import Tensor

from headlab.engine.attention import Tape
from headlab.engine.captures import capture
from headlab.engine.decode import generate
from headlab.engine.edits import _moved
from headlab.engine.passes import forward
from headlab.engine.run import sweep
from headlab.interventions import KEY_WRITES, Intervention, InterventionError, World, key_positions
from headlab.prompts import EncodedPair

FIELDS: dict[str, dict[str, Any]] = {
    "mask": {"keys": ("a",)},
    "force": {"keys": ("a",)},
    "redistribute": {"keys": ("a",), "from_keys": ("b",)},
}


def one(lab: Any, write: str, amount: float, **fields: Any) -> Intervention:
    return tiny.edit(lab, 1, "pattern", (0, 3), write=write, amount=amount, **{**FIELDS[write], **fields})


def with_roles(n: int = 4) -> list[EncodedPair]:
    """Pairs of one length in which role a is positions 2 and 3, and b is position 5."""
    roles = {"a": (2, 3), "b": (5,)}
    return [
        tiny.pair(f"p{i}", tiny.encoded(ids), tiny.encoded(list(reversed(ids)), roles=roles))
        for i, ids in enumerate(tiny.prompts(n, 11))
    ]


def test_by_hand() -> None:
    """Row (.1 .2 .3 .4), keys {0, 1}, from {3}: masked by half, forced to .6, moved by half; and by whole numbers."""
    own = torch.tensor([0.1, 0.2, 0.3, 0.4])[None, None, None]
    keys, source = torch.tensor([[True, True, False, False]]), torch.tensor([[False, False, False, True]])

    def made(write: str, amount: float) -> list[float]:
        return _moved(write, own, keys, source, torch.tensor([amount])).flatten().tolist()

    assert made("mask", 0.5) == pytest.approx([0.05 / 0.85, 0.1 / 0.85, 0.3 / 0.85, 0.4 / 0.85])
    assert made("mask", 1.0) == pytest.approx([0, 0, 3 / 7, 4 / 7])
    assert made("force", 0.6) == pytest.approx([0.2, 0.4, 0.4 * 3 / 7, 0.4 * 4 / 7])
    assert made("redistribute", 0.5) == pytest.approx([0.1 * 5 / 3, 0.2 * 5 / 3, 0.3, 0.2])
    assert made("redistribute", 1.0) == pytest.approx([0.7 / 3, 1.4 / 3, 0.3, 0.0])


@pytest.mark.parametrize("apart", [5.0, 18.0, 40.0, 80.0])
@pytest.mark.parametrize("write", KEY_WRITES)
def test_in_32_bits_as_in_64_where_nearly_all_weight_lies_on_one_side(write: str, apart: float) -> None:
    """``apart``: by how much scores of one side's keys exceed the other's; what is left is down to e^-80, and is dealt out in
    proportion all the same.  (A share left, computed as the total less the keys', was rounding: effects off by logits.)"""
    scores = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keys = torch.zeros(6, 8, dtype=torch.bool)
    keys[:, :3] = True
    scores += torch.where(keys, apart, 0.0) * torch.tensor([1.0, 1, 1, -1, -1, -1])[:, None].double()
    exact = scores.softmax(-1)[:, None, None]
    amount = torch.full((6,), 1.0 if write == "mask" else 0.4)
    wanted = _moved(write, exact, keys, ~keys, amount)
    got = _moved(write, exact.float(), keys, ~keys, amount)
    torch.testing.assert_close(got.double(), wanted, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize(("write", "amount"), [("mask", 0.0), ("redistribute", 0.0), ("force", 0.3), ("mask", -1.0)])
def test_nothing_new_is_a_no_op(write: str, amount: float) -> None:
    """No share taken, and a force to the row's own share, leave the row; so do rows without such keys or without
    others (amount −1 stands for those)."""
    own = torch.tensor([0.1, 0.2, 0.3, 0.4])[None, None, None]
    keys, none = torch.tensor([[True, True, False, False]]), torch.tensor([[False] * 4])
    if amount >= 0:
        assert torch.allclose(_moved(write, own, keys, none, torch.tensor([amount])), own, atol=1e-7)
        return
    for some in (none, ~none):
        for kind in KEY_WRITES:
            assert (
                torch.equal(_moved(kind, own, some, ~some & False, torch.tensor([1.0])), own) or kind == "redistribute"
            )
        assert torch.allclose(_moved("redistribute", own, some, ~some, torch.tensor([1.0])), own)


@pytest.mark.parametrize("write", KEY_WRITES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_rows_keep_their_sum_and_never_look_ahead(write: str, family: str) -> None:
    lab, pairs = tiny.lab(family), with_roles()
    tape, planned = tape_of(lab, pairs, one(lab, write, 0.7))
    tape.wanted = frozenset({(1, "pattern")})
    ids = torch.tensor([p.corrupted.ids for p in pairs])
    with torch.no_grad(), lab.tape(tape):
        forward(lab, ids)
    with torch.no_grad(), lab.tape(Tape(wanted=tape.wanted)) as plain:
        forward(lab, ids)
    new, old = tape.kept[1, "pattern"], plain.kept[1, "pattern"]
    assert tape.fired == planned
    assert torch.allclose(new.sum(-1), old.sum(-1), atol=1e-5) and new.min() >= 0
    assert new.triu(1).abs().max() == 0
    changed = (new - old).abs().amax(dim=(0, 2, 3)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [0, 3]
    mass = (new[..., [2, 3]].sum(-1) / new.sum(-1))[:, [0, 3], 4:]
    was = (old[..., [2, 3]].sum(-1) / old.sum(-1))[:, [0, 3], 4:]
    reached = was > 1e-6  # a window of four tokens ends before the keys
    if write == "force":
        assert torch.allclose(mass[reached], torch.full_like(mass, 0.7)[reached], atol=1e-4)
    else:
        assert (mass <= was + 1e-6).all() if write == "mask" else (mass >= was - 1e-6).all()


@pytest.mark.parametrize("write", KEY_WRITES)
def test_the_sweep_equals_a_whole_pass(write: str) -> None:
    """Resumed at the edited layer, with roles of queries, against a hook-free full pass under the same tape."""
    lab, pairs = tiny.lab("llama"), with_roles()
    for fields in ({}, {"roles": ("last",)}, {"decoy": True, "seed": 4}):
        edit = one(lab, write, 0.6, **fields)
        tape, _ = tape_of(lab, pairs, edit)
        with torch.no_grad(), lab.tape(tape):
            logits = forward(lab, torch.tensor([p.corrupted.ids for p in pairs])).logits[:, -1]
        found = sweep(lab, pairs, [World("w", (edit,)), World("base")])
        close(lab, found[found["world"] == "w"]["edited"], logits[:, 1] - logits[:, 2])
        gap = found[found["world"] == "w"]["edited"].to_numpy() - found[found["world"] == "base"]["edited"].to_numpy()
        assert abs(gap).max() > 1e-3


def test_a_borrowed_pattern_is_another_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """`exchange` at `pattern`: head 0 attends as head 3 does, with its own values."""
    lab, pairs = tiny.lab("gpt2"), with_roles()
    edit = tiny.edit(lab, 1, "pattern", (0,), write="exchange", donors=(3,))
    seen = capture(lab, [p.corrupted for p in pairs], [(1, "pattern"), (1, "v"), (1, "z")])
    tape, _ = tape_of(lab, pairs, edit)
    tape.wanted = frozenset({(1, "z")})
    with torch.no_grad(), lab.tape(tape):
        forward(lab, torch.tensor([p.corrupted.ids for p in pairs]))
    z: Tensor = tape.kept[1, "z"]
    for i in range(len(pairs)):
        wanted = seen[1, "pattern"][i][:, 3] @ seen[1, "v"][i][:, 0]
        assert torch.allclose(z[i, :, 0], wanted, atol=1e-5)
        assert torch.allclose(z[i, :, 1:], seen[1, "z"][i][:, 1:], atol=1e-5)


def test_a_mask_at_every_step_reaches_the_prompts_keys_from_generated_tokens() -> None:
    """Masking every prompt key of a role at every step equals hiding those keys' values from later queries: text by
    the cache equals text by whole passes."""
    lab, pairs = tiny.lab("llama"), with_roles(2)
    edit = one(lab, "mask", 1.0, when="every_step")
    made = generate(lab, pairs, [World("w", (edit,))], max_new_tokens=4)["text"].tolist()
    for pair, text in zip(pairs, made, strict=True):
        ids = list(pair.corrupted.ids)
        for _ in range(4):
            hidden = torch.zeros(1, len(ids), dtype=torch.bool)
            hidden[0, [2, 3]] = True

            def edited(x: Tensor, hidden: Tensor = hidden) -> Tensor:
                own = x.transpose(1, 2)
                new = _moved("mask", own, hidden, hidden & False, torch.ones(1))
                out = own.clone()
                out[:, :, [0, 3]] = new[:, :, [0, 3]]
                return out.transpose(1, 2)

            with torch.no_grad(), lab.tape(Tape(edits={(1, "pattern"): [edited]})):
                ids.append(int(forward(lab, torch.tensor([ids])).logits[0, -1].argmax()))
        assert tiny.words().decode(ids[11:], skip_special_tokens=True) == text


def test_decoys_are_other_keys_and_follow_pair_and_seed() -> None:
    lab, pairs = tiny.lab("llama"), with_roles(3)
    edit = one(lab, "redistribute", 0.5, decoy=True, seed=1)
    drawn = [key_positions(edit, p.corrupted) for p in pairs]
    for keys, source in drawn:
        assert len(keys) == 2 and source == [5] and not set(keys) & {0, 2, 3, 5}
    assert drawn == [key_positions(edit, p.corrupted) for p in pairs]
    seeds = [key_positions(one(lab, "redistribute", 0.5, decoy=True, seed=s), pairs[0].corrupted)[0] for s in range(8)]
    assert len({tuple(s) for s in seeds}) > 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"write": "mask"}, "needs keys and no from_keys"),
        ({"write": "redistribute", "keys": ("a",)}, "needs keys and from_keys"),
        ({"write": "force", "keys": ("a",), "amount": 1.2}, "takes a share between 0 and 1, given 1.2"),
        ({"write": "patch", "keys": ("a",)}, "'patch' takes no keys"),
        ({"write": "mask", "keys": ("a",), "site": "z"}, "is defined at 'pattern', not at 'z'"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], told: str) -> None:
    lab = tiny.lab("llama")
    with pytest.raises(InterventionError, match=told):
        tiny.edit(lab, 1, fields.pop("site", "pattern"), (0,), **fields)
    with pytest.raises(InterventionError, match="no token role 'nowhere'"):
        sweep(lab, with_roles(), [World("w", (one(lab, "mask", 0.5, keys=("nowhere",)),))])
