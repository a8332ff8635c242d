"""Executing passes: capture activations, and sweep worlds over pairs.

A sweep, in order:

1. The clean and the corrupted run of every pair: their logit differences, and the activations that edits write.
2. For each shard (rows of one length and one shape of world): patches of z go through :mod:`resume`; other edits
   take the pass from the first edited layer on, whose input is kept from the corrupted run.
3. Rows run in batches; the logits are read at the last position only.
4. Every planned edit is counted where it takes hold; a miscount raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headlab.effects import Progress, quiet
from headlab.engine.attention import Tape
from headlab.engine.edits import Rows, Source, basis, compile_edit, make_source, needs, to_layout
from headlab.engine.model import Lab
from headlab.engine.passes import forward, skipping
from headlab.engine.plan import Cost, Plan, Shard, make_plan
from headlab.engine.resume import Base, applies, make_base, resume
from headlab.interventions import Intervention, World
from headlab.prompts import Encoded, EncodedPair

if TYPE_CHECKING:
    import pandas as pd

Keep = Callable[[str, Callable[[], "pd.DataFrame"]], "pd.DataFrame"]
"""``keep(name, compute)``: returns the stored rows of a shard, or computes and stores them (``store.Run.shard``)."""


TOKENS = 4096
"""Tokens in flight in one batch, unless told otherwise: beyond it a CPU's caches lose more than they gain."""


class EngineError(RuntimeError):
    """A sweep that did not do what was planned."""


def row_cost(lab: Lab) -> Cost:
    """Estimated activation bytes of one token, and of one query × key entry, of this model."""
    size = torch.finfo(lab.dtype).bits // 8
    text = lab.model.config.get_text_config()
    wide = getattr(text, "intermediate_size", None) or 4 * lab.d_model
    heads = lab.grid.n_heads * lab.head_dim
    return Cost(size * (6 * lab.d_model + 3 * wide + 6 * heads), 3 * size * lab.grid.n_heads)


def by_length(encoded: Sequence[Encoded]) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for i, e in enumerate(encoded):
        out.setdefault(len(e.ids), []).append(i)
    return out


def tensor_of(encoded: Sequence[Encoded], device: Any) -> Tensor:
    return torch.tensor([e.ids for e in encoded], device=device)


@torch.inference_mode()
def capture(
    lab: Lab, encoded: Sequence[Encoded], sites: Sequence[tuple[int, str]], *, tokens: int = TOKENS
) -> dict[tuple[int, str], list[Tensor]]:
    """Activations of each prompt at ``(layer, site)``: one tensor [position, head, rest] for each prompt.

    q, z: head is a query head; k, v: a KV head; scores, pattern: rest is the key position; out_block: head is a block
    of residual coordinates; resid: one "head".  Nothing is averaged.
    """
    out: dict[tuple[int, str], list[Tensor]] = {key: [None] * len(encoded) for key in sites}  # type: ignore[list-item]
    for length, which in by_length(encoded).items():
        step = max(1, tokens // length)
        for start in range(0, len(which), step):
            part = which[start : start + step]
            with lab.tape(Tape(wanted=frozenset(sites))) as tape:
                forward(lab, tensor_of([encoded[i] for i in part], lab.device))
            for key in sites:
                kept = to_layout(key[1], tape.kept[key], lab.grid.n_heads, None)
                for i, value in zip(part, kept, strict=True):
                    out[key][i] = value.clone()
    return out


@torch.inference_mode()
def logit_differences(lab: Lab, encoded: Sequence[Encoded], *, tokens: int = TOKENS) -> Tensor:
    """logit(answer) − logit(wrong) after the shared start of the answer, [prompt], in logits, float64 on the CPU."""
    out = torch.empty(len(encoded), dtype=torch.float64)
    for length, which in by_length(encoded).items():
        step = max(1, tokens // length)
        for start in range(0, len(which), step):
            part = which[start : start + step]
            some = [encoded[i] for i in part]
            with lab.tape(Tape()):  # an empty one: never under the edits of a sweep that is running
                logits = forward(lab, tensor_of(some, lab.device)).logits
            out[part] = _difference(logits, some).double().cpu()
    return out


def _difference(logits: Tensor, encoded: Sequence[Encoded]) -> Tensor:
    answer = torch.tensor([e.answer_id for e in encoded], device=logits.device)
    wrong = torch.tensor([e.wrong_id for e in encoded], device=logits.device)
    last = logits[:, -1].float()
    return (last.gather(1, answer[:, None]) - last.gather(1, wrong[:, None]))[:, 0]


@dataclass
class _Group:
    """Everything that the shards of one length share."""

    pairs: list[EncodedPair]
    local: dict[int, int]
    ids: Tensor
    residual: dict[int, Tensor]
    sources: dict[tuple[Any, ...], Source]
    bases: dict[tuple[Any, ...], Base | None]


def sweep(
    lab: Lab,
    pairs: Sequence[EncodedPair],
    worlds: Sequence[World],
    *,
    tokens: int = TOKENS,
    memory: int | None = None,
    keep: Keep | None = None,
    progress: Progress = quiet,
    what: str = "sweep",
) -> pd.DataFrame:
    """Every pair under every world: the **effects** table with the logit differences (see :mod:`headlab.effects`).

    ``tokens`` and ``memory`` (bytes) bound a batch; they change the time, never a number (law 1).  ``keep`` stores
    shards so that an interrupted sweep goes on where it stopped.  Rows come in the order pair, world.

    Raises EngineError when a planned edit did not fire, ValueError when a head does not exist.
    """
    import pandas as pd

    pairs, worlds = list(pairs), list(worlds)
    if not pairs or not worlds:
        raise EngineError(f"nothing to sweep: {len(pairs)} pair(s) under {len(worlds)} world(s)")
    names = [w.name for w in worlds]
    if len(set(names)) != len(names):
        raise EngineError("two worlds have the same name")
    for world in worlds:
        for one in world.interventions:
            one.check(lab.grid)
    plan = make_plan(pairs, worlds, row_cost(lab), tokens=tokens, memory=memory)
    clean = logit_differences(lab, [p.clean for p in pairs], tokens=tokens).numpy()
    corrupted = logit_differences(lab, [p.corrupted for p in pairs], tokens=tokens).numpy()
    groups = _Groups(lab, pairs, tokens)
    done, parts = 0, []
    for shard in plan.shards:

        def compute(shard: Shard = shard, done: int = done) -> pd.DataFrame:
            edited = _run_shard(lab, groups, worlds, shard, lambda n: progress(what, done + n, plan.rows))
            index = list(zip(*shard.rows, strict=True))
            return pd.DataFrame({"pair": index[0], "world": [names[j] for j in index[1]], "edited": edited})

        parts.append(keep(f"{what}-{shard.name}", compute) if keep else compute())
        done += len(shard.rows)
        progress(what, done, plan.rows)
    table = pd.concat(parts, ignore_index=True)
    rank: Any = {name: j for j, name in enumerate(names)}
    table = table.iloc[
        sorted(range(len(table)), key=list(zip(table["pair"], table["world"].map(rank), strict=True)).__getitem__)
    ]
    table = table.reset_index(drop=True)
    which = table["pair"].to_numpy()
    table.insert(1, "pair_id", [pairs[i].pair.id for i in which])
    table.insert(2, "cluster", [pairs[i].pair.cluster or pairs[i].pair.id for i in which])
    table.insert(4, "clean", clean[which])
    table.insert(5, "corrupted", corrupted[which])
    return table


class _Groups:
    """Length groups, each prepared once, when its first shard comes."""

    def __init__(self, lab: Lab, pairs: Sequence[EncodedPair], tokens: int) -> None:
        self.lab, self.pairs, self.tokens = lab, pairs, tokens
        self.made: dict[int, _Group] = {}

    def of(self, length: int) -> _Group:
        if length not in self.made:
            self.made.clear()  # one length at a time: memory does not grow with the number of lengths
            which = [i for i, p in enumerate(self.pairs) if len(p.corrupted.ids) == length]
            some = [self.pairs[i] for i in which]
            ids = tensor_of([p.corrupted for p in some], self.lab.device)
            self.made[length] = _Group(some, {i: n for n, i in enumerate(which)}, ids, {}, {}, {})
        return self.made[length]

    def source(self, group: _Group, one: Intervention) -> Source:
        if one.shape not in group.sources:
            group.sources[one.shape] = source_for(self.lab, group.pairs, one, tokens=self.tokens)
        return group.sources[one.shape]

    def base(self, group: _Group, world: World) -> Base | None:
        """Where rows of this shape may be resumed from, or None: they take the full pass."""
        if not applies(self.lab, world):
            return None
        one = world.interventions[0]
        if one.shape not in group.bases:
            source = self.source(group, one)
            group.bases[one.shape] = make_base(self.lab, one.layer, group.ids, source, tokens=self.tokens)
        return group.bases[one.shape]

    def residual(self, group: _Group, layer: int) -> Tensor | None:
        """What enters ``layer`` in the corrupted runs, [pair, position, d_model]."""
        if layer == 0 or not self.lab.can_skip:
            return None
        if layer not in group.residual:
            kept = capture(self.lab, [p.corrupted for p in group.pairs], [(layer - 1, "resid")], tokens=self.tokens)
            group.residual[layer] = torch.stack([x[:, 0] for x in kept[layer - 1, "resid"]])
        return group.residual[layer]


def source_for(lab: Lab, pairs: Sequence[EncodedPair], one: Intervention, *, tokens: int = TOKENS) -> Source:
    """The source of an intervention for pairs whose corrupted prompts have one length."""
    run = needs(one)
    captured = None
    site = "out_block" if one.site == "subspace" else one.site
    if run is not None:
        encoded = [p.clean if run == "clean" else p.corrupted for p in pairs]
        captured = capture(lab, encoded, [(one.layer, site)], tokens=tokens)[one.layer, site]
        if (rotation := rotation_for(lab, one)) is not None:
            captured = [(x.flatten(1) @ rotation).unflatten(1, (lab.grid.n_heads, -1)) for x in captured]
    like = lab.model.get_input_embeddings().weight
    return make_source(one, pairs, captured, like)


def rotation_for(lab: Lab, one: Intervention) -> Tensor | None:
    if one.site != "subspace":
        return None
    key = ("basis", one.seed)
    made: dict[Any, Tensor] = lab.info.setdefault("_bases", {})
    if key not in made:
        made[key] = basis(lab.d_model, one.seed, lab.model.get_input_embeddings().weight)
    return made[key]


def tape_for(
    lab: Lab, worlds: Sequence[World], local: Sequence[int], sources: Mapping[int, Source], *, step: bool = False
) -> tuple[Tape, dict[tuple[int, str], int]]:
    """The tape of one batch of rows (worlds of one shape), and how often each edit must fire in one pass."""
    tape, planned = Tape(), {}
    for n, one in enumerate(worlds[0].interventions):
        if step and one.when == "prefill":
            continue
        ones = [w.interventions[n] for w in worlds]
        rows = Rows.of(ones, local, lab.grid, lab.device)
        edit = compile_edit(one, sources[n], rows, rows.heads.shape[1], rotation_for(lab, one), step=step)
        key = (one.layer, one.site)
        tape.edits.setdefault(key, []).append(edit)
        planned[key] = planned.get(key, 0) + 1
    return tape, planned


def check_fired(tape: Tape, planned: Mapping[tuple[int, str], int], passes: int = 1) -> None:
    """Law 3: what was planned fired, exactly as often as planned."""
    wanted = {key: n * passes for key, n in planned.items()}
    if tape.fired != wanted:
        raise EngineError(f"planned edits did not fire as planned: planned {wanted}, fired {tape.fired}")


@torch.inference_mode()
def _run_shard(lab: Lab, groups: _Groups, worlds: Sequence[World], shard: Shard, tick: Callable[[int], None]) -> Any:
    group = groups.of(shard.length)
    base = groups.base(group, worlds[shard.rows[0][1]])
    out, done = [], 0
    for rows in shard.batches():
        local = [group.local[i] for i, _ in rows]
        some = [worlds[j] for _, j in rows]
        logits = _resumed(lab, group, base, some, local) if base else _full(lab, groups, group, some, local)
        out.append(_difference(logits, [group.pairs[i].corrupted for i in local]).double())
        done += len(rows)
        tick(done)
    return torch.cat(out).cpu().numpy()


def _resumed(lab: Lab, group: _Group, base: Base, worlds: Sequence[World], local: Sequence[int]) -> Tensor:
    rows = Rows.of([w.interventions[0] for w in worlds], local, lab.grid, lab.device)
    return resume(lab, base, rows, local, group.ids[rows.pair, -1:])


def _full(lab: Lab, groups: _Groups, group: _Group, worlds: Sequence[World], local: Sequence[int]) -> Tensor:
    """One batch through the model from the first edited layer on, edits applied where they take hold."""
    first = worlds[0]
    sources = {n: groups.source(group, one) for n, one in enumerate(first.interventions)}
    entry = first.first_layer or 0
    cached = groups.residual(group, entry)
    tape, planned = tape_for(lab, worlds, local, sources)
    index = torch.tensor(local, device=lab.device)
    with lab.tape(tape), skipping(lab, entry, None if cached is None else cached[index]):
        logits = forward(lab, group.ids[index]).logits
    check_fired(tape, planned)
    return logits


def dry_run(
    lab: Lab, pairs: Sequence[EncodedPair], worlds: Sequence[World], *, tokens: int = TOKENS, memory: int | None = None
) -> dict[str, Any]:
    """What a sweep would take: passes, rows, tokens, estimated memory, and seconds from one timed batch."""
    import time

    plan: Plan = make_plan(pairs, worlds, row_cost(lab), tokens=tokens, memory=memory)
    groups = _Groups(lab, list(pairs), tokens)
    widest = max(plan.shards, key=lambda s: len(s.rows) * s.length)
    sample = Shard(widest.name, widest.length, widest.rows[: widest.batch], widest.batch)
    _run_shard(lab, groups, list(worlds), sample, lambda _n: None)
    start = time.perf_counter()
    _run_shard(lab, groups, list(worlds), sample, lambda _n: None)
    each = (time.perf_counter() - start) / (len(sample.rows) * sample.length)
    return {
        "passes": plan.passes,
        "rows": plan.rows,
        "tokens": plan.tokens,
        "shards": len(plan.shards),
        "memory_bytes": plan.peak_bytes(row_cost(lab)),
        "seconds": each * plan.tokens,
    }
