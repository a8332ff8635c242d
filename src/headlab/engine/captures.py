"""Reading activations and logits of unedited prompts, and the sources that interventions write from them."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from headlab.engine.attention import Tape
from headlab.engine.edits import Source, basis, donors, make_source, needs, to_layout
from headlab.engine.limits import check_length
from headlab.engine.model import Lab, loaded
from headlab.engine.passes import by_length, forward, reading, tensor_of
from headlab.engine.reader import Reader, positions
from headlab.engine.recall import Site, observed, remembered
from headlab.heads import Head
from headlab.interventions import SITES, Intervention, InterventionError
from headlab.prompts import Encoded, EncodedPair, each
from headlab.reading import brief, expected_one_of
from headlab.readouts import MARGIN, Readout

FLIGHT_BYTES = {"cpu": 40 * 2**20, "cuda": 4 * 2**30}
"""Activation bytes of a batch, unless told otherwise: beyond it a CPU's caches lose more than large products gain."""


def token_bytes(lab: Lab) -> int:
    """Estimated activation bytes of one token in flight through one layer."""
    text = lab.model.config.get_text_config()
    wide = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * lab.d_model
    if isinstance(wide, list | tuple):  # one width for each layer (Gemma 3n)
        wide = max(wide)
    size = torch.finfo(lab.dtype).bits // 8
    return size * (6 * lab.d_model + 3 * wide + 6 * lab.grid.n_heads * lab.head_dim)


def tokens_for(lab: Lab) -> int:
    """Tokens in flight in one batch where nobody asks for another number."""
    flight = FLIGHT_BYTES.get(lab.device.type, FLIGHT_BYTES["cuda"])
    return min(max(flight // token_bytes(lab), 256), 6144 if lab.device.type == "cpu" else 2**17)


def keep_freed_memory(lab: Lab) -> None:
    """Let the C library keep what a batch frees for the next one, up to twice the largest block it ever gave back to the
    system: 31 MiB from here on.  Small tensors otherwise come and go page by page, a fifth of the time of a small model."""
    if lab.device.type == "cpu":
        torch.empty(31 * 2**20, dtype=torch.uint8)


@torch.inference_mode()
def capture(
    lab: Lab, encoded: Sequence[Encoded], sites: Sequence[tuple[int, str]], *, tokens: int | None = None
) -> dict[tuple[int, str], list[Tensor]]:
    """Activations of each prompt at ``(layer, site)``: one tensor [position, head, rest] for each prompt.

    q, z: head is a query head; k, v: a KV head; scores, pattern: rest is the key position; out_block: head is a block
    of residual coordinates; resid: one "head".  Nothing is averaged.
    """
    loaded(lab)
    encoded, sites = each(encoded, Encoded), [_place(lab, one) for one in _places(sites)]
    out: dict[tuple[int, str], list[Tensor]] = {key: [None] * len(encoded) for key in sites}  # type: ignore[list-item]
    for length, which in by_length(encoded).items():
        check_length(lab, f"prompt {which[0]}", length)
        step = max(1, (tokens or tokens_for(lab)) // length)
        for start in range(0, len(which), step):
            part = which[start : start + step]
            ids = tensor_of([encoded[i] for i in part], lab.device)
            found = observed(lab, ids, sites, lambda wanted, ids=ids: seen(lab, ids, wanted))
            for key in sites:
                kept = to_layout(key[1], found[key], lab.grid.n_heads, None)
                for i, value in zip(part, kept, strict=True):
                    out[key][i] = value.clone()
    return out


def write_norms(weights: Mapping[int, Tensor], seen: Iterable[tuple[int, Tensor]]) -> dict[Head, float]:
    """Mean norm of what each head writes, ‖z·W_O‖ over all positions seen, from W_O [head, d_head, d_model] of each layer and
    z [..., head, d_head] of (layer, z), of every layer some.

    Summed in 64 bits and given to the precision of 32: the last digits of sums depend on where in memory they lie."""
    gram = {at: (w := wide.double()) @ w.transpose(1, 2) for at, wide in weights.items()}
    total, count = {at: torch.zeros(len(g), dtype=torch.float64) for at, g in gram.items()}, dict.fromkeys(gram, 0)
    for at, narrow in seen:
        z = narrow.double()
        size = torch.einsum("...hd,hde,...he->...h", z, gram[at], z).clamp(min=0).sqrt()
        total[at] += size.sum(tuple(range(size.ndim - 1))).cpu()
        count[at] += size[..., 0].numel()
    return {Head(at, h): x for at in gram for h, x in enumerate((total[at] / count[at]).float().tolist())}


def _places(given: Any) -> list[Any]:
    """The places of a list of them.  Raises InterventionError for one alone, or text."""
    alone = isinstance(given, str) or (isinstance(given, tuple) and len(given) == 2 and not isinstance(given[0], tuple))
    if alone or not isinstance(given, Iterable):
        raise InterventionError(f"expected a list of (layer, site), such as [(1, 'z')], given {brief(given)} alone")
    return list(given)


def _place(lab: Lab, given: Any) -> tuple[int, str]:
    """A layer and a site of this model.  Raises InterventionError for what is none, ValueError for a layer that is not there."""
    if not (isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Integral)):
        raise InterventionError(f"expected (layer, site), such as (1, 'z'), given {brief(given)}")
    layer, site = given
    if site not in SITES:
        raise InterventionError(f"unknown site {brief(site)}; {expected_one_of(site, SITES)}")
    return int(lab.grid.check_layer(layer)), site


def seen(lab: Lab, ids: Tensor, wanted: Collection[Site]) -> dict[Site, Tensor]:
    """One pass over ``ids``: sites in their own layout, and what enters each layer that is named by its number alone."""
    layers = [at for at in wanted if isinstance(at, int)]
    with (
        lab.tape(Tape(wanted=frozenset(s for s in wanted if isinstance(s, tuple)))) as tape,
        entering(lab, layers) as met,
    ):
        forward(lab, ids)
    return {**tape.kept, **{at: met[at][0] for at in layers}}


@contextmanager
def entering(lab: Lab, layers: Iterable[int]) -> Iterator[dict[int, tuple[Tensor, dict[str, Any]]]]:
    """Keep what enters each of these layers: the hidden states, and the other arguments by name."""
    met: dict[int, tuple[Tensor, dict[str, Any]]] = {}

    def keep(at: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            names = list(inspect.signature(type(module).forward).parameters)[1:]
            named = {**dict(zip(names, args, strict=False)), **kwargs}
            met[at] = (named.pop(names[0]), named)

        return hook

    handles = [lab.layers[at].register_forward_pre_hook(keep(at), with_kwargs=True) for at in layers]
    try:
        yield met
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def logit_differences(lab: Lab, encoded: Sequence[Encoded], *, tokens: int | None = None) -> Tensor:
    """logit(answer) − logit(wrong) after the shared start of the answer, [prompt], in logits, float64 on the CPU."""
    return read_out(lab, encoded, (MARGIN,), tokens=tokens)[:, 0]


@torch.inference_mode()
def read_out(lab: Lab, encoded: Sequence[Encoded], readouts: Sequence[Readout], *, tokens: int | None = None) -> Tensor:
    """Readouts of unedited prompts, [prompt, readout], float64 on the CPU (a divergence from themselves is 0)."""
    asked = [(e.ids, e.n_prompt, e.answer_ids, e.wrong_ids, e.scored) for e in encoded]
    of = {one: n for n, one in reversed(list(enumerate(asked)))}  # equal prompts run once
    out = torch.empty(len(encoded), len(readouts), dtype=torch.float64)
    for length, every in by_length(encoded).items():
        check_length(lab, f"prompt {every[0]}", length)
        which = [i for i in every if of[asked[i]] == i]
        step = max(1, (tokens or tokens_for(lab)) // length)
        for start in range(0, len(which), step):
            part = which[start : start + step]
            some = [encoded[i] for i in part]
            key = ("read", tuple(readouts), *(asked[i] for i in part))
            out[part] = remembered(lab, lambda key=key: key, lambda some=some: _read(lab, some, readouts))
    return out[[of[one] for one in asked]]


def _read(lab: Lab, some: Sequence[Encoded], readouts: Sequence[Readout]) -> Tensor:
    """Readouts of a batch of prompts of one length."""
    reader, ids = Reader(lab, some, readouts), tensor_of(some, lab.device)
    leaving = (lab.grid.n_layers - 1, "resid")
    tape = Tape(wanted=frozenset({leaving} if reader.tokens and lab.can_resume else ()))
    # under a tape of its own: never under the edits of a sweep that is running
    with lab.tape(tape), reading(lab, reader.vocabulary):
        logits = forward(lab, ids, last=not reader.tokens or lab.can_resume).logits
    got = reader.at_read(logits)
    if reader.tokens:
        every, hidden = torch.arange(len(some), device=lab.device), tape.kept.get(leaving)
        reader.over_tokens(ids, every, 0, positions(lab, logits, hidden, ids, 0), None, None, out=got)
    return got.cpu()


@runtime_checkable
class Lending(Protocol):
    """Lends from populations and directions (:class:`headlab.engine.populations.Lender`)."""

    def lend(self, one: Intervention, pairs: Sequence[EncodedPair]) -> tuple[list[Tensor], list[Tensor]]:
        """For each pair what it receives, and what a generated token does (nothing: an empty list)."""
        ...


def source_for(
    lab: Lab,
    pairs: Sequence[EncodedPair],
    one: Intervention,
    *,
    group: Sequence[EncodedPair] | None = None,
    tokens: int | None = None,
    known: Sequence[Tensor] | None = None,
    lender: Lending | None = None,
) -> Source:
    """The source of an intervention for pairs whose corrupted prompts have one length.

    ``group``: the population of ``mean`` and ``resample``, all pairs of that length (default: ``pairs``).
    ``known``: what each pair receives, where that has been captured (not for ``resample``).
    ``lender``: lends what comes from populations and directions.
    """
    if one.over is not None or one.direction is not None:
        if lender is None:
            raise InterventionError(f"{one.write!r} takes from {one.over or one.direction!r}; give its material")
        lent, beyond = lender.lend(one, pairs)
        made = make_source(one, pairs, _turned(lab, one, lent), lab.model.get_input_embeddings().weight)
        made.beyond = torch.stack(_turned(lab, one, beyond)) if beyond else None
        return made
    group = pairs if group is None else group
    key = (one.layer, "out_block" if one.site == "subspace" else one.site)
    lent: list[Tensor] | None = None
    if one.write in {"mean", "resample"} and len(group) < 2:
        raise InterventionError(
            f"{one.write!r} needs at least two prompts of one length, given {len(group)}; write zero or patch, or give more"
        )
    if known is not None:
        lent = list(known)
    elif one.write == "mean":
        lent = [mean_of(lab, group, key, tokens=tokens)] * len(pairs)
    elif one.write == "resample":
        donor = donors([p.pair.id for p in group], one.seed).tolist()
        place = {id(p): n for n, p in enumerate(group)}
        lent = capture(lab, [group[donor[place[id(p)]]].corrupted for p in pairs], [key], tokens=tokens)[key]
    elif (run := needs(one)) is not None:
        encoded = [p.clean if run == "clean" else p.corrupted for p in pairs]
        lent = capture(lab, encoded, [key], tokens=tokens)[key]
    lent = None if lent is None else _turned(lab, one, lent)
    return make_source(one, pairs, lent, lab.model.get_input_embeddings().weight)


def _turned(lab: Lab, one: Intervention, lent: Sequence[Tensor]) -> list[Tensor]:
    """``lent`` in the basis of the site."""
    rotation = rotation_for(lab, one)
    if rotation is None:
        return list(lent)
    return [(x.flatten(1) @ rotation).unflatten(1, (lab.grid.n_heads, -1)) for x in lent]


@torch.inference_mode()
def mean_of(lab: Lab, group: Sequence[EncodedPair], key: tuple[int, str], *, tokens: int | None = None) -> Tensor:
    """The mean activation [position, head, rest] over the corrupted prompts of a length group."""
    step = max(1, (tokens or tokens_for(lab)) // len(group[0].corrupted.ids))
    total: Any = 0.0
    for start in range(0, len(group), step):
        some = capture(lab, [p.corrupted for p in group[start : start + step]], [key], tokens=tokens)[key]
        total = total + torch.stack(some).double().sum(0)
    return (total / len(group)).to(lab.dtype)


def rotation_for(lab: Lab, one: Intervention) -> Tensor | None:
    """The basis in which ``subspace`` cuts its blocks; None at other sites."""
    if one.site != "subspace":
        return None
    key = ("basis", one.seed)
    made: dict[Any, Tensor] = lab.info.setdefault("_bases", {})
    if key not in made:
        made[key] = basis(lab.d_model, one.seed, lab.model.get_input_embeddings().weight)
    return made[key]
