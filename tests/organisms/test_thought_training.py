"""Training a thought model: the losses are what plain passes give, it learns, repeats itself, leaves a whole
folder or none."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, softmax

from headlab import organisms
from headlab.organisms import thought_making as making
from headlab.organisms.thought_recipes import THOUGHT_RECIPES
from headlab.tasks.word_problems import answer_text, build_word_tokenizer, cot, encode_words, word_ids, word_problems
from headlab.thoughts.objective import (
    IGNORED,
    NAMED_THOUGHTS,
    Pass,
    Weights,
    codi_loss,
    distance,
    step_loss,
    teacher_loss,
    visible,
)
from headlab.thoughts.schedule import Phase, aid, rate
from headlab.thoughts.training import optimizers, train_codi, train_cot

IDS = word_ids(20)
PROBLEMS = list(word_problems(7, split="test", steps=(2, 3, 5), seed=3))  # questions of different lengths


def small(name: str, **changes):
    """A recipe with one narrow layer of five (GPT-2) or four (Llama) heads, and few problems."""
    recipe = THOUGHT_RECIPES[name]
    if recipe.architecture.family == "gpt2":
        shape = replace(recipe.architecture, layers=2, hidden=30, heads=5, intermediate=44, projection=22)
    else:
        shape = replace(
            recipe.architecture, layers=2, hidden=28, heads=4, head_dim=6, kv_heads=2, intermediate=44, projection=22
        )
    return replace(recipe, architecture=shape, problems=211, **changes)


def fresh(name: str):
    recipe = small(name)
    return making.wrap(recipe, making.build_lm(recipe)), making.encode_problems(PROBLEMS, 20)


FAMILIES = ["thoughts-gpt2", "thoughts-llama"]
EVERY_MODE = [f"{family}{mode}" for family in FAMILIES for mode in ("", "-none", "-filler")]


# -- the losses, against plain passes of transformers, one problem at a time, nothing padded ------------------


def words(problem):
    """Token ids: question, teacher's text, answer."""
    answer = [*encode_words(answer_text(problem.answer), IDS), IDS["<eos>"]]
    return encode_words(problem.question, IDS), [*encode_words(cot(problem), IDS), *answer], answer


def plain_teacher(lm, problem):
    """Sum and number of the teacher's token losses, and each layer's state at the ':' (by ``labels``' own rule:
    logits at i name token i + 1)."""
    question, text, _ = words(problem)
    out = lm(torch.tensor([question + text]), output_hidden_states=True)
    logits = out.logits[0, len(question) - 1 : -1]
    states = [h[0, -3] for h in out.hidden_states[1:]]
    return cross_entropy(logits, torch.tensor(text), reduction="sum"), len(text), states


def plain_student(model, problem):
    """The same of the student, by embeddings in one growing sequence without a cache; and its thoughts."""
    question, _, answer = words(problem)
    spec, thoughts = model.spec, []
    sequence = model.embed(torch.tensor([[*question, spec.bot]]))
    for j in range(spec.n_thoughts):
        hidden = model.codi(inputs_embeds=sequence, output_hidden_states=True).hidden_states[-1][:, -1]
        z = model.filler[j][None] if spec.mode == "filler" else model.prj(hidden)
        thoughts.append(z[0])
        sequence = torch.cat([sequence, z[:, None]], 1)
    sequence = torch.cat([sequence, model.embed(torch.tensor([[spec.eot, *answer[:-1]]]))], 1)
    out = model.codi(inputs_embeds=sequence, output_hidden_states=True)
    loss = cross_entropy(out.logits[0, -len(answer) :], torch.tensor(answer), reduction="sum")
    return loss, [h[0, -2] for h in out.hidden_states[1:]], thoughts


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY_MODE)
def test_every_loss_is_what_plain_passes_give(name):
    model, batch = fresh(name)
    assert len({int(n) for n in batch.question_length}) > 3, "the batch is not padded, so it tests too little"
    losses = codi_loss(model, batch, Weights(distil=2.0, steps=0.7))
    teachers = [plain_teacher(model.codi, p) for p in PROBLEMS]
    students = [plain_student(model, p) for p in PROBLEMS]
    teacher = sum(t[0] for t in teachers) / sum(t[1] for t in teachers)
    student = sum(s[0] for s in students) / (6 * len(PROBLEMS))
    layers = zip(*(t[2] for t in teachers), strict=True), zip(*(s[1] for s in students), strict=True)
    apart = []
    for goal, state in zip(*layers, strict=True):
        far = torch.stack(state) - torch.stack(goal)
        smooth = torch.where(far.abs() < 1, far**2 / 2, far.abs() - 0.5).mean()
        apart.append(smooth / torch.stack(goal).std())
    assert losses.teacher == pytest.approx(teacher.item(), rel=1e-5)
    assert teacher_loss(model.codi, batch) == pytest.approx(teacher.item(), rel=1e-5)
    assert losses.student == pytest.approx(student.item(), rel=1e-5)
    assert losses.distil == pytest.approx(sum(apart).item() / len(apart), rel=1e-4)
    steps = 0.0
    if model.spec.mode == "codi":
        table = model.codi.get_output_embeddings().weight
        named = [
            -softmax(table @ thoughts[2 * k], 0)[IDS[result]].log().item()
            for (_, _, thoughts), problem in zip(students, PROBLEMS, strict=True)
            for k, result in enumerate(problem.results[:3])
        ]
        assert len(named) < 3 * len(PROBLEMS), "no problem has fewer than three steps"
        steps = sum(named) / len(named)
    assert losses.steps == pytest.approx(steps, rel=1e-5)
    total = losses.teacher + losses.student + 2 * losses.distil + 0.7 * losses.steps
    assert losses.total == pytest.approx(total.item(), rel=1e-6)


def test_a_wrong_position_or_a_visible_pad_would_show(monkeypatch):
    """The comparison above can fail: pads that are attended to change the loss."""
    model, batch = fresh("thoughts-gpt2")
    right = codi_loss(model, batch, Weights()).student.item()
    monkeypatch.setattr(
        "headlab.thoughts.objective.visible", lambda keys, queries: visible(torch.ones_like(keys), queries)
    )
    assert abs(codi_loss(model, batch, Weights()).student.item() - right) > 1e-4


def test_the_mask_shows_real_keys_up_to_the_query():
    keys = torch.tensor([[False, True, True, True, True]])
    mask = visible(keys, 3)[0, 0] == 0
    assert mask.tolist() == [
        [False, True, True, False, False],
        [False, True, True, True, False],
        [False, True, True, True, True],
    ]


def test_the_teacher_takes_no_gradient_from_the_distance():
    teacher, student = ([torch.randn(5, 3, requires_grad=True)] for _ in range(2))
    distance(student, teacher).backward()
    assert teacher[0].grad is None and student[0].grad is not None and student[0].grad.abs().sum() > 0


def test_the_step_loss_reads_thoughts_0_2_4_only():
    model, batch = fresh("thoughts-gpt2")
    run = Pass(model, batch)
    thoughts = [torch.randn(len(batch), 30, requires_grad=True) for _ in range(6)]
    step_loss(run, thoughts).backward()
    assert tuple(j for j, z in enumerate(thoughts) if z.grad is not None) == NAMED_THOUGHTS
    short = torch.tensor([p.n_steps < 3 for p in PROBLEMS])
    assert torch.equal(thoughts[4].grad.abs().sum(1) == 0, short), "a step that a problem lacks is counted"
    assert (batch.results == IGNORED).any()


# -- schedule and optimisers --------------------------------------------------------------------------------


def test_the_rate_climbs_then_falls_to_its_floor():
    phase = Phase(steps=101, muon=1.0, adam=1.0, warmup=5, floor=0.05)
    rates = [rate(s, phase) for s in range(101)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[-1] == pytest.approx(0.05) and all(a > b for a, b in pairwise(rates[5:]))
    assert rate(0, Phase(steps=2, muon=1.0, adam=1.0)) == 0.5, "a run shorter than its warm-up climbs to the peak"


def test_the_aid_fades_between_its_two_shares():
    phase = Phase(steps=100, muon=1.0, adam=1.0, aid=2.0, aid_until=0.3, aid_end=0.8)
    assert [aid(s, phase) for s in (0, 29, 30, 55, 80, 99)] == pytest.approx([2.0, 2.0, 2.0, 1.0, 0.0, 0.0])
    assert aid(3, replace(phase, aid=0.0)) == 0.0


@pytest.mark.parametrize("name", ["thoughts-gpt2-filler", "thoughts-llama"])
def test_muon_has_the_matrices_and_adamw_the_rest(name):
    model, _ = fresh(name)
    muon, adam = optimizers(model, small(name).codi)
    owned = {id(p): n for n, p in model.named_parameters()}
    inside, rest = ({owned[id(p)] for g in o.param_groups for p in g["params"]} for o in (muon, adam))
    assert not inside & rest and inside | rest == set(owned.values())
    assert {"prj.1.weight", "prj.3.weight"} <= inside and all(p.ndim == 2 for p in muon.param_groups[0]["params"])
    embeddings = {n for n in owned.values() if any(e in n for e in ("wte", "wpe", "embed_tokens", "filler"))}
    assert embeddings and embeddings <= rest


def test_an_old_torch_is_named(monkeypatch):
    model, _ = fresh("thoughts-gpt2")
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(RuntimeError, match=r"torch >= 2\.9"):
        optimizers(model, small("thoughts-gpt2").codi)


# -- training -----------------------------------------------------------------------------------------------


def trained(recipe):
    pool = making.training_pool(recipe)
    lm = making.build_lm(recipe)
    first = train_cot(lm, pool, recipe.cot, seed=recipe.seed)
    model = making.wrap(recipe, lm)
    return first, train_codi(model, pool, recipe.codi, seed=1), model.state_dict()


@pytest.mark.parametrize("name", ["thoughts-gpt2", "thoughts-gpt2-none", "thoughts-llama-filler"])
def test_training_is_deterministic_and_lowers_both_losses(name):
    recipe = small(name)
    recipe = replace(
        recipe,
        cot=replace(recipe.cot, steps=15, rows=8, warmup=3),
        codi=replace(recipe.codi, steps=15, rows=8, warmup=3),
    )
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    once, again = trained(recipe), trained(recipe)
    assert once[:2] == again[:2] and all(torch.equal(once[2][k], again[2][k]) for k in once[2])
    assert all(losses[-1] < losses[0] - 0.3 for losses in once[:2])
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    untouched = making.wrap(recipe, making.build_lm(recipe)).state_dict()
    learnt = {"codi": ("prj.1.weight", "prj.ln.weight"), "filler": ("filler",), "none": ()}[recipe.mode]
    assert not any(torch.equal(once[2][k], untouched[k]) for k in learnt), "the loss does not reach the thoughts"


def test_twins_start_alike_and_differ_in_the_second_phase_only():
    for family in FAMILIES:
        student = THOUGHT_RECIPES[family]
        for mode, thoughts in (("none", 0), ("filler", 6)):
            twin = THOUGHT_RECIPES[f"{family}-{mode}"]
            same = replace(student, name=twin.name, summary=twin.summary, mode=mode, thoughts=thoughts, codi=twin.codi)
            assert twin == same and twin.codi == replace(student.codi, aid=0.0, distil=0.0)
    plain = THOUGHT_RECIPES["thoughts-gpt2-plain"]
    assert (
        plain.codi == replace(THOUGHT_RECIPES["thoughts-gpt2"].codi, aid=0.0)
        and plain.mode == "codi"
        and plain.cot == THOUGHT_RECIPES["thoughts-gpt2"].cot
    )


@pytest.fixture
def quick(monkeypatch):
    """The recipes' small forms, where ``organisms.train`` looks for them."""
    for name in EVERY_MODE:
        monkeypatch.setitem(organisms.THOUGHT_RECIPES, name, small(name))


def test_train_writes_a_whole_folder_that_loads(tmp_path, quick):
    seen = []
    out = organisms.train(
        "thoughts-gpt2-filler", tmp_path / "mine", steps=2, problems=7, progress=lambda *step: seen.append(step)
    )
    assert [s[:2] for s in seen[:4]] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "chain of thought" in seen[1][2] and "filler" in seen[3][2]
    assert {p.name for p in out.iterdir()} == {
        "card.json", "codi.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    weights = load_file(out / "model.safetensors")
    assert {"filler", "prj.1.weight", "prj.3.bias", "prj.ln.weight", "codi.transformer.wte.weight"} <= set(weights)
    assert all(w.dtype == torch.float16 for w in weights.values())
    model, tokenizer = making.read_folder(out)
    assert model.spec.mode == "filler" and len(tokenizer) == len(build_word_tokenizer(20)) == model.spec.pad
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(FileExistsError, match="mine exists"):
        organisms.train("thoughts-gpt2", out)


def test_an_interrupted_training_leaves_nothing(tmp_path, quick):
    def interrupt(done, total, note):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        organisms.train("thoughts-llama", tmp_path / "mine", steps=1, progress=interrupt)
    assert not list(tmp_path.iterdir())
