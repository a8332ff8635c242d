"""What training a CODI model minimises: teacher, student, their distance, and the steps read off the thoughts.

One batch, with the question encoded once:

1. question + bot, left-padded, with explicit positions and masks; its keys and values are kept.
2. Teacher: from the question's keys (bot cut off) the chain of thought without its last step, then
   "The answer is : X" and the end token.  Cross-entropy of every one of these tokens.
3. Student: six thoughts, each the projection of the last hidden state, are fed one by one; then eot and the
   answer.  Cross-entropy of the answer's tokens.
4. Distillation: at the ':' before X the student's hidden states are pulled to the teacher's (gradient stopped).
5. Step loss (an aid, as in SIM-CoT): thoughts 0, 2, 4, read through the unembedding, name the results of steps
   1, 2, 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss
from transformers import DynamicCache

from headlab.engine.passes import given

IGNORED = -100  # a label that no loss counts
NAMED_THOUGHTS = (0, 2, 4)  # the thoughts that the step loss reads: results of steps 1, 2, 3
COLON = 4  # where ':' stands in eot, The, answer, is, ':', X: the token before the answer


@dataclass(frozen=True)
class Batch:
    """Encoded problems.  ``question`` is left-padded; ``teacher`` (chain without its last step, answer, end) is
    right-padded; ``answer`` is "The answer is : X" and the end token; ``results`` are the tokens of the results of
    steps 1, 2, 3 (IGNORED where a problem has fewer)."""

    question: Int[Tensor, "row question"]
    question_length: Int[Tensor, " row"]
    teacher: Int[Tensor, "row teacher"]
    teacher_length: Int[Tensor, " row"]
    answer: Int[Tensor, "row 6"]
    results: Int[Tensor, "row 3"]

    def __len__(self) -> int:
        return len(self.question)

    def take(self, rows: Int[Tensor, " chosen"]) -> Batch:
        """Some rows, cut to the longest question and teacher text among them."""
        long, far = int(self.question_length[rows].max()), int(self.teacher_length[rows].max())
        return Batch(
            self.question[rows, -long:],
            self.question_length[rows],
            self.teacher[rows, :far],
            self.teacher_length[rows],
            self.answer[rows],
            self.results[rows],
        )


def encode_rows(
    questions: Sequence[Sequence[int]],
    teachers: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    results: Sequence[Sequence[int]],
    *,
    pad: int,
) -> Batch:
    """Lists of token ids as one :class:`Batch`."""
    long, far = (max(map(len, rows)) for rows in (questions, teachers))
    return Batch(
        torch.tensor([[pad] * (long - len(q)) + list(q) for q in questions]),
        torch.tensor([len(q) for q in questions]),
        torch.tensor([list(t) + [pad] * (far - len(t)) for t in teachers]),
        torch.tensor([len(t) for t in teachers]),
        torch.tensor([list(a) for a in answers]),
        torch.tensor([(list(r) + [IGNORED] * 3)[:3] for r in results]),
    )


@dataclass(frozen=True)
class Weights:
    """How much each loss counts; ``steps`` is what the aid counts at this step of the training."""

    teacher: float = 1.0
    student: float = 1.0
    distil: float = 2.0
    steps: float = 0.0


@dataclass(frozen=True)
class Losses:
    """In nats per token, but ``distil`` (in standard deviations of the teacher's states); ``total`` is what is
    minimised."""

    total: Tensor
    teacher: Tensor
    student: Tensor
    distil: Tensor
    steps: Tensor


def visible(
    keys: Bool[Tensor, "row key"], queries: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "row 1 query key"]:
    """The additive mask of the last ``queries`` positions: 0 where a query may look (a real key, not later than
    itself), the dtype's minimum elsewhere."""
    n = keys.shape[1]
    causal = torch.ones(queries, n, dtype=torch.bool).tril(n - queries)
    allowed = causal & keys[:, None, None, :]
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def cropped(cache: DynamicCache, length: int) -> DynamicCache:
    """The first ``length`` positions of a cache, as a cache of its own (passes grow a cache in place)."""
    out = DynamicCache()
    for i in range(len(cache)):
        layer: Any = cache.layers[i]
        out.update(layer.keys[:, :, :length], layer.values[:, :, :length], i)
    return out


class Pass:
    """Question + bot of a batch through the base model, and what continues from it."""

    def __init__(self, model: Any, batch: Batch):
        self.model, self.batch, self.lm = model, batch, model.codi
        rows, long = batch.question.shape
        bot = torch.full((rows, 1), model.spec.bot)
        self.real = torch.arange(long)[None, :] >= long - batch.question_length[:, None]
        keys = torch.cat([self.real, torch.ones_like(bot, dtype=torch.bool)], 1)
        self.cache = DynamicCache()
        out = self.lm.base_model(
            input_ids=torch.cat([batch.question, bot], 1),
            attention_mask=visible(keys, long + 1),
            position_ids=(keys.cumsum(1) - 1).clamp_min(0),
            use_cache=True,
            **given(self.lm.base_model, self.cache),
        )
        self.hidden = out.last_hidden_state

    def unembed(self, hidden: Tensor) -> Tensor:
        return self.lm.get_output_embeddings()(hidden)

    def on(self, cache: DynamicCache, after: int, inputs: Tensor, *, states: bool = False) -> Any:
        """``inputs`` (ids, or embeddings) from a cache that holds the padded question and ``after`` positions more."""
        n = inputs.shape[1]
        keys = torch.cat([self.real, torch.ones(len(self.real), after + n, dtype=torch.bool)], 1)
        fed = {"inputs_embeds": inputs} if inputs.is_floating_point() else {"input_ids": inputs}
        return self.lm.base_model(
            **fed,
            attention_mask=visible(keys, n),
            position_ids=self.batch.question_length[:, None] + after + torch.arange(n),
            use_cache=True,
            output_hidden_states=states,
            **given(self.lm.base_model, cache),
        )

    def teach(self, *, states: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Teacher's cross-entropy, and with ``states`` each layer's hidden state [row, d] at the ':'."""
        batch, long = self.batch, self.batch.question.shape[1]
        out = self.on(cropped(self.cache, long), 0, batch.teacher, states=states)
        before = torch.cat([self.hidden[:, long - 1 : long], out.last_hidden_state[:, :-1]], 1)
        counted = torch.arange(batch.teacher.shape[1])[None, :] < batch.teacher_length[:, None]
        loss = cross_entropy(self.unembed(before[counted]), batch.teacher[counted])
        colon = batch.teacher_length - 3  # …, ':', X, end
        rows = torch.arange(len(batch))
        return loss, tuple(h[rows, colon] for h in out.hidden_states[1:]) if states else ()

    def think(self) -> tuple[DynamicCache, int, list[Tensor]]:
        """Feed the thoughts of the model's mode: the cache after them, how many positions it holds beyond the
        question, and the thoughts z [row, d] that were computed (none unless the mode is "codi")."""
        cache, model = self.cache, self.model
        if model.spec.mode == "none":
            return cache, 1, []
        if model.spec.mode == "filler":
            constant = model.filler[None].expand(len(self.batch), -1, -1)
            self.on(cache, 1, constant)
            return cache, 1 + model.spec.n_thoughts, []
        thoughts, hidden = [], self.hidden[:, -1:]
        for j in range(model.spec.n_thoughts):
            thoughts.append(model.prj(hidden))
            hidden = self.on(cache, 1 + j, thoughts[-1]).last_hidden_state
        return cache, 1 + model.spec.n_thoughts, [z[:, 0] for z in thoughts]

    def answer(self, cache: DynamicCache, after: int, *, states: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Student's cross-entropy of the answer after eot, and each layer's hidden state [row, d] at its ':'."""
        batch = self.batch
        eot = torch.full((len(batch), 1), self.model.spec.eot)
        out = self.on(cache, after, torch.cat([eot, batch.answer[:, :-1]], 1), states=states)
        loss = cross_entropy(self.unembed(out.last_hidden_state).flatten(0, 1), batch.answer.flatten())
        return loss, tuple(h[:, COLON] for h in out.hidden_states[1:]) if states else ()


def distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Float[Tensor, ""]:
    """mean over layers of smooth-L1(student, teacher) / std(teacher); the teacher's side takes no gradient.

    Over all layers but the embeddings, which do not depend on what came before; the standard deviation is one
    number per layer, over rows and coordinates, as published.
    """
    terms = [smooth_l1_loss(s, t.detach()) / t.detach().std() for s, t in zip(student, teacher, strict=True)]
    return torch.stack(terms).mean()


def step_loss(run: Pass, thoughts: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Cross-entropy (nats) of the results of steps 1, 2, 3 under the unembedding of thoughts 0, 2, 4."""
    read = torch.stack([thoughts[j] for j in NAMED_THOUGHTS], 1)
    return cross_entropy(run.unembed(read).flatten(0, 1), run.batch.results.flatten(), ignore_index=IGNORED)


def codi_loss(model: Any, batch: Batch, weights: Weights) -> Losses:
    """All losses of a batch; ``model`` is a :class:`headlab.thoughts.model.Codi` of any mode.

    A model without thoughts of its own (modes "none" and "filler") has no step loss.
    """
    run = Pass(model, batch)
    distil = weights.distil > 0
    teacher, goal = run.teach(states=distil)
    student, states = run.answer(*(thought := run.think())[:2], states=distil)
    zero = torch.zeros(())
    apart = distance(states, goal) if distil else zero
    steps = step_loss(run, thought[2]) if weights.steps > 0 and thought[2] else zero
    total = weights.teacher * teacher + weights.student * student + weights.distil * apart + weights.steps * steps
    return Losses(total, teacher, student, apart, steps)


def teacher_loss(lm: Any, batch: Batch) -> Float[Tensor, ""]:
    """Cross-entropy (nats per token) of the chain of thought, the answer and the end, given the question: one pass
    of the base model ``lm``, no bot."""
    long = batch.question.shape[1]
    ids = torch.cat([batch.question, batch.teacher[:, :-1]], 1)
    real = torch.arange(ids.shape[1])[None, :] >= long - batch.question_length[:, None]
    hidden = lm.base_model(
        input_ids=ids,
        attention_mask=visible(real, ids.shape[1]),
        position_ids=(real.cumsum(1) - 1).clamp_min(0),
        use_cache=False,
    ).last_hidden_state[:, long - 1 :]
    counted = torch.arange(batch.teacher.shape[1])[None, :] < batch.teacher_length[:, None]
    return cross_entropy(lm.get_output_embeddings()(hidden[counted]), batch.teacher[counted])
