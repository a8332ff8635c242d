"""What is looked at equals plain passes of transformers, and becomes a claim on other prompts.

Oracles: the model's own logits, patterns (``output_attentions``) and hidden states; a hook on the output projection for
cells of a grid; direct effects by the formulas of RMSNorm and LayerNorm.  Looked for beside them: families of which a
direct effect is not defined (norm behind the attention, scaled residual, soft-cap), and what people type by mistake.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch

import headlab
from headlab.claims import ClaimError
from headlab.engine.model import Lab, ModelError
from headlab.engine.recall import recall
from headlab.heads import Head, Heads
from headlab.interventions import Intervention, World
from headlab.looking.grids import effect
from headlab.looking.lens import direct_effects, logit_lens
from headlab.prompts import PromptError, PromptSet, encode
from headlab.prompts.tokens import token_text
from headlab.trials.document import Document

TEXT = "w3 w7 w11 w7 w20 w3"
ROWS = tiny.word_rows(6)
PAIRS = PromptSet.from_rows(ROWS, name="rows")
FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma", "qwen3")
PROJECTION = {"llama": "self_attn.o_proj", "gpt2": "attn.c_proj", "gpt_neox": "attention.dense", "gemma": "self_attn.o_proj",
              "qwen3": "self_attn.o_proj"}  # fmt: skip


def ids(lab: Lab, text: str) -> torch.Tensor:
    return torch.tensor([lab.tokenizer(text)["input_ids"]])


def hidden(lab: Lab) -> Any:
    """The model's own logits and hidden states, of a copy: asked for them, transformers leaves hooks in a model for good,
    with which it cannot be sent to another process."""
    return deepcopy(lab.model)(ids(lab, TEXT), output_hidden_states=True)


def margins(lab: Lab, which: str, hook: Any = None, at: int = 0, family: str = "") -> list[float]:
    """Answer minus wrong logit of each pair by plain passes, with a hook on the output projection of a layer."""
    out = []
    for n, row in enumerate(ROWS):
        module = lab.attentions[at].get_submodule(PROJECTION[family].split(".")[1]) if hook else None
        handle = module.register_forward_pre_hook(lambda _, args, n=n: hook(n, args)) if module is not None else None
        try:
            logits = lab.model(ids(lab, row[which])).logits[0, -1]
        finally:
            if handle is not None:
                handle.remove()
        out.append(float(logits[int(row["answer"][2:])] - logits[int(row["wrong"][2:])]))
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_as_transformers_reads_it(family: str) -> None:
    lab = tiny.lab(family)
    seen = headlab.read(lab, TEXT)
    own = hidden(lab)
    assert headlab.tokens(lab, TEXT) == TEXT.split() == list(seen.tokens)
    assert torch.allclose(seen.logits, own.logits[0], atol=1e-5)
    assert torch.allclose(seen["resid", 0], own.hidden_states[1][0], atol=1e-5)
    rows = seen["pattern", 1].sum(-1)
    assert torch.allclose(rows, torch.ones_like(rows), atol=1e-5)
    table = seen.table("z", 1)
    assert table.index.names == ["position", "token", "head"] and table.shape == (6 * lab.grid.n_heads, lab.head_dim)
    assert (table.loc[(2, "w11", "L1H3")].to_numpy() == seen["z", 1][2, 3].numpy()).all()
    pattern, resid, keys = seen.table("pattern", 0), seen.table("resid", 2), seen.table("k", 1)
    assert list(pattern.columns)[:3] == ["0 w3", "1 w7", "2 w11"] and abs(pattern.sum(axis=1) - 1).max() < 1e-5
    assert resid.index[1] == (1, "w7", "L2") and keys.index[0] == (0, "w3", "L1KV0") and len(resid) == 6
    best = seen.next(3)
    assert best["token"][0] == lab.tokenizer.decode(own.logits[0, -1].argmax())
    assert abs(best["probability"][0] - own.logits[0, -1].softmax(-1).max().item()) < 1e-6


def test_a_text_shows_itself_in_a_notebook() -> None:
    """Its tokens, and the likeliest next ones, as text and in at most 30 kB, however long it is and whatever tokens say."""
    lab = tiny.lab("llama")
    text = headlab.read(lab, TEXT)
    shown = text._repr_html_()
    assert shown.count("<code") == len(text.tokens) + 5 and f"{text.next(1)['probability'][0]:.3g}" in shown
    for tokens in (("<script>x</script>", '"&\x1b[2J', "a\u202eb"), ("<b>" * 20_000,), ("<&>",) * 50_000):
        hostile = replace(text, tokens=tokens)._repr_html_()
        assert "<script" not in hostile and "<b>" not in hostile and "\x1b" not in hostile
        assert len(hostile.encode()) <= 30_000
    assert "… 50000 tokens" in hostile


def test_a_loaded_model_reads_and_speaks() -> None:
    """As methods of what ``headlab.load`` gives; what it says is transformers' own greedy text, and another in another world."""
    made = headlab.load(tiny.hf_model("llama"), tokenizer=tiny.words())
    assert isinstance(made, headlab.Lab) and isinstance(made, Lab) and headlab.load(made) is made
    assert made.tokens(TEXT) == TEXT.split() and torch.equal(made.read(TEXT).logits, headlab.read(made, TEXT).logits)
    own = made.model.generate(ids(made, TEXT), max_new_tokens=5, do_sample=False, pad_token_id=0)[0, 6:]
    assert made.generate(TEXT, 5) == made.tokenizer.decode(own, skip_special_tokens=True)
    without = World(
        "w", tuple(Intervention(Heads.of(at, range(10)), write="zero", when="every_step") for at in range(3))
    )
    assert made.generate(TEXT, 5, without) != made.generate(TEXT, 5)
    with pytest.raises(ValueError, match="another prompt"):
        made.generate(TEXT, 5, World("w", (Intervention(Heads.of(1, [0])),)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cell_of_the_grid_is_a_hook(family: str) -> None:
    lab, at, head = tiny.lab(family), 1, 2
    part = slice(head * lab.head_dim, (head + 1) * lab.head_dim)
    kept: list[Any] = []

    def keep(_: int, args: Any) -> None:
        kept.append(args[0].clone())

    def write(n: int, args: Any) -> Any:
        z = args[0].clone()
        z[..., part] = kept[n][..., part] if kept else 0
        return (z,)

    def change(which: str) -> float:
        pairs = zip(margins(lab, which, write, at, family), margins(lab, which), strict=True)
        return sum(a - b for a, b in pairs) / len(ROWS)

    def cell(look: headlab.Look) -> Any:
        return look.table.set_index(["layer", "head"]).loc[(at, head)]

    zero = cell(headlab.heatmap(lab, PAIRS, "zero"))
    assert (
        abs(zero["value"] - change("clean")) < 2e-5 and zero["low"] <= zero["value"] <= zero["high"] and zero["n"] == 6
    )
    margins(lab, "clean", keep, at, family)
    assert abs(cell(headlab.heatmap(lab, PAIRS, "patch"))["value"] - change("corrupted")) < 2e-5


def test_a_click_is_the_grid_pair_by_pair_and_costs_the_edited_pass() -> None:
    """A lone head's mean change is its cell; two heads of two layers are written together; the second look runs no unedited
    prompt, and the table is what it is without anything kept."""
    lab = tiny.lab("gpt2")
    encoded = [encode(p, lab.tokenizer) for p in PAIRS]
    recall(lab).clear()
    for what in ("zero", "patch", "mean", "resample"):
        cells = headlab.heatmap(lab, PAIRS, what).table.set_index(["layer", "head"])["value"]
        one = effect(lab, encoded, "L1H2", what)
        assert abs(one.table["value"].mean() - cells[1, 2]) < 1e-5 and one.unit == "logits"
        passes = recall(lab).passes
        both = effect(lab, encoded, ["L0H1", "L1H2"], what).table
        assert recall(lab).passes == passes and recall(lab).bytes > 0
        world = World("w", tuple(Intervention(Heads.of(at, [h]), write=what) for at, h in ((0, 1), (1, 2))))  # type: ignore[arg-type]
        plain = headlab.sweep(lab, encoded if what == "patch" else [e.swapped() for e in encoded], [world])
        assert (both["after"].to_numpy() == plain["edited"].to_numpy()).all()
        assert ((both["after"] - both["before"]) == both["value"]).all()
    run = "clean" if what != "patch" else "corrupted"
    assert max(abs(both["before"] - margins(lab, run))) < 1e-5


def test_scores_by_their_definitions() -> None:
    """Sink and previous of a text are read off its patterns; every score of the language but the thinking one is offered."""
    lab = tiny.lab("llama")
    seen = headlab.read(lab, TEXT)
    for name, of in (("sink", lambda x: x[1:, :, 0].mean(0)), ("previous", lambda x: x.diagonal(-1, 0, 2).mean(-1))):
        got = headlab.head_scores(lab, name, [TEXT]).table.set_index(["layer", "head"])["value"]
        for at in range(3):
            wanted = of(seen["pattern", at].double())
            assert max(abs(got[at, h] - float(wanted[h])) for h in range(10)) < 1e-6
    for name in ("copying", "norm", "probe", "attribution"):
        look = headlab.head_scores(lab, name, PAIRS)
        assert len(look.table) == 30 and set(look.table["n"]) == {6}, name
    assert headlab.head_scores(lab, "norm", TEXT).table["value"].min() > 0
    for name in ("copying", "norm", "sink", "previous"):  # pairs are scored on their clean prompts
        of_pairs, of_texts = (headlab.head_scores(lab, name, x).table for x in (PAIRS, [p.clean.text for p in PAIRS]))
        assert max(abs(of_pairs["value"] - of_texts["value"])) < 1e-6, name


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_a_head_writes_for_a_token_alone_is_its_value_through_the_models_own_modules(family: str) -> None:
    """By plain hooks: every other head's z at the token taken out of what the output projection reads, its bias left out, the
    rest through the model's own norm and output embedding.  Others of the kind looked for: GQA (llama: 10 heads, 2 KV)."""
    lab, at = tiny.lab(family), 1
    h = lab.grid.n_heads - 1
    body = lab.model.model if family == "llama" else lab.model.transformer
    norm = body.norm if family == "llama" else body.ln_f
    projection = lab.attentions[at].get_submodule(PROJECTION[family].split(".")[1])
    ids, first = list(dict.fromkeys(headlab.read(lab, TEXT).ids)), lab.tokenizer.bos_token_id
    ids = [i for i in ids if i != first]
    wanted = []
    for token in ids:
        held: list[Any] = []
        value = (
            lab.attentions[at].get_submodule("v_proj")
            if family == "llama"
            else lab.attentions[at].get_submodule("c_attn")
        )
        handle = value.register_forward_hook(lambda _, a, out, held=held: held.append(out[0, -1]))
        with torch.inference_mode():
            lab.model(torch.tensor([[i for i in (first, token) if i is not None]]))
        handle.remove()
        d, groups = lab.head_dim, lab.grid.n_heads // lab.grid.group_size
        v = held[0][-groups * d :].view(groups, d)[h // lab.grid.group_size]
        z = torch.zeros(lab.grid.n_heads, d)
        z[h] = v
        with torch.inference_mode():
            made = projection(z.flatten()) - projection(torch.zeros_like(z.flatten()))
            logits = lab.model.lm_head(norm(made)).double()
        wanted.append(logits - logits.mean())
    look = headlab.ov_circuit(lab, f"L{at}H{h}", TEXT, k=2)
    assert list(look.table["value"]) == pytest.approx([float(x) for w in wanted for x in w.topk(2).values], abs=1e-5)
    best = [int(i) for w in wanted for i in w.topk(2).indices]
    assert list(look.table["toward"]) == [token_text(lab.tokenizer, i) for i in best]
    cells = {(c["y"], c["x"]): c["value"] for c in look.figure.data}
    names = [repr(token_text(lab.tokenizer, i)) for i in ids]
    assert cells[names[0], names[-1]] == pytest.approx(float(wanted[0][ids[-1]]), abs=1e-5)
    with pytest.raises(ValueError, match="an OV circuit is of one"):
        headlab.ov_circuit(lab, "L0H1 L0H2", TEXT)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_direct_effects_are_the_parts_of_the_margin(family: str) -> None:
    lab = tiny.lab(family)
    found = direct_effects(lab, PAIRS).table
    body = lab.model.model if family == "llama" else lab.model.transformer
    norm, head = (body.norm, lab.model.lm_head) if family == "llama" else (body.ln_f, lab.model.lm_head)
    constant, wanted = 0.0, torch.zeros(lab.grid.n_heads, dtype=torch.float64)
    for row in ROWS:
        x: list[Any] = []
        z: list[Any] = []
        projection = lab.attentions[1].get_submodule(PROJECTION[family].split(".")[1])
        handles = [norm.register_forward_pre_hook(lambda _, a, x=x: x.append(a[0][0, -1].double())),
                   projection.register_forward_pre_hook(lambda _, a, z=z: z.append(a[0][0, -1].double()))]  # fmt: skip
        lab.model(ids(lab, row["clean"]))
        for handle in handles:
            handle.remove()
        towards = (head.weight[int(row["answer"][2:])] - head.weight[int(row["wrong"][2:])]).double()
        weight = projection.weight.double().T if family == "llama" else projection.weight.double()
        wrote = torch.stack([
            z[0][h * lab.head_dim : (h + 1) * lab.head_dim] @ weight[h * lab.head_dim : (h + 1) * lab.head_dim]
            for h in range(lab.grid.n_heads)
        ])  # fmt: skip
        if family == "llama":
            size = (x[0].pow(2).mean() + norm.variance_epsilon).sqrt()
        else:
            size = ((x[0] - x[0].mean()).pow(2).mean() + norm.eps).sqrt()
            wrote = wrote - wrote.mean(-1, keepdim=True)
            constant += float(norm.bias.double() @ towards)
        wanted += (wrote / size * norm.weight.double()) @ towards
    got = found[(found["part"] == "head") & (found["layer"] == 1)]["value"].to_numpy()
    assert abs(got - (wanted / len(ROWS)).numpy()).max() < 1e-4
    whole = sum(margins(lab, "clean")) / len(ROWS)
    assert abs(found["value"].sum() + constant / len(ROWS) - whole) < 1e-3


def test_where_no_direct_effect_is_defined_it_is_refused() -> None:
    for family in ("gemma2", "granite", "olmo2"):
        with pytest.raises(ModelError, match="no direct effect"):
            direct_effects(tiny.lab(family), PAIRS)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_lens_reads_hidden_states_as_the_model_would(family: str) -> None:
    lab = tiny.lab(family)
    table = logit_lens(lab, TEXT).table
    own = hidden(lab)
    norm = lab.model.transformer.ln_f if family == "gpt2" else lab.model.model.norm
    logits = lab.model.lm_head(norm(own.hidden_states[1][0, -1]))
    if family == "gemma2":
        logits = torch.tanh(logits / 5.0) * 5.0
    for row, wanted in ((table.iloc[0], logits), (table.iloc[-1], own.logits[0, -1])):
        assert row["token"] == lab.tokenizer.decode(wanted.argmax())
        assert abs(row["value"] - wanted.softmax(-1).max().item()) < 1e-5


def test_a_look_becomes_a_claim_on_other_prompts(tmp_path: Path) -> None:
    import pandas as pd

    look = headlab.heatmap(tiny.lab("llama"), PAIRS, "zero")
    best = look.top(1).iloc[0]
    name = f"L{best['layer']:.0f}H{best['head']:.0f}"
    other = [{**r, "clean": "w80 " + r["clean"], "corrupted": "w80 " + r["corrupted"]} for r in ROWS]
    for rows, origin in ((other, "other"), (ROWS, "these")):
        path = tmp_path / f"{origin}.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
        doc = Document.from_text(look.claim(name, path, write="zero"), ".yaml", "mine.yaml")
        assert doc.chosen_on == origin and str(doc.sets["named"]) == name
    with pytest.raises(ClaimError, match="leave it out"):
        look.claim(name, tmp_path / "other.csv", chosen_on="other")


def test_figures_show_themselves_and_are_kept(tmp_path: Path) -> None:
    lab = tiny.lab("llama")
    for look in (
        headlab.show_attention(lab, TEXT, "L0H1 L2H0"),
        headlab.head_scores(lab),
        headlab.heatmap(lab, PAIRS, "zero"),
    ):
        assert look._repr_html_().startswith("<svg") and "L0" in look._repr_html_()
        assert look.save(tmp_path / "one.csv").read_text().count("\n") == len(look.table) + 1
    pattern = headlab.show_attention(lab, TEXT, "L0H1").table
    assert pattern.groupby("query")["value"].sum().round(5).eq(1).all() and len(pattern) == 6 * 7 / 2


def test_what_is_typed_by_mistake_gets_one_line(tmp_path: Path) -> None:
    lab = tiny.lab("llama")
    wrong: list[tuple[Any, type[Exception], str]] = [
        (lambda: headlab.read(lab, ""), PromptError, "expected a text"),
        (lambda: headlab.read(lab, "w1")["zz", 0], KeyError, "expected text"),
        (lambda: headlab.read(lab, "w1")["z", 9], ValueError, "layer 9"),
        (lambda: headlab.show_attention(lab, TEXT, "L9H0"), ValueError, "L9H0|layer 9"),
        (lambda: headlab.show_attention(lab, TEXT, ""), ValueError, "no heads"),
        (lambda: headlab.show_attention(lab, "w1 " * 70, "L0H0"), PromptError, "at most 64"),
        (lambda: headlab.heatmap(lab, PAIRS, "ablate"), ValueError, "expected one of patch"),
        (lambda: headlab.heatmap(lab, [], "zero"), ValueError, "no pairs"),
        (
            lambda: headlab.heatmap(lab, PAIRS, "attribution", readout="place"),
            ValueError,
            "attribution estimates the margin",
        ),
        (lambda: headlab.head_scores(lab, "inductoin"), ValueError, "no score"),
        (lambda: headlab.head_scores(lab, "sink"), ValueError, "give pairs"),
        (lambda: headlab.head_scores(lab).save(tmp_path / "x.pdf"), ValueError, "expected one of .svg"),
    ]
    for call, error, said in wrong:
        with pytest.raises(error, match=said) as found:
            call()
        assert "\n" not in str(found.value)


def test_pairs_are_taken_from_files_frames_rows_and_pairs_alike(tmp_path: Path) -> None:
    """Looked for: every function of the room that takes pairs asks :func:`headlab.looking.given.pairs_of`."""
    lab, frame = tiny.lab("llama"), pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    wanted = headlab.heatmap(lab, PAIRS, "zero").table
    for given in (frame, ROWS, iter(ROWS), list(PAIRS), str(tmp_path / "pairs.csv"), tmp_path / "pairs.jsonl"):
        pd.testing.assert_frame_equal(headlab.heatmap(lab, given, "zero").table, wanted)
    assert repr(PAIRS) == "PromptSet('rows', 6 pairs)"
    look = headlab.heatmap(lab, frame[:3], "zero")
    with pytest.raises(PromptError, match=r"to_trial\(folder, prompts\) writes one"):
        look.claim("L0H1", frame)
    for heads in ((0, 1), [(0, 1)], "L0H1", Head(0, 1)):
        assert str(Document.from_file(look.to_trial(tmp_path, frame[3:], heads)).sets["named"]) == "L0H1"
