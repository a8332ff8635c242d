"""What the residual stream already says, layer by layer, and what each part of the model writes into the answer directly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from headlab.effects import Figure
from headlab.engine.attention import Tape
from headlab.engine.model import Lab, ModelError
from headlab.engine.passes import forward
from headlab.engine.reader import head as unembedded
from headlab.looking.given import Pairs, pairs_of
from headlab.looking.grids import estimates, ranked, whole_layer
from headlab.looking.look import Look
from headlab.looking.texts import read
from headlab.prompts import Encoded, EncodedPair
from headlab.prompts.tokens import token_text
from headlab.stats.figures import rounded

CLOSE = 1e-3
"""How far the parts of a model may miss its logits, as a share of the largest."""


def _head(lab: Lab) -> nn.Module:
    head = lab.model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{lab.name} has no output embedding, so that nothing can be read through it")
    return head


def _last_norm(lab: Lab, ids: Tensor) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The norm behind the last layer, what goes into it and comes out [row, position, d_model], and the logits.

    Found by what it takes (what leaves the last layer) and gives (what enters the output embedding).
    """
    leaving, met = (lab.grid.n_layers - 1, "resid"), []
    entered: list[Tensor] = []
    with ExitStack() as stack:
        tape = stack.enter_context(lab.tape(Tape(wanted=frozenset({leaving}))))

        def keep(module: nn.Module, args: Any, out: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(out, Tensor) and args[0].shape == out.shape:
                met.append((module, args[0], out))

        for module in lab.model.modules():
            if not any(module.children()):
                stack.callback(module.register_forward_hook(keep).remove)
        handle = _head(lab).register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        stack.callback(handle.remove)
        logits = forward(lab, ids, last=False).logits
    given = tape.kept[leaving]
    for module, x, y in reversed(met):
        if x.shape == given.shape and torch.equal(x, given) and torch.equal(y, entered[-1]):
            return module, x, y, logits
    raise ModelError(f"no single norm stands between the last layer of {lab.name} and its output embedding")


@torch.inference_mode()
def logit_lens(lab: Lab, text: str, at: int = -1, k: int = 1) -> Look:
    """What the model would say if it ended after each layer: its own last norm and output embedding read what leaves the layer.

    Table: ``layer``, ``position`` (of the token), ``rank`` (1 … ``k``), ``token``, ``value`` (probability, 0 … 1).  The
    last layer's is the model's own answer.  ``at``: the token after which is read.

    A claim of it is about all heads of the layer after which the answer's probability has risen most.

    Raises ModelError for a family whose layers cannot be left out.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    When it misleads: early layers write in a basis that later ones turn (Belrose et al. 2023, arXiv:2303.08112): that a
        layer's reading is wrong does not say that the answer is not there.
    """
    seen = read(lab, text)
    ids = torch.tensor([seen.ids], device=lab.device)
    if not lab.can_skip:
        raise ModelError(
            f"{lab.name} cannot be entered behind its last layer, so that no layer is read as its own answer"
        )
    if not -len(seen.ids) <= at < len(seen.ids):
        raise ValueError(f"no token {at}: the text has {len(seen.ids)} tokens, 0 to {len(seen.ids) - 1}")
    place, rows, shares = range(len(seen.ids))[at], [], []
    for layer in range(lab.grid.n_layers):
        logits = unembedded(lab, seen["resid", layer][None], ids, 0)[0, place]
        shares.append(logits.double().softmax(-1))
        best = shares[-1].topk(k)
        for n, (i, v) in enumerate(zip(best.indices, best.values, strict=True), 1):
            said = {"rank": n, "token": token_text(lab.tokenizer, int(i)), "value": float(v)}
            rows.append({"layer": layer, "position": place, **said})
    across = [f"{r['rank']}: {r['token']!r}" if k == 1 else f"rank {r['rank']}" for r in rows]
    cells = tuple(
        {"x": x, "y": f"L{r['layer']}", "value": r["value"], "panel": ""} for x, r in zip(across, rows, strict=True)
    )
    title = f"Likeliest after {seen.tokens[place]!r}, read after each layer"
    options = {"x_title": "token", "y_title": "layer", "value_title": "probability"}
    said_last = torch.stack(shares)[:, int(shares[-1].argmax())]
    rises = said_last.diff(prepend=said_last.new_zeros(1))
    turn = max(lab.attentions, key=lambda layer: float(rises[layer]))
    figure = Figure("heatmap", "lens", title, "", cells, options)
    best, whole = whole_layer(lab, turn)
    return Look(
        pd.DataFrame(rows), figure, "probability", texts=(seen.text,), ranked=best, terms=whole, tokenizer=lab.tokenizer
    )


def direct_effects(lab: Lab, pairs: Pairs, *, seed: int = 0) -> Look:
    """What each part writes straight into the margin of the clean prompts (direct logit attribution), the mean over pairs.

    Definition: the read position's residual stream is a sum: what enters layer 0, each head's z·W_O, each attention's bias,
        the rest of each layer (its MLP).  The last norm, its scale held at what it is, and the output embedding's
        answer-minus-wrong direction are linear in it, so that the parts add up to the margin; checked on every pair.
    Table: ``part`` (``embedding``, ``head``, ``bias``, ``rest``), ``layer``, ``head``, ``value`` with its 95 % interval
        ``low`` … ``high``, ``n`` pairs.
    Units: logits.  Range: any sign; the sum over rows is the mean margin (bias of the output embedding apart).
    Raises: ModelError where a family's parts do not add up (a norm behind the attention, a soft-cap, no W_O of its own).
    Source: Elhage et al. 2021, "A mathematical framework"; Wang et al. 2022, arXiv:2211.00593.
    When it misleads: a part that works through later layers shows nothing here, and one that a later layer takes back
        shows what never arrives.
    """
    encoded = pairs_of(lab, pairs)
    return direct_look(lab, encoded, [direct_parts(lab, e.clean) for e in encoded], seed)


Parts = tuple[list[tuple[str, int, int]], Tensor]


def direct_look(lab: Lab, encoded: Sequence[EncodedPair], made: Sequence[Parts], seed: int = 0) -> Look:
    """What :func:`direct_effects` shows of the parts of each pair."""
    some = tuple(e.pair for e in encoded)
    names, values = made[0][0], torch.stack([v for _, v in made]).double().cpu().numpy()
    means = estimates(values, encoded, seed)
    rows = [
        {"part": part, "layer": layer, "head": head, **m} for (part, layer, head), m in zip(names, means, strict=True)
    ]
    cells = tuple(
        {"x": f"H{r['head']}" if r["part"] == "head" else r["part"], "y": f"L{r['layer']}", "value": r["value"]}
        for r in rows
        if r["part"] in {"head", "rest"}
    )
    options = {"x_title": "head (rest: MLP)", "y_title": "layer", "value_title": "direct effect, logits"}
    figure = Figure("heatmap", "direct", f"Direct effect on the margin, {len(some)} pairs", "", cells, options)
    best = ranked([r for r in rows if r["part"] == "head"], 1)
    return Look(pd.DataFrame(rows), figure, "logits", some, ranked=best, tokenizer=lab.tokenizer)


@torch.inference_mode()
def direct_parts(lab: Lab, one: Encoded) -> Parts:
    """Names of the parts (part, layer, head; −1: none) and what each adds to the margin, of one prompt; raises as
    :func:`direct_effects` does."""
    ids = torch.tensor([one.ids], device=lab.device)
    sites = {(at, "resid") for at in range(lab.grid.n_layers)}
    sites |= {(at, s) for at in lab.attentions for s in ("z", "out_block")}
    met: dict[int, list[tuple[Tensor | None, Tensor | None]]] = {}
    with _watching(lab, met), lab.tape(Tape(wanted=frozenset(sites))) as tape:
        forward(lab, ids, last=False)

    def here(at: int, site: str) -> Tensor:
        return tape.kept[at, site].reshape(1, len(one.ids), -1)[0, -1].double()

    before = next(x for x, _ in met[0] if x is not None)
    parts, named = [before], [("embedding", -1, -1)]
    for at in range(lab.grid.n_layers):
        rest = here(at, "resid") - before
        if at in lab.attentions:
            wrote = _written(lab, at, tape.kept[at, "z"][0, -1].double())
            bias, whole = lab.output_bias(at), here(at, "out_block")
            bias = torch.zeros_like(whole) if bias is None else bias.double()
            if not _near(wrote.sum(0) + bias, whole) or not _is_added(before, whole, here(at, "resid"), met[at]):
                raise ModelError(
                    f"layer {at} of {lab.name} does more to its heads' output than W_O before it is added (a norm, a gate), so "
                    "that no direct effect of a head is defined"
                )
            parts += [*wrote, bias]
            named += [*(("head", at, h) for h in range(lab.grid.n_heads)), ("bias", at, -1)]
            rest = rest - whole
        parts.append(rest)
        named.append(("rest", at, -1))
        before = here(at, "resid")
    return named, _through(lab, torch.stack(parts), ids, one)


def _written(lab: Lab, at: int, z: Tensor) -> Tensor:
    """What each head writes, [head, d_model], of z [head, d_head]."""
    return torch.einsum("hd,hdm->hm", z, lab.weight("o", at).double())


def _near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= CLOSE * max(float(b.abs().max()), 1e-6)


@contextmanager
def _watching(lab: Lab, met: dict[int, list[tuple[Tensor | None, Tensor | None]]]) -> Iterator[None]:
    """Keeps what goes into and out of every module of each layer at the last position; the layer's own input comes first."""

    def tensor(x: Any) -> Tensor | None:
        x = x[0] if isinstance(x, tuple) and x else x
        return x[0, -1].double() if isinstance(x, Tensor) and x.dim() == 3 else None

    with ExitStack() as stack:
        for at, layer in enumerate(lab.layers):
            met[at] = []

            def first(_: nn.Module, args: Any, kwargs: Any, at: int = at) -> None:
                met[at].insert(0, (tensor(args or kwargs.get("hidden_states")), None))

            def keep(_: nn.Module, args: Any, out: Any, at: int = at) -> None:
                met[at].append((tensor(args), tensor(out)))

            stack.callback(layer.register_forward_pre_hook(first, with_kwargs=True).remove)
            for module in layer.modules():
                if module is not layer:
                    stack.callback(module.register_forward_hook(keep).remove)
        yield


def _is_added(before: Tensor, whole: Tensor, after: Tensor, met: Sequence[tuple[Tensor | None, Tensor | None]]) -> bool:
    """Whether a layer adds its attention's output to what enters it: some module then reads the sum, or what is missing
    to the layer's output is what another module gives."""
    read, rest = before + whole, after - before - whole
    return _near(read, after) or any(
        (x is not None and _near(x, read)) or (y is not None and _near(y, rest)) for x, y in met
    )


def _through(lab: Lab, parts: Tensor, ids: Tensor, one: Encoded) -> Tensor:
    """Each part [part, d_model] through the last norm, its scale held, and the answer's direction; checked to add up."""
    norm, into, _, logits = _last_norm(lab, ids)
    right, wrong = one.answer_id, one.wrong_id
    if wrong < 0:
        raise ModelError("a direct effect is on the margin between two answers; give pairs with a wrong one")
    scale, centre, bias = _held(norm, into[0, -1])
    head: Any = _head(lab)
    towards = head.weight[right].double() - head.weight[wrong].double()
    found = ((parts - parts.mean(-1, keepdim=True) if centre else parts) * scale) @ towards
    offset = getattr(head, "bias", None)
    constant = float(bias @ towards) + (0.0 if offset is None else float(offset[right] - offset[wrong]))
    margin, made = float(logits[0, -1, right].double() - logits[0, -1, wrong].double()), float(found.sum()) + constant
    if abs(made - margin) > CLOSE * max(1.0, float(logits[0, -1].abs().max())):
        raise ModelError(
            f"the parts of {lab.name} give a margin of {rounded(made, margin)} and the model {rounded(margin, made)}: it does "
            "something behind its output embedding (a soft-cap, a scale), so that no direct effect is defined"
        )
    return found


def _held(norm: nn.Module, x: Tensor) -> tuple[Tensor, bool, Tensor]:
    """The last norm at ``x`` as a linear map with its scale held: y = scale · (x, less its mean or not) + bias.

    Asked of the norm itself: whether a shift of all coordinates changes nothing (LayerNorm), and what it gives of nothing.
    """

    def of(v: Tensor) -> Tensor:
        return norm(v[None, None])[0, 0].double()

    bias, y, size = of(torch.zeros_like(x)), of(x), x.std()
    centre = bool(torch.allclose(of(x + size), y, atol=CLOSE * float(y.abs().max())))
    moved = x.double() - x.double().mean() if centre else x.double()
    return torch.where(moved.abs() > 1e-9 * float(size), (y - bias) / moved, torch.zeros_like(moved)), centre, bias
