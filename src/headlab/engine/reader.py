"""From logits to readouts: one number for each row and readout, float64, on the device.

Margins come from only the vocabulary entries that the answers name; other readouts of the read position need all of
them.  ``loss`` and ``kl`` read every scored position, in blocks, from the hidden states that enter the model's own head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite

import torch
from torch import Tensor

from headlab.engine.edits import upload
from headlab.engine.model import Lab
from headlab.engine.passes import logits_of
from headlab.prompts import Encoded, PromptError
from headlab.readouts import MARGIN, NARROW, PER_TOKEN, WRONG, Readout

LOGITS_HELD = 2**19
"""Logits held at a time where every position is read, unless one position of the batch has more."""
KEPT_LOGITS = 2 * LOGITS_HELD
"""Logits of unedited runs that are kept for the next rows, unless one batch needs more."""
HELD_BYTES = 56
"""Bytes for each of :data:`LOGITS_HELD`: as the model gives it, in float64, its exponential; and what is kept."""

Runs = Sequence[tuple[int, int, int]]
"""Which prompt rows are of: (prompt, first row, end row), in the order of the rows."""


def vocabulary_size(lab: Lab) -> int:
    """How many logits the model gives for a position."""
    return int(lab.model.config.get_text_config().vocab_size)


def head(lab: Lab, hidden: Tensor, ids: Tensor, start: int) -> Tensor:
    """Logits [row, position, vocabulary] of what leaves the last layer, by the model's own norm and head; the first of
    these positions is ``start`` of the prompt."""
    return logits_of(lab, hidden, ids[:, start : start + hidden.shape[1]], start)


def positions(
    lab: Lab, logits: Tensor, hidden: Tensor | None, ids: Tensor, start: int
) -> Callable[[slice, int, int], Tensor]:
    """Logits of positions ``a … b−1`` of some rows: cut from ``logits`` of all, or made of what left the last layer from
    ``start`` on."""
    if hidden is None:
        return lambda rows, a, b: logits[rows, a:b]
    return lambda rows, a, b: head(lab, hidden[rows, a - start : b - start], ids[rows], a)


def normaliser(logits: Tensor) -> Tensor:
    """Log of the sum of the exponentials over the vocabulary, float64.

    The exponentials are float32 (float64 if the logits are), which takes a tenth of the time.
    """
    wide = widened(logits)
    most = wide.amax(-1, keepdim=True)
    return (wide - most).exp_().sum(-1).double().log() + most[..., 0].double()


def widened(logits: Tensor) -> Tensor:
    """Logits as they are reckoned with: float64 as they are, others as float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def nats(norm: Tensor, logits: Tensor, ids: Tensor) -> Tensor:
    """What each of ``ids`` [row, position] costs under ``logits``, whose :func:`normaliser` is ``norm``; float64."""
    return norm - logits.gather(2, ids[..., None])[..., 0].double()


class Base:
    """What the unedited run of some prompts predicts, [prompt, …, vocabulary]."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.norm = widened(logits), normaliser(logits)
        self.share = torch.softmax(self.logits, -1)

    def cut(self, a: int, b: int) -> Base:
        """The same at positions ``a … b−1`` of [prompt, position, vocabulary]."""
        out = Base.__new__(Base)
        out.logits, out.norm, out.share = self.logits[:, a:b], self.norm[:, a:b], self.share[:, a:b]
        return out

    def divergence(self, edited: Tensor, runs: Runs) -> tuple[Tensor, Tensor]:
        """KL(unedited ‖ edited) in nats [row, …], and the :func:`normaliser` of the edited run's logits; float64.

        Rows of one prompt are compared with it in place; where most prompts have a row or two, the prompts are copied.
        """
        if 2 * len(runs) > len(edited) > 1:
            place = upload([prompt for prompt, first, end in runs for _ in range(first, end)], edited.device)
            return _diverged(self.logits[place], self.norm[place], self.share[place], edited)
        parts = [
            _diverged(self.logits[n : n + 1], self.norm[n : n + 1], self.share[n : n + 1], edited[first:end])
            for n, first, end in runs
        ]
        return parts[0] if len(parts) == 1 else (torch.cat([k for k, _ in parts]), torch.cat([n for _, n in parts]))


def _diverged(logits: Tensor, norm: Tensor, share: Tensor, edited: Tensor) -> tuple[Tensor, Tensor]:
    """With d the rise of a logit above the mean rise Σ share · rise, the divergence is log(1 + Σ share (eᵈ − 1)): what is
    left of equal runs is nothing, of similar ones little rounding.  Where eᵈ has no float, normalisers are compared.
    """
    wide = widened(edited)
    rise = wide - logits
    mean = _weighted(share, rise)
    kl = _weighted(share, rise.sub_(mean[..., None].to(rise.dtype)).expm1_()).log1p()
    if kl.device.type != "cpu" or not isfinite(kl.sum()):  # an accelerator is not waited for
        kl = torch.where(kl.isfinite(), kl, normaliser(wide) - norm - mean)
    return kl, norm + mean + kl


def _weighted(share: Tensor, values: Tensor) -> Tensor:
    """Σ share × values over the vocabulary, float64; ``share`` is of one prompt or of each row."""
    if len(share) == 1:
        return torch.einsum("...v,r...v->r...", share[0], values).double()
    return torch.einsum("...v,...v->...", share, values).double()


class Reader:
    """Readouts of some prompts of one length or several, by the prompt's index.

    ``vocabulary``: only these entries are computed (None: all).  ``tokens``: some readout is a mean over the scored tokens
    of a prompt.  ``at_end``: some readout is of the read position.  ``compares``: some readout needs the unedited run's logits.
    """

    def __init__(self, lab: Lab, encoded: Sequence[Encoded], readouts: Sequence[Readout] = (MARGIN,)) -> None:
        self.readouts, self.device = tuple(readouts), lab.device
        kinds = {r.kind for r in readouts}
        self._refuse(encoded, kinds)
        narrow = kinds <= NARROW and lab.can_narrow
        # of a prompt with answers the divergence is read where they are; of a window at every scored token
        self.kl_at_read = "kl" in kinds and all(e.answer_ids for e in encoded)
        self.tokens = "loss" in kinds or ("kl" in kinds and not self.kl_at_read)
        self.compares, self.only_margin = "kl" in kinds, kinds == {"margin"}
        self.at_end = self.kl_at_read or bool(kinds - PER_TOKEN)
        entries = sorted({i for e in encoded for i in (*e.answer_ids, *e.wrong_ids)})
        self.vocabulary = torch.tensor(entries, device=lab.device) if narrow else None
        place = {entry: n for n, entry in enumerate(entries)} if narrow else {entry: entry for entry in entries}
        self.answer, self.many_answers = self._table(lab, [[place[i] for i in e.answer_ids] for e in encoded])
        self.wrong, self.many_wrongs = self._table(lab, [[place[i] for i in e.wrong_ids] for e in encoded])
        self.scored = torch.tensor([e.scored for e in encoded], device=lab.device)
        self.size = vocabulary_size(lab)
        self.first = min(e.scored for e in encoded) - 1

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
        right = self._of(last.double(), self.answer, self.many_answers, prompts).logsumexp(1)
        return right - self._of(last.double(), self.wrong, self.many_wrongs, prompts).max(1).values

    def at_read(
        self, logits: Tensor, prompts: Tensor | None = None, unedited: Base | None = None, runs: Runs = ()
    ) -> Tensor:
        """Every readout of the read position [row, readout]; NaN where a readout is a mean over tokens.

        ``unedited``: what the divergence is from (None: from the logits themselves), and ``runs``, which rows are of its
        prompts.
        """
        if self.only_margin:
            return self.difference(logits, prompts)[:, None]
        out = torch.full((len(logits), len(self.readouts)), float("nan"), dtype=torch.float64, device=logits.device)
        margin: Tensor | None = None
        spread: Tensor | None = None
        for n, readout in enumerate(self.readouts):
            if readout.kind in PER_TOKEN and not (readout.kind == "kl" and self.kl_at_read):
                continue
            if readout.kind in NARROW:
                margin = self.difference(logits, prompts) if margin is None else margin
                out[:, n] = margin if readout.kind == "margin" else (margin > 0).double()
            elif readout.kind == "kl":
                out[:, n] = 0.0 if unedited is None else unedited.divergence(logits[:, -1].double(), runs)[0]
            elif readout.kind == "place":
                last = logits[:, -1]
                best = self._of(last, self.answer, self.many_answers, prompts).max(1, keepdim=True).values
                out[:, n] = (last > best).sum(1).double() + 1
            else:
                if spread is None:
                    spread = torch.log_softmax(logits[:, -1].double(), -1)
                out[:, n] = self._spread(readout.kind, spread, prompts)
        return out

    def _spread(self, kind: str, spread: Tensor, prompts: Tensor | None) -> Tensor:
        logprob = self._of(spread, self.answer, self.many_answers, prompts).logsumexp(1)
        if kind == "logprob":
            return logprob
        if kind == "probability":
            return logprob.exp()
        return logprob.exp() - self._of(spread, self.wrong, self.many_wrongs, prompts).exp().sum(1)

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
        edited: Callable[[slice, int, int], Tensor],
        unedited: Callable[[int, int], Base] | None,
        before: Tensor | None,
        *,
        out: Tensor,
        runs: Runs = (),
    ) -> None:
        """Fill the token readouts of ``out`` [row, readout].

        ``edited(rows, a, b)`` gives logits of positions ``a … b−1`` ([row, position, vocabulary]), ``unedited(a, b)`` the
        same of the unedited run of the prompts of ``runs``; ``start``: the first position that an edit can change;
        ``before`` [prompt, position]: the unedited run's nats for the next token, what positions before ``start`` keep.
        """
        length, first = ids.shape[1], max(start, self.first)
        told = {n: r.kind for n, r in enumerate(self.readouts) if r.kind in PER_TOKEN}
        if self.kl_at_read:
            told = {n: kind for n, kind in told.items() if kind == "loss"}
        spans = {n: self._span(self.readouts[n], length, prompts) for n in told}
        at = torch.arange(length, device=ids.device)[None] + 1
        inside = {n: _inside(at, span) for n, span in spans.items()}
        losses = [n for n, kind in told.items() if kind == "loss"]
        total = {n: torch.zeros(len(ids), dtype=torch.float64, device=ids.device) for n in told}
        if losses and before is not None and start > 0:
            for n in losses:
                total[n] += (before[prompts, :start] * inside[n][:, :start]).sum(1)
        for rows, a, b in self._blocks(len(ids), first, length - 1):
            logits, each = edited(rows, a, b), {}
            if unedited is not None:
                each["kl"], norm = unedited(a, b).divergence(logits, _within(runs, rows))
            else:
                norm = normaliser(logits)
            if losses:
                each["loss"] = nats(norm, logits, ids[rows, a + 1 : b + 1])
            for n, kind in told.items():
                if kind in each:
                    total[n][rows] += (each[kind] * inside[n][rows, a:b]).sum(1)
        for n, (low, high) in spans.items():
            out[:, n] = total[n] / (high - low).clamp(min=1).double()

    def _blocks(self, rows: int, first: int, end: int) -> Iterator[tuple[slice, int, int]]:
        """Rows and positions whose logits are held at a time: whole rows, or positions of all rows where a row has too
        many."""
        whole = LOGITS_HELD // max(1, (end - first) * self.size)
        step = max(1, LOGITS_HELD // (rows * self.size))
        if whole:
            yield from ((slice(n, n + whole), first, end) for n in range(0, rows if first < end else 0, whole))
        else:
            yield from ((slice(0, rows), a, min(a + step, end)) for a in range(first, end, step))

    def _span(self, readout: Readout, length: int, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """[row] the first token that a readout scores, and the one after the last."""
        low = self.scored[prompts].clamp(min=readout.first)
        return low, torch.full_like(low, min(length, readout.last or length))


def _within(runs: Runs, rows: slice) -> list[tuple[int, int, int]]:
    """The runs of some of the rows, counted from the first of them."""
    cut = ((n, max(first, rows.start) - rows.start, min(end, rows.stop) - rows.start) for n, first, end in runs)
    return [(n, first, end) for n, first, end in cut if first < end]


def _inside(at: Tensor, span: tuple[Tensor, Tensor]) -> Tensor:
    """[row, position] whether the tokens ``at`` [1, position] are scored."""
    low, high = span
    return (at >= low[:, None]) & (at < high[:, None])
