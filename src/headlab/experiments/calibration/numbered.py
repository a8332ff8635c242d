"""Entries of the docket where the truth is known: null models with their heads numbered anew, planted models.

1. A numbering moves every per-head weight with its head (:mod:`headlab.engine.reindexing`): the function stays, so a claim
   about heads by their numbers is about heads drawn at random.  The whole experiment runs on the renumbered model, with its
   eligibility, controls, references and rule.
2. A world is known by the heads that it edits in the model as it was: what one numbering measured, the others read.
3. Of a planted model other pairs are drawn for each trial from one pool, whose worlds are measured once.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Claim, Protocol
from headlab.effects import Table
from headlab.engine.model import Lab
from headlab.engine.plan import pair_hash
from headlab.engine.reindexing import Relabelling, random_relabelling, reindexed
from headlab.experiments.known import adjusted, builtin_claims
from headlab.experiments.trial import experiment
from headlab.heads import KVHeads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair, PromptSet, encode
from headlab.trials.case import Bench, draw

SIZES = {"pairs": 120}
"""Trials on models have fewer pairs than most claims as they ship, enough for a verdict."""
POOL = 240
BLOCKS = frozenset({"out_block", "subspace", "resid"})
"""Sites whose places are no heads: numbering heads anew leaves them where they are."""
Columns = Mapping[str, Any]


class Scratch:
    """Where a trial keeps what no one will take up again: nowhere."""

    def stored(self, name: str) -> pd.DataFrame | None:
        return None

    def store(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        return frame

    def shard(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return compute()

    def table(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        return frame

    def warn(self, text: str) -> None:
        return None


@dataclass
class Remembering(Bench):
    """A case that looks up what a world did, whatever its heads are called, before it is run; ``pool``: pairs that are
    measured together."""

    order: Relabelling | None = None
    pool: Sequence[EncodedPair] = ()
    known: dict[Any, Columns] = field(default_factory=dict)

    @cached_property
    def _pools(self) -> list[dict[str, EncodedPair]]:
        """The pool, and the same with its clean prompts for corrupted ones (which eligibility asks)."""
        both = (self.pool, [replace(p, corrupted=p.clean) for p in self.pool])
        return [{pair_hash(p): p for p in some} for some in both]

    def sweep(self, pairs: Sequence[EncodedPair], worlds: Sequence[World], what: str) -> Table:
        """As a Bench does, without what is known."""
        return self._looked_up("margin", pairs, worlds, lambda p, w: Bench.sweep(self, p, w, what))

    def texts(self, pairs: Sequence[EncodedPair], worlds: Sequence[World], protocol: Protocol, what: str) -> Table:
        """As a Bench does, without what is known."""
        kind = f"text {protocol.decode_from} {protocol.grading}"
        return self._looked_up(kind, pairs, worlds, lambda p, w: Bench.texts(self, p, w, protocol, what))

    def _looked_up(
        self, kind: str, pairs: Sequence[EncodedPair], worlds: Sequence[World], run: Callable[..., Table]
    ) -> Table:
        """Rows in the order pair, world: those that are known, and the others run now, on the whole pool."""
        asked = [pair_hash(p) for p in pairs]
        group = next((g for g in self._pools if all(h in g for h in asked)), dict(zip(asked, pairs, strict=True)))
        place = {h: i for i, h in enumerate(group)}
        if len(group) < len(pairs) and len(set(asked)) < len(asked):  # the same prompts twice: nothing to look up
            return run(pairs, worlds)
        who, names = (kind, tuple(group)), [w.name for w in worlds]
        keys = {w.name: (*who, key_of(w, self.order)) for w in worlds}
        fresh = {keys[w.name]: w for w in worlds if keys[w.name] not in self.known}
        if fresh:
            made = run(list(group.values()), list(fresh.values()))
            for key, w in fresh.items():
                rows = made[made["world"] == w.name].sort_values("pair")
                self.known[key] = {c: rows[c].to_numpy() for c in made.columns}
        at = [place[h] for h in asked]
        first = self.known[keys[names[0]]]
        table: dict[str, Any] = {c: np.stack([self.known[keys[n]][c][at] for n in names], 1).ravel() for c in first}
        table["pair"], table["world"] = np.repeat(np.arange(len(at)), len(names)), names * len(at)
        return pd.DataFrame(table)


def key_of(world: World, order: Relabelling | None) -> str:
    """What a world does, with the heads by the numbers that they had before ``order``."""
    return json.dumps([_key(one, order) for one in world.interventions], sort_keys=True, default=str)


def _key(one: Intervention, order: Relabelling | None) -> list[Any]:
    plain = {k: v for k, v in one.plain().items() if k not in {"heads", "kv_heads", "donors", "computed_in"}}
    inner = [_key(x, order) for x in one.computed_in or ()]
    if isinstance(one.heads, KVHeads):
        old = order.kv_order(one.layer) if order else None
        own: Sequence[int] = one.heads.indices
    else:
        old, own = (order.orders[one.layer] if order else None), one.indices
    if one.site in BLOCKS or old is None:
        return [plain, one.layer, list(own), list(one.donors), inner]
    if one.write == "noise" or one.site == "scores":  # drawn, or scored, by a head's number
        plain["order"] = str(old)
    pairs = sorted((old[h], old[d]) for h, d in zip(own, one.donors or own, strict=True))
    return [plain, one.layer, [h for h, _ in pairs], [d for _, d in pairs] if one.donors else [], inner]


@dataclass
class Ground:
    """A claim of the docket before one model, whose trials differ in the numbering of heads or in the pairs drawn."""

    lab: Lab
    claim: Claim
    test: PromptSet
    selection: PromptSet
    known: dict[Any, Columns] = field(default_factory=dict)

    @cached_property
    def encoded(self) -> list[EncodedPair]:
        """The pool as tokens."""
        return [encode(p, self.lab.tokenizer) for p in self.test]

    def tried(self, order: Relabelling | None, draw_pairs: int | None = None, seed: int = 0) -> dict[str, Any]:
        """One trial: its outcome and the largest p of a rank among its predictions (None without one)."""
        every = list(self.test)
        chosen = every if draw_pairs is None else random.Random(f"pairs {seed}").sample(every, draw_pairs)
        claim = self.claim if draw_pairs is None else adjusted(self.claim, pairs=draw_pairs)
        run: Any = Scratch()
        case = Remembering(
            self.lab, claim, self.test.subset(chosen), self.selection, run, order=order, known=self.known
        )
        case.pool = self.encoded if draw_pairs is not None else case.encoded
        if order is None:
            found = experiment(claim.experiment).tried(case)
        else:
            with reindexed(self.lab, order):
                found = experiment(claim.experiment).tried(case)
        verdict = found.readings[0].verdict
        ranks = [r.value for r in verdict.rulings if r.prediction.op == "rank<" and r.value is not None]
        return {"outcome": verdict.outcome, "p": max(ranks) if ranks else None}


def ground(lab: Lab, slug: str, *, pool: int | None = None, seed: int = 0, **changes: Any) -> Ground:
    """The shipped claim of an experiment at :data:`SIZES` before a model; ``pool``: how many pairs trials draw theirs from."""
    claim = adjusted(builtin_claims()[slug], **{**SIZES, "seed": seed, **changes}, readings=("standard",))
    test, selection = draw(adjusted(claim, pairs=pool) if pool else claim, lab.tokenizer, None)
    return Ground(lab, claim, test, selection)


def numbering(lab: Lab, n: int) -> Relabelling:
    """The ``n``-th numbering of a model's heads."""
    return random_relabelling(lab.grid, seed=n)
