"""Executing shards: the rows of a plan, on one model.

A worker keeps what the rows of one block of pairs start from: the corrupted run, the sources that edits write from,
the deltas of linear edits.  Nothing of it depends on the batch, so any worker that is given a shard makes the same
rows.  Nothing waits for an accelerator before the end of a shard.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from headlab.engine.attention import Tape
from headlab.engine.captures import capture, keep_freed_memory, mean_of, source_for, tokens_for
from headlab.engine.edits import Rows, Source, to_layout, upload
from headlab.engine.model import Lab
from headlab.engine.passes import EngineError, forward, reading, skipping, tensor_of
from headlab.engine.paths import computed, kept_of, runs_of
from headlab.engine.plan import Plan, Shape, Shard
from headlab.engine.populations import Lender, key_of
from headlab.engine.reader import KEPT_LOGITS, LOGITS_HELD, Base, Reader, head, nats, normaliser, positions
from headlab.engine.recall import recall
from headlab.engine.resume import (
    Corrupted,
    Deltas,
    add_deltas,
    coefficients,
    edits_of,
    linear_needs,
    make_deltas,
    resume,
    run_corrupted,
    runs_of_rows,
)
from headlab.interventions import Intervention, World, first_change, shared_prefix
from headlab.material import Material, every
from headlab.prompts import EncodedPair
from headlab.readouts import MARGIN, Readout

REFUSALS = ("can't allocate memory", "out of memory", "alloc_failed")
"""How the system, a device's driver and its libraries (cuBLAS, cuDNN) say that there is no memory, in small letters."""


def check_fired(tape: Tape, planned: dict[tuple[int, str], int], passes: int = 1) -> None:
    """Law 3: what was planned fired, exactly as often as planned."""
    wanted = {key: n * passes for key, n in planned.items()}
    if tape.fired != wanted:
        raise EngineError(f"planned edits did not fire as planned: planned {wanted}, fired {tape.fired}")


class Worker:
    """Runs the shards of one plan on one model, one after another, in any order."""

    def __init__(
        self,
        lab: Lab,
        pairs: Sequence[EncodedPair],
        worlds: Sequence[World],
        plan: Plan,
        *,
        tokens: int | None = None,
        readouts: Sequence[Readout] = (MARGIN,),
        material: Material | None = None,
    ) -> None:
        keep_freed_memory(lab)
        self.lab, self.pairs, self.worlds, self.plan = lab, pairs, worlds, plan
        self.readouts = tuple(readouts)
        self.tokens = tokens or tokens_for(lab)
        self.ones = list(every(one for s in plan.shapes for one in worlds[s.worlds[0]].interventions))
        """One intervention of each kind in the plan."""
        self.lender = Lender(lab, material or Material(), pairs, self.ones, tokens=self.tokens)
        self.halvings = 0
        self._limit: int | None = None
        self._block: Block | None = None
        self._tables: dict[int, tuple[dict[int, int], list[list[Rows]]]] = {}
        self.means: dict[Any, Tensor] = {}
        self.first: dict[tuple[tuple[int, ...], Any], int] = {}
        for shard in plan.shards:
            key = shard.block, worlds[shard.rows[0][1]].shape
            self.first[key] = min(self.first.get(key, shard.length), *(c.start for c in shard.cuts))

    def run(self, shard: Shard, tick: Callable[[int], None] | None = None) -> Any:
        """The readouts of the shard's rows, [row, readout], float64.  ``halvings`` counts batches cut for memory.

        Raises EngineError when a planned edit did not fire, or not even one row fits in memory.
        """
        return self.batches(shard, tick).cpu().numpy()

    @torch.inference_mode()
    def batches(self, shard: Shard, tick: Callable[[int], None] | None = None) -> Tensor:
        """As :meth:`run`, on the device: once what the shard starts from is there, nothing waits for it."""
        self.halvings, self._limit = 0, None
        self.block(shard)
        out, done = [], 0
        for cut in shard.cuts:
            out.append(self._careful(shard, shard.rows[cut.first : cut.end], cut.start))
            done += cut.end - cut.first
            if tick is not None:
                tick(done)
        return torch.cat(out)

    def block(self, shard: Shard) -> Block:
        """What the rows of a shard start from; the last block is kept."""
        if self._block is None or self._block.members != shard.block:
            self._block = None  # what the last block kept goes before the next one is captured
            self._block = Block(self, shard.block)
        return self._block

    def _careful(self, shard: Shard, rows: Sequence[tuple[int, int]], start: int) -> Tensor:
        """A batch; when memory runs out, its halves, and from then on no batch of the shard is larger."""
        if self._limit is not None and len(rows) > self._limit:
            parts = [rows[at : at + self._limit] for at in range(0, len(rows), self._limit)]
            return torch.cat([self._careful(shard, part, start) for part in parts])
        try:
            return self._batch(shard, rows, start)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if len(rows) == 1:
                raise EngineError(
                    f"one row of {shard.length} tokens does not fit in the memory of {self.lab.device}; use a smaller "
                    "dtype, a larger device, or several devices (device_map)"
                ) from error
        # outside the except clause: its traceback would keep the tensors of the failed batch alive
        kept = recall(self.lab)
        again = kept.bytes > 0
        kept.within(0)  # what is kept of other sweeps goes first, and the same batch is tried again
        gc.collect()
        if self.lab.device.type == "cuda":
            torch.cuda.empty_cache()
        if again:
            return self._careful(shard, rows, start)
        self.halvings += 1
        self._limit = -(-len(rows) // 2)
        return self._careful(shard, rows, start)

    def _batch(self, shard: Shard, rows: Sequence[tuple[int, int]], start: int) -> Tensor:
        block, shape = self.block(shard), self.plan.shapes[shard.shape]
        local = [block.place[i] for i, _ in rows]
        members, tables = self._table(shard.shape)
        chosen = [members[j] for _, j in rows]
        index = upload(local, self.lab.device)
        some = [[rows.take(chosen, local, index) for rows in table] for table in tables]
        with reading(self.lab, block.reader.vocabulary):
            if shape.layer is None or not self.lab.can_resume:
                got = self._full(block, shape, some, index)
                return block.read(got, local, index, start=0)
            got = self._resumed(block, shape, some, local, index, start)
            return block.read(got, local, index, start=start, hidden=block.reader.tokens)

    def _resumed(
        self, block: Block, shape: Shape, rows: list[list[Rows]], local: list[int], index: Tensor, start: int
    ) -> Tensor:
        """Logits of the last position; where every position is read, what leaves the last layer instead."""
        lab, layer, whole = self.lab, shape.layer, block.reader.tokens
        assert layer is not None
        ones = self.worlds[shape.worlds[0]].interventions
        ids = block.ids[index]
        if shape.linear:
            deltas = block.deltas(ones[0])
            output = add_deltas(deltas, coefficients(ones[0], rows[0][0], deltas.delta.dtype), local, start)
            return resume(lab, block.corrupted, layer, local, index, ids, start=start, output=output, whole=whole)
        edits, planned = edits_of(lab, ones, *block.ready(ones, rows), start=start, whole=whole)
        tape = Tape(edits=edits)
        logits = resume(lab, block.corrupted, layer, local, index, ids, start=start, tape=tape, whole=whole)
        check_fired(tape, planned)
        return logits

    def _full(self, block: Block, shape: Shape, rows: list[list[Rows]], index: Tensor) -> Tensor:
        """A pass through the model from the first edited layer on, edits applied where they take hold."""
        lab, layer = self.lab, shape.layer
        ones = self.worlds[shape.worlds[0]].interventions
        entering = block.corrupted.entering[layer][index] if layer and lab.can_skip else None
        edits, planned = edits_of(lab, ones, *block.ready(ones, rows))
        tape = Tape(edits=edits)
        with lab.tape(tape), skipping(lab, layer or 0, entering):
            logits = forward(lab, block.ids[index], last=not block.reader.tokens).logits
        check_fired(tape, planned)
        return logits

    def _table(self, shape: int) -> tuple[dict[int, int], list[list[Rows]]]:
        """What differs between the worlds of a shape, as tensors, made once."""
        if shape not in self._tables:
            members = self.plan.shapes[shape].worlds
            worlds = [self.worlds[j].interventions for j in members]
            tables = tables_of(self.lab, worlds, [0] * len(worlds))
            self._tables[shape] = ({j: n for n, j in enumerate(members)}, tables)
        return self._tables[shape]


def tables_of(lab: Lab, worlds: Sequence[Sequence[Intervention]], pairs: Sequence[int]) -> list[list[Rows]]:
    """For each intervention of worlds of one shape its rows (row r: world r on the pair ``pairs[r]``), and those of
    the interventions in whose run it is computed."""
    return [
        [
            Rows.of([list(every([world[n]]))[m] for world in worlds], pairs, lab.grid, lab.device)
            for m in range(1 + len(one.computed_in or ()))
        ]
        for n, one in enumerate(worlds[0])
    ]


class Block:
    """Pairs of one length and what their rows start from, captured in as few passes as there are runs."""

    def __init__(self, worker: Worker, members: tuple[int, ...]) -> None:
        self.worker, self.members = worker, members
        self.place = {i: n for n, i in enumerate(members)}
        self.pairs = [worker.pairs[i] for i in members]
        length = len(self.pairs[0].corrupted.ids)
        self.group = [p for p in worker.pairs if len(p.corrupted.ids) == length]
        self.ids = tensor_of([p.corrupted for p in self.pairs], worker.lab.device)
        self.reader = Reader(worker.lab, [p.corrupted for p in self.pairs], worker.readouts)
        self._sources: dict[tuple[Any, ...], Source] = {}
        self._deltas: dict[tuple[Any, ...], Deltas] = {}
        self._clean: dict[tuple[int, str], list[Tensor]] | None = None
        self._corrupted: Corrupted | None = None
        self._first: dict[Any, int] = {}
        self._shared: int | None = None
        self._unedited: tuple[list[int], Base] | None = None
        self._nats: Tensor | None = None

    def read(self, got: Tensor, local: list[int], index: Tensor, *, start: int, hidden: bool = False) -> Tensor:
        """Readouts [row, readout] of a batch: from its logits, or from what left the last layer (``hidden``).

        ``local`` and ``index``: the block's pair of each row, plain and on the device (nothing waits for it).
        """
        reader, lab = self.reader, self.worker.lab
        if reader.only_margin:
            return reader.at_read(got, index)
        ids = self.ids[index]
        length = ids.shape[1]
        runs, unedited = self._compared(local) if reader.compares else ([], None)
        if reader.at_end:
            last = head(lab, got[:, -1:], ids, length - 1) if hidden else got[:, -1:]
            base = unedited(length - 1, length) if unedited and reader.kl_at_read else None
            out = reader.at_read(last, index, base, runs)
        else:
            out = torch.empty(len(local), len(reader.readouts), dtype=torch.float64, device=ids.device)
        if not reader.tokens:
            return out
        every = positions(lab, got, got if hidden else None, ids, start)
        before = self._before if start and any(r.kind == "loss" for r in reader.readouts) else None
        compared = None if reader.kl_at_read else unedited
        reader.over_tokens(ids, index, start, every, compared, before, out=out, runs=runs)
        return out

    def _compared(self, local: list[int]) -> tuple[list[tuple[int, int, int]], Callable[[int, int], Base]]:
        """Which rows are compared with which unedited run, and what those predict at positions ``a … b−1``.

        As many are kept for the next rows as :data:`KEPT_LOGITS` holds; where it does not hold these, none.
        """
        lab, at_read, runs = self.worker.lab, self.reader.kl_at_read, runs_of_rows(local)
        members = sorted({pair for pair, _, _ in runs})
        each = (1 if at_read else self.ids.shape[1]) * self.reader.size
        if lab.can_resume and len(members) * each > KEPT_LOGITS:
            chosen = upload(members, self.ids.device)
            ids, leaving = self.ids[chosen], self._leaving[chosen]
            here = [(members.index(pair), first, end) for pair, first, end in runs]
            return here, lambda a, b: self._base(head(lab, leaving[:, a:b], ids, a))
        if self._unedited is None or not set(members) <= set(self._unedited[0]):
            self._unedited = None
            if lab.can_resume:  # and those of the rows to come
                more = range(members[-1] + 1, len(self.pairs))
                members = [*members, *more[: KEPT_LOGITS // each - len(members)]]
            chosen = upload(members, self.ids.device)
            ids = self.ids[chosen]
            if lab.can_resume:
                first = ids.shape[1] - 1 if at_read else 0
                logits = head(lab, self._leaving[chosen, first:], ids, first)
            else:
                with lab.tape(Tape()), reading(lab, None):
                    logits = forward(lab, ids, last=at_read).logits
            self._unedited = (members, self._base(logits))
        members, base = self._unedited
        here = [(members.index(pair), first, end) for pair, first, end in runs]
        return here, lambda a, b: base if at_read else base.cut(a, b)

    def _base(self, logits: Tensor) -> Base:
        """What logits [prompt, position, vocabulary] predict: at every position, or in float64 where it is read alone."""
        return Base(logits[:, -1].double() if self.reader.kl_at_read else logits)

    @property
    def _leaving(self) -> Tensor:
        """What leaves the last layer in the unedited run, [pair, position, d_model]."""
        return self.corrupted.kept[self.worker.lab.grid.n_layers - 1, "resid"]

    @property
    def _before(self) -> Tensor:
        """The unedited run's nats for the token after each position, [pair, position]."""
        if self._nats is None:
            lab, ids = self.worker.lab, self.ids
            self._nats = torch.zeros(ids.shape, dtype=torch.float64, device=ids.device)
            step = max(1, LOGITS_HELD // (len(ids) * self.reader.size))
            for a in range(0, ids.shape[1] - 1, step):
                b = min(a + step, ids.shape[1] - 1)
                logits = head(lab, self._leaving[:, a:b], ids, a)
                self._nats[:, a:b] = nats(normaliser(logits), logits, ids[:, a + 1 : b + 1])
        return self._nats

    @property
    def corrupted(self) -> Corrupted:
        """The corrupted run, with what every shape of the plan starts from."""
        if self._corrupted is None:
            lab, worker = self.worker.lab, self.worker
            shapes = [s for s in worker.plan.shapes if s.layer is not None]
            layers = {s.layer for s in shapes if s.layer is not None}
            sites = {key_of(one) for one in worker.ones if one.write == "noop"}
            for shape in shapes:
                ones = worker.worlds[shape.worlds[0]].interventions
                if shape.linear:
                    sites |= linear_needs(ones[0])
                for run in runs_of(ones):
                    layers.add(run.layers.start)
                    sites |= kept_of(lab, run)
            layers = sorted(layers)
            if (self.reader.tokens or self.reader.compares) and lab.can_resume:
                sites |= {(lab.grid.n_layers - 1, "resid")}
            if lab.can_resume and lab.can_reuse and any(c.start for s in worker.plan.shards for c in s.cuts):
                sites |= {(s.layer, site) for s in lab.slots if s.layer >= layers[0] for site in "kv"}
            self._corrupted = run_corrupted(lab, self.ids, layers, sites, tokens=worker.tokens)
        return self._corrupted

    def first(self, one: Intervention, pair: int) -> int:
        """The first position of the block's pair at which ``one`` can change anything."""
        key = (one.shape, pair)
        if key not in self._first:
            if self._shared is None:
                self._shared = shared_prefix([p.corrupted.ids for p in self.group])
            self._first[key] = first_change(one, self.pairs[pair], self._shared)
        return self._first[key]

    def ready(self, ones: Sequence[Intervention], rows: Sequence[Sequence[Rows]]) -> tuple[list[Rows], list[Source]]:
        """The rows of a batch and what their interventions write, what is computed in another run included."""
        made = computed(self.worker.lab, self, ones, dict(enumerate(rows))) if runs_of(ones) else {}
        both = [made[n] if n in made else (self.source(one), rows[n][0]) for n, one in enumerate(ones)]
        return [some for _, some in both], [source for source, _ in both]

    def source(self, one: Intervention) -> Source:
        """What ``one`` (and every intervention of its shape) writes, for the pairs of the block."""
        if one.shape not in self._sources:
            lab, tokens = self.worker.lab, self.worker.tokens
            known: Sequence[Tensor] | None = None
            if one.write == "patch":
                if self._clean is None:
                    patches = [o for o in self.worker.ones if o.write == "patch" and o.computed_in is None]
                    wanted = list(dict.fromkeys(key_of(o) for o in patches))
                    self._clean = capture(lab, [p.clean for p in self.pairs], wanted, tokens=tokens)
                known = self._clean[key_of(one)]
            elif one.write == "noop":
                key = key_of(one)
                known = list(to_layout(key[1], self.corrupted.kept[key], lab.grid.n_heads, None))
            elif one.write == "mean" and one.over is None:
                if (mean := (self.ids.shape[1], key_of(one))) not in self.worker.means:
                    self.worker.means[mean] = mean_of(lab, self.group, key_of(one), tokens=tokens)
                known = [self.worker.means[mean]] * len(self.pairs)
            self._sources[one.shape] = source_for(
                lab, self.pairs, one, group=self.group, tokens=tokens, known=known, lender=self.worker.lender
            )
        return self._sources[one.shape]

    def deltas(self, one: Intervention) -> Deltas:
        """The linear edit ``one``, prepared; only the last one asked for is kept."""
        if one.shape not in self._deltas:
            self._deltas.clear()
            first = self.worker.first[self.members, (one.shape,)]
            self._deltas[one.shape] = make_deltas(self.worker.lab, one, self.source(one), self.corrupted, first)
        return self._deltas[one.shape]


def _out_of_memory(error: BaseException) -> bool:
    """An accelerator's or the system's refusal of memory, in torch's words."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in REFUSALS)
