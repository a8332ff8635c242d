"""Attribution patching and integrated gradients: against finite differences of edited passes, against closed forms,
and against Captum on the model's own code.

Each test was tried against mutants of ``engine/gradients.py``; its docstring names those that turn it red.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headlab.engine import gradients
from headlab.engine.attention import Tape
from headlab.engine.gradients import Rule, attribution_patching, integrated_gradients, quadrature
from headlab.engine.model import Lab, open_model
from headlab.engine.passes import forward
from headlab.engine.run import EngineError
from headlab.engine.selfcheck import prove
from headlab.interventions import InterventionError
from headlab.prompts import Alignment, EncodedPair, PromptError

MOE = ("mixtral", "qwen3_moe", "qwen3_next", "gpt_oss", "deepseek_v3")


# -- an independent account of what is moved where ---------------------------------------------------------------


def partners(pair: EncodedPair) -> dict[int, int]:
    """Corrupted position → clean position, written out by hand for the two kinds of pairs in ``tiny``.

    ``equal_pairs``: each position its own.  ``mixed_pairs``: role a stands at 1, 2 (clean) and 2, 3 (corrupted), role
    b third and second from the end; and the last token.
    """
    clean, corrupted = len(pair.clean.ids), len(pair.corrupted.ids)
    if "a" not in pair.clean.roles:
        return {t: t for t in range(corrupted)}
    return {2: 1, 3: 2, corrupted - 2: clean - 3, corrupted - 1: clean - 1}


def difference(logits: Tensor) -> Tensor:
    """Token 1 is right and token 2 wrong in every prompt of ``tiny``."""
    return logits[:, -1, 1] - logits[:, -1, 2]


def own(lab: Lab, ids: Any, layer: int, site: str) -> Tensor:
    """A site of one prompt, [position, head, channel]."""
    with torch.no_grad(), lab.tape(Tape(wanted=frozenset({(layer, site)}))) as tape:
        forward(lab, torch.tensor([ids]))
    kept = tape.kept[layer, site][0]
    return kept if site == "z" else kept.transpose(0, 1)


def moves(lab: Lab, pair: EncodedPair, layer: int, site: str = "z") -> Tensor:
    """clean − corrupted at aligned positions, 0 elsewhere, [position, head, channel]."""
    clean, corrupted = own(lab, pair.clean.ids, layer, site), own(lab, pair.corrupted.ids, layer, site)
    out = torch.zeros_like(corrupted)
    for target, origin in partners(pair).items():
        out[target] = clean[origin] - corrupted[target]
    return out


def shifted(lab: Lab, pair: EncodedPair, layer: int, site: str, shift: Tensor) -> Tensor:
    """Logit differences of real passes over the corrupted prompt with ``shift`` [row, position, head, channel] added."""
    add = shift if site == "z" else shift.transpose(1, 2)
    with torch.no_grad(), lab.tape(Tape(edits={(layer, site): [lambda x: x + add]})):
        return difference(forward(lab, torch.tensor([pair.corrupted.ids]).expand(len(shift), -1)).logits)


def each_head(move: Tensor) -> Tensor:
    """[position, head, channel] → one row for each head, zero at the others."""
    return torch.diag_embed(move.permute(0, 2, 1)).permute(3, 0, 2, 1)


def central(lab: Lab, pair: EncodedPair, layer: int, site: str = "z", step: float = 1e-4) -> np.ndarray:
    """The slope of the logit difference along each head's move, by central differences."""
    rows = each_head(moves(lab, pair, layer, site)) * step
    slope = shifted(lab, pair, layer, site, rows) - shifted(lab, pair, layer, site, -rows)
    return (slope / (2 * step)).double().numpy()


def exact(lab: Lab, pair: EncodedPair, layer: int, site: str = "z") -> np.ndarray:
    """What patching each head does, by patching it."""
    move = each_head(moves(lab, pair, layer, site))
    return (shifted(lab, pair, layer, site, move) - shifted(lab, pair, layer, site, 0 * move)).double().numpy()


class wide(TorchFunctionMode):
    """Model code that goes through float32 (norms, softmax) stays in float64: differences of 1e-4 can be trusted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        swap = lambda x: torch.float64 if x is torch.float32 else x  # noqa: E731
        if func is Tensor.float:
            return args[0].double()
        return func(*map(swap, args), **{k: swap(v) for k, v in (kwargs or {}).items()})


@cache
def sampled(*families: str) -> list[Any]:
    """The plainest two daily, the others under ``make accept``: what is theirs is in the slopes of every day."""
    return [f if f in ("llama", "gpt2") else pytest.param(f, marks=pytest.mark.accept) for f in families]


def double(family: str) -> Lab:
    """A proved float64 model."""
    model = tiny.hf_model(family).double()
    if family in MOE:  # the grouped product of experts has no float64
        model.set_experts_implementation("eager")
    made = open_model(model, tokenizer=tiny.words())
    with wide():
        prove(made)
    return made


def by_head(table: pd.DataFrame, pair: int, layer: int, site: str = "z") -> np.ndarray:
    some = table[(table["pair"] == pair) & (table["layer"] == layer) & (table.get("site", site) == site)]
    assert list(some["head"]) == list(range(len(some)))
    return some["attribution"].to_numpy()


def close(a: np.ndarray, b: np.ndarray, tolerance: float, floor: float = 0.0) -> float:
    """Equal within ``tolerance`` of the largest; returns the gap."""
    size = np.abs(b).max()
    assert size > floor, "nothing to compare"
    gap = float(np.abs(a - b).max() / size)
    assert gap <= tolerance, f"{gap:.2e} of {size:.3g}"
    return gap


# -- attribution patching ------------------------------------------------------------------------------------------


def slopes_agree(family: str, pairs: list[EncodedPair]) -> None:
    lab = double(family)
    with wide():
        table = attribution_patching(lab, pairs, sites=("z", "q", "k", "v"))
        for p, layer, site in product(range(len(pairs)), sorted(lab.attentions), ("z", "q", "k", "v")):
            # curvature of relu² is the largest share of the gap
            tolerance = 1e-6 if family != "nemotron" else 2e-5
            close(by_head(table, p, layer, site), central(lab, pairs[p], layer, site), tolerance)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "gpt_oss"])
def test_attribution_is_the_slope_of_real_edited_passes(family: str) -> None:
    """Central differences of passes that add ±1e-4 of one head's move, float64: fused, grouped and single KV heads,
    soft-caps, windows, sinks; prompts of one length and of different lengths.

    Red: clean position = corrupted position; positions without a partner moved; clean − corrupted reversed; the graph
    cut at every layer; heads reversed; only the last position summed; answer and wrong swapped.
    """
    slopes_agree(family, [*tiny.equal_pairs(1), *tiny.mixed_pairs()[:2]])


@pytest.mark.accept
@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_attribution_is_the_slope_in_every_family(family: str) -> None:
    slopes_agree(family, [*tiny.equal_pairs(2), *tiny.mixed_pairs()])


@pytest.mark.parametrize("how", ["end", "left"])
def test_attribution_follows_the_alignment_it_is_given(how: Alignment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven clean tokens against eleven: matched from the end, or from the left (and no clean answer start here)."""
    lab, pair = double("llama"), tiny.mixed_pairs()[0]
    by_hand = {"end": {t: t - 4 for t in range(4, 11)}, "left": {t: t for t in range(7)}}
    with wide():
        table = attribution_patching(lab, [pair], align=how)
        monkeypatch.setitem(globals(), "partners", lambda _pair: by_hand[how])
        close(by_head(table, 0, 1), central(lab, pair, 1), 1e-6)


LINEAR = {"llama": ("model.norm", "model.layers.2.mlp"), "gpt2": ("transformer.ln_f", "transformer.h.2.mlp")}


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("family", list(LINEAR))
def test_attribution_is_the_effect_where_the_readout_is_linear(family: str) -> None:
    """The last layer's z in a model whose last MLP writes nothing and whose final norm is the identity: the logits
    are linear in it, so the first order is all there is.  In the model as it was it is not.

    Red: the product of move and slope halved; the mean over a batch differentiated; clean positions of another pair.
    """
    norm, mlp = LINEAR[family]
    model = tiny.hf_model(family)
    model.set_submodule(norm, nn.Identity())
    model.set_submodule(mlp, Nothing())
    linear = open_model(model, tokenizer=tiny.words())
    pairs = [*tiny.equal_pairs(2), *tiny.mixed_pairs()[:2]]
    for lab, exactly in ((linear, True), (tiny.lab(family), False)):
        table = attribution_patching(lab, pairs)
        one = integrated_gradients(lab, pairs, 2, steps=1)
        for p, pair in enumerate(pairs):
            wanted = exact(lab, pair, 2)
            if exactly:
                close(by_head(table, p, 2), wanted, 1e-5)
                close(by_head(one, p, 2), wanted, 1e-5)
            else:
                assert np.abs(by_head(table, p, 2) - wanted).max() > 1e-2 * np.abs(wanted).max()
        assert (one["gap"].abs().max() < 1e-5) == exactly


@pytest.mark.parametrize("family", tiny.CORE)
def test_nothing_is_attributed_where_nothing_differs(family: str) -> None:
    """A pair of the same prompt twice, in one batch with a pair of different ones: 0, not about 0."""
    lab, (one, other) = tiny.lab(family), tiny.equal_pairs(2)
    same = tiny.pair("same", one.clean, one.clean)
    table = attribution_patching(lab, [same, other], sites=("z", "q", "k", "v"))
    nothing = table["pair_id"] == "same"
    assert (table[nothing]["attribution"] == 0).all() and (table[nothing]["clean"] == table[nothing]["corrupted"]).all()
    assert (table[~nothing].groupby(["site", "layer"])["attribution"].std() > 0).all()
    path = integrated_gradients(lab, [same, other], 1)
    assert (path[path["pair_id"] == "same"][["attribution", "total", "gap"]] == 0).all().all()
    assert (path[path["pair_id"] != "same"]["attribution"] != 0).all()


def test_the_tables_hold_every_head_in_order() -> None:
    """Rows in the order pair, site, layer, head; query heads for z and q, KV heads for k and v; clean and corrupted
    are the logit differences of unedited passes."""
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    table = attribution_patching(lab, pairs, sites=("v", "z"))
    columns = ["pair", "pair_id", "cluster", "site", "layer", "head", "attribution", "clean", "corrupted"]
    assert list(table.columns) == columns
    assert all(table[c].dtype == np.float64 for c in ("attribution", "clean", "corrupted"))
    heads = [("v", layer, h) for layer in range(3) for h in range(2)]
    heads += [("z", layer, h) for layer in range(3) for h in range(10)]
    wanted = [(p, f"m{p}", f"m{p}", *head) for p in range(8) for head in heads]
    assert list(table[columns[:6]].itertuples(index=False, name=None)) == wanted
    for p, pair in enumerate(pairs):
        row = table[table["pair"] == p].iloc[0]
        for name, encoded in (("clean", pair.clean), ("corrupted", pair.corrupted)):
            with torch.no_grad():
                logits = forward(lab, torch.tensor([encoded.ids])).logits
            assert row[name] == pytest.approx(difference(logits).item(), abs=1e-5)
    precise = double("llama")
    row = attribution_patching(precise, pairs[:1]).iloc[0]
    with torch.no_grad():
        logits = forward(precise, torch.tensor([pairs[0].clean.ids])).logits
    assert row["clean"] == pytest.approx(difference(logits).item(), abs=1e-12), "float64 stays float64"
    path = integrated_gradients(lab, pairs, 1)
    assert list(path.columns) == [
        "pair",
        "pair_id",
        "cluster",
        "layer",
        "head",
        "attribution",
        "total",
        "change",
        "gap",
    ]
    assert list(zip(path["pair"], path["layer"], path["head"], strict=True)) == [
        (p, 1, h) for p in range(8) for h in range(10)
    ]


# -- integrated gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sampled(*tiny.CORE))
def test_the_heads_shares_add_up_to_the_change(family: str) -> None:
    """Completeness, at every layer: the gap falls with the square of the steps, and faster by Gauss and Legendre.

    ``change`` is what patching all heads of the layer does, by a full pass of the test's own.
    Red: slope at α = 0 only; α running to 2; nodes at the left ends; Gauss-Legendre weights of [−1, 1]; equal weights
    at its nodes; another pair's residual below or tokens; nodes of one pair given to another; the end read at α = 0.9.
    """
    lab, pairs = tiny.lab(family), tiny.mixed_pairs()
    for layer in range(tiny.LAYERS):
        found = {n: integrated_gradients(lab, pairs, layer, steps=n) for n in (2, 8, 32)}
        gaps = {n: t["gap"].abs().max() for n, t in found.items()}
        finest = integrated_gradients(lab, pairs, layer, steps=32, rule="gauss-legendre")
        size = finest["change"].abs().max()
        assert gaps[32] < 2e-3 * size and gaps[32] < gaps[8] / 8 and gaps[8] < gaps[2] / 4, (layer, gaps, size)
        assert finest["gap"].abs().max() < 2e-5 * max(size, 1)
        for p, pair in enumerate(pairs):
            some = finest[finest["pair"] == p]
            move = moves(lab, pair, layer)[None]
            whole = (shifted(lab, pair, layer, "z", move) - shifted(lab, pair, layer, "z", 0 * move)).item()
            assert some["change"].to_numpy() == pytest.approx(whole, abs=1e-5)
            assert some["total"].to_numpy() == pytest.approx(some["attribution"].sum(), abs=1e-12)
            assert some["gap"].to_numpy() == pytest.approx((some["total"] - some["change"]).to_numpy(), abs=1e-12)


def test_the_path_jumps_where_experts_are_chosen() -> None:
    """Completeness needs a continuous path.  With every expert in use it holds; where the router takes the best two
    of four, the choice changes on the way, no slope sees it, and no number of steps closes the gap: the gap says so."""
    pairs = tiny.mixed_pairs()
    every = open_model(tiny.hf_model("mixtral", {**tiny.FAMILIES["mixtral"], "num_experts_per_tok": 4}),
                       tokenizer=tiny.words())  # fmt: skip
    prove(every)
    for lab, holds in ((every, True), (tiny.lab("mixtral"), False)):
        table = integrated_gradients(lab, pairs, 1, steps=32)
        assert (table["gap"].abs().max() < 1e-3 * table["change"].abs().max()) == holds


def test_quadrature_is_exact_to_its_degree() -> None:
    """∫ a^k over [0, 1] is 1 / (k + 1); one more degree is not met."""
    for rule, degree in (("midpoint", lambda n: 1), ("gauss-legendre", lambda n: 2 * n - 1)):
        for steps in (1, 2, 3, 5, 8):
            nodes, weights = quadrature(steps, rule)  # type: ignore[arg-type]
            assert nodes.dtype == weights.dtype == torch.float64 and nodes.min() > 0 and nodes.max() < 1
            assert torch.equal(nodes, nodes.sort().values)
            for k in range(degree(steps) + 1):
                assert (weights * nodes**k).sum().item() == pytest.approx(1 / (k + 1), abs=1e-14)
            over = degree(steps) + 1
            assert abs((weights * nodes**over).sum().item() - 1 / (over + 1)) > 1e-14


# -- Captum ---------------------------------------------------------------------------------------------------------

RULES: dict[Rule, str] = {"midpoint": "riemann_middle", "gauss-legendre": "gausslegendre"}


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize(
    ("family", "path"), [("llama", "model.layers.{}.self_attn.o_proj"), ("gpt2", "transformer.h.{}.attn.c_proj")]
)
def test_integrated_gradients_are_captums(family: str, path: str, rule: Rule) -> None:
    """Captum's LayerIntegratedGradients on a plain copy of the model, at the input of the output projection.

    It integrates from the baseline's activation to the input's, in the run of the *input*: so the corrupted prompt is
    its input and the clean one its baseline, which turns the sign (the nodes lie symmetrically).
    Red: the mutants of completeness.
    """
    from captum.attr import LayerIntegratedGradients

    model = tiny.hf_model(family)
    pairs = tiny.equal_pairs(3)

    def readout(ids: Tensor) -> Tensor:
        return difference(model(input_ids=ids, use_cache=False).logits)

    for layer, steps in ((0, 5), (1, 3), (2, 2)):
        found = integrated_gradients(tiny.lab(family), pairs, layer, steps=steps, rule=rule)
        oracle = LayerIntegratedGradients(readout, model.get_submodule(path.format(layer)))
        for p, pair in enumerate(pairs):
            flat = oracle.attribute(
                torch.tensor([pair.corrupted.ids]), torch.tensor([pair.clean.ids]), n_steps=steps,
                method=RULES[rule], attribute_to_layer_input=True,
            )  # fmt: skip
            heads = flat[0].unflatten(1, (tiny.lab(family).grid.n_heads, -1)).sum((0, 2))
            close(by_head(found, p, layer), -heads.detach().double().numpy(), 1e-5)


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_integrated_gradients_are_captums_between_lengths(family: str, rule: Rule) -> None:
    """Captum's IntegratedGradients on z at the aligned positions of prompts of different length, full passes."""
    from captum.attr import IntegratedGradients

    lab, pairs = tiny.lab(family), tiny.mixed_pairs()[:2]
    found = integrated_gradients(lab, pairs, 1, steps=6, rule=rule)
    for p, pair in enumerate(pairs):
        table = partners(pair)
        here, there = list(table), list(table.values())

        def readout(z: Tensor, pair: EncodedPair = pair, here: list[int] = here) -> Tensor:
            def write(x: Tensor) -> Tensor:
                return x.index_copy(1, torch.tensor(here), z)

            with lab.tape(Tape(edits={(1, "z"): [write]})):
                return difference(forward(lab, torch.tensor([pair.corrupted.ids]).expand(len(z), -1)).logits)

        ends = own(lab, pair.clean.ids, 1, "z")[None, there], own(lab, pair.corrupted.ids, 1, "z")[None, here]
        wanted = IntegratedGradients(readout).attribute(*ends, n_steps=6, method=RULES[rule])
        close(by_head(found, p, 1), wanted[0].sum((0, 2)).detach().double().numpy(), 1e-5)


# -- what it takes, and what it leaves ----------------------------------------------------------------------------


@contextmanager
def counted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How often the model and its first attention run forward, and how often anything runs backward."""
    counts = {"forward": 0, "recorded": 0, "first": 0, "rows": 0, "backward": 0}
    grad = torch.autograd.grad

    def ran(_module: nn.Module, _args: Any, kwargs: Any) -> None:
        counts["forward"] += 1
        counts["recorded"] += torch.is_grad_enabled()
        counts["rows"] += len(kwargs["input_ids"])

    def first(_module: nn.Module, _args: Any) -> None:
        counts["first"] += 1

    def back(*args: Any, **kwargs: Any) -> Any:
        counts["backward"] += 1
        return grad(*args, **kwargs)

    handles = [lab.model.register_forward_pre_hook(ran, with_kwargs=True)]
    handles.append(lab.attentions[0].register_forward_pre_hook(first))
    monkeypatch.setattr(torch.autograd, "grad", back)
    try:
        yield counts
    finally:
        monkeypatch.undo()
        for handle in handles:
            handle.remove()


def test_all_heads_take_one_forward_and_one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each group of pairs of equal lengths: a clean pass, a corrupted pass, one backward; whatever the sites.

    Red: one backward for each site; a clean pass that records; batches of one row.
    """
    lab = tiny.lab("llama")
    with counted(lab, monkeypatch) as counts:
        attribution_patching(lab, tiny.equal_pairs(4), sites=("z", "q", "k", "v"))
    assert counts == {"forward": 2, "recorded": 1, "first": 2, "rows": 8, "backward": 1}
    with counted(lab, monkeypatch) as counts:
        attribution_patching(lab, tiny.mixed_pairs())
    assert counts == {"forward": 14, "recorded": 7, "first": 14, "rows": 16, "backward": 7}


def test_a_path_runs_only_what_follows_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean, corrupted and end of the path, and all steps of all pairs in one batch; the layers below only twice.

    Red: layers below not skipped; captures that record.
    """
    lab = tiny.lab("llama")
    with counted(lab, monkeypatch) as counts:
        integrated_gradients(lab, tiny.equal_pairs(4), 1, steps=5)
    assert counts == {"forward": 4, "recorded": 1, "first": 2, "rows": 4 + 4 + 4 + 4 * 5, "backward": 1}


@pytest.mark.parametrize("family", sampled("llama", "gemma2"))
def test_batches_never_change_a_number(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any batch size, any order of pairs, layers below skipped or not, inside ``no_grad`` or inference mode.

    Red: the mean over a batch differentiated; another pair's residual, nodes or clean positions; rows left unsorted;
    inference mode left on.
    """
    lab, pairs = tiny.lab(family), tiny.mixed_pairs()
    runs: tuple[Callable[..., pd.DataFrame], ...] = (
        lambda some, **o: attribution_patching(lab, some, sites=("z", "k"), **o),
        lambda some, **o: integrated_gradients(lab, some, 1, steps=3, **o),
    )
    for run in runs:
        whole = run(pairs)
        labels = whole.select_dtypes(exclude="float").columns

        def same(other: pd.DataFrame, whole: pd.DataFrame = whole, labels: Any = labels) -> None:
            assert other[labels].equals(whole[labels])
            for column in whole.columns.difference(labels):
                assert np.abs(other[column] - whole[column]).max() <= 1e-5 * max(1, whole[column].abs().max())

        for tokens in (1, 37, 100_000):
            same(run(pairs, tokens=tokens))
        back = run(pairs[::-1]).assign(pair=lambda t: 7 - t["pair"])
        same(back.sort_values("pair", kind="stable").reset_index(drop=True))
        with torch.no_grad():
            same(run(pairs))
        with torch.inference_mode():
            same(run(pairs))
        with monkeypatch.context() as patched:
            patched.setattr(lab, "can_skip", False)
            same(run(pairs))


def traces(lab: Lab) -> list[str]:
    """What stands in a model that should not."""
    found = [f"tape at {s.layer}" for s in lab.slots if s.tape is not None]
    for name, module in lab.model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        found += [f"hook at {name}"] * any(map(len, hooks)) + [f"forward of {name}"] * ("forward" in vars(module))
    for name, weight in lab.model.named_parameters():
        found += [f"gradient of {name}"] * (weight.requires_grad or weight.grad is not None)
    return found


def test_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tape, hook, replaced forward or gradient, after a run and after one that broke in the middle.

    Red: a tape left on one slot.
    """
    lab, pairs, ids = tiny.lab("gpt2"), tiny.mixed_pairs(), torch.tensor(tiny.prompts(3, 7))
    with torch.no_grad():
        before = forward(lab, ids).logits
    attribution_patching(lab, pairs, sites=("z", "q"))
    integrated_gradients(lab, pairs, 2)
    assert traces(lab) == []

    def broken(*_args: Any) -> Any:
        assert traces(lab) != [], "the pass itself is under a tape"
        raise MemoryError

    monkeypatch.setattr(gradients, "forward", broken)
    for run in (attribution_patching, lambda a, b: integrated_gradients(a, b, 2)):
        with pytest.raises(MemoryError):
            run(lab, pairs)
        assert traces(lab) == []
    with torch.no_grad():
        assert torch.equal(forward(lab, ids).logits, before)


def test_an_edit_that_does_not_fire_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 3, also for edits that only open or move along a path: a tape that no pass sees.  Red: the count unread."""
    lab = tiny.lab("llama")

    @contextmanager
    def unseen(tape: Tape) -> Iterator[Tape]:
        yield tape

    real = lab.tape
    monkeypatch.setattr(lab, "tape", lambda tape: unseen(tape) if tape.edits else real(tape))
    for run in (attribution_patching, lambda a, b: integrated_gradients(a, b, 1)):
        with pytest.raises(EngineError, match="did not fire"):
            run(lab, tiny.equal_pairs(2))


def test_sixteen_bits_are_enough_for_a_ranking() -> None:
    """bfloat16 activations and gradients against float32 ones of the same (rounded) weights."""
    small = tiny.hf_model("llama").to(torch.bfloat16)
    large = copy.deepcopy(small).float()
    tables = []
    for model in (small, large):
        lab = open_model(model, tokenizer=tiny.words())
        prove(lab)
        path = integrated_gradients(lab, tiny.mixed_pairs(), 1)
        tables.append((attribution_patching(lab, tiny.mixed_pairs()), path))
    for ours, theirs in zip(*tables, strict=True):
        assert ours["attribution"].dtype == np.float64
        assert ours["attribution"].corr(theirs["attribution"]) > 0.99


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_every_family_has_gradients(family: str) -> None:
    lab, pairs = tiny.lab(family), tiny.mixed_pairs()[:2]
    table = attribution_patching(lab, pairs, sites=("z", "q", "k", "v"))
    path = integrated_gradients(lab, pairs, tiny.softmax_layer(lab))
    for found, by in ((table, ["site", "layer"]), (path, ["layer"])):
        assert np.isfinite(found.select_dtypes("float")).all().all()
        assert (found.groupby(by)["attribution"].std() > 0).all()


# -- errors ----------------------------------------------------------------------------------------------------------


def test_errors_say_what_is_wrong() -> None:
    lab, pairs, hybrid = tiny.lab("llama"), tiny.equal_pairs(1), tiny.lab("qwen3_next")
    unaligned = tiny.pair("odd", tiny.encoded(range(3, 10)), tiny.encoded(range(3, 14)))
    say = pytest.raises
    with say(EngineError, match="0 pairs"):
        attribution_patching(lab, [])
    with say(EngineError, match="0 pairs"):
        integrated_gradients(lab, [], 1)
    for sites in ((), ("pattern",), ("z", "z")):
        with say(InterventionError, match="sites must be some of z, q, k, v"):
            attribution_patching(lab, pairs, sites=sites)
    with say(InterventionError, match="at least one step, given 0"):
        integrated_gradients(lab, pairs, 1, steps=0)
    with say(Exception, match="simpson"):  # where signatures are checked, the check says it first
        quadrature(2, "simpson")  # type: ignore[arg-type]
    with say(ValueError, match="layer 7 is out of range"):
        integrated_gradients(lab, pairs, 7)
    with say(InterventionError, match=r"layer 0 of .* has no softmax attention.* layers 1, 2 have"):
        integrated_gradients(hybrid, pairs, 0)
    assert set(attribution_patching(hybrid, pairs)["layer"]) == {1, 2}
    for run in (attribution_patching, lambda a, b: integrated_gradients(a, b, 1)):
        with say(PromptError, match="pair odd: role alignment is undefined"):
            run(lab, [*pairs, unaligned])


def test_a_pair_without_aligned_positions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any pass runs, and by name."""
    monkeypatch.setattr(gradients, "align", lambda _pair, _how: ())
    monkeypatch.setattr(gradients, "forward", None)
    with pytest.raises(InterventionError, match="pair p0: no position is aligned"):
        attribution_patching(tiny.lab("llama"), tiny.equal_pairs(1))


def test_progress_counts_pairs() -> None:
    seen: list[tuple[str, int, int]] = []
    lab, pairs = tiny.lab("gpt2"), tiny.equal_pairs(3)
    attribution_patching(lab, pairs, tokens=1, progress=lambda *a: seen.append(a))
    integrated_gradients(lab, pairs, 1, progress=lambda *a: seen.append(a))
    assert seen == [*(("attribution patching", n, 3) for n in (1, 2, 3)), ("integrated gradients", 3, 3)]
