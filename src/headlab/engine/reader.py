"""From logits to readouts: one number for each row and readout, float64, on the device.

Margins come from only the vocabulary entries that the answers name; other readouts of the read position need all of
them.  ``loss`` and ``kl`` read every scored position, in blocks, from the hidden states that enter the model's own head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from headlab.engine.model import Lab
from headlab.prompts import Encoded, PromptError
from headlab.readouts import MARGIN, NARROW, PER_TOKEN, WRONG, Readout


class Reader:
    """Readouts of some prompts of one length or several, by the prompt's index.

    ``narrow``: only the answers' vocabulary entries are computed (``vocabulary``, None: all).  ``tokens``: some readout
    is a mean over the scored tokens of a prompt.  ``last`` [prompt, vocabulary]: the unedited run's log probabilities at
    the read position, once known.
    """

    def __init__(self, lab: Lab, encoded: Sequence[Encoded], readouts: Sequence[Readout] = (MARGIN,)) -> None:
        self.readouts, self.device = tuple(readouts), lab.device
        kinds = {r.kind for r in readouts}
        self._refuse(encoded, kinds)
        self.narrow = kinds <= NARROW and lab.can_narrow
        # of a prompt with answers the divergence is read where they are; of a window at every scored token
        self.kl_at_read = "kl" in kinds and all(e.answer_ids for e in encoded)
        self.tokens = "loss" in kinds or ("kl" in kinds and not self.kl_at_read)
        self.last: Tensor | None = None
        entries = sorted({i for e in encoded for i in (*e.answer_ids, *e.wrong_ids)})
        self.vocabulary = torch.tensor(entries, device=lab.device) if self.narrow else None
        place = {entry: n for n, entry in enumerate(entries)} if self.narrow else {entry: entry for entry in entries}
        self.answer, self.many_answers = self._table(lab, [[place[i] for i in e.answer_ids] for e in encoded])
        self.wrong, self.many_wrongs = self._table(lab, [[place[i] for i in e.wrong_ids] for e in encoded])
        self.scored = torch.tensor([e.scored for e in encoded], device=lab.device)

    @staticmethod
    def _refuse(encoded: Sequence[Encoded], kinds: set[str]) -> None:
        for kind in sorted(kinds - PER_TOKEN):
            if any(not e.answer_ids for e in encoded):
                raise PromptError(
                    f"the readout {kind!r} needs answers, which these prompts do not have; loss and kl do not"
                )
            if kind in WRONG and any(not e.wrong_ids for e in encoded):
                raise PromptError(
                    f"the readout {kind!r} needs a wrong answer for each prompt; logprob, probability and place do not"
                )

    @staticmethod
    def _table(lab: Lab, rows: list[list[int]]) -> tuple[Tensor, Tensor | None]:
        """[prompt] first entries; and [prompt, most] of all with −1 where there are fewer, if any prompt has several."""
        first = torch.tensor([r[0] if r else 0 for r in rows], device=lab.device)
        most = max((len(r) for r in rows), default=0)
        if most <= 1:
            return first, None
        return first, torch.tensor([r + [-1] * (most - len(r)) for r in rows], device=lab.device)

    # -- the read position ------------------------------------------------------------------------------------

    def difference(self, logits: Tensor, prompts: Tensor | None = None) -> Tensor:
        """The margin [row], in logits, float64; row r is prompt ``prompts[r]`` (None: the prompts in their order)."""
        last = logits[:, -1].float()
        if self.many_answers is None and self.many_wrongs is None:
            answer, wrong = (x if prompts is None else x[prompts] for x in (self.answer, self.wrong))
            return (last.gather(1, answer[:, None]) - last.gather(1, wrong[:, None]))[:, 0].double()
        right = self._of(last, self.answer, self.many_answers, prompts).logsumexp(1)
        return (right - self._of(last, self.wrong, self.many_wrongs, prompts).max(1).values).double()

    def at_read(self, logits: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Every readout of the read position [row, readout]; NaN where a readout is a mean over tokens."""
        out = torch.full((len(logits), len(self.readouts)), float("nan"), dtype=torch.float64, device=logits.device)
        margin: Tensor | None = None
        spread: Tensor | None = None
        for n, readout in enumerate(self.readouts):
            if readout.kind in PER_TOKEN and not (readout.kind == "kl" and self.kl_at_read):
                continue
            if readout.kind in NARROW:
                margin = self.difference(logits, prompts) if margin is None else margin
                out[:, n] = margin if readout.kind == "margin" else (margin > 0).double()
                continue
            if spread is None:
                spread = torch.log_softmax(logits[:, -1].float(), -1)
            if readout.kind == "kl":
                base = spread if self.last is None else self.last if prompts is None else self.last[prompts]
                out[:, n] = (base.exp() * (base - spread)).sum(-1).double()
                continue
            out[:, n] = self._spread(readout.kind, spread, prompts)
        return out

    def _spread(self, kind: str, spread: Tensor, prompts: Tensor | None) -> Tensor:
        right = self._of(spread, self.answer, self.many_answers, prompts)
        if kind == "place":
            return (spread > right.max(1, keepdim=True).values).sum(1).double() + 1
        logprob = right.logsumexp(1)
        if kind == "logprob":
            return logprob.double()
        if kind == "probability":
            return logprob.exp().double()
        return (logprob.exp() - self._of(spread, self.wrong, self.many_wrongs, prompts).logsumexp(1).exp()).double()

    @staticmethod
    def _of(values: Tensor, first: Tensor, many: Tensor | None, prompts: Tensor | None) -> Tensor:
        """[row, answer] of the answers' entries; −inf where a prompt has fewer."""
        chosen = first[:, None] if many is None else many
        chosen = chosen if prompts is None else chosen[prompts]
        return values.gather(1, chosen.clamp(min=0)).masked_fill(chosen < 0, float("-inf"))

    # -- every scored position --------------------------------------------------------------------------------

    def over_tokens(
        self,
        ids: Tensor,
        prompts: Tensor,
        start: int,
        edited: Callable[[int, int], Tensor],
        unedited: Callable[[int, int], Tensor],
        before: Tensor | None,
        *,
        block: int,
        out: Tensor,
    ) -> None:
        """Fill the token readouts of ``out`` [row, readout].

        ``edited(a, b)`` and ``unedited(a, b)`` give logits of positions ``a … b−1`` ([row, position, vocabulary]);
        ``start``: the first position that an edit can change; ``before`` [prompt, position]: the unedited run's nats per
        token, what positions before it keep.  ``block``: positions held at a time.
        """
        length = ids.shape[1]
        scored = self.scored[prompts]
        loss = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
        kl = torch.zeros_like(loss)
        wanted = {r.kind for r in self.readouts}
        first = min(int(scored.min()) - 1, length - 1) if len(scored) else 0
        at = torch.arange(length, device=ids.device)
        if "loss" in wanted and before is not None and start > 0:
            kept = (at[None, :start] + 1 >= scored[:, None]) & (at[None, :start] + 1 < length)
            loss += (before[prompts, :start] * kept).sum(1)
        for a in range(max(start, first), length - 1, block):
            b = min(a + block, length - 1)
            inside = at[None, a:b] + 1 >= scored[:, None]
            spread = torch.log_softmax(edited(a, b).float(), -1)
            if "loss" in wanted:
                nats = -spread.gather(2, ids[:, a + 1 : b + 1, None])[..., 0]
                loss += (nats.double() * inside).sum(1)
            if "kl" in wanted:
                base = torch.log_softmax(unedited(a, b).float(), -1)
                kl += ((base.exp() * (base - spread)).sum(-1).double() * inside).sum(1)
        count = (length - scored).clamp(min=1).double()
        for n, readout in enumerate(self.readouts):
            if readout.kind == "loss":
                out[:, n] = loss / count
            elif readout.kind == "kl" and not self.kl_at_read:
                out[:, n] = kl / count

    def keep_last(self, logits: Tensor) -> None:
        """What the unedited run predicts at the read position, [prompt, vocabulary]: the divergence is from it."""
        self.last = torch.log_softmax(logits[:, -1].float(), -1)
