"""What a thought model gets right: chain of thought in words, thoughts, no thoughts, thoughts replaced.

Problems are grouped by the length of their question, so that nothing is padded and no mask is needed: an
implementation independent of the training's and of the laboratory's own loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from headlab.engine.passes import given
from headlab.tasks.word_problems import EOS, Problem, encode_words, grade_problem, word_ids

Replacement = Literal["noise", "mean", "other"]
_ANSWER = 8  # tokens: "The answer is : X" and the end are six
_CHAIN = 72  # tokens: a chain of seven steps, the answer and the end


class Examiner:
    """A model, its tokenizer and encoded problems in groups of one question length (at most ``rows`` at a time)."""

    def __init__(self, model: Any, tokenizer: Any, problems: Sequence[Problem], *, values: int, rows: int = 128):
        self.model, self.tokenizer, self.problems = model, tokenizer, list(problems)
        ids = word_ids(values)
        self.eos = ids[EOS]
        self.questions = [encode_words(p.question, ids) for p in self.problems]
        groups: dict[int, list[int]] = defaultdict(list)
        for i, question in enumerate(self.questions):
            groups[len(question)].append(i)
        self.groups = [g[k : k + rows] for _, g in sorted(groups.items()) for k in range(0, len(g), rows)]

    def _started(self, end: list[int]) -> Iterator[tuple[list[int], DynamicCache, Tensor]]:
        """For each group: its problems, the cache of question + ``end``, and the last hidden state [row, 1, d]."""
        for group in self.groups:
            ids = torch.tensor([self.questions[i] + end for i in group])
            cache = DynamicCache()
            yield group, cache, self._on(cache, input_ids=ids)[:, -1:]

    def _on(self, cache: DynamicCache, *, apart_from: int | None = None, **inputs: Tensor) -> Tensor:
        """Last hidden states [row, position, d] of ``inputs``; with ``apart_from`` each of them sees itself and the
        positions before that one only."""
        fed = next(iter(inputs.values()))
        before = cache.get_seq_length()
        at = torch.arange(before, before + fed.shape[1])
        mask = None
        if apart_from is not None:
            keys = torch.arange(before + fed.shape[1])
            seen = (keys < apart_from) | (keys == at[:, None])
            mask = (
                torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min).expand(len(fed), 1, -1, -1)
            )
        base = self.model.codi.base_model
        return base(
            **inputs, position_ids=at.expand(len(fed), -1), attention_mask=mask, use_cache=True, **given(base, cache)
        ).last_hidden_state

    def _greedy(self, cache: DynamicCache, hidden: Tensor, most: int) -> list[str]:
        """Greedy text from the last hidden state on, to the end token or ``most`` tokens."""
        said: list[Tensor] = []
        done = torch.zeros(len(hidden), dtype=torch.bool)
        unembed = self.model.codi.get_output_embeddings()
        for _ in range(most):
            token = unembed(hidden[:, -1]).argmax(-1)
            said.append(token.masked_fill(done, self.eos))
            done |= token == self.eos
            if done.all():
                break
            hidden = self._on(cache, input_ids=token[:, None])
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in torch.stack(said, 1).tolist()]

    def _graded(self, texts: dict[int, str]) -> list[bool]:
        return [grade_problem(texts[i], problem).right for i, problem in enumerate(self.problems)]

    @torch.no_grad()
    def chain_of_thought(self) -> list[bool]:
        """Which problems the model gets right when it writes its chain of thought (greedy)."""
        texts: dict[int, str] = {}
        for group, cache, hidden in self._started([]):
            texts |= zip(group, self._greedy(cache, hidden, _CHAIN), strict=True)
        return self._graded(texts)

    @torch.no_grad()
    def thoughts(self, *, apart: bool = False) -> Float[Tensor, "problem thought d"]:
        """The thoughts of every problem, as they are fed; ``apart``: while no thought may attend to an earlier one."""
        spec, model = self.model.spec, self.model
        out = torch.zeros(len(self.problems), spec.n_thoughts, model.embed(torch.tensor([0])).shape[-1])
        for group, cache, hidden in self._started([spec.bot]):
            first = cache.get_seq_length()
            for j in range(spec.n_thoughts):
                z = model.thought(hidden[:, 0], j)
                out[group, j] = z
                hidden = self._on(cache, apart_from=first if apart else None, inputs_embeds=z[:, None])
        return out

    @torch.no_grad()
    def after(self, thoughts: Float[Tensor, "problem thought d"] | None, *, apart: bool = False) -> list[bool]:
        """Which problems the model gets right after these thoughts; None: it goes from bot straight to eot.
        ``apart``: no thought may attend to an earlier one (eot and the answer see all)."""
        spec, texts = self.model.spec, {}
        for group, cache, _ in self._started([spec.bot]):
            if thoughts is not None and thoughts.shape[1]:
                self._on(cache, apart_from=cache.get_seq_length() if apart else None, inputs_embeds=thoughts[group])
            hidden = self._on(cache, input_ids=torch.full((len(group), 1), spec.eot))
            texts |= zip(group, self._greedy(cache, hidden, _ANSWER), strict=True)
        return self._graded(texts)


def replaced(
    thoughts: Float[Tensor, "problem thought d"],
    by: Replacement,
    *,
    population: Float[Tensor, "other thought d"],
    seed: int,
) -> Float[Tensor, "problem thought d"]:
    """All thoughts replaced, each at its own place j.

    ``noise``: a random direction with the norm of the thought it replaces.  ``mean``: the mean of thought j over
    ``population`` (the thoughts of other problems).  ``other``: the thoughts of one problem of ``population``, drawn
    at random for each problem.
    """
    generator = torch.Generator().manual_seed(seed)
    if by == "mean":
        return population.mean(0).expand_as(thoughts)
    if by == "other":
        return population[torch.randint(len(population), (len(thoughts),), generator=generator)]
    noise = torch.randn(thoughts.shape, generator=generator)
    return noise * (thoughts.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
