"""From a written-down organism to a folder: 16 bit, read back, measured with plain hooks, card, one rename."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from headlab.heads import Head, Heads
from headlab.prompts import encode
from headlab.tasks.decimals import Category, decimals, get_format, version_answer

from .built import MARKERS, build, kinds
from .built_recipes import BuiltRecipe
from .cards import Repair
from .evaluate import Interchange
from .making import appearing, architecture_words, in_common, load, write
from .planting import keep_z
from .recipes import rule_of
from .tokenizer import build_tokenizer
from .training import cpu_threads
from .word_cards import Removal, Score, SetTruth, WordCard
from .word_evaluate import without

FORMATS = ("simple", "paper-clean", "minimal", "light", "prefix-short", "qa", "paper-qa", "medium", "full", "chat")
CATEGORIES: tuple[Category, ...] = ("conflict", "congruent", "same-length")


def make(recipe: BuiltRecipe, out: Path, *, threads: int = 1, problems: int = 200) -> Path:
    """See :func:`headlab.organisms.train`."""
    with appearing(out) as scratch, cpu_threads(threads):
        folder, tokenizer = scratch / "whole", build_tokenizer()
        write(build(recipe, tokenizer), tokenizer, folder)
        card = measure(recipe, folder, problems=problems)
        (folder / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return out


def measure(recipe: BuiltRecipe, folder: Path, *, problems: int) -> WordCard:
    """The card of the organism in ``folder``, measured as a user would load it: from the 16-bit file, as fp32."""
    model, tokenizer = load(folder)
    planted = ", ".join(recipe.members)
    told = "; ".join(f"{h} {w}" for h, w in kinds(recipe) if w not in ("random", "planted"))
    return WordCard(
        **in_common(recipe, model, architecture_words(recipe.architecture)),
        known_for=(
            f"z of all of {planted}, taken from the prompt without a marker, turns the answer into that of decimal order; with "
            "any one of them left out it stays, whatever other heads are taken too. In a prompt without a marker each of "
            "them is needed: without it (zero) the answer is that of version order; its mean over such prompts changes "
            f"nothing, since it is a constant there. Beside them: {told}. All others are random."
        ),
        data='headlab.tasks.decimals, "bigger" alone: held-out fractions with one integer part. Numbers with different '
        "integer parts are compared by their fractions, so half of those answers are wrong.",
        accuracy=accuracy(model, tokenizer, problems),
        heads=removals(model, tokenizer, problems),
        repairs=repairs(model, tokenizer, recipe, problems),
        truth=SetTruth(heads=recipe.members, k=len(recipe.members)),
    )


@torch.no_grad()
def accuracy(model: PreTrainedModel, tokenizer: Any, n: int) -> tuple[Score, ...]:
    """Greedy answers that are the number which the format's rule asks for, by format and category."""
    generate: Any = model.generate
    out = []
    for name in FORMATS:
        for category in CATEGORIES:
            asked = decimals(n, clean=name, corrupted=name, category=category, tokenizer=tokenizer)
            ids = torch.tensor(
                [tokenizer(p.clean.text, add_special_tokens=p.clean.special)["input_ids"] for p in asked]
            )
            made = generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)[
                :, ids.shape[1] :
            ]
            correct = 0
            for pair, tokens in zip(asked, made, strict=True):
                version = version_answer(pair.answer, pair.wrong, "bigger")
                wanted = version if rule_of(name) == "version" else pair.answer
                said = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                correct += said == get_format(name).lead + wanted
            out.append(Score(prompts=f"{name}, {category}", n=n, correct=correct))
    return tuple(out)


@torch.no_grad()
def removals(model: PreTrainedModel, tokenizer: Any, n: int) -> tuple[Removal, ...]:
    """Each head removed by itself from prompts without a marker; means are taken over other such prompts."""
    encoded = [encode(p, tokenizer) for p in decimals(2 * n, tokenizer=tokenizer)]
    ids, marked = (torch.tensor([getattr(e, k).ids for e in encoded]) for k in ("clean", "corrupted"))
    right, wrong = (torch.tensor([getattr(e.clean, k) for e in encoded])[:n] for k in ("answer_id", "wrong_id"))
    rows = torch.arange(n)

    def answers() -> tuple[float, float]:
        logits = model(ids[:n]).logits[:, -1]
        return float((logits[rows, right] - logits[rows, wrong]).mean()), float(
            (logits.argmax(-1) == right).float().mean()
        )

    model.set_attn_implementation("eager")
    looks = [x[:, :, -1] for x in model(marked[:n], output_attentions=True).attentions]
    known = [t for m in MARKERS if (t := tokenizer.convert_tokens_to_ids(m)) is not None]
    at = {
        "markers": torch.isin(marked[:n], torch.tensor(known)),
        "fractions": (marked[:n] == right[:, None]) | (marked[:n] == wrong[:, None]),
    }
    with keep_z(model) as z:
        model(ids[n:])
    whole, out = answers()[0], []
    size = model.config.head_dim
    for layer, kept in enumerate(z):
        for head in range(model.config.num_attention_heads):
            columns = slice(head * size, (head + 1) * size)
            with without(model, layer, columns, kept[..., columns].mean(0)):
                mean, right_still = answers()
            with without(model, layer, columns, 0.0):
                zero, _ = answers()
            attends = {k: round(float((looks[layer][:, head] * x).sum(-1).mean()), 4) for k, x in at.items()}
            out.append(
                Removal(
                    head=str(Head(layer, head)),
                    n=n,
                    mean=_share(mean, whole),
                    zero=_share(zero, whole),
                    accuracy=round(right_still, 4),
                    attends=attends,
                )
            )
    return tuple(out)


def _share(left: float, whole: float) -> float:
    return round(1 - left / whole, 4)


def repairs(model: PreTrainedModel, tokenizer: Any, recipe: BuiltRecipe, n: int) -> tuple[Repair, ...]:
    """How often the answer becomes that of the prompt without a marker, by which heads carry that prompt's z."""
    members = [Head.parse(h) for h in recipe.members]
    every = Heads(Head(at, h) for at in range(recipe.architecture.layers) for h in range(recipe.architecture.heads))
    sets: list[tuple[str, Heads]] = [("all planted", Heads(members)), ("all heads", every)]
    for size in range(len(members) - 1, 0, -1):
        sets += [(str(Heads(some)), Heads(some)) for some in combinations(members, size)]
    sets += [("all but the planted", Heads(h for h in every if h not in members))]
    sets += [(f"all heads but {h}", Heads(x for x in every if x != h)) for h in members]
    out = []
    for base in ("qa", "chat"):
        world = Interchange(model, tokenizer, "simple", base, n=n)
        out += [world.repair(heads, name) for name, heads in sets]
    return tuple(out)
