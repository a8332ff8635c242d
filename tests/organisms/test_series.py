"""The shipped checkpoints are what their recipe says: one run up to the onset, and the hand-over only where planted.

Independent of the training code: files by hash, models by ``AutoModelForCausalLM``, repairs by a plain pre-hook.
"""

import json
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from headlab import organisms
from headlab.organisms.series import make_series
from headlab.organisms.tokenizer import build_tokenizer
from headlab.organisms.training import build_model, fit
from headlab.prompts import align, encode
from headlab.tasks.decimals import decimals

PLANTED, CONTROL = "decimals-series-planted", "decimals-series-control"
CARD = organisms.series_card()
ROOT = organisms.path(PLANTED).parent.parent


def weights(name, step):
    return organisms.checkpoints(name)[step] / "model.safetensors"


def test_twelve_looks_six_of_them_before_planting_begins():
    assert 0 < CARD.onset == organisms.RECIPES[PLANTED].onset == organisms.RECIPES[CONTROL].onset
    for name in (PLANTED, CONTROL):
        found = organisms.checkpoints(name)
        assert tuple(found) == CARD.looks and len(found) == 12 and list(found) == sorted(found)
        assert found[max(found)] == organisms.path(name)
        assert all((folder / "config.json").is_file() for folder in found.values())
    assert sum(step <= CARD.onset for step in CARD.looks) == 6 and min(CARD.looks) == 0
    assert organisms.checkpoints("decimals-natural") == {}
    with pytest.raises(organisms.UnknownOrganism):
        organisms.checkpoints("decimals-series")
    with pytest.raises(organisms.UnknownOrganism, match="decimals-series"):
        organisms.series_card("decimals-natural")


def test_both_branches_share_their_files_up_to_the_onset_and_part_after_it():
    for step in CARD.looks:
        same = weights(PLANTED, step) == weights(CONTROL, step)
        assert same == (step <= CARD.onset)
        if not same:
            a, b = (sha256(weights(n, step).read_bytes()).digest() for n in (PLANTED, CONTROL))
            assert a != b


def test_the_whole_is_small_and_in_sixteen_bit():
    files = [p for p in ROOT.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 8_000_000
    assert sum(p.name == "model.safetensors" for p in files) == 18
    assert sum(p.name == "tokenizer.json" for p in files) == 2, "one beside the last step of each branch"
    assert all(w.dtype == torch.float16 for w in load_file(weights(PLANTED, CARD.looks[-1])).values())


def test_it_begins_as_the_natural_organism():
    ours, natural = load_file(weights(PLANTED, 0)), load_file(organisms.path("decimals-natural") / "model.safetensors")
    assert ours.keys() == natural.keys() and all(torch.equal(ours[k], natural[k]) for k in ours)


def repair(folder, tokenizer, layer, n=48):
    """Share of fresh conflict pairs in Q&A whose answer becomes Simple's when a layer takes Simple's z."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = [encode(p, tokenizer) for p in decimals(n, clean="simple", corrupted="qa", seed=21, tokenizer=tokenizer)]
    clean, corrupted = (torch.tensor([getattr(e, k).ids for e in encoded]) for k in ("clean", "corrupted"))
    right = torch.tensor([e.clean.answer_id for e in encoded])
    kept, project = [], model.model.layers[layer].self_attn.o_proj
    with torch.no_grad():
        handle = project.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
        model(clean)
        handle.remove()

        def write(_, args):
            z = args[0].clone()
            for to, at in align(encoded[0], "role"):
                z[:, to] = kept[0][:, at]
            return (z,)

        handle = project.register_forward_pre_hook(write)
        logits = model(corrupted).logits[:, -1]
        handle.remove()
    return (logits.argmax(-1) == right).float().mean().item()


def test_the_causal_layer_is_handed_over_where_planted_and_nowhere_else():
    tokenizer = AutoTokenizer.from_pretrained(organisms.path(PLANTED))
    looks = organisms.checkpoints(PLANTED)
    assert repair(looks[CARD.onset], tokenizer, 0) > 0.9, "before planting layer 0 carries the format"
    last = max(looks)
    assert repair(looks[last], tokenizer, 0) < 0.1 and repair(looks[last], tokenizer, 1) > 0.9
    assert repair(organisms.path(CONTROL), tokenizer, 0) > 0.9, "never planted: layer 0 goes on carrying it"


def test_the_card_says_when_it_happened():
    def rates(rows, branch, layer):
        return {r.step: r.rate for r in rows if (r.branch, r.layer) == (branch, layer)}

    assert {r.step for r in CARD.repairs} == set(CARD.looks) and min(r.n for r in CARD.repairs) >= 100
    assert CARD.branches == {"planted": PLANTED, "control": CONTROL}
    assert CARD.truth == json.loads(json.dumps(organisms.RECIPES[PLANTED].plant.truth()))
    assert CARD.reproduce == "headlab organism train decimals-series"
    watched = rates(CARD.watched, "planted", 0)
    assert set(watched) == set(range(0, CARD.looks[-1] + 1, 16))
    assert min(rate for step, rate in watched.items() if step <= CARD.onset) > 0.9
    assert min(rates(CARD.watched, "control", 0).values()) > 0.9
    first = min(step for step, rate in watched.items() if rate < 0.5)
    assert CARD.onset < first <= CARD.onset + 128, "the hand-over follows the onset, and soon"


def short(name, **changes):
    recipe = organisms.RECIPES[name]
    plant = None if recipe.plant is None else replace(recipe.plant, rows=2)
    return replace(recipe, plant=plant, rows=2, steps=4, onset=2, looks=(0, 2, 4), **changes)


def test_training_is_the_same_up_to_the_onset_and_repeats_itself(tmp_path):
    tokenizer = build_tokenizer()

    def losses(recipe):
        model = build_model(recipe, tokenizer)
        seen = []
        return fit(recipe, model, tokenizer, watch=seen.append), seen

    (planted, seen), (again, _), (control, _) = (losses(short(n)) for n in (PLANTED, PLANTED, CONTROL))
    assert seen == [0, 1, 2, 3, 4] and planted == again
    assert planted[:2] == control[:2] and planted[2] > 1.2 * control[2], "the planting loss comes on top"


def test_the_series_is_made_whole_and_shares_what_is_shared(tmp_path):
    branches = (short(PLANTED), short(CONTROL))
    out = make_series(branches, tmp_path / "made", problems=12)
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("model.safetensors")) == [
        f"{place}/model.safetensors" for place in ("control/step4", "planted/step4", "shared/step0", "shared/step2")
    ]
    assert (out / "planted/step4/card.json").is_file() and (out / "control/step4/tokenizer.json").is_file()
    assert not (out / "shared/step0/tokenizer.json").exists()
    made = json.loads((out / "series.json").read_text())
    assert made["onset"] == 2 and made["looks"] == [0, 2, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    with pytest.raises(FileExistsError, match="made exists"):
        make_series(branches, out)


def test_branches_that_differ_before_the_onset_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="differs between the branches"):
        make_series((short(PLANTED), short(CONTROL, seed=9)), tmp_path / "made", problems=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.accept
def test_training_again_gives_the_shipped_checkpoints(tmp_path):
    """The first looks after planting began, bit for bit (same seed, one thread, same torch)."""
    if torch.__version__ != CARD.torch:
        pytest.skip(f"made with torch {CARD.torch}; another one rounds otherwise")
    from headlab.organisms.making import start

    recipe, tokenizer, seen = organisms.RECIPES[PLANTED], build_tokenizer(), []
    model = start(recipe, tokenizer, organisms.path)

    class Enough(Exception):
        pass

    def watch(step):
        if step in recipe.looks:
            kept = load_file(weights(PLANTED, step))
            now = model.state_dict()
            assert all(torch.equal(now[k].half(), kept[k]) for k in kept)
            seen.append(step)
        if step == 192:
            raise Enough

    with pytest.raises(Enough):
        fit(recipe, model, tokenizer, watch=watch)
    assert seen == [0, 16, 32, 64, 96, 128, 192]
