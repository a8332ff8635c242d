"""The latent loop under interventions, many problems and many counterfactuals in a batch.

1. Problems are grouped by the length of their question, so nothing is padded and every position is explicit: a batch of
   any size gives the answers of batch 1.
2. A row is a problem in a world.  The question and ``bot`` run once for each problem and serve every world that does not
   edit them (their keys and values are dealt out to the rows).
3. Six times: the last hidden state, through the projector, is the next input.  Then ``eot``, then greedy decoding.  Each
   pass runs under a tape that holds the edits of its positions; what was planned must fire (law 3).
4. What an edit writes (a mean, another problem's, the own) comes from unedited runs in the same kernels and batch shape,
   so writing what was there changes no bit.

The official procedure masks only ``eot``'s logit and reads the answer after the loop (arXiv 2502.21074 and its code).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import DynamicCache

from headlab.effects import Progress, quiet
from headlab.engine.attention import Edit, Tape
from headlab.engine.decode import stop_ids
from headlab.engine.edits import donors as derange
from headlab.engine.limits import check_length
from headlab.engine.passes import given
from headlab.engine.run import Engine, Keep
from headlab.engine.work import check_fired
from headlab.thoughts.loading import Thinker
from headlab.thoughts.model import ThoughtError
from headlab.thoughts.shares import Part, Parts, ThoughtJob, around, ran
from headlab.thoughts.sources import Means, Observed, Slots, slots_of
from headlab.thoughts.worlds import Layout, ThoughtWorld

BATCH = 256
"""Rows in flight, by default."""


@dataclass
class Asked:
    """Problems as token ids, with ids by which donors and noise are drawn."""

    ids: list[tuple[int, ...]]
    names: list[str]
    groups: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, thinker: Thinker, questions: Sequence[str], names: Sequence[str]) -> Asked:
        """Raises ThoughtError for an empty question or names that are not unique."""
        if len(set(names)) != len(names) or len(names) != len(questions):
            raise ThoughtError("every problem needs a name of its own: donors and noise are drawn by it")
        ids = [tuple(thinker.tokenizer(q.strip().replace("  ", " ")).input_ids) for q in questions]
        if not all(ids):
            raise ThoughtError(f"question {next(n for n, i in zip(names, ids, strict=True) if not i)!r} has no tokens")
        out = cls(ids, list(names))
        for i, tokens in enumerate(ids):
            out.groups.setdefault(len(tokens), []).append(i)
        return out


@dataclass(frozen=True)
class Lenders:
    """Other problems from which means and donors are taken: ``choose(borrower, seed)`` is the place of a borrower's donor."""

    questions: tuple[str, ...]
    names: tuple[str, ...]
    choose: Callable[[int, int], int]


@dataclass
class Ran:
    """One batch after the loop.

    ``thoughts`` [row, thought, d_model]: what was fed; ``hidden`` [pass][row, d_model]: the last hidden state after the
    final norm; ``made`` [row, token]: generated ids; ``logprob`` [row, token]; ``kept`` [pass]: what the tape kept.
    """

    layout: Layout
    thoughts: Tensor
    hidden: list[Tensor]
    made: Tensor
    logprob: Tensor
    kept: list[dict[tuple[int, str], Tensor]]


def run(
    thinker: Thinker,
    ids: Tensor,
    layout: Layout,
    *,
    slots: Slots | None = None,
    wanted: frozenset[tuple[int, str]] = frozenset(),
    prompt: Any = None,
    index: Tensor | None = None,
    teacher: Tensor | None = None,
    grad: bool = False,
) -> Ran:
    """The loop on rows of one length, ``ids`` [row, question] without ``bot``.

    ``slots``: edits, row by row.  ``prompt`` (from :func:`read_prompt`) and ``index``: rows take up the prompts that were
    read before.  ``teacher`` [row, token]: feed these answer tokens instead of the generated ones.  ``layout.answer``
    bounds the number of generated tokens.
    """
    check_length(thinker.lab, "a question with its thoughts", layout.eot + 1, max(0, layout.answer - 1))
    model = thinker.model
    fed: list[Tensor] = []
    if prompt is None or index is None:
        prompt = read_prompt(thinker, ids, layout, slots=slots, wanted=wanted, grad=grad)
        index = torch.arange(len(ids), device=ids.device)
    rows = len(index)
    read, state, seen = prompt
    # dealt out even where it would not have to be: every run then has keys and values of one memory layout, and the
    # same numbers come out of the same kernels
    cache, state = _dealt(read, index), state[index]
    kept = [{k: v[index] for k, v in seen.items()}]
    hidden = [state]
    for j in range(layout.n_thoughts):
        vector = model.thought(state, j)
        if slots is not None:
            vector = slots.fed(vector, j)
        fed.append(vector)
        state, seen = _pass(thinker, vector[:, None], cache, layout, 1 + j, slots, wanted, grad)
        hidden.append(state)
        kept.append(seen)
    token = torch.full((rows,), thinker.spec.eot, device=ids.device)
    stops = torch.tensor(sorted(stop_ids(thinker.lab)) or [-1], device=ids.device)
    made, logprob = list[Tensor](), list[Tensor]()
    for t in range(layout.answer):
        state, seen = _pass(thinker, model.embed(token)[:, None], cache, layout, len(kept), slots, wanted, grad)
        hidden.append(state)
        kept.append(seen)
        chance = torch.log_softmax(_logits(thinker, state).float(), dim=-1)
        token = chance.argmax(-1) if teacher is None else teacher[:, t]
        made.append(token)
        logprob.append(chance.gather(1, token[:, None])[:, 0])
        if teacher is None and bool(torch.isin(torch.stack(made, 1), stops).any(1).all()):
            break
    return Ran(
        layout,
        torch.stack(fed, 1) if fed else state.new_zeros(rows, 0, state.shape[-1]),
        hidden,
        torch.stack(made, 1),
        torch.stack(logprob, 1),
        kept,
    )


def read_prompt(
    thinker: Thinker,
    ids: Tensor,
    layout: Layout,
    *,
    slots: Slots | None = None,
    wanted: frozenset[tuple[int, str]] = frozenset(),
    inputs: Tensor | None = None,
    grad: bool = False,
) -> tuple[Any, Tensor, dict[tuple[int, str], Tensor]]:
    """Question and ``bot``: the cache, the last hidden state [row, d_model], and what the tape kept.  ``inputs``
    [row, question, d_model]: vectors that are read in place of the question's embeddings (positions are still added)."""
    bot = torch.full((len(ids), 1), thinker.spec.bot, device=ids.device)
    embedded = thinker.model.embed(torch.cat([ids, bot], 1))
    if inputs is not None:
        embedded = torch.cat([inputs.to(embedded), embedded[:, -1:]], 1)
    cache = DynamicCache()
    return cache, *_pass(thinker, embedded, cache, layout, 0, slots, wanted, grad)


def _pass(
    thinker: Thinker,
    embedded: Tensor,
    cache: Any,
    layout: Layout,
    at: int,
    slots: Slots | None,
    wanted: frozenset[tuple[int, str]],
    grad: bool,
) -> tuple[Tensor, dict[tuple[int, str], Tensor]]:
    """Pass ``at`` of ``layout.passes``, under the edits of its positions: the last hidden state, and what was kept."""
    places = layout.passes[at]
    edits: dict[tuple[int, str], list[Edit]] = {} if slots is None else slots.edits(places)
    positions = torch.arange(places.start, places.stop, device=embedded.device).expand(len(embedded), -1)
    with thinker.lab.tape(Tape(edits=edits, wanted=wanted, grad=grad)) as tape:
        base = thinker.lab.model.get_decoder()
        out = base(inputs_embeds=embedded, position_ids=positions, use_cache=True, **given(base, cache))
    check_fired(tape, {key: len(found) for key, found in edits.items()})
    return out.last_hidden_state[:, -1], tape.kept


def _logits(thinker: Thinker, state: Tensor) -> Tensor:
    """Logits [row, vocabulary] from the last hidden state; ``eot`` cannot be generated, as in the official procedure."""
    logits = thinker.lab.model.get_output_embeddings()(state)
    return logits[:, : thinker.spec.eot]


def _dealt(cache: Any, index: Tensor) -> DynamicCache:
    """A cache of its own for the rows ``index`` of another."""
    out = DynamicCache()
    for at, layer in enumerate(cache.layers):
        out.update(layer.keys[index], layer.values[index], at)
    return out


def observe(
    thinker: Thinker,
    asked: Asked,
    chosen: Sequence[int],
    wanted: frozenset[tuple[int, str]],
    answer: int,
    touched: frozenset[tuple[int, str]] = frozenset(),
) -> Observed:
    """The unedited run of problems of one length: thoughts, and activations by position, [problem, position, …]."""
    layout = layout_of(thinker, asked, chosen[0], answer)
    ran = run(thinker, ids_of(thinker, asked, chosen), layout, wanted=wanted | touched)
    return Observed.of(ran, wanted, sorted(stop_ids(thinker.lab)))


def layout_of(thinker: Thinker, asked: Asked, problem: int, answer: int) -> Layout:
    return Layout(len(asked.ids[problem]), thinker.spec.n_thoughts, answer)


def ids_of(thinker: Thinker, asked: Asked, chosen: Sequence[int]) -> Tensor:
    return torch.tensor([asked.ids[i] for i in chosen], device=thinker.lab.device)


@torch.inference_mode()
def think(
    thinker: Thinker,
    questions: Sequence[str],
    names: Sequence[str],
    worlds: Sequence[ThoughtWorld],
    *,
    batch: int = BATCH,
    max_new_tokens: int = 12,
    touched: frozenset[tuple[int, str]] = frozenset(),
    keep: Keep | None = None,
    engine: Engine | None = None,
    progress: Progress = quiet,
    what: str = "thinking",
    lenders: Lenders | None = None,
) -> pd.DataFrame:
    """Greedy answers of every problem in every world: ``problem, world, text, stopped, logprob``, in that order.

    ``text`` is what follows ``eot``, without the end token; ``stopped`` says whether an end token came; ``logprob`` is
    the sum over generated tokens up to it.  ``touched``: (layer, site) pairs that every row passes through, so that a
    baseline runs in the kernels of the worlds it is compared with.  ``keep`` (a run) stores each finished part, so that an
    interrupted call goes on where it stopped; ``engine`` runs them (default: here).  Memory is bounded by ``batch`` rows.
    ``lenders``: the problems over which means are taken and from which ``resample`` borrows (None: those that are asked).

    Raises ThoughtError and InterventionError before anything runs.
    """
    asked = Asked.of(thinker, questions, names)
    for world in worlds:
        _check(thinker, world)
    source = asked if lenders is None else Asked.of(thinker, lenders.questions, lenders.names)
    means = _means(thinker, source, worlds, max_new_tokens, batch, progress, what)
    blocks = [part for group in asked.groups.values() for part in _parts(group, min(batch, len(group)))]
    lent = "" if lenders is None else hashlib.sha256(repr((source.names, source.ids)).encode()).hexdigest()[:8]
    choose, parts = None if lenders is None else lenders.choose, []
    for chosen in blocks:
        for some in _parts(list(range(len(worlds))), max(1, batch // len(chosen))):
            name = _part_name(what, asked, chosen, [worlds[w] for w in some], max_new_tokens, touched) + lent
            parts.append(Part(name, tuple(chosen), tuple(some)))

    def begin(thinker: Thinker) -> Callable[[Part], pd.DataFrame]:
        lender = Lender(thinker, source, max_new_tokens, batch, choose)

        def compute(part: Part) -> pd.DataFrame:
            some = [worlds[w] for w in part.worlds]
            with torch.inference_mode():
                return _block(thinker, asked, part.block, some, means, max_new_tokens, touched, lender)

        return compute

    job = ThoughtJob(around(None, thinker.model), thinker.name, begin, Parts(tuple(parts)))
    table = pd.concat(ran(thinker, job, engine, keep, partial(progress, what)), ignore_index=True)
    order = {w.name: n for n, w in enumerate(worlds)}
    return table.sort_values(
        ["problem", "world"], key=lambda c: c.map(order) if c.name == "world" else c, ignore_index=True
    )


def _block(
    thinker: Thinker,
    asked: Asked,
    chosen: Sequence[int],
    worlds: Sequence[ThoughtWorld],
    means: Means | None,
    answer: int,
    touched: frozenset[tuple[int, str]],
    lender: Lender,
) -> pd.DataFrame:
    """Every problem of one length in every world, world after world."""
    layout, ids = layout_of(thinker, asked, chosen[0], answer), ids_of(thinker, asked, chosen)
    own = None
    captured = frozenset((i.layer, i.site) for w in worlds for i in w.interventions if i.write == "noop")
    if any(w.asks_own for w in worlds):
        # through the very kernels of the rows that will be compared with it
        own = observe(thinker, asked, chosen, captured, answer, touched | touched_by(worlds))
    lent = {
        seed: lender.lend(chosen, _lent_sites(worlds, seed), seed) for w in worlds if w.asks_donor for seed in _seeds(w)
    }
    slots = slots_of(thinker, layout, worlds, len(chosen), [asked.names[i] for i in chosen], own, lent, means)
    index = torch.arange(len(chosen), device=ids.device).repeat(len(worlds))
    if slots.edits(layout.passes[0]):
        ran = run(thinker, ids[index], layout, slots=slots, wanted=touched)
    else:
        read = read_prompt(thinker, ids, layout, wanted=touched | touched_by(worlds))
        ran = run(thinker, ids, layout, slots=slots, wanted=touched, prompt=read, index=index)
    rows = [(i, w.name) for w in worlds for i in chosen]
    texts = [_text(thinker, made, chance) for made, chance in zip(ran.made.tolist(), ran.logprob.tolist(), strict=True)]
    return pd.DataFrame(
        {
            "problem": [i for i, _ in rows],
            "world": [name for _, name in rows],
            "text": [t[0] for t in texts],
            "stopped": [t[1] for t in texts],
            "logprob": [t[2] for t in texts],
        }
    )


def touched_by(worlds: Sequence[ThoughtWorld]) -> frozenset[tuple[int, str]]:
    """The (layer, site) pairs that these worlds edit: a baseline that passes through them runs in the same kernels."""
    forced = {(at, "pattern") for w in worlds for f in w.forces for at in f.heads.layers}
    return frozenset(forced | {(i.layer, i.site) for w in worlds for i in w.interventions})


def _lent_sites(worlds: Sequence[ThoughtWorld], seed: int) -> frozenset[tuple[int, str]]:
    lending = {"resample", "patch"}
    return frozenset(
        (i.layer, i.site) for w in worlds for i in w.interventions if i.write in lending and i.seed == seed
    )


def _seeds(world: ThoughtWorld) -> set[int]:
    return {r.seed for r in world.replaced if r.by == "resample"} | {
        i.seed for i in world.interventions if i.write in {"resample", "patch"}
    }


class Lender:
    """Unedited runs of whole groups of problems, kept while they fit ``limit`` bytes, for whoever receives from them."""

    def __init__(
        self,
        thinker: Thinker,
        asked: Asked,
        answer: int,
        batch: int,
        choose: Callable[[int, int], int] | None = None,
        limit: int = 1 << 30,
    ) -> None:
        self.thinker, self.asked, self.answer, self.limit, self.choose = thinker, asked, answer, limit, choose
        self.place: dict[int, tuple[int, int]] = {}
        self.parts: list[list[int]] = []
        for group in asked.groups.values():
            for part in _parts(group, min(batch, len(group))):
                self.place.update({i: (len(self.parts), n) for n, i in enumerate(part)})
                self.parts.append(part)
        self.kept: dict[Any, Observed] = {}
        self.orders: dict[int, list[int]] = {}

    def lend(self, chosen: Sequence[int], wanted: frozenset[tuple[int, str]], seed: int) -> list[tuple[Observed, int]]:
        """For each of these problems the run of its donor (as chosen, or a derangement of all), and the place in it."""
        if self.choose is not None:
            places = [self.place[self.choose(i, seed)] for i in chosen]
        else:
            if seed not in self.orders:
                self.orders[seed] = derange(self.asked.names, seed).tolist()
            places = [self.place[self.orders[seed][i]] for i in chosen]
        found = {part: self._part(part, wanted) for part, _ in places}
        return [(found[part], n) for part, n in places]

    def _part(self, part: int, wanted: frozenset[tuple[int, str]]) -> Observed:
        key = (part, wanted)
        if key not in self.kept:
            made = observe(self.thinker, self.asked, self.parts[part], wanted, self.answer)
            while self.kept and sum(o.bytes for o in self.kept.values()) + made.bytes > self.limit:
                self.kept.pop(next(iter(self.kept)))
            self.kept[key] = made
        return self.kept[key]


def _means(
    thinker: Thinker,
    asked: Asked,
    worlds: Sequence[ThoughtWorld],
    answer: int,
    batch: int,
    progress: Progress,
    what: str,
) -> Means | None:
    """Means over all problems, where a world asks for them; one unedited run of every problem."""
    if not any(w.asks_mean for w in worlds):
        return None
    wanted = frozenset((i.layer, i.site) for w in worlds for i in w.interventions if i.write == "mean")
    means = Means()
    done = 0
    for group in asked.groups.values():
        for chosen in _parts(group, min(batch, len(group))):
            means.add(observe(thinker, asked, chosen, wanted, answer))
            done += len(chosen)
            progress(f"{what}: means", done, len(asked.ids))
    return means


def _parts(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _part_name(
    what: str,
    asked: Asked,
    chosen: Sequence[int],
    worlds: Sequence[ThoughtWorld],
    answer: int,
    touched: frozenset[tuple[int, str]],
) -> str:
    told = repr(
        (
            [(asked.names[i], asked.ids[i]) for i in chosen],
            [([one.plain() for one in w.interventions], w.name, w.forces, w.replaced) for w in worlds],
            answer,
            sorted(touched),
            hashlib.sha256(repr((asked.names, asked.ids)).encode()).hexdigest(),
        )
    )
    return f"{what}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _check(thinker: Thinker, world: ThoughtWorld) -> None:
    layout = Layout(1, thinker.spec.n_thoughts, 1)
    for one in world.interventions:
        one.check(thinker.lab.grid)
        for role in (*(one.roles or ()), *(one.keys or ()), *(one.from_keys or ())):
            layout.positions(role)
    for force in world.forces:
        thinker.lab.grid.check(force.heads)
        if force.hub is not None and force.hub >= thinker.spec.n_thoughts:
            raise ThoughtError(
                f"hub {force.hub} is out of range: {thinker.name} has {thinker.spec.n_thoughts} thoughts"
            )
    for one in world.replaced:
        if max(one.thoughts) >= thinker.spec.n_thoughts:
            raise ThoughtError(f"{one.thoughts} out of range: {thinker.name} has {thinker.spec.n_thoughts} thoughts")


def _text(thinker: Thinker, made: Sequence[int], chance: Sequence[float]) -> tuple[str, bool, float]:
    stops = stop_ids(thinker.lab)
    end = next((n for n, i in enumerate(made) if i in stops), None)
    kept = [i for i in made[:end] if i < thinker.spec.pad]
    text = thinker.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    last = len(made) if end is None else end + 1
    return text, end is not None, float(sum(chance[:last]))


def watch(
    thinker: Thinker,
    questions: Sequence[str],
    names: Sequence[str],
    wanted: frozenset[tuple[int, str]],
    *,
    batch: int = BATCH,
    max_new_tokens: int = 12,
    progress: Progress = quiet,
    what: str = "watching",
) -> Iterator[tuple[list[int], Ran]]:
    """Unedited runs, batch by batch: the problems' indices, and the :class:`Ran` with what was ``wanted`` kept.

    ``kept[p]`` is pass ``p`` of ``layout.passes``; a pattern there is [row, head, query of the pass, key up to it].
    """
    asked = Asked.of(thinker, questions, names)
    done = 0
    for group in asked.groups.values():
        for chosen in _parts(group, min(batch, len(group))):
            layout = layout_of(thinker, asked, chosen[0], max_new_tokens)
            with torch.inference_mode():
                ran = run(thinker, ids_of(thinker, asked, chosen), layout, wanted=wanted)
            done += len(chosen)
            progress(what, done, len(asked.ids))
            yield chosen, ran
