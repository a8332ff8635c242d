"""Means and resamples over other prompts, and directions, against plain hooks and hand-made means.

The oracle imports nothing of headlab: it finds a cell's donors by arithmetic on token positions written out here, reads
z at the input of the output projection of a model of its own, and writes there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from laws import close, red, table
from safetensors.numpy import save_file
from test_law_plan import constant, only
from torch import Tensor

from headlab.engine import populations, run
from headlab.engine.decode import generate
from headlab.engine.directions import contrast, difference_of_means
from headlab.engine.model import Lab
from headlab.engine.run import sweep
from headlab.heads import Heads
from headlab.interventions import Intervention, InterventionError, World, across
from headlab.material import Direction, Material, Population
from headlab.prompts import EncodedPair

TOLERANCE = 1e-5
OUT = {
    **dict.fromkeys(("llama", "qwen3", "gemma", "gemma2", "mistral", "granite"), "model.layers.{}.self_attn.o_proj"),
    "gpt_neox": "gpt_neox.layers.{}.attention.dense",
    "gpt2": "transformer.h.{}.attn.c_proj",
}
HEADS = Heads.parse("L0H1 L1H0 L1H3 L2H4")


def prompts(n: int, seed: int, name: str) -> list[EncodedPair]:
    """Pairs of natural length: ``a`` is tokens 2 and 3, ``b`` the last but one; between them 1 to 7 tokens."""
    made = []
    for k in range(n):
        p = tiny.mixed_pairs(seed + 100 * k)[k % 8]
        pair = replace(p.pair, id=f"{name}{k}", answer=f"w{5 + k % 3}")
        made.append(replace(p, pair=pair, corrupted=replace(p.corrupted, answer_id=5 + k % 3)))
    return made


TARGETS, DONORS = prompts(8, 7, "t"), prompts(48, 50_001, "d")
MATERIAL = Material({"chosen": DONORS})


def donor_position(target: EncodedPair, position: int, donor: EncodedPair) -> int | None:
    """Where ``donor`` lends to ``position`` of ``target``, by hand."""
    n, m = len(target.corrupted.ids), len(donor.corrupted.ids)
    if position < 4:  # the two before a, and a itself
        return position
    if position >= n - 2:  # b and the last token
        return position - n + m
    left, right = position - 4, n - 2 - position
    there = 4 + left if left < right else m - 2 - right
    return there if 4 <= there < m - 2 else None


class Oracle:
    def __init__(self, family: str) -> None:
        self.model = tiny.hf_model(family)
        config = self.model.config
        self.size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.out = [self.model.get_submodule(OUT[family].format(layer)) for layer in range(tiny.LAYERS)]

    def run(self, ids: tuple[int, ...], change: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Last logits, and z of each layer [position, head · d] as it went on."""
        seen: list[Tensor] = []

        def hook(_module: Any, args: Any) -> Any:
            z = change(len(seen), args[0].clone())
            seen.append(z)
            return (z, *args[1:])

        handles = [m.register_forward_pre_hook(hook) for m in self.out]
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0, -1]
        for handle in handles:
            handle.remove()
        return logits, [z[0] for z in seen]

    def difference(self, pair: EncodedPair, value: Callable[[int, int, slice], Tensor | None]) -> tuple[float, float]:
        """The answers' logit difference when every head of ``HEADS`` is written, and the largest logit.

        ``value(layer, position, channels)``: what is written there, or None.
        """

        def change(layer: int, z: Tensor) -> Tensor:
            for h in HEADS.at(layer):
                part = slice(h * self.size, (h + 1) * self.size)
                for p in range(len(pair.corrupted.ids)):
                    if (new := value(layer, p, part)) is not None:
                        z[:, p, part] = new + (z[:, p, part] if value is ADD else 0)
            return z

        logits, _ = self.run(pair.corrupted.ids, change)
        e = pair.corrupted
        return (logits[e.answer_id] - logits[e.wrong_id]).item(), logits.abs().max().item()


def ADD(layer: int, position: int, part: slice) -> Tensor:
    """The vector that is added to a head, by arithmetic."""
    size = part.stop - part.start
    return torch.tensor([math.sin(layer + part.start // size + c) for c in range(size)], dtype=torch.float32)


def direction(size: int) -> Direction:
    return Direction({str(h): [math.sin(h.layer + h.index + c) for c in range(size)] for h in HEADS})


DAILY = ("llama", "gpt2")


@pytest.mark.parametrize("family", [f if f in DAILY else pytest.param(f, marks=pytest.mark.accept) for f in OUT])
def test_mean_by_role_and_add_equal_plain_hooks(family: str) -> None:
    lab, oracle = tiny.lab(family), Oracle(family)
    material = replace(MATERIAL, directions={"d": direction(oracle.size)})
    worlds = [
        World("mean", across(lab.grid, HEADS, write="mean", over="chosen")),
        World("some", across(lab.grid, HEADS, write="mean", over="chosen", roles=("a", "read"))),
        World("add", across(lab.grid, HEADS, write="add", direction="d")),
    ]
    frame = sweep(lab, TARGETS, worlds, material=material).set_index(["pair", "world"])["edited"]
    held = [oracle.run(d.corrupted.ids, lambda _layer, z: z)[1] for d in DONORS]
    for i, pair in enumerate(TARGETS):

        def mean(layer: int, p: int, part: slice, pair: EncodedPair = pair) -> Tensor:
            places = [(z, donor_position(pair, p, d)) for z, d in zip(held, DONORS, strict=True)]
            return torch.stack([z[layer][q, part] for z, q in places if q is not None]).double().mean(0).float()

        def some(layer: int, p: int, part: slice, pair: EncodedPair = pair) -> Tensor | None:
            return mean(layer, p, part, pair) if p in {2, 3, len(pair.corrupted.ids) - 1} else None

        for name, value in (("mean", mean), ("some", some), ("add", ADD)):
            wanted, size = oracle.difference(pair, value)
            assert abs(frame[i, name] - wanted) <= TOLERANCE * size, f"pair {i}, {name}"
    base = oracle.difference(TARGETS[0], lambda _layer, _position, _part: None)[0]
    assert all(abs(frame[0, name] - base) > 1e-2 for name in ("mean", "some", "add"))


def test_a_resample_is_the_drawn_donor_at_the_same_roles() -> None:
    lab, oracle = tiny.lab("llama"), Oracle("llama")
    ones = across(lab.grid, HEADS, write="resample", over="chosen", seed=3)
    got = sweep(lab, TARGETS, [World("w", ones)], material=MATERIAL)["edited"]
    population = Population("chosen", tuple(DONORS))
    for i, pair in enumerate(TARGETS):
        d, _ = population.donor(ones[0], pair)
        assert DONORS[d].pair.answer != pair.pair.answer
        z = oracle.run(DONORS[d].corrupted.ids, lambda _layer, z: z)[1]

        def value(layer: int, p: int, part: slice, pair: EncodedPair = pair, d: int = d, z: Any = z) -> Tensor:
            place = donor_position(pair, p, DONORS[d])
            assert place is not None
            return z[layer][place, part]

        wanted, size = oracle.difference(pair, value)
        assert abs(got[i] - wanted) <= TOLERANCE * size
    shuffled = DONORS.copy()
    random.Random(0).shuffle(shuffled)
    other = Population("chosen", tuple(shuffled))
    drawn = [
        (population.donor(o, p)[0], other.donor(o, p)[0]) for p in TARGETS for o in (ones[0], replace(ones[0], seed=9))
    ]
    assert all(DONORS[a].pair.id == shuffled[b].pair.id for a, b in drawn), "the draw depends on the order of donors"
    assert len({a for a, _ in drawn}) > 4


def worlds(lab: Lab) -> list[World]:
    """Every new write, at several sites, alone and together."""
    mean, resample = {"write": "mean", "over": "chosen"}, {"write": "resample", "over": "chosen"}
    cut = across(lab.grid, Heads.parse("L0H1 L0H3"), **mean)
    few = [World(f"mean{h}", (tiny.edit(lab, 1, "z", (h,), **mean),)) for h in range(4)]
    return [
        World("baseline"), *few,
        World("mean everywhere", across(lab.grid, HEADS, **mean)),
        World("mean v", across(lab.grid, HEADS, site="v", **mean)),
        World("resample", across(lab.grid, HEADS, roles=("a", "b"), **resample)),
        World("resid", (tiny.edit(lab, 1, "resid", roles=("a",), **mean),)),
        World("out", (tiny.edit(lab, 1, "out_block", roles=("b",), amount=0.5, **mean),)),
        World("add", across(lab.grid, HEADS, write="add", direction="d", amount=-0.5)),
        World("path k", across(lab.grid, Heads.parse("L1H2 L2H0"), site="k", computed_in=cut)),
        World("path z", across(lab.grid, Heads.parse("L2H0 L2H2"), site="z", computed_in=cut, free=True, roles=("read",))),
        World("path and add", (*across(lab.grid, Heads.parse("L2H3"), site="q", computed_in=cut),
                               *across(lab.grid, Heads.parse("L1H1"), write="add", direction="one"))),
    ]  # fmt: skip


@pytest.mark.accept
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_every_plan_gives_the_same_numbers(family: str) -> None:
    law_1(tiny.lab(family), TARGETS, plans=("few rows", "blocks", "can_skip", "can_resume"))


def test_a_plan_never_changes_a_number() -> None:
    law_1(tiny.lab("llama"), TARGETS[:5])


def law_1(lab: Lab, targets: list[EncodedPair], plans: tuple[str, ...] = ()) -> None:
    """Law 1 for the new writes: order, batches, blocks, deltas, steps left out."""
    size = lab.head_dim
    one = Direction({"L1H1": np.ones(size)})
    material = Material({"chosen": DONORS}, {"d": direction(size), "one": one})
    many = worlds(lab)
    with only(lab):
        wanted = table(lab, targets, many, material=material, tokens=37)
    changed = wanted.unstack().sub(wanted.unstack()["baseline"], axis=0).abs().max()
    assert (changed.drop("baseline") > 1e-3).all()
    with constant("MANY", 1):
        close(lab, table(lab, targets[::-1], many[::-1], material=material), wanted)
        if "few rows" in plans:
            close(lab, table(lab, targets, many, material=material, tokens=1), wanted)
        if "blocks" in plans:
            with constant("BLOCK_BYTES", 1):
                close(lab, table(lab, targets[::-1], many, material=material), wanted)
    for flags in (("can_skip",), ("can_skip", "can_resume")):
        if flags[-1] in plans:
            with only(lab, *flags):
                close(lab, table(lab, targets, many, material=material), wanted)


def test_what_was_there_changes_nothing_and_what_does_not_fire_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laws 2 and 3: a path whose run writes back what was there, an addition of nothing; a run that never happens."""
    lab = tiny.lab("llama")
    back = across(lab.grid, Heads.parse("L0H1"), write="noop")
    still = [
        World(s, across(lab.grid, HEADS - Heads.parse("L0H1"), site=s, computed_in=back)) for s in ("q", "k", "v", "z")
    ]  # type: ignore[arg-type]
    still.append(World("add", across(lab.grid, HEADS, write="add", direction="d", amount=0.0)))
    material = Material({}, {"d": direction(14)})
    made = sweep(lab, TARGETS, still, material=material)
    close(lab, made["edited"], made["corrupted"])
    zero = across(lab.grid, Heads.parse("L0H1"), write="zero")
    world = World("path", across(lab.grid, Heads.parse("L2H0"), site="k", computed_in=zero))
    from headlab.engine import paths

    monkeypatch.setattr(paths, "_pass", lambda *_: None)
    with pytest.raises(run.EngineError, match="did not fire as planned"):
        sweep(lab, TARGETS, [world])


def test_a_targets_own_cluster_never_lends() -> None:
    """On the selection prompts themselves: the mean of the others, by hand from their z."""
    lab, oracle = tiny.lab("gpt2"), Oracle("gpt2")
    pairs = tiny.equal_pairs(12, 7, seed=4)
    pairs = [replace(p, pair=replace(p.pair, cluster=f"c{n // 2}")) for n, p in enumerate(pairs)]
    world = World("w", across(lab.grid, HEADS, write="mean", over="own"))
    got = sweep(lab, pairs, [world], material=Material({"own": pairs}))["edited"]
    held = [oracle.run(d.corrupted.ids, lambda _layer, z: z)[1] for d in pairs]
    for i, pair in enumerate(pairs):
        others = [z for n, z in enumerate(held) if n // 2 != i // 2]
        assert len(others) == 10
        wanted, size = oracle.difference(
            pair, lambda layer, p, part, others=others: torch.stack([z[layer][p, part] for z in others]).mean(0)
        )
        assert abs(got[i] - wanted) <= TOLERANCE * size


def test_means_while_generating_are_those_at_read() -> None:
    """Every generated token takes the population's mean at ``read``: by whole passes without a cache."""
    lab, oracle = tiny.lab("llama"), Oracle("llama")
    ones = across(lab.grid, Heads.of(1, range(10)), write="mean", over="chosen", when="every_step", roles=("last",))
    text = generate(lab, TARGETS, [World("w", ones)], material=MATERIAL, max_new_tokens=4)["text"]
    held = torch.stack([oracle.run(d.corrupted.ids, lambda _layer, z: z)[1][1][-1] for d in DONORS]).mean(0)
    plain = []
    for pair in TARGETS:
        ids = list(pair.corrupted.ids)
        for _ in range(4):

            def change(layer: int, z: Tensor, prompt: int = len(pair.corrupted.ids)) -> Tensor:
                if layer == 1:
                    z[:, prompt - 1 :] = held
                return z

            ids.append(int(oracle.run(tuple(ids), change)[0].argmax()))
            if ids[-1] == tiny.EOS:
                break
        plain.append(tiny.words().decode(ids[len(pair.corrupted.ids) :], skip_special_tokens=True))
    assert text.tolist() == plain
    assert plain != generate(lab, TARGETS, [World("b")], max_new_tokens=4)["text"].tolist()


def test_a_difference_of_means_and_its_file(tmp_path: Path) -> None:
    lab, oracle = tiny.lab("llama"), Oracle("llama")
    labels = [n % 3 == 0 for n in range(len(DONORS))]
    made = difference_of_means(lab, DONORS, HEADS, labels, role="b")
    held = [oracle.run(d.corrupted.ids, lambda _layer, z: z)[1] for d in DONORS]
    at = torch.stack(
        [
            torch.stack([z[1][-2] for z, y in zip(held, labels, strict=True) if y == side]).mean(0)
            for side in (True, False)
        ]
    )
    wanted = (at[0] - at[1])[3 * oracle.size : 4 * oracle.size].numpy()
    np.testing.assert_allclose(made.vectors["L1H3"], wanted, atol=1e-5)
    runs = difference_of_means(lab, TARGETS, HEADS, role="last")
    turned = contrast(lab, TARGETS, HEADS, role="last", runs=True).direction([False] * len(TARGETS))
    np.testing.assert_allclose(turned.vectors["L0H1"], -runs.vectors["L0H1"])
    same = made.scaled_like(runs)
    assert same.norm("L2H4") == pytest.approx(runs.norm("L2H4"))
    save_file(made.vectors, tmp_path / "d.safetensors")
    assert Direction.from_file(tmp_path / "d.safetensors").content_hash() == made.content_hash()
    np.save(tmp_path / "d.npy", np.ones((3, 10, 14)))
    assert len(Direction.from_file(tmp_path / "d.npy").vectors) == 30
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InterventionError, match=r"p\.npy is not a readable"):
        Direction.from_file(tmp_path / "p.npy")


def test_names_of_shards_hold_the_material_and_older_ones_stay() -> None:
    lab = tiny.lab("llama")
    plain, mean = (
        World("p", (tiny.edit(lab, 1, "z"),)),
        World("m", (tiny.edit(lab, 1, "z", write="mean", over="chosen"),)),
    )

    def names(material: Material) -> set[str]:
        plan = run.plan_of(lab, TARGETS, [plain, mean], tokens=None, memory=None, material=material)
        return {s.name for s in plan.shards}

    first, other = names(MATERIAL), names(Material({"chosen": DONORS[1:]}))
    assert first & other, "shards that take nothing from a population keep their names"
    assert first - other
    assert first == names(Material({"chosen": list(DONORS), "more": TARGETS}))
    fields = set(Intervention(Heads.of(0, [1])).plain())
    assert not fields & {"over", "by", "direction", "computed_in", "free"}, (
        "stored hashes of earlier worlds would change"
    )


def test_what_cannot_be_lent_is_refused_before_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also looked for: unknown names, empty sides, no span, one cluster, receivers below their senders, wrong sizes."""
    lab = tiny.lab("llama")
    monkeypatch.setattr(populations, "capture", None)

    def refused(match: str, material: Material = MATERIAL, pairs: Any = TARGETS, **fields: Any) -> None:
        with pytest.raises(InterventionError, match=match):
            sweep(lab, pairs, [World("w", across(lab.grid, HEADS, **fields))], material=material)

    few = Material({"chosen": DONORS[:7]})
    refused(r"'mean' over 'chosen' has 7 donor\(s\) for token 0 of role 'a', and takes at least 8", few,
            write="mean", over="chosen", roles=("a",))  # fmt: skip
    refused("no population 'other'; there is chosen", write="mean", over="other")
    refused("no direction 'd'; there is none", write="add", direction="d")
    refused(
        "has no vector for L0H1; it has L2H0",
        Material({}, {"d": Direction({"L2H0": [1.0]})}),
        write="add",
        direction="d",
    )
    alike = [replace(p, pair=replace(p.pair, cluster="one")) for p in DONORS]
    own = [replace(p, pair=replace(p.pair, cluster="one")) for p in TARGETS]
    refused(r"has 0 donor\(s\)", Material({"chosen": alike}), own, write="mean", over="chosen")
    refused("finds no donor: none of the 48", Material({"chosen": alike}), own, write="resample", over="chosen")
    bare = [replace(p, corrupted=replace(p.corrupted, roles={"last": p.corrupted.roles["last"]})) for p in TARGETS]
    refused("this prompt names no span; give spans", pairs=bare, write="mean", over="chosen")
    cut = across(lab.grid, Heads.parse("L2H1"), write="zero")
    with pytest.raises(InterventionError, match="senders stand in lower layers"):
        World("w", across(lab.grid, Heads.parse("L1H0"), site="q", computed_in=cut))
    with pytest.raises(InterventionError, match="none that has a computed_in itself"):
        across(lab.grid, HEADS, computed_in=across(lab.grid, HEADS, computed_in=cut))
    with pytest.raises(InterventionError, match="belongs to a patch of q, k, v or z"):
        across(lab.grid, HEADS, write="zero", computed_in=cut)


def test_donors_that_are_lent_twice_are_seen() -> None:
    """A mutant of the test itself: a mean that counts one donor twice is not the mean."""
    lab = tiny.lab("llama")
    world = World("w", across(lab.grid, HEADS, write="mean", over="chosen"))
    wanted = sweep(lab, TARGETS, [world], material=MATERIAL)["edited"]
    twice = Material({"chosen": [*DONORS, replace(DONORS[0], pair=replace(DONORS[0].pair, id="again"))]})
    red(lambda: close(lab, sweep(lab, TARGETS, [world], material=twice)["edited"], wanted))
