"""Running only what an edit can change.

For worlds whose earliest edit is at layer L:

1. Layers below L do not run: what enters L is kept from the corrupted run.
2. Nothing before the first changed position changes: those positions are left out; the layers from L on find their
   keys and values in a cache filled from the corrupted run.
3. Where the only edit is linear in z (z itself, the pattern, v) and the output projection takes z as it is, layer L
   is not run either: its attention module's output is ``base + Σ_h c_h · dz_h W_O(h)``, one small product for a row.
4. In the last layer only the last position's query matters: the other positions stop once their keys and values are
   in the cache.
5. The model's own final norm and head run on the last position alone.

The layers are the model's own modules, called with the arguments that the model itself gave them.  The result equals
a full pass to rounding: the load-time check compares the two, step by step, and where they differ (a family that does
more between its layers, a cache that holds something else than keys and values) the step is left out and the record
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from headlab.engine.attention import Edit, Stop, Tape, repeat_kv
from headlab.engine.captures import entering, rotation_for, seen
from headlab.engine.edits import Rows, Source, compile_edit
from headlab.engine.model import Lab
from headlab.engine.passes import EngineError, forward, logits_of, reading, replaced, skipping
from headlab.engine.recall import observed, remembered
from headlab.interventions import Intervention, World

LINEAR_SITES = ("z", "pattern", "v")
_LINEAR_WRITES = {"patch", "noop", "mean", "resample", "zero", "rescale", "add"}


def linear(world: World) -> bool:
    """Whether a world is one edit whose effect on its module's output is linear in z."""
    if len(world.interventions) != 1:
        return False
    one = world.interventions[0]
    return one.site in LINEAR_SITES and one.write in _LINEAR_WRITES and one.computed_in is None


def linear_needs(one: Intervention) -> set[tuple[int, str]]:
    """What of the corrupted run a linear edit is computed from."""
    sites = {"z": ("z",), "pattern": ("pattern", "v"), "v": ("pattern", "v")}[one.site]
    return {(one.layer, site) for site in ("out_block", *sites)}


@dataclass
class Corrupted:
    """Some prompts of one length, run once unedited.

    ``entering[l]`` [pair, position, d_model] enters layer l; ``kept`` holds sites in their own layout, among them the
    keys and values of the layers to come; ``calls[l]`` the arguments that the model gives layer l.
    """

    length: int
    entering: dict[int, Tensor]
    kept: dict[tuple[int, str], Tensor]
    calls: dict[int, dict[str, Any]]


def run_corrupted(
    lab: Lab, ids: Tensor, layers: Sequence[int], sites: set[tuple[int, str]], *, tokens: int
) -> Corrupted:
    """Run ``ids`` [pair, position] and keep what enters ``layers``, and ``sites``."""
    parts: dict[Any, list[Tensor]] = {}
    layers = layers if lab.can_skip else ()
    step = max(1, tokens // ids.shape[1])
    for first in range(0, len(ids), step):
        some = ids[first : first + step]
        for key, value in observed(
            lab, some, {*sites, *layers}, lambda wanted, ids=some: seen(lab, ids, wanted)
        ).items():
            parts.setdefault(key, []).append(value)
    whole = {key: values[0] if len(values) == 1 else torch.cat(values) for key, values in parts.items()}
    if not layers:
        return Corrupted(ids.shape[1], {}, whole, {})
    nothing, row = whole[min(layers)][:1], ids[:1]
    calls = remembered(lab, lambda: ("calls", tuple(row[0].tolist())), lambda: _calls(lab, row, nothing))
    return Corrupted(
        ids.shape[1],
        {at: whole[at] for at in layers},
        {key: value for key, value in whole.items() if isinstance(key, tuple)},
        calls,
    )


def _calls(lab: Lab, row: Tensor, nothing: Tensor) -> dict[int, dict[str, Any]]:
    """The arguments that each layer gets for a lone row: all are passed by, so this pass costs next to nothing."""
    with (
        lab.tape(Tape()),
        entering(lab, range(lab.grid.n_layers)) as met,
        skipping(lab, lab.grid.n_layers, nothing),
        reading(lab, row[0, :1] if lab.can_narrow else None),
    ):
        forward(lab, row, cache=True)
    return {at: named for at, (_, named) in met.items()}


@dataclass
class Deltas:
    """A linear edit, prepared: ``output`` [pair, position, d_model] is what the attention module puts out unedited,
    ``delta`` [pair, head, position, d_model] what one head's edit by coefficient 1 adds to it.  Both begin at position
    ``first``, before which nothing changes.
    """

    first: int
    output: Tensor
    delta: Tensor


def make_deltas(lab: Lab, one: Intervention, source: Source, corrupted: Corrupted, first: int) -> Deltas:
    """``delta`` for each head of the edit's own axis: query heads at z and pattern, KV heads at v."""
    kept, here = corrupted.kept, slice(first, None)
    where = source.where[:, :, None, None]
    value = source.value
    if one.site == "z":
        dz = _moved(one, kept[one.layer, "z"], value, where)[:, here]
    elif one.site == "pattern":
        assert value is not None
        moved = _moved(one, kept[one.layer, "pattern"].transpose(1, 2), value, where)[:, here]
        dz = torch.einsum("pqhk,phkd->pqhd", moved, repeat_kv(kept[one.layer, "v"], lab.grid.n_heads))
    else:
        moved = _moved(one, kept[one.layer, "v"].transpose(1, 2), value, where).transpose(1, 2)
        pattern = kept[one.layer, "pattern"][:, :, here]
        dz = torch.einsum("phqk,phkd->pqhd", pattern, repeat_kv(moved, lab.grid.n_heads))
    delta = torch.einsum("pthd,hdm->phtm", dz, lab.weight("o", one.layer).to(dz.dtype))
    if one.site == "v":
        delta = delta.unflatten(1, (lab.grid.n_kv_heads, -1)).sum(2)
    return Deltas(first, kept[one.layer, "out_block"][:, here], delta)


def _moved(one: Intervention, own: Tensor, value: Tensor | None, where: Tensor) -> Tensor:
    """By how much a coefficient of 1 moves the site."""
    if one.write == "rescale":
        return own * where
    if one.write == "add":
        assert value is not None
        return (value * where).to(own.dtype)
    return (torch.zeros_like(own) if value is None else value).sub(own) * where


def coefficients(one: Intervention, rows: Rows, dtype: torch.dtype) -> Tensor:
    """[row, head]: how much of each head's delta a row takes."""
    heads = rows.heads.to(dtype)
    if one.write == "zero":
        return heads
    return heads * (rows.amount[:, None] - float(one.write == "rescale")).to(dtype)


def add_deltas(deltas: Deltas, coefficient: Tensor, pairs: Sequence[int], start: int) -> Tensor:
    """The attention module's output [row, position, d_model] of every row, from position ``start`` on."""
    cut = start - deltas.first
    output, delta = deltas.output[:, cut:], deltas.delta[:, :, cut:]
    out = torch.empty(len(pairs), *output.shape[1:], dtype=output.dtype, device=output.device)
    for pair, first, end in runs_of_rows(pairs):
        change = coefficient[first:end] @ delta[pair].flatten(1)
        torch.add(output[pair], change.unflatten(1, output.shape[1:]), out=out[first:end])
    return out


def runs_of_rows(pairs: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of equal pairs: (pair, first row, end row)."""
    out: list[tuple[int, int, int]] = []
    for n, pair in enumerate(pairs):
        if out and out[-1][0] == pair:
            out[-1] = (pair, out[-1][1], n + 1)
        else:
            out.append((pair, n, n + 1))
    return out


def edits_of(
    lab: Lab,
    ones: Sequence[Intervention],
    rows: Sequence[Rows],
    sources: Sequence[Source],
    *,
    start: int | None = None,
    step: bool = False,
    whole: bool = False,
) -> tuple[dict[tuple[int, str], list[Edit]], dict[tuple[int, str], int]]:
    """The operations of a batch of rows, by (layer, site), and how often each must fire in one pass.

    ``start``: the pass begins at this position, and in the last layer only the last position is computed (``whole``:
    all of them, as in the others).
    """
    edits: dict[tuple[int, str], list[Edit]] = {}
    for one, row, source in zip(ones, rows, sources, strict=True):
        if step and one.when == "prefill":
            continue
        last = one.layer == lab.grid.n_layers - 1 and not whole
        here = None if start is None else slice(-1 if last else start, None)
        edit = compile_edit(one, source, row, rotation_for(lab, one), here=here, step=step)
        edits.setdefault((one.layer, one.site), []).append(edit)
    return edits, {key: len(value) for key, value in edits.items()}


def resume(
    lab: Lab,
    corrupted: Corrupted,
    layer: int,
    pairs: Sequence[int],
    index: Tensor,
    ids: Tensor,
    *,
    start: int,
    output: Tensor | None = None,
    tape: Tape | None = None,
    whole: bool = False,
) -> Tensor:
    """Logits [row, 1, vocabulary] of the last position of rows on the pairs ``index`` (``pairs``: the same, plain).

    ``output``: what the attention module of ``layer`` puts out (:func:`add_deltas`); ``tape``: edits that fire on the
    way (:func:`edits_of` with the same ``start``).  ``ids`` [row, position].  ``whole``: instead, what leaves the last
    layer at every position from ``start`` on, [row, position, d_model] (:func:`headlab.engine.reader.head` makes logits of it).
    """
    last, length = lab.grid.n_layers - 1, corrupted.length
    tape = tape or Tape()
    hidden = _pick(corrupted.entering[layer][:, start:], pairs, index)
    with lab.tape(tape):
        at = layer
        if output is not None:
            hidden = _with_output(lab, corrupted, layer, hidden, output, slice(start, length))
            at += 1
        for inner in range(at, last + whole):
            cache = _cache(corrupted, inner, pairs, index, start) if start else None
            hidden = _call(lab, corrupted, inner, hidden, slice(start, length), cache)
        if whole:
            return hidden
        if at <= last:
            cache = _cache(corrupted, last, pairs, index, start)
            if start < length - 1:
                tape.stop_at = last
                with suppress(Stop):
                    _call(lab, corrupted, last, hidden[:, :-1], slice(start, length - 1), cache)
                tape.stop_at = None
            hidden = _call(lab, corrupted, last, hidden[:, -1:], slice(length - 1, length), cache)
    return logits_of(lab, hidden[:, -1:], ids[:, -1:], length - 1)


def run_through(
    lab: Lab, corrupted: Corrupted, layers: range, pairs: Sequence[int], index: Tensor, start: int, tape: Tape
) -> None:
    """Run ``layers`` on every position from ``start`` on, for what ``tape`` keeps and until it stops (:class:`Stop`)."""
    hidden = _pick(corrupted.entering[layers.start][:, start:], pairs, index)
    with lab.tape(tape), suppress(Stop):
        for at in layers:
            cache = _cache(corrupted, at, pairs, index, start) if start else None
            hidden = _call(lab, corrupted, at, hidden, slice(start, corrupted.length), cache)


def _pick(x: Tensor, pairs: Sequence[int], index: Tensor) -> Tensor:
    """``x[index]``, without a copy where all rows are of one pair."""
    if pairs[0] == pairs[-1] and len(set(pairs)) == 1:
        return x[pairs[0]].expand(len(pairs), *x.shape[1:])
    return x[index]


def _cache(corrupted: Corrupted, layer: int, pairs: Sequence[int], index: Tensor, start: int) -> Cache:
    """A cache that holds, for one layer, the keys and values of the positions before ``start``.

    One for each layer, so that no more than one layer's keys and values are alive at a time.
    """
    cache = DynamicCache()
    if start and (layer, "k") in corrupted.kept:
        k, v = (corrupted.kept[layer, site][:, :, :start] for site in "kv")
        cache.update(_pick(k, pairs, index), _pick(v, pairs, index), layer)
    return cache


def _sliced(value: Any, length: int, chosen: slice, cache: Cache | None) -> Any:
    """An argument of a layer, for the chosen positions only; the model's cache becomes ours."""
    if isinstance(value, Cache):
        return cache
    if isinstance(value, tuple):
        return tuple(_sliced(v, length, chosen, cache) for v in value)
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 4 and value.shape[2] == length:
        return value[:, :, chosen]
    if value.dim() in {2, 3} and value.shape[1] == length:
        return value[:, chosen]
    if value.dim() == 1 and value.shape[0] == length:
        return value[chosen]
    return value


def _call(lab: Lab, corrupted: Corrupted, at: int, hidden: Tensor, chosen: slice, cache: Cache | None) -> Tensor:
    """Layer ``at`` on the chosen positions, with the arguments the model gave it."""
    length = corrupted.length
    named = {k: _sliced(v, length, chosen, cache) for k, v in corrupted.calls[at].items()}
    first, stop, _ = chosen.indices(length)
    mask: Any = named.get("attention_mask")
    if "attention_mask" in named and mask is None and first and stop - first > 1:  # a lone query sees every key
        keep = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
        named["attention_mask"] = keep[None, None, first:stop, :stop]
    elif isinstance(mask, Tensor) and mask.dim() == 4:
        named["attention_mask"] = mask[..., :stop]
    out = lab.layers[at](hidden, **named)
    return out[0] if isinstance(out, tuple) else out


def _with_output(lab: Lab, corrupted: Corrupted, layer: int, hidden: Tensor, output: Tensor, chosen: slice) -> Tensor:
    """The edited layer with its attention module's output given; raises when the module was not asked for it."""
    asked = []

    def given(*_args: Any, **_kwargs: Any) -> tuple[Tensor, None]:
        asked.append(1)
        return output, None

    with replaced(lab.attentions[layer], given):
        hidden = _call(lab, corrupted, layer, hidden, chosen, None)
    if len(asked) != 1:
        raise EngineError(f"the edit at layer {layer} took hold {len(asked)} times instead of once")
    return hidden
