"""Shares, routes and entropy: against patterns written by hand, plain loops over captured patterns, and models whose
attention is uniform by construction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import worked

from headlab.engine.captures import capture
from headlab.engine.loading import ModelError
from headlab.engine.model import Lab
from headlab.engine.passes import EngineError
from headlab.measures import DECIMALS, PublishedClasses, TokenClasses, bandwidth, entropy, routing
from headlab.measures.watching import visible
from headlab.prompts import PromptError
from headlab.tasks.decimals import FORMATS, NUMERIC_ROLES

QUERIES = ("last", "decision", "all")


# -- classes ---------------------------------------------------------------------------------------------------------


def test_every_role_of_every_decimals_format_has_a_class() -> None:
    named = {role for f in FORMATS.values() for role, _ in f.parts} - {"", "a", "b"}
    assert named | set(NUMERIC_ROLES) == set(DECIMALS.roles)
    assert {r for r, c in DECIMALS.roles.items() if c == "numeric"} == set(NUMERIC_ROLES)


def test_classes_follow_roles_and_places() -> None:
    e = tiny.encoded(range(10, 18), forced=2, roles={"bos": (0,), "a_int": (1,), "or": (1, 2), "cue": (5,)})
    assert DECIMALS.of(e) == ("sink", "numeric", "format", "other", "other", "format", "answer", "answer")
    own = TokenClasses({"or": "words", "a_int": "digits", "cue": "other"}, first_is_sink=False)
    assert own.names == ("sink", "words", "digits", "other", "answer")
    assert own.of(e) == ("sink", "words", "words", "other", "other", "other", "answer", "answer")
    bare = tiny.encoded(range(10, 14), roles={"a_int": (0,)})
    assert DECIMALS.of(bare)[0] == "sink"
    assert own.of(bare)[0] == "digits"


def test_a_role_without_a_class_is_named_with_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headlab.measures.watching.forward", lambda *_: pytest.fail("a pass ran"))
    good, bad = worked.prompts()[0], tiny.encoded(range(10, 17), roles={"verb": (2,), "noun": (3,)})
    with pytest.raises(PromptError, match=r"prompt 1: no token class claims the role\(s\) noun, verb; .*TokenClasses"):
        bandwidth(tiny.lab("gpt2"), [good, bad])


def test_published_classes_sort_by_substring() -> None:
    class Tokenizer:
        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["<s>", "▁9", ".", "11", "Answer", "this", "or", "1:", "9"][: len(ids)]

    e = tiny.encoded(range(9), forced=1)
    expected = ("other", "numeric", "numeric", "numeric", "format", "format", "other", "format", "answer")
    assert PublishedClasses(Tokenizer()).of(e) == expected
    with pytest.raises(ValueError, match="sink"):
        bandwidth(tiny.lab("gpt2"), [e], PublishedClasses(Tokenizer()), sink="out")


# -- by hand ---------------------------------------------------------------------------------------------------------

HAND = [
    [1, 0, 0, 0, 0],
    [0.5, 0.5, 0, 0, 0],
    [0.2, 0.3, 0.5, 0, 0],
    [0.4, 0.3, 0.2, 0.1, 0],
    [0.5, 0.2, 0.1, 0.15, 0.05],
]
"""Tokens: sink, numeric, format, numeric, format."""


def hand(monkeypatch: pytest.MonkeyPatch) -> tuple[Lab, list[Any]]:
    """Head 2 of every layer has :data:`HAND`, head 4 looks at itself and at nothing else, the others evenly."""
    rows = torch.ones(5, 5).tril()
    pattern = (rows / rows.sum(-1, keepdim=True)).repeat(5, 1, 1)
    pattern[2], pattern[4] = torch.tensor(HAND), torch.eye(5)
    worked.impose(monkeypatch, pattern)
    roles = {"bos": (0,), "a_int": (1,), "or": (2,), "a_frac": (3,), "cue": (4,)}
    # what a query sees is asked of the pattern of zero queries, which is imposed too: given here
    seen = {layer: torch.ones(5, 5, dtype=torch.bool).tril() for layer in range(3)}
    monkeypatch.setattr("headlab.measures.watching.visible", lambda *_: seen)
    return tiny.lab("gpt2"), [tiny.encoded(range(10, 15), roles=roles)]


def row(table: Any, head: int, name: str, layer: int = 1) -> Any:
    (found,) = table[(table.layer == layer) & (table["head"] == head) & (table.token_class == name)].to_dict("records")
    return found


def test_shares_of_a_pattern_written_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, encoded = hand(monkeypatch)
    table = bandwidth(lab, encoded)
    assert len(table) == 3 * 5 * 4  # layers × heads × (sink, numeric, format, other)
    for name, tokens, share, flat in [("sink", 1, 0.5, 0.2), ("numeric", 2, 0.35, 0.4), ("format", 2, 0.15, 0.4)]:
        found = row(table, 2, name)
        assert (found["tokens"], found["queries"]) == (tokens, 1)
        assert [found["share"], found["uniform"], found["relative"]] == pytest.approx([share, flat, share / flat])
    other = row(table, 2, "other")
    assert other["tokens"] == 0
    assert np.isnan([other["share"], other["relative"]]).all()
    assert row(table, 4, "format")["relative"] == pytest.approx(2.5)
    assert row(table, 4, "numeric")["relative"] == 0

    out = bandwidth(lab, encoded, sink="out")
    assert set(out.token_class) == {"numeric", "format", "other"}
    assert [row(out, 2, "numeric")[k] for k in ("share", "uniform", "relative")] == pytest.approx([0.7, 0.5, 1.4])
    assert [row(out, 2, "format")[k] for k in ("share", "uniform", "relative")] == pytest.approx([0.3, 0.5, 0.6])


def test_all_queries_of_a_pattern_written_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, encoded = hand(monkeypatch)
    found = row(bandwidth(lab, encoded, queries="all"), 2, "numeric")
    share, flat = (0 + 0.5 + 0.3 + 0.4 + 0.35) / 5, (0 + 1 / 2 + 1 / 3 + 2 / 4 + 2 / 5) / 5
    assert found["queries"] == 5
    assert [found["share"], found["uniform"], found["relative"]] == pytest.approx([share, flat, share / flat])
    found = row(bandwidth(lab, encoded, queries="all", sink="out"), 2, "numeric")  # the first query sees the sink only
    share, flat = (1 + 0.3 / 0.8 + 0.4 / 0.6 + 0.7) / 4, (1 + 1 / 2 + 2 / 3 + 2 / 4) / 4
    assert found["queries"] == 4
    assert [found["share"], found["uniform"], found["relative"]] == pytest.approx([share, flat, share / flat])


def test_entropy_and_routes_of_a_pattern_written_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, encoded = hand(monkeypatch)
    table = entropy(lab, encoded)
    assert table.most.to_numpy() == pytest.approx(math.log2(5))
    bits = -sum(p * math.log2(p) for p in HAND[-1])
    assert table[table.layer == 2].bits.to_numpy() == pytest.approx([math.log2(5)] * 2 + [bits, math.log2(5), 0])
    found = routing(lab, encoded, ["a_frac", "or"], at=("last",))
    found = found[(found["head"] == 2) & (found.layer == 0)]
    assert list(found.role) == ["a_frac", "or"]
    assert found.attention.to_numpy() == pytest.approx([0.15, 0.1])
    assert found.uniform.to_numpy() == pytest.approx([0.2, 0.2])


# -- uniform attention -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*tiny.CORE, "gpt_oss"])
@pytest.mark.parametrize("sink", ["in", "out"])
def test_uniform_attention_is_one_for_every_class_and_head(family: str, sink: Any) -> None:
    """Windows (gemma2, gpt_oss) and learned sinks (gpt_oss) included: the reference is over what a query sees."""
    lab = worked.uniform(family)
    for queries in QUERIES:
        table = bandwidth(lab, worked.prompts(), queries=queries, sink=sink)  # type: ignore[arg-type]
        known = table[table.uniform > 0]
        assert known.relative.to_numpy() == pytest.approx(1, abs=1e-6)
        assert len(known) > 0.5 * len(table)
    flat = entropy(lab, worked.prompts())
    assert flat.bits.to_numpy() == pytest.approx(flat.most.to_numpy(), abs=1e-6)


@pytest.mark.parametrize(("family", "windows"), [("llama", [None] * 3), ("gemma2", [4, None, 4]), ("mistral", [4] * 3)])
def test_what_a_query_sees(family: str, windows: list[int | None]) -> None:
    lab = tiny.lab(family)
    seen = visible(lab, torch.tensor(tiny.prompts(1, 11)), [0, 1, 2])
    for layer, window in enumerate(windows):
        rows = [[k <= q and (window is None or q - k < window) for k in range(11)] for q in range(11)]
        assert seen[layer].tolist() == rows


# -- plain loops -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("family", tiny.CORE)
def test_shares_equal_a_plain_loop(family: str, queries: Any) -> None:
    lab, encoded = tiny.lab(family), worked.prompts()
    kept = capture(lab, encoded, [(layer, "pattern") for layer in range(3)])
    for sink in ("in", "out"):
        table = bandwidth(lab, encoded, queries=queries, sink=sink, relative=False)  # type: ignore[arg-type]
        assert not {"uniform", "relative"} & set(table)
        sums = table.groupby(["prompt", "layer", "head"]).share.sum().to_numpy()
        assert sums == pytest.approx(1, abs=1e-9)
        wanted = []
        for i, e in enumerate(encoded):
            kind = worked.classes_by_hand(e)
            for layer in range(3):
                for head in range(lab.grid.n_heads):
                    shares: dict[str, list[float]] = {}
                    for q in worked.asked(e, queries):
                        row = kept[layer, "pattern"][i][q, head].tolist()
                        mass = {c: sum(a for a, k in zip(row, kind, strict=True) if k == c) for c in set(kind)}
                        whole = sum(a for c, a in mass.items() if sink == "in" or c != "sink")
                        for c, a in mass.items() if whole else ():
                            shares.setdefault(c, []).append(a / whole)
                    names = (
                        ["sink"] * (sink == "in")
                        + ["numeric", "format", "other"]
                        + ["answer"] * (queries == "decision")
                    )
                    wanted += [np.mean(shares[c]) if c in kind else np.nan for c in names]
        np.testing.assert_allclose(table.share.to_numpy(), wanted, rtol=1e-5, atol=1e-7)


def test_routes_and_entropy_equal_a_plain_loop() -> None:
    lab, encoded, roles = tiny.lab("llama"), worked.prompts(), ("b_frac", "a_int", "cue")
    kept = capture(lab, encoded, [(layer, "pattern") for layer in (0, 2)])
    routes, spread = routing(lab, encoded, roles, [2, 0]), entropy(lab, encoded, at="decision", layers=[0, 2])
    wanted, bits = [], []
    for i, e in enumerate(encoded):
        for query in (e.n_prompt - 1, len(e.ids) - 1):
            for layer in (0, 2):
                for head in range(10):
                    row = kept[layer, "pattern"][i][query, head].double()
                    wanted += [row[list(e.roles[r])].sum().item() if r in e.roles else np.nan for r in roles]
        for layer in (0, 2):
            rows = kept[layer, "pattern"][i][-1].double()
            bits += (-(rows * rows.log2()).nansum(-1)).tolist()
    np.testing.assert_allclose(routes.attention, wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(spread.bits, bits, atol=1e-5)
    assert list(routes.columns) == ["prompt", "query", "layer", "head", "role", "tokens", "attention", "uniform"]
    assert set(routes[routes.role == "b_frac"].tokens) == {0, 2}


def test_batches_layers_and_order_change_no_number() -> None:
    lab, encoded = tiny.lab("gemma2"), worked.prompts()
    seen: list[tuple[str, int, int]] = []
    whole = bandwidth(lab, encoded, queries="all", progress=lambda *a: seen.append(a))
    single = bandwidth(lab, encoded, queries="all", tokens=1)
    np.testing.assert_allclose(single.share, whole.share, atol=1e-6)
    np.testing.assert_allclose(single.relative, whole.relative, atol=1e-5)
    assert seen[-1] == ("bandwidth", 7, 7)
    assert len(seen) == 3
    part = bandwidth(lab, encoded, queries="all", layers=[1])
    np.testing.assert_allclose(part.share, whole[whole.layer == 1].share, atol=1e-6)
    back = bandwidth(lab, encoded[::-1], queries="all")
    back["prompt"] = 6 - back["prompt"]
    back = back.sort_values("prompt", kind="stable")
    np.testing.assert_allclose(back.share, whole.share, atol=1e-6)


def test_only_one_layer_of_one_batch_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a pattern is kept by the tape, and nothing above the last layer asked for is computed."""
    from headlab.measures import watching

    tapes = []
    monkeypatch.setattr(watching, "Tape", lambda **k: tapes.append(made := watching_tape(**k)) or made)
    lab = tiny.lab("llama")
    bandwidth(lab, worked.prompts(), layers=[0], tokens=11)
    assert len(tapes) == 7 + 3  # a pass for each prompt, one for each length
    assert all(not tape.kept and tape.calls == [0, 1] for tape in tapes)


def watching_tape(**fields: Any) -> Any:
    from headlab.engine.attention import Tape

    return Tape(**fields)


def test_sixteen_bits_run() -> None:
    model = tiny.hf_model("llama").to(torch.bfloat16)
    half, full = tiny.proved(model), tiny.lab("llama")
    a, b = bandwidth(half, worked.prompts()), bandwidth(full, worked.prompts())
    assert a.share.dtype == np.float64
    assert a.groupby(["prompt", "layer", "head"]).share.sum().to_numpy() == pytest.approx(1, abs=1e-12)
    assert (a.share - b.share).abs().max() < 0.25
    assert (a[a.layer == 0].share - b[b.layer == 0].share).abs().max() < 0.02
    np.testing.assert_array_equal(a.uniform, b.uniform)


def test_errors_say_what_to_do() -> None:
    lab, encoded = tiny.lab("gpt2"), worked.prompts()
    with pytest.raises(EngineError, match="0 prompts"):
        bandwidth(lab, [])
    with pytest.raises(worked.REFUSED, match="queries"):
        bandwidth(lab, encoded, queries="first")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"no prompt has the role\(s\) verb; these prompts have a_frac"):
        routing(lab, encoded, ["a_int", "verb"])
    with pytest.raises(ModelError, match="no softmax attention"):
        entropy(tiny.lab("qwen3_next"), encoded, layers=[0])
    assert set(entropy(tiny.lab("qwen3_next"), encoded).layer) == {1, 2}
