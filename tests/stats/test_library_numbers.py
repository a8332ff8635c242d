"""Numbers of library trials against hooks on the Hugging Face model alone (``library_oracle``), each to 1e-5 of its size.

The hooks get tokens from the model's own tokenizer and answers from the record; sums and ratios are taken here.  Daily: two of
the eleven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_oracle import Plain, gap, margin, nats
from test_library import TRIED, on_trial

from headlab.heads import Heads


@dataclass
class Ground:
    """What an oracle may know: the model, its tokens, the prompts tried, the heads named by the record."""

    plain: Plain
    tokenizer: Any
    pairs: list[Any]
    record: Any
    amend: dict[str, Any]

    def heads(self, name: str) -> dict[int, tuple[int, ...]]:
        found = Heads.parse(self.record.settings["sets"][name])
        return {at: found.at(at) for at in found.layers}

    def ids(self, prompt: Any) -> list[int]:
        return list(prompt.ids) or list(self.tokenizer(prompt.text)["input_ids"])

    def answers(self, pair: Any) -> tuple[list[int], list[int]]:
        """The first token of each answer after a space."""
        lead = pair.clean.lead

        def first(texts: Sequence[str]) -> list[int]:
            return [self.tokenizer(lead + t.strip(), add_special_tokens=False)["input_ids"][0] for t in texts if t]

        return first([pair.answer, *pair.more_answers]), first([pair.wrong, *pair.more_wrongs])

    def mean(self, of: Callable[[Any], float]) -> float:
        return float(np.mean([of(p) for p in self.pairs]))


def read(g: Ground, pair: Any, prompt: Any, hooks: Any = (), how: Callable[..., float] = margin) -> float:
    return how(g.plain.logits(g.ids(prompt), hooks), *g.answers(pair))


def lost(g: Ground, hooks: Callable[[Any], Any], how: Callable[..., float] = margin) -> float:
    """Σ(edited − base) / Σ(other − base), the clean run edited."""
    base, other, edited = (
        g.mean(f) for f in (
            lambda p: read(g, p, p.clean, how=how), lambda p: read(g, p, p.corrupted, how=how),
            lambda p: read(g, p, p.clean, hooks(p), how),
        )
    )  # fmt: skip
    return (edited - base) / (other - base)


def drop(g: Ground, hooks: Callable[[Any], Any], how: Callable[..., float] = margin) -> float:
    return g.mean(lambda p: read(g, p, p.clean, how=how) - read(g, p, p.clean, hooks(p), how))


def last(g: Ground, prompt: Any) -> list[int]:
    return [len(g.ids(prompt)) - 1]


def recovery(g: Ground) -> float:
    """Patch the few heads of the corrupted run from the clean one, at every position."""
    few = g.heads("few")
    base, other, edited = (
        g.mean(f) for f in (
            lambda p: read(g, p, p.corrupted), lambda p: read(g, p, p.clean),
            lambda p: read(g, p, p.corrupted, g.plain.patch(few, g.plain.held(g.ids(p.clean)))),
        )
    )  # fmt: skip
    return (edited - base) / (other - base)


def path(g: Ground) -> float:
    senders = g.heads("previous")
    return drop(
        g, lambda p: g.plain.path_to_k(g.ids(p.clean), g.plain.zero(senders), min(senders), g.heads("induction"))
    )


def subject(g: Ground, pair: Any) -> list[int]:
    """Tokens that overlap the span of the role."""
    span = next(s for s in pair.clean.spans if s.role == "subject")
    offsets = g.tokenizer(pair.clean.text, return_offsets_mapping=True)["offset_mapping"]
    return [n for n, (a, b) in enumerate(offsets) if a < span.end and b > span.start]


def blind(g: Ground) -> float:
    """What masking the first token costs, in nats a token."""
    sinks, window = g.heads("sinks"), len(g.ids(g.pairs[0].clean))
    return g.mean(lambda p: nats(g.plain.logits(g.ids(p.clean), g.plain.masked(sinks, [0])), g.ids(p.clean), 1, window)
                  - nats(g.plain.logits(g.ids(p.clean)), g.ids(p.clean), 1, window))  # fmt: skip


def late_minus_early(g: Ground) -> float:
    heads = g.heads("induction")

    def cost(p: Any, first: int, end: int) -> float:
        ids = g.ids(p.clean)
        return nats(g.plain.logits(ids, g.plain.frozen(ids, heads)), ids, first, end) - nats(
            g.plain.logits(ids), ids, first, end
        )

    late, early = g.amend["readout.late.span"], g.amend["readout.early.span"]
    return g.mean(lambda p: cost(p, *late)) - g.mean(lambda p: cost(p, *early))


def mask_subject(g: Ground, pair: Any) -> Any:
    return g.plain.masked(
        {at: range(g.plain.n) for at in g.amend["sets.upper.layer"]}, subject(g, pair), last(g, pair.clean)
    )


def probability(logits: Any, right: Sequence[int], wrong: Sequence[int]) -> float:
    return float(logits[-1].softmax(0)[list(right)].sum())


ORACLES: dict[str, tuple[str, Callable[[Ground], float]]] = {
    "ioi-name-movers": (
        "lost:cut/zero", lambda g: lost(g, lambda p: g.plain.zero(g.heads("movers"), last(g, p.clean)))),
    "ioi-negative-movers": ("drop:cut/zero", lambda g: drop(g, lambda p: g.plain.zero(g.heads("negative")))),
    "ioi-circuit": ("lost:gone/zero", lambda g: lost(g, lambda p: g.plain.zero(g.heads("circuit")))),
    "induction-pattern-completion": (
        "drop:cut/zero@margin", lambda g: drop(g, lambda p: g.plain.zero(g.heads("heads")))),
    "previous-token-heads-feed-induction": ("drop:path/zero", path),
    "gender-heads": ("recovery:told", recovery),
    "greater-than-heads": ("lost:cut", lambda g: lost(
        g, lambda p: g.plain.patch(g.heads("heads"), g.plain.held(g.ids(p.corrupted))), gap)),
    "attribute-extraction": ("drop:upper@p", lambda g: drop(g, lambda p: mask_subject(g, p), probability)),
    "sinks-are-needed": ("drop:blind", blind),
    "in-context-learning": ("drop:cut/zero@late - drop:cut/zero@early", late_minus_early),
    "copying-heads": ("drop:cut/zero", lambda g: drop(g, lambda p: g.plain.zero(g.heads("copying")))),
}  # fmt: skip


def compared(name: str, shared: Path, folder: Path) -> None:
    from library_models import model_of

    found = on_trial(name, shared, folder)
    statistic, oracle = ORACLES[name]
    ours = next(e.estimate["value"] for e in found.record.readings[0].estimates if e.name == statistic)
    lab = model_of(TRIED[name]["model"], shared)
    kept = set(found.tables["effects"]["pair_id"])
    pairs = [p for p in prompts(found, lab.tokenizer) if p.id in kept]
    assert len(pairs) == len(kept)
    model = type(lab.model)(lab.model.config)  # weights alone: no function of headlab's stands in its attention
    model.load_state_dict(lab.model.state_dict())
    ground = Ground(Plain(model), lab.tokenizer, pairs, found.record, TRIED[name].get("amend", {}))
    assert oracle(ground) == pytest.approx(ours, rel=1e-5), (name, statistic)


def prompts(found: Any, tokenizer: Any) -> list[Any]:
    """The test prompts: those in the record, or drawn again."""
    from headlab.prompts import PromptSet
    from headlab.trials.document import Document
    from headlab.trials.prompts import split

    if "pairs" in found.record.prompts:
        return list(PromptSet.from_plain(found.record.prompts["pairs"][0]))
    return list(split(Document.from_data(found.record.claim), tokenizer, None, Path("."))[0])


@pytest.mark.parametrize("name", ["ioi-negative-movers", "attribute-extraction"])
def test_two_numbers_are_those_of_plain_hooks(name: str, shared: Path, tmp_path: Path) -> None:
    compared(name, shared, tmp_path)


@pytest.mark.accept
@pytest.mark.parametrize("name", sorted(ORACLES))
def test_numbers_are_those_of_plain_hooks(name: str, shared: Path, tmp_path: Path) -> None:
    compared(name, shared, tmp_path)
