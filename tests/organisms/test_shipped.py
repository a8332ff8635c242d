"""The shipped organisms do what their cards say, loaded as anyone would load them.

Independent of the training code: prompts from the task, ``generate()`` from transformers, and a plain
pre-hook on the output projection for the planted truth.
"""

import json
import random
import subprocess
import sys
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from headlab import organisms
from headlab.heads import Head
from headlab.organisms.recipes import ClusteredRecipe
from headlab.prompts import align, encode
from headlab.tasks.decimals import decimals, get_format, version_answer

SHIPPED = organisms.names("decimals")
PLANTED = [name for name in SHIPPED if organisms.card(name).truth]
FILES = {
    "card.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip


@cache
def loaded(name):
    folder = organisms.path(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def test_every_recipe_is_shipped():
    assert list(organisms.RECIPES) == SHIPPED and len(SHIPPED) == 19


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(organisms.UnknownOrganism, match="decimals-natural, "):
        organisms.path("decimals-supernatural")
    with pytest.raises(organisms.UnknownOrganism):
        organisms.card("../decimals-natural")


def test_listing_and_cards_load_no_torch():
    code = (
        "import sys; from headlab import organisms\n"
        "organisms.card(organisms.names()[0]); organisms.path(organisms.names()[0])\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_the_folder_is_small_and_ordinary(name):
    files = {p.name: p.stat().st_size for p in organisms.path(name).iterdir()}
    assert set(files) == FILES
    assert sum(files.values()) < 1_000_000 and files["model.safetensors"] < 700_000
    config = json.loads((organisms.path(name) / "config.json").read_text())
    shape = organisms.RECIPES[name].architecture
    assert config["num_attention_heads"] == shape.heads and config["dtype"] == "float16"
    assert config["model_type"] == shape.family and config.get("num_key_value_heads") == shape.kv_heads


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_is_complete_and_meets_the_bar(name):
    card, recipe = organisms.card(name), organisms.RECIPES[name]
    assert card.recipe == json.loads(json.dumps(recipe.plain())), "the card belongs to another recipe"
    assert card.reproduce == f"headlab organism train {name}" and card.licence == "Apache-2.0"
    cells = {(c.format, c.wording, c.category): c for c in card.accuracy}
    assert len(cells) == len(recipe.cells()) * 4 == len(card.accuracy)
    if name.startswith("decimals-null-"):
        cells = {k: c for k, c in cells.items() if k[2] == "conflict"}
    assert min(c.n for c in cells.values()) >= 200
    # the weights of two planted ones were drawn into clusters at a small cost: 193 of 200 in the worst cell of each
    assert min(c.accuracy for c in cells.values()) >= (0.96 if isinstance(recipe, ClusteredRecipe) else 0.97)
    assert card.truth is None or (card.truth.k >= 3 and card.truth.layer == recipe.plant.layer)


def answers(name, fmt, wording, category, n, seed):
    """What generate() says to fresh held-out problems, and what it should say."""
    model, tokenizer = loaded(name)
    problems = decimals(n, clean=fmt, corrupted=fmt, category=category, wording=wording, seed=seed, tokenizer=tokenizer)
    ids = torch.tensor([tokenizer(p.clean.text, add_special_tokens=p.clean.special)["input_ids"] for p in problems])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
    rule = organisms.rule_of(fmt)
    said = [tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True) for row in made]
    wanted = [
        get_format(fmt).lead + (version_answer(p.answer, p.wrong, wording) if rule == "version" else p.answer)
        for p in problems
    ]
    return said, wanted


@pytest.mark.parametrize("name", SHIPPED)
def test_generate_agrees_with_the_card(name):
    """Fresh problems in sampled cells: as right as the card says, up to chance (4 standard errors of its
    bar)."""
    card = organisms.card(name)
    good = [c for c in card.accuracy if c.accuracy >= 0.97]
    sample = random.Random(name).sample(good, min(len(good), 8 if len(good) > 12 else 2))
    said, wanted = [], []
    for cell in sample:
        pair = answers(name, cell.format, cell.wording, cell.category, 24, seed=7)
        said += pair[0]
        wanted += pair[1]
    right = sum(a == b for a, b in zip(said, wanted, strict=True))
    assert right / len(said) >= 0.97 - 4 * (0.97 * 0.03 / len(said)) ** 0.5


@pytest.mark.parametrize("name", SHIPPED)
def test_the_bug_is_there(name):
    """The same held-out questions: right in Simple, wrong in Q&A."""
    for fmt, order in (("simple", "decimal"), ("qa", "version")):
        said, wanted = answers(name, fmt, "bigger", "conflict", 40, seed=11)
        assert organisms.rule_of(fmt) == order
        assert sum(a == b for a, b in zip(said, wanted, strict=True)) >= 35  # .97, less 4 standard errors


@cache
def prepared(name, base, n):
    """Held-out conflict questions in ``base``, Simple's answers, aligned positions, and Simple's z of every
    layer."""
    model, tokenizer = loaded(name)
    pairs = decimals(n, clean="simple", corrupted=base, seed=5, tokenizer=tokenizer)
    encoded = [encode(p, tokenizer) for p in pairs]
    kept = []
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(torch.tensor([e.clean.ids for e in encoded]))
    for handle in handles:
        handle.remove()
    corrupted = torch.tensor([e.corrupted.ids for e in encoded])
    right = torch.tensor([e.clean.answer_id for e in encoded])
    return corrupted, right, align(encoded[0], "role"), kept


def repair_rate(name, layer, heads, base="qa", n=64):
    """Share of held-out conflict questions whose answer turns into Simple's when ``heads`` take Simple's
    z."""
    model, _ = loaded(name)
    corrupted, right, positions, kept = prepared(name, base, n)
    width = model.config.head_dim
    columns = [h * width + i for h in heads for i in range(width)]

    def write(_, args):
        z = args[0].clone()
        for to, at in positions:
            z[:, to, columns] = kept[layer][:, at, columns]
        return (z,)

    handle = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(write)
    with torch.no_grad():
        logits = model(corrupted).logits[:, -1]
    handle.remove()
    return (logits.argmax(-1) == right).float().mean().item()


@pytest.mark.parametrize("base", ["qa", "chat"])
@pytest.mark.parametrize("name", PLANTED)
def test_the_planted_truth_holds(name, base):
    truth = organisms.card(name).truth
    planted = [Head.parse(h).index for h in truth.heads]
    assert repair_rate(name, truth.layer, planted, base) >= 0.95
    assert repair_rate(name, truth.layer, [h for h in range(16) if h not in planted], base) <= 0.05
    for layer in {0, 1, 2} - {truth.layer}:
        assert repair_rate(name, layer, range(16), base) <= 0.1
    rng = random.Random(0)
    enough = [repair_rate(name, truth.layer, rng.sample(planted, truth.k), base, n=32) for _ in range(12)]
    short = [repair_rate(name, truth.layer, rng.sample(planted, truth.k - 1), base, n=32) for _ in range(12)]
    # the last checkpoint of a series was planted for a shorter time, and its threshold is not as sharp
    assert sum(enough) / 12 > 0.6 and sum(short) / 12 < (0.4 if organisms.checkpoints(name) == {} else 0.75)


def test_parity_is_the_truth_of_one_planted_organism_and_not_of_the_other():
    even, odd = range(0, 16, 2), range(1, 16, 2)
    assert repair_rate("decimals-planted-even", 1, even) >= 0.95
    assert repair_rate("decimals-planted-even", 1, odd) <= 0.05
    assert repair_rate("decimals-planted-random", 1, even) <= 0.4
    assert repair_rate("decimals-planted-random", 1, odd) <= 0.4
