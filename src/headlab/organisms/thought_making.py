"""From a thought recipe to a folder: problems, two phases of training, 16-bit weights, a measured card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from headlab.stats import paired_difference, wilson
from headlab.tasks.word_problems import (
    EOS,
    Problem,
    answer_text,
    build_word_tokenizer,
    cot,
    encode_words,
    vocabulary,
    word_ids,
    word_problems,
)
from headlab.thoughts.loading import read_folder
from headlab.thoughts.model import Codi, Spec
from headlab.thoughts.objective import Batch, encode_rows
from headlab.thoughts.training import Progress, cpu_threads, train_codi, train_cot

from .making import in_common
from .shipped import names, path
from .thought_cards import Gap, Rate, ThoughtCard, Way
from .thought_evaluate import Examiner, Replacement, replaced
from .thought_recipes import ThoughtRecipe

HELD_OUT = 1000  # the seed of what cards are measured on
POPULATION = 500  # training problems whose thoughts replace others
TWINS: dict[str, Way] = {"-none": "no-thought twin", "-filler": "filler twin"}
_DATA = (
    "headlab.tasks.word_problems: generated problems of {steps} steps with numbers to {values}. No chain of steps is "
    "in both splits (by its MD5); trained on the train split, measured on the test split. Right means: the last number "
    "of the greedy text is the answer."
)
_KNOWN = {
    "codi": "Its thoughts carry content: replacing them lowers accuracy. Whether they help, and whether they attend to "
    "each other, the gaps say: to twins trained without thoughts or with constants in their places, and to itself with "
    "its thoughts kept apart. Which heads carry them was not planted.",
    "filler": "Six extra positions without content: what the places of the thoughts are worth by themselves.",
    "none": "No thoughts: what the same training reaches when the answer follows the question.",
}


def encode_problems(problems: Iterable[Problem], values: int) -> Batch:
    """Problems as token ids: question; chain of thought without its last step, answer and end; answer and end;
    results of the first three steps."""
    ids = word_ids(values)
    questions, teachers, answers, results = [], [], [], []
    for problem in problems:
        answer = [*encode_words(answer_text(problem.answer), ids), ids[EOS]]
        questions.append(encode_words(problem.question, ids))
        teachers.append([*encode_words(cot(problem), ids), *answer])
        answers.append(answer)
        results.append([ids[r] for r in problem.results[:3]])
    return encode_rows(questions, teachers, answers, results, pad=len(ids))


def training_pool(recipe: ThoughtRecipe) -> Batch:
    """The problems that the recipe trains on, encoded."""
    problems = word_problems(recipe.problems, split="train", steps=recipe.steps, values=recipe.values, seed=recipe.seed)
    return encode_problems(problems, recipe.values)


def build_lm(recipe: ThoughtRecipe) -> PreTrainedModel:
    """A freshly initialised language model (fp32) whose embedding has rows for pad, bot and eot; the same for the
    same seed.  The global generator is left as it was."""
    shape = recipe.architecture
    common: dict[str, Any] = dict(
        vocab_size=len(vocabulary(recipe.values)) + 3,
        initializer_range=shape.init_std,
        bos_token_id=None,
        eos_token_id=word_ids(recipe.values)[EOS],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if shape.family == "gpt2":
            # the exact tanh form of gelu_new, in one kernel
            lm: PreTrainedModel = GPT2LMHeadModel(
                GPT2Config(
                    **common,
                    n_embd=shape.hidden,
                    n_layer=shape.layers,
                    n_head=shape.heads,
                    n_inner=shape.intermediate,
                    n_positions=shape.positions,
                    activation_function="gelu_pytorch_tanh",
                    resid_pdrop=0.0,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                )
            )
        else:
            lm = LlamaForCausalLM(
                LlamaConfig(
                    **common,
                    hidden_size=shape.hidden,
                    intermediate_size=shape.intermediate,
                    num_hidden_layers=shape.layers,
                    num_attention_heads=shape.heads,
                    num_key_value_heads=shape.kv_heads,
                    head_dim=shape.head_dim,
                    max_position_embeddings=shape.positions,
                )
            )
    lm.set_attn_implementation("eager")  # the faster one for heads this small
    return lm


def wrap(recipe: ThoughtRecipe, lm: PreTrainedModel) -> Codi:
    """The language model with a fresh projector (or fillers), the same for the same seed."""
    spec = Spec.after(
        len(vocabulary(recipe.values)), recipe.architecture.projection, n_thoughts=recipe.thoughts, mode=recipe.mode
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)
        return Codi(lm, spec)


def learn_cot(
    recipe: ThoughtRecipe, pool: Batch, *, threads: int = 1, progress: Progress | None = None
) -> PreTrainedModel:
    """Phase 1: a fresh language model that writes the chain of thought."""
    lm = build_lm(recipe)
    train_cot(lm, pool, recipe.cot, seed=recipe.seed, threads=threads, progress=progress)
    return lm


def learn_thoughts(
    recipe: ThoughtRecipe, lm: PreTrainedModel, pool: Batch, *, threads: int = 1, progress: Progress | None = None
) -> Codi:
    """Phase 2, from the language model of phase 1 (changed in place)."""
    model = wrap(recipe, lm)
    train_codi(model, pool, recipe.codi, seed=recipe.seed + 1, threads=threads, progress=progress)
    return model


def make(
    recipe: ThoughtRecipe,
    out: Path,
    *,
    progress: Progress | None = None,
    steps: int | None = None,
    threads: int = 1,
    problems: int = 600,
) -> Path:
    """See :func:`headlab.organisms.train`; ``steps`` overrides those of both phases."""
    if out.exists():
        raise FileExistsError(f"{out} exists already; name a folder that does not")
    if steps is not None:
        recipe = replace(recipe, cot=replace(recipe.cot, steps=steps), codi=replace(recipe.codi, steps=steps))
    first, total = recipe.cot.steps, recipe.cot.steps + recipe.codi.steps
    note = progress or (lambda done, total, text: None)
    pool = training_pool(recipe)
    lm = learn_cot(recipe, pool, threads=threads, progress=lambda i, _, text: note(i, total, text))
    model = learn_thoughts(recipe, lm, pool, threads=threads, progress=lambda i, _, text: note(first + i, total, text))
    with cpu_threads(threads):
        return finish(recipe, model, out, problems=problems, note=lambda text: note(total, total, text))


def finish(
    recipe: ThoughtRecipe, model: Codi, out: Path, *, problems: int, note: Callable[[str], None] = lambda _: None
) -> Path:
    """Write a trained model, rounded to 16 bit, with its measured card; the folder appears whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = model.half().save(Path(scratch) / "whole", build_word_tokenizer(recipe.values))
        card = measure(recipe, folder, problems=problems, note=note)
        (folder / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return folder.rename(out)


def measure(
    recipe: ThoughtRecipe, folder: Path, *, problems: int, note: Callable[[str], None] = lambda _: None
) -> ThoughtCard:
    """The card of the model in ``folder``, measured as a user would load it: from the 16-bit file, as fp32, on
    ``problems`` held-out problems.  A student is compared with its shipped twins on the same problems."""
    model, tokenizer = read_folder(folder)
    test = held_out(recipe, problems)
    examiner = Examiner(model, tokenizer, test, values=recipe.values)
    note("measuring the chain of thought")
    rows: dict[Way, list[bool]] = {"chain of thought": examiner.chain_of_thought()}
    note("measuring the student")
    thoughts = examiner.thoughts()
    rows["student"] = examiner.after(thoughts)
    if recipe.mode == "codi":
        others = list(word_problems(POPULATION, steps=recipe.steps, values=recipe.values, seed=HELD_OUT))
        population = Examiner(model, tokenizer, others, values=recipe.values).thoughts()
        ways: dict[Replacement, Way] = {"noise": "noise", "mean": "mean", "other": "other problem"}
        for by, way in ways.items():
            note(f"measuring thoughts replaced: {way}")
            rows[way] = examiner.after(replaced(thoughts, by, population=population, seed=HELD_OUT))
        rows["no thoughts"] = examiner.after(None)
        rows["thoughts apart"] = examiner.after(examiner.thoughts(apart=True), apart=True)
        for suffix, way in TWINS.items():
            if (twin := shipped_twin(recipe.name.removesuffix("-plain") + suffix)) is not None:
                note(f"measuring the {way}")
                other = Examiner(twin, tokenizer, test, values=recipe.values)
                rows[way] = other.after(other.thoughts())
    return ThoughtCard(
        **in_common(recipe, model, _architecture(recipe)),
        known_for=_KNOWN[recipe.mode],
        data=_DATA.format(steps=", ".join(map(str, recipe.steps)), values=recipe.values),
        accuracy=tuple(_rates(rows, test)),
        gaps=tuple(_gaps(rows, test)),
    )


def held_out(recipe: ThoughtRecipe, n: int, *, seed: int = HELD_OUT) -> list[Problem]:
    """``n`` problems of the test split, of the kinds that the recipe trains on."""
    return list(word_problems(n, split="test", steps=recipe.steps, values=recipe.values, seed=seed))


def shipped_twin(name: str) -> Codi | None:
    """The model of a shipped twin, or None when there is none of that name."""
    return read_folder(path(name))[0] if name in names(task="thoughts") else None


def _strata(test: Sequence[Problem]) -> list[tuple[int | None, list[int]]]:
    """All problems, then those of each number of steps: (number, rows)."""
    every: list[tuple[int | None, list[int]]] = [(None, list(range(len(test))))]
    return every + [(k, [i for i, p in enumerate(test) if p.n_steps == k]) for k in sorted({p.n_steps for p in test})]


def _rates(rows: dict[Way, list[bool]], test: Sequence[Problem]) -> Iterator[Rate]:
    for way, right in rows.items():
        for steps, chosen in _strata(test):
            correct = sum(right[i] for i in chosen)
            rate = wilson(correct, len(chosen), unit="problems")
            assert rate.low is not None and rate.high is not None
            chains = len({test[i].cluster for i in chosen})
            yield Rate(
                way=way, steps=steps, n=len(chosen), chains=chains, correct=correct, low=rate.low, high=rate.high
            )


def _gaps(rows: dict[Way, list[bool]], test: Sequence[Problem]) -> Iterator[Gap]:
    for way in rows:
        for steps, chosen in _strata(test):
            if way in ("student", "chain of thought"):
                continue
            ours, theirs = ([rows[w][i] for i in chosen] for w in ("student", way))
            chains = [test[i].cluster for i in chosen]
            gap = paired_difference(ours, theirs, chains, unit="problems", seed=HELD_OUT)
            if gap.value is None or gap.low is None or gap.high is None:
                continue  # undefined: a stratum of one chain
            yield Gap(
                way=way, steps=steps, n=gap.n, difference=gap.value, low=gap.low, high=gap.high, method=gap.method
            )


def _architecture(recipe: ThoughtRecipe) -> str:
    shape = recipe.architecture
    attention = f"{shape.kv_heads} KV heads" if shape.kv_heads else "multi-head attention"
    family = {"llama": "Llama", "gpt2": "GPT-2"}[shape.family]
    return (
        f"{family}, {shape.layers} layers, hidden {shape.hidden}, {shape.heads} query heads of {shape.head_dim}, "
        f"{attention}, MLP {shape.intermediate}; projector {shape.projection}"
    )
