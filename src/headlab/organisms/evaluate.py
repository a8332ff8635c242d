"""Measuring an organism: accuracy by ``generate()``, and what interchange between formats does, layer by
layer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headlab.heads import Head, Heads
from headlab.prompts import align, encode
from headlab.tasks.decimals import CATEGORIES, Category, Wording, decimals, get_format, version_answer

from .cards import Cell, Repair
from .data import ends_turn
from .planting import keep_z, patched_z
from .recipes import Plant, rule_of
from .tokenizer import EOT

_LONGEST_ANSWER = 6  # lead, integer, point, fraction, end token, and one more that would be wrong


@torch.no_grad()
def accuracy(
    model: PreTrainedModel,
    tokenizer: Any,
    cells: Sequence[tuple[str, Wording]],
    *,
    n: int = 200,
    seed: int = 0,
    categories: Sequence[Category] = CATEGORIES,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[Cell, ...]:
    """Greedy accuracy on ``n`` held-out problems in every (format, wording) × category.

    Right means: the generated tokens are exactly the format's lead, the number its rule asks for, and the end
    token.
    """
    generate: Any = model.generate  # a mixin's method, which type checkers take for a tensor
    out = []
    for name, wording in cells:
        fmt, rule = get_format(name), rule_of(name)
        note(f"measuring {name}, {wording}")
        for category in categories:
            problems = decimals(
                n, clean=name, corrupted=name, category=category, wording=wording, seed=seed, tokenizer=tokenizer
            )
            first = problems[0].clean
            rows = [tokenizer(p.clean.text, add_special_tokens=p.clean.special)["input_ids"] for p in problems]
            ids = torch.tensor(rows)  # one length: every number part is one token
            made = generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=_LONGEST_ANSWER)[
                :, ids.shape[1] :
            ]
            end = EOT if ends_turn(first.text) else tokenizer.eos_token
            correct = 0
            for problem, tokens in zip(problems, made, strict=True):
                numbers = problem.answer, problem.wrong
                wanted = version_answer(*numbers, wording) if rule == "version" else problem.answer
                text = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
                correct += text.replace(tokenizer.pad_token, "") == fmt.lead + wanted + end
            out.append(Cell(format=name, wording=wording, category=category, rule=rule, n=n, correct=correct))
    return tuple(out)


class Interchange:
    """Held-out conflict questions in a source and a base format, ready to be patched.

    Only questions that the model answers by the source's and by the base's rule are kept.  ``ids`` [row,
    position]; the last position is the one whose next token tells the answers apart.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, tokenizer: Any, source: str, base: str, *, n: int, seed: int = 0):
        pairs = decimals(n, clean=source, corrupted=base, seed=seed, tokenizer=tokenizer)
        encoded = [encode(pair, tokenizer) for pair in pairs]
        clean = torch.tensor([e.clean.ids for e in encoded])
        self.ids = torch.tensor([e.corrupted.ids for e in encoded])
        right, wrong = (torch.tensor([getattr(e.clean, k) for e in encoded]) for k in ("answer_id", "wrong_id"))
        if rule_of(source) == "version":
            right, wrong = wrong, right
        self.model, self.source, self.base = model, source, base
        with keep_z(model) as z:
            clean_logits = model(clean).logits[:, -1]
        base_logits = model(self.ids).logits[:, -1]
        eligible = (clean_logits.argmax(-1) == right) & (base_logits.argmax(-1) == wrong)
        self.ids, self.right, self.wrong = self.ids[eligible], right[eligible], wrong[eligible]
        self._ld = tuple(_difference(x, right, wrong)[eligible] for x in (clean_logits, base_logits))
        positions = align(encoded[0], "role")  # the same for every question: one template
        self._to = torch.tensor([to for to, _ in positions])
        self._z = [self._moved(x[eligible], positions) for x in z]

    def _moved(self, z: Tensor, positions: Sequence[tuple[int, int]]) -> Tensor:
        out = z.new_zeros(len(z), self.ids.shape[1], z.shape[-1])
        out[:, self._to] = z[:, [at for _, at in positions]]
        return out

    def __len__(self) -> int:
        return len(self.ids)

    @torch.no_grad()
    def patch(self, heads: Iterable[Head]) -> tuple[Tensor, Tensor]:
        """Patch heads of any layers at all aligned roles: whether each answer became the source's, and the
        recovery of the logit difference (0 base, 1 source); both [row]."""
        shape = (*self.ids.shape, self.model.config.num_attention_heads)
        where = [torch.zeros(shape, dtype=torch.bool) for _ in self._z]
        for head in heads:
            where[head.layer][:, self._to, head.index] = True
        with patched_z(self.model, self._z, where):
            logits = self.model(self.ids).logits[:, -1]
        source, base = self._ld
        recovery = (_difference(logits, self.right, self.wrong) - base) / (source - base)
        return logits.argmax(-1) == self.right, recovery

    def repair(self, heads: Iterable[Head], name: str) -> Repair:
        changed, _ = self.patch(heads)
        return Repair(source=self.source, base=self.base, patched=name, n=len(self), correct=int(changed.sum()))


def _difference(logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Logit of the right minus logit of the wrong token, [row]."""
    return (logits.gather(1, right[:, None]) - logits.gather(1, wrong[:, None]))[:, 0]


def repairs(
    model: PreTrainedModel,
    tokenizer: Any,
    plant: Plant | None,
    *,
    bases: Sequence[str] = ("qa", "chat"),
    n: int = 200,
    subsets: int = 12,
    seed: int = 0,
) -> tuple[Repair, ...]:
    """What patching Simple's z does: all, even and odd heads of every layer; with a plant also its heads, the
    others, and ``subsets`` random sets of each size from the planted heads (summed over sets)."""
    every = range(model.config.num_attention_heads)
    out: list[Repair] = []
    for base in bases:
        world = Interchange(model, tokenizer, "simple", base, n=n, seed=seed)
        if not len(world):
            continue
        for layer in range(model.config.num_hidden_layers):
            out += [
                world.repair(Heads.of(layer, every), f"all heads of layer {layer}"),
                world.repair(Heads.of(layer, every[0::2]), f"even heads of layer {layer}"),
                world.repair(Heads.of(layer, every[1::2]), f"odd heads of layer {layer}"),
            ]
        if plant is None:
            continue
        others = [h for h in every if h not in plant.heads]
        out.append(world.repair(Heads.of(plant.layer, plant.heads), "the planted heads"))
        out.append(world.repair(Heads.of(plant.layer, others), "all others of the layer"))
        rng = random.Random(seed)
        for size in range(1, len(plant.heads)):
            sets = [sorted(rng.sample(plant.heads, size)) for _ in range(subsets)]
            counts = [world.repair(Heads.of(plant.layer, heads), "") for heads in sets]
            out.append(
                Repair(
                    source="simple",
                    base=base,
                    patched=f"{size} of the planted heads",
                    n=sum(r.n for r in counts),
                    correct=sum(r.correct for r in counts),
                )
            )
    return tuple(out)
