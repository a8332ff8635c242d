"""Any text, as the model reads it: its tokens, what comes next, every site by name, patterns over its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headlab.effects import Figure
from headlab.engine.attention import Tape
from headlab.engine.captures import capture
from headlab.engine.model import Lab
from headlab.engine.passes import forward
from headlab.interventions import SITES
from headlab.looking.given import HeadsLike, heads_of, text_of, worded
from headlab.looking.look import MOST_SHOWN, Look
from headlab.prompts import Encoded, PromptError
from headlab.prompts.tokens import token_text
from headlab.reading import brief, meant
from headlab.reading.shown import clean
from headlab.trials.patterns import MOST_TOKENS

if TYPE_CHECKING:
    import pandas as pd


def tokens(lab: Lab, text: str) -> list[str]:
    """The tokens of a text as the model reads it, its special ones included, each as the text that it stands for.

    Raises PromptError for a text without tokens, or longer than the model reads.
    """
    return [token_text(lab.tokenizer, i) for i in text_of(lab, text).ids]


@dataclass(frozen=True)
class Text:
    """A text that the model has read.  Made by :func:`read`.

    ``logits`` [token, vocabulary] are those of the token after each.  ``text[site, layer]`` is an activation: z, q
    [token, head, d_head]; k, v [token, KV head, d_head]; pattern, scores [query, head, key]; resid, what leaves the layer,
    [token, d_model].  ``text.table(site, layer)`` is the same with tokens and heads as labels.
    """

    lab: Lab = field(repr=False)
    text: str
    ids: tuple[int, ...] = field(repr=False)
    tokens: tuple[str, ...]
    logits: Tensor = field(repr=False)
    _kept: dict[object, Tensor] = field(default_factory=dict, repr=False)

    def __getitem__(self, at: tuple[str, int]) -> Tensor:
        if not (isinstance(at, tuple) and len(at) == 2 and at[0] in SITES):
            site = at[0] if isinstance(at, tuple) and at else at
            near = "" if isinstance(at, str) and at in SITES else meant(site, SITES)
            raise KeyError(f"expected text[site, layer] with a site of {', '.join(SITES)}, given {brief(at)}{near}")
        site, layer = at
        self.lab.grid.check_layer(layer)
        if at not in self._kept:
            one = Encoded(self.ids, len(self.ids), {}, frozenset(), -1, -1, "")
            made = capture(self.lab, [one], [(layer, site)])[layer, site][0]
            self._kept[at] = made[:, 0] if site == "resid" else made
        return self._kept[at]

    def table(self, site: str, layer: int) -> pd.DataFrame:
        """A site with its labels: rows by ``position``, ``token`` and ``head`` (KV heads as ``L1KV0``; what leaves the layer
        has one row for a token, ``L1``), columns by channel; at pattern and scores by key, as ``position token``.
        """
        import pandas as pd

        held = self[site, layer].float()
        held = held if held.dim() == 3 else held[:, None]
        kind = {"k": f"L{layer}KV", "v": f"L{layer}KV"}.get(site, f"L{layer}H")
        names = [f"L{layer}"] if site == "resid" else [f"{kind}{h}" for h in range(held.shape[1])]
        rows = [(n, token, name) for n, token in enumerate(self.tokens) for name in names]
        keys = [f"{n} {t}" for n, t in enumerate(self.tokens)] if site in {"pattern", "scores"} else None
        index = pd.MultiIndex.from_tuples(rows, names=["position", "token", "head"])
        return pd.DataFrame(held.flatten(0, 1).numpy(force=True), index=index, columns=keys)

    def next(self, k: int = 5, at: int = -1) -> pd.DataFrame:
        """The ``k`` likeliest tokens after token ``at``: ``token``, ``probability``, ``logit``."""
        import pandas as pd

        logits = self.logits[at].double()
        best = logits.topk(min(k, len(logits)))
        shares = logits.softmax(-1)[best.indices]
        told = [token_text(self.lab.tokenizer, int(i)) for i in best.indices]
        return pd.DataFrame({"token": told, "probability": shares.tolist(), "logit": best.values.tolist()})

    def _repr_html_(self) -> str:
        """The tokens, as many as 24 kB hold, and the likeliest next ones; all of them as text."""
        shown, left = [], MOST_SHOWN - 6_000
        for token in self.tokens:
            shown.append(f'<code style="white-space:pre">{escape(clean(token))}</code>')
            if (left := left - len(shown[-1].encode()) - 1) < 0:
                shown[-1] = f"… {len(self.tokens)} tokens"
                break
        best = self.next().itertuples(index=False)
        rows = [f"<tr><td><code>{escape(clean(t[:60]))}</code></td><td>{p:.3g}</td></tr>" for t, p, _ in best]
        return f"<p>{' '.join(shown)}</p><table><tr><th>next</th><th>probability</th></tr>{''.join(rows)}</table>"


@torch.inference_mode()
def read(lab: Lab, text: str) -> Text:
    """Let the model read a text: one pass; sites are read when they are asked for.

    Raises PromptError for a text without tokens, or longer than the model reads.
    """
    one, text = text_of(lab, text), worded(text)
    with lab.tape(Tape()):
        logits = forward(lab, torch.tensor([one.ids], device=lab.device), last=False).logits[0]
    return Text(lab, text, one.ids, tuple(token_text(lab.tokenizer, i) for i in one.ids), logits.float().cpu())


def drawn_of(ids: Sequence[int]) -> None:
    """Raises PromptError for a text of more tokens than a pattern is drawn of."""
    if len(ids) > MOST_TOKENS:
        raise PromptError(f"the text has {len(ids)} tokens; a pattern is drawn of at most {MOST_TOKENS}")


def show_attention(lab: Lab, text: str, heads: HeadsLike) -> Look:
    """The patterns of some heads over the tokens of a text: for each query token (row) the share that each key gets.

    Table: ``head``, ``query``, ``key`` (places), ``query_token``, ``key_token``, ``value`` in 0 … 1; a row sums to 1, or
    to less where the family keeps a share for a sink.

    Raises ValueError for heads that do not exist, PromptError for a text of more tokens than can be drawn.
    """
    import pandas as pd

    named = heads_of(lab, heads)
    drawn_of((seen := read(lab, text)).ids)
    rows = [
        {
            "head": str(head),
            "query": q,
            "key": k,
            "query_token": seen.tokens[q],
            "key_token": seen.tokens[k],
            "value": float(seen["pattern", head.layer][q, head.index, k]),
        }
        for head in named
        for q in range(len(seen.tokens))
        for k in range(q + 1)
    ]
    labels = [f"{n} {t!r}" for n, t in enumerate(seen.tokens)]
    cells = tuple(
        {"x": labels[r["key"]], "y": labels[r["query"]], "value": r["value"], "panel": r["head"]} for r in rows
    )
    options = {"x_title": "key", "y_title": "query", "value_title": "attention"}
    figure = Figure(
        "heatmap", "attention", f"Attention of {named}", "From each token (row) to those before it.", cells, options
    )
    table, terms = pd.DataFrame(rows), {"heads": len(named)}
    return Look(table, figure, "share of attention", (), (seen.text,), tuple(named), terms, lab.tokenizer)
