"""What the weights of a head say it writes: its value at each token alone, through its output matrix, into the logits."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from headlab.effects import Figure
from headlab.engine.model import Lab
from headlab.engine.recall import recalling
from headlab.heads import Head
from headlab.looking.given import HeadsLike, heads_of, text_of, worded
from headlab.looking.look import Look
from headlab.prompts import PromptError
from headlab.prompts.tokens import token_text
from headlab.trials.patterns import MOST_TOKENS
from headlab.trials.token_scores import raised


@torch.inference_mode()
def ov_circuit(lab: Lab, head: HeadsLike, text: str, k: int = 3) -> Look:
    """Which tokens a head writes toward where it attends to each token of a text: its OV circuit, on these tokens.

    Definition: the head's value v at the token, which stands alone behind the tokenizer's own start token (so that it carries
        no context), times W_O, behind the last norm and the output embedding; less the mean over the vocabulary.
    Table: ``token``, ``rank`` (1 … ``k``), ``toward``, ``value``; the figure has what each token (row) raises each token of
        the text (column) by.  A token that stands twice is shown once.
    Units: logits.  Range: any sign; ``value`` falls with ``rank``.
    Raises: ValueError for no head, more than one, or none of this model; PromptError for a text of more tokens than can be
        drawn; ModelError where the family has no output matrix of a head.
    Source: Elhage et al. 2021, "A mathematical framework", with the head's own input in the place of the token embedding.
    When it misleads: the last norm scales what is written as if nothing else stood in the stream, so that sizes compare
        within a head alone; later layers may turn it into something else; whether the head attends there is another matter.
    """
    named, seen = heads_of(lab, head), text_of(lab, text)
    if len(named) != 1:
        raise ValueError(f"{len(named)} heads given ({named}); an OV circuit is of one")
    (one,) = named
    first = lab.tokenizer.bos_token_id
    ids = [i for i in dict.fromkeys(seen.ids) if i != first] or list(seen.ids)
    if len(ids) > MOST_TOKENS:
        raise PromptError(f"the text has {len(ids)} different tokens; at most {MOST_TOKENS} are drawn")
    above = above_mean(lab, one, ids)
    best = above.topk(min(k, above.shape[-1]))
    names = [token_text(lab.tokenizer, i) for i in ids]
    rows = [
        {"token": name, "rank": n + 1, "toward": token_text(lab.tokenizer, int(i)), "value": float(v)}
        for name, some, values in zip(names, best.indices, best.values, strict=True)
        for n, (i, v) in enumerate(zip(some, values, strict=True))
    ]
    among = above[:, ids].tolist()
    cells = tuple(
        {"x": repr(to), "y": repr(name), "value": value, "panel": ""}
        for name, line in zip(names, among, strict=True)
        for to, value in zip(names, line, strict=True)
    )
    options = {"x_title": "token it raises", "y_title": "token it attends to", "value_title": "logits above the mean"}
    words = "From the weights: nothing of the text but its tokens is read."
    figure = Figure("heatmap", "ov", f"What {one} writes for each token alone", words, cells, options)
    return Look(pd.DataFrame(rows), figure, "logits", (), (worded(text),), (one,), {"heads": 1}, lab.tokenizer)


@torch.inference_mode()
def above_mean(lab: Lab, head: Head, ids: Sequence[int]) -> Tensor:
    """The logits of what a head writes for each token alone, less their mean over the vocabulary [token, vocabulary]."""
    with recalling(lab):
        ((_, logits),) = raised(lab, head.layer, ids, [head.index])
    return logits.double() - logits.double().mean(-1, keepdim=True)
