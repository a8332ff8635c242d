"""Integrated gradients from what a head contributes, through the latent loop, to the vectors of the question.

1. The model answers; its answer is fed back (teacher forcing), so the path through the loop is smooth.
2. A head's contribution is a scalar: F = Σ over all positions of ⟨z, g⟩, with g the gradient of the answer's log odds at
   that head's output in the unedited run, held fixed.  Log odds of the tokens that hold a digit, log p − log(1 − p): the
   gradient of log p vanishes where a model is sure.
3. The question's embeddings go on a straight line from a baseline to their own values; bot, thoughts and answer are
   computed from them.  A token's attribution is (x − x′) · ∫ ∂F/∂x.
4. Attributions of a head add up to F(x) − F(x′); what is missing is the completeness gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headlab.engine.decode import stop_ids
from headlab.engine.gradients import quadrature
from headlab.heads import Head
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import Ran, read_prompt, run
from headlab.thoughts.worlds import Layout


@dataclass
class Frozen:
    """Questions of one length with the model's own answers, and each head's direction.

    ``inputs`` [row, question, d_model]; ``answer`` [row, token]; ``alive`` [row, token]; ``directions`` [pass] of
    {head: [row, position, d_head]}.
    """

    thinker: Thinker
    ids: Tensor
    layout: Layout
    inputs: Tensor
    answer: Tensor
    alive: Tensor
    directions: list[dict[Head, Tensor]]
    heads: tuple[Head, ...]

    @classmethod
    @torch.enable_grad()
    def of(cls, thinker: Thinker, ids: Int[Tensor, "row question"], heads: Sequence[Head], tokens: int) -> Frozen:
        layout = Layout(ids.shape[1], thinker.spec.n_thoughts, tokens)
        with torch.no_grad():
            answer = run(thinker, ids, layout).made
        layout = Layout(ids.shape[1], thinker.spec.n_thoughts, answer.shape[1])
        ended = torch.isin(answer, torch.tensor(sorted(stop_ids(thinker.lab)) or [-1], device=ids.device))
        alive = ended.int().cumsum(1) - ended.int() == 0
        inputs = thinker.model.embed(ids).detach()
        made = cls(thinker, ids, layout, inputs, answer, alive, [], tuple(heads))
        ran = made.forward(inputs.clone().requires_grad_())
        keys = [(p, at) for p in range(len(ran.kept)) for at in made.layers]
        total = made.log_odds(ran).sum()
        slopes = dict(
            zip(
                keys,
                torch.autograd.grad(total, [ran.kept[p][at, "z"] for p, at in keys], allow_unused=True),
                strict=True,
            )
        )

        def slope(p: int, h: Head) -> Tensor:
            found = slopes[p, h.layer]
            z = ran.kept[p][h.layer, "z"][:, :, h.index]
            return torch.zeros_like(z).detach() if found is None else found[:, :, h.index].detach()

        made.directions = [{h: slope(p, h) for h in heads} for p in range(len(ran.kept))]
        return made

    @property
    def layers(self) -> list[int]:
        return sorted({h.layer for h in self.heads})

    def log_odds(self, ran: Ran) -> Tensor:
        """[row].  Log odds of the answer's own tokens that hold a digit (all of them where none does), summed."""
        made, vocabulary = self.answer.tolist(), self.thinker.spec.eot
        spelt = {t: any(c.isdigit() for c in self.thinker.tokenizer.decode([t])) for row in made for t in row}
        digits = torch.tensor([[spelt[t] for t in row] for row in made], device=self.ids.device) & self.alive
        digits = torch.where(digits.any(1, keepdim=True), digits, self.alive)
        first = 1 + self.layout.n_thoughts
        out = []
        for t in range(self.answer.shape[1]):
            logits = self.thinker.lab.model.get_output_embeddings()(ran.hidden[first + t])[:, :vocabulary].float()
            own = self.answer[:, t, None]
            rest = logits.scatter(1, own, float("-inf"))
            out.append((logits.gather(1, own)[:, 0] - rest.logsumexp(1)) * digits[:, t])
        return torch.stack(out).sum(0)

    def forward(self, inputs: Tensor, rows: Tensor | None = None) -> Ran:
        wanted = frozenset((at, "z") for at in self.layers)
        ids, answer = (self.ids, self.answer) if rows is None else (self.ids[rows], self.answer[rows])
        read = read_prompt(self.thinker, ids, self.layout, wanted=wanted, inputs=inputs, grad=True)
        index = torch.arange(len(ids), device=ids.device)
        ran = run(self.thinker, ids, self.layout, wanted=wanted, teacher=answer, prompt=read, index=index, grad=True)
        ran.kept[0] = read[2]  # what the answer is computed from, not the copy that was dealt out
        return ran

    def contributions(self, ran: Ran, rows: Tensor | None = None) -> Float[Tensor, "row head"]:
        """F of each head: Σ over positions of ⟨z, g⟩, in nats of the answer's log odds (to first order)."""
        out = []
        for h in self.heads:
            parts = [
                (seen[h.layer, "z"][:, :, h.index] * (g[h] if rows is None else g[h][rows])).sum((1, 2))
                for seen, g in zip(ran.kept, self.directions, strict=True)
            ]
            out.append(torch.stack(parts).sum(0))
        return torch.stack(out, 1)

    @torch.no_grad()
    def at(self, inputs: Tensor) -> Tensor:
        return self.contributions(self.forward(inputs))


@dataclass
class Attributed:
    """``tokens`` [row, head, token]; ``change`` [row, head]: F(x) − F(x′) by passes without gradients; ``gap`` [row, head]:
    Σ tokens − change.  In nats, to first order; above zero: the token makes the head favour the answer."""

    tokens: Tensor
    change: Tensor
    gap: Tensor


@torch.enable_grad()
def attribute(
    frozen: Frozen,
    baseline: Tensor,
    steps: int,
    only: Tensor | None = None,
    heads: int | None = None,
    rows_at_once: int = 64,
) -> Attributed:
    """Integrated gradients of every head's contribution.

    Definition: (x − x′)_t · Σ_k w_k ∂F/∂x_t at x′ + a_k (x − x′), Gauss-Legendre nodes a_k and weights w_k on [0, 1].
    Shapes: ``baseline`` broadcasts to [row, question, d_model]; ``only``: these rows (the others stay zero); ``heads``: so
        many of the first.  Range: any sign.  Mean: none is taken.
    Raises: InterventionError for fewer than one step.
    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365.
    When it misleads: the baseline is a choice, and the path leads through questions that nobody asked; a small gap says
        that the integral is right, not that single tokens are.
    """
    nodes, weights = quadrature(steps, "gauss-legendre")
    start = baseline.to(frozen.inputs).expand_as(frozen.inputs)
    way = frozen.inputs - start
    n = len(frozen.inputs)
    total = frozen.inputs.new_zeros(n, len(frozen.heads), frozen.inputs.shape[1])
    chosen, many = torch.arange(n) if only is None else only.cpu(), heads or len(frozen.heads)
    where = chosen.repeat_interleave(steps)
    amount, weight = nodes.repeat(len(chosen)), weights.repeat(len(chosen))
    for part in torch.arange(len(where)).split(max(1, rows_at_once)):
        rows = where[part].to(way.device)
        x = (start[rows] + amount[part].to(way)[:, None, None] * way[rows]).requires_grad_()
        scores = frozen.contributions(frozen.forward(x, rows), rows).sum(0)
        for h in range(many):
            (slope,) = torch.autograd.grad(scores[h], x, retain_graph=h + 1 < many)
            each = (slope * way[rows]).sum(-1) * weight[part].to(way)[:, None]
            total[:, h].index_add_(0, rows, each)
    change = frozen.at(frozen.inputs) - frozen.at(start)
    return Attributed(total, change, total.sum(2) - change)
