"""How long a prompt may be, and which tokens a model has: told by the model at work, checked before anything runs.

A model that looks its positions up in a table ends where the table ends.  One that computes them (rotary) goes on past
the length it was trained for, and gives numbers that mean little: that is said in the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode

from headlab.engine.attention import Tape
from headlab.engine.model import Lab
from headlab.prompts import Encoded, EncodedPair, Pair, PromptError, encode


class _Tables(TorchFunctionMode):
    """Keeps the lengths of tables that are looked up at consecutive rows."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is embedding and len(args) > 1:
            rows = args[0].flatten()
            if len(rows) > 1 and bool((rows.diff() == 1).all()):
                self.ends.append(len(args[1]) - int(rows[0]))
        return func(*args, **(kwargs or {}))


def positions(lab: Lab) -> int | None:
    """Positions that the model has a row for, or None where it computes them.  Found by one pass, then kept."""
    if "positions" not in lab.info:
        padding = getattr(lab.model.get_input_embeddings(), "padding_idx", None)  # has no position of its own (RoBERTa)
        some = [token for token in range(5, -1, -1) if token != padding][:5]  # no ascending tokens
        ids = torch.tensor([some], device=lab.device)
        with torch.no_grad(), lab.tape(Tape()), _Tables() as tables:
            lab.model(input_ids=ids, use_cache=False)
        lab.info["positions"] = min(tables.ends, default=None)
    return lab.info["positions"]


def check_fits(lab: Lab, pairs: Sequence[EncodedPair], decoding: int = 0) -> None:
    """Refuse what the model has no row for.  Raises PromptError naming pair, length and limit, or token and rows.

    ``decoding``: tokens that are generated after the prompt (the last of them is never read).
    """
    for pair in pairs:
        for which, one in (("clean", pair.clean), ("corrupted", pair.corrupted)):
            check_length(lab, f"pair {pair.pair.id}: its {which} prompt", len(one.ids), max(0, decoding - 1))
            _check_tokens(lab, f"pair {pair.pair.id}: its {which} prompt", one)


def check_length(lab: Lab, what: str, length: int, more: int = 0) -> None:
    """Raises PromptError where ``length`` tokens, and ``more`` generated ones, pass the model's last position."""
    most = positions(lab)
    if most is not None and length + more > most:
        said = f" and {more} of its continuation" if more else ""
        raise PromptError(
            f"{what} has {length} tokens{said}, but {lab.name} has {most} positions; leave it out or shorten it"
        )


def _check_tokens(lab: Lab, what: str, one: Encoded) -> None:
    rows = lab.model.get_input_embeddings().weight.shape[0]
    worst = max(*one.ids, one.answer_id, one.wrong_id)
    if worst >= rows:
        raise PromptError(
            f"{what} or answer has token {worst} ({lab.tokenizer.convert_ids_to_tokens(worst)!r}), but the embedding of "
            f"{lab.name} has {rows} rows; the tokenizer is not that of this model"
        )


def beyond(lab: Lab, pairs: Iterable[Pair]) -> list[str]:
    """One sentence for the record where prompts are longer than the model was trained for, else none."""
    trained = getattr(lab.model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(trained, int):
        return []
    long = {}
    for pair in pairs:
        if max(len(p.text.encode()) for p in (pair.clean, pair.corrupted)) < trained - 64:  # a token has a byte or more
            continue
        made = encode(pair, lab.tokenizer)
        if (n := max(len(made.clean.ids), len(made.corrupted.ids))) > trained:
            long[pair.id] = n
    if not long:
        return []
    first = next(iter(long))
    return [
        f"{len(long)} pair(s) are longer than the {trained} positions that {lab.name} was trained for (first {first}: "
        f"{long[first]} tokens); what is measured on them is beyond the model's range."
    ]
