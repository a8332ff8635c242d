"""Interventions as plain data: which heads, at which site, at which positions, when, and what is written.

Sites of a layer, in the order in which they are computed:

``q`` [head], ``k`` ``v`` [KV head]   after position encoding, before attention
``scores`` [head, query, key]         scaled, soft-capped, before mask and softmax
``pattern`` [head, query, key]        after softmax; rows sum to one (less, in models with sinks)
``z`` [head]                          the attention function's return value: what a head is
``out_block`` [block]                 a 1/n_heads slice of the attention module's output, *after* the output
                                      projection: residual coordinates that published scripts called heads
``subspace`` [block]                  the same at a random orthonormal basis: the control for ``out_block``
``resid``                             the layer's output; heads are not told apart

No torch here.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from headlab.heads import Grid, Heads, KVHeads
from headlab.prompts import Alignment, Encoded, EncodedPair, align
from headlab.reading import brief, expected_one_of

Site = Literal["q", "k", "v", "scores", "pattern", "z", "out_block", "subspace", "resid"]
Write = Literal[
    "patch", "noop", "zero", "mean", "resample", "noise", "rescale", "add", "exchange", "mask", "force", "redistribute"
]
When = Literal["prefill", "every_step"]
SITES: tuple[str, ...] = get_args(Site)
WRITES: tuple[str, ...] = get_args(Write)
KEY_WRITES = ("mask", "force", "redistribute")
"""Writes that move weight between the keys of a pattern's rows."""

FROM_OTHERS = ("mean", "resample")
"""Writes whose source is other prompts: of the sweep, or of a population (``over``)."""
PATH_SITES = ("q", "k", "v", "z")
"""Where ``computed_in`` is defined: a receiver reads or is a head."""

_PATTERN_WRITES = {"patch", "noop", "exchange", "rescale", *KEY_WRITES}


class InterventionError(ValueError):
    """An intervention that means nothing; the message says why."""


@dataclass(frozen=True)
class Intervention:
    """One write.

    ``write``
        ``patch``: toward the clean run's activation, ``(1 − amount)·own + amount·clean`` (amount 1 replaces, 0 is a
        no-op); ``noop``: the corrupted run's own activation, captured beforehand, which must change nothing;
        ``zero``; ``mean``: over the corrupted prompts of the set with the same length, position by position;
        ``resample``: the activation of another corrupted prompt of the set (a seeded derangement);
        ``noise``: a random direction of the own norm (seeded); ``rescale``: ``amount·own``;
        ``add``: own + ``amount`` · the ``direction`` of that name, head by head (:mod:`headlab.material`);
        ``exchange``: slot ``i`` receives the own run's head ``donors[i]`` (at ``pattern``: it borrows that head's
        pattern for its own values).
        At ``pattern`` alone, on the keys of the token roles ``keys``: ``mask`` scales their weight by 1 − ``amount``;
        ``force`` sets their share of the row to ``amount``; ``redistribute`` moves the share ``amount`` of what lies
        on the roles ``from_keys`` to them.  Weight is dealt out in proportion to what is there, the others keep their
        proportions, and every row keeps its sum.  A row in which no such key has weight, or no other key has, stays
        as it is.
    ``over``  ``mean`` and ``resample`` take their donors from the population of that name (:mod:`headlab.material`)
        instead of the sweep's own prompts, matched position by position or role by role (``by``).
    ``computed_in``  a ``patch`` writes what the site held in another run of the edited prompt: one in which these
        interventions act, every other head between their first layer and this one keeps the z of the unedited run,
        and everything else (MLPs, norms) runs.  ``free``: no head is held.  So a head's way to a receiver is tried.
    ``align``  which clean position lends to which corrupted one (only ``patch`` reads it).
    ``roles``  only these token roles of the edited prompt (None: every aligned position for ``patch``, every
        position for other writes).  Beside its spans a prompt has ``last`` (its last token), ``answer`` (the
        teacher-forced shared start) and ``read`` (where the logits are read: the last of both).
    ``decoy`` instead of ``keys``, as many other keys of the prompt, drawn for each pair with ``seed`` (neither the
        first token nor one of ``keys`` or ``from_keys``): the control for a class of keys.
    ``when``  ``prefill``: the prompt and the teacher-forced shared start of the answer; ``every_step``: at each
        generated token too, where a ``patch`` must say what it writes (``beyond``): ``first`` the clean run's first
        position (what published hooks did), ``last`` its last one; a ``mean`` its population's mean at ``read``.

    A pattern patched between prompts of different length puts each clean weight on the aligned key and rescales the
    row to the clean row's sum; weights on keys without a partner are lost.  ``scores`` can be patched only where
    every position has a partner.
    """

    heads: Heads | KVHeads
    site: Site = "z"
    write: Write = "patch"
    align: Alignment = "role"
    when: When = "prefill"
    amount: float = 1.0
    roles: tuple[str, ...] | None = None
    beyond: Literal["first", "last"] | None = None
    donors: tuple[int, ...] = ()
    keys: tuple[str, ...] | None = None
    from_keys: tuple[str, ...] | None = None
    decoy: bool = False
    seed: int = 0
    over: str | None = None
    by: Literal["auto", "position", "role"] = "auto"
    direction: str | None = None
    computed_in: tuple[Intervention, ...] | None = None
    free: bool = False

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise InterventionError(f"unknown site {brief(self.site)}; {expected_one_of(self.site, SITES)}")
        if self.write not in WRITES:
            raise InterventionError(f"unknown write {brief(self.write)}; {expected_one_of(self.write, WRITES)}")
        if not isinstance(self.heads, Heads | KVHeads):
            raise InterventionError(
                f"an intervention takes Heads (at k and v KVHeads), given {brief(self.heads)}; Heads.parse('L1H3 L1H5') reads names"
            )
        if (self.site in {"k", "v"}) != isinstance(self.heads, KVHeads):
            raise InterventionError(f"site {self.site!r} takes {'KVHeads' if self.site in {'k', 'v'} else 'Heads'}")
        if self.site in {"scores", "pattern"} and self.write not in _PATTERN_WRITES:
            raise InterventionError(f"{self.write!r} is not defined at {self.site!r}: rows would leave the simplex")
        if self.site == "pattern" and self.write == "rescale":
            raise InterventionError("'rescale' at 'pattern' would leave the simplex; rescale z instead")
        self._check_keys()
        self._check_sources()
        if self.write == "exchange" and len(self.donors) != len(self.heads):
            raise InterventionError(f"'exchange' needs one donor for each of the {len(self.heads)} heads")
        if self.write == "exchange" and self.site in {"out_block", "subspace", "resid"}:
            raise InterventionError(f"'exchange' is defined between heads, not at {self.site!r}")
        if self.when == "every_step" and self.write == "patch" and self.beyond is None:
            raise InterventionError("a patch at every step must say what is written beyond the prompt: first or last")
        lasting = self.write not in {"noop", "mean", "resample", "noise", "exchange"} or bool(
            self.write == "mean" and self.over
        )
        if self.when == "every_step" and not lasting:
            raise InterventionError(f"{self.write!r} has no source beyond the prompt; use when='prefill'")
        if self.when == "every_step" and self.write == "patch" and self.site in {"scores", "pattern"}:
            raise InterventionError(f"a patch of {self.site!r} has no keys beyond the prompt; use when='prefill'")
        if len(self.heads.layers) > 1:
            raise InterventionError("one intervention edits one layer; put one for each layer into the world")

    def _check_keys(self) -> None:
        """Writes that move weight between keys: where, which keys, how much."""
        if self.write not in KEY_WRITES:
            if self.keys or self.from_keys or self.decoy:
                raise InterventionError(f"{self.write!r} takes no keys; they belong to {', '.join(KEY_WRITES)}")
            return
        if self.site != "pattern":
            raise InterventionError(f"{self.write!r} is defined at 'pattern', not at {self.site!r}")
        if not self.keys or (self.write == "redistribute") != bool(self.from_keys):
            wanted = "keys and from_keys" if self.write == "redistribute" else "keys and no from_keys"
            raise InterventionError(f"{self.write!r} needs {wanted}, given {self.keys} and {self.from_keys}")
        if not 0 <= self.amount <= 1:
            raise InterventionError(f"{self.write!r} takes a share between 0 and 1, given {self.amount}")

    def _check_sources(self) -> None:
        """Where a write takes its values from: a population, a direction, another run."""
        if self.over is not None and self.write not in FROM_OTHERS:
            raise InterventionError(f"{self.write!r} takes nothing from a population; 'over' is for mean and resample")
        if self.by not in {"auto", "position", "role"}:
            raise InterventionError(f"by is {self.by!r}; expected auto, position or role")
        if self.by != "auto" and self.over is None:
            raise InterventionError("'by' says how a population's prompts are matched; name the population with 'over'")
        if (self.write == "add") != (self.direction is not None):
            raise InterventionError(f"'add' needs a direction and nothing else takes one, given {self.direction!r}")
        if self.write == "add" and self.site in {"scores", "pattern", "subspace"}:
            raise InterventionError(f"'add' is not defined at {self.site!r}; expected q, k, v, z, out_block or resid")
        if self.computed_in is None:
            if self.free:
                raise InterventionError("'free' lifts the freeze of computed_in; there is none")
            return
        if self.write != "patch" or self.site not in PATH_SITES or self.when != "prefill":
            raise InterventionError(
                f"computed_in belongs to a patch of q, k, v or z before generation, given {self.write!r} at "
                f"{self.site!r}, {self.when!r}"
            )
        if not self.computed_in or any(one.computed_in is not None for one in self.computed_in):
            raise InterventionError(
                "computed_in takes at least one intervention, and none that has a computed_in itself"
            )

    @property
    def layer(self) -> int:
        """The layer edited (an empty set of heads edits none: layer 0)."""
        return self.heads.layers[0] if self.heads.layers else 0

    @property
    def indices(self) -> tuple[int, ...]:
        return self.heads.at(self.layer)

    @property
    def shape(self) -> tuple[object, ...]:
        """What must be equal for two interventions to share a pass: everything but heads, amounts and donors."""
        edit = (self.layer, self.site, self.write, self.align, self.when, self.roles, self.beyond, self.seed)
        inner = None if self.computed_in is None else tuple(one.shape for one in self.computed_in)
        sources = (self.over, self.by, self.direction, inner, self.free)
        return (*edit, self.keys, self.from_keys, self.decoy, *sources)

    def check(self, grid: Grid) -> None:
        """Raise ValueError when a head does not exist in the model."""
        if isinstance(self.heads, KVHeads):
            grid.check_layer(self.heads.layer)
            if max(self.heads.indices) >= grid.n_kv_heads:
                raise ValueError(f"{self.heads} is out of range: this model has KV heads 0 to {grid.n_kv_heads - 1}")
        else:
            grid.check(self.heads)
        n = grid.n_kv_heads if isinstance(self.heads, KVHeads) else grid.n_heads
        if any(not 0 <= d < n for d in self.donors):
            raise ValueError(f"a donor is out of range: {self.site!r} of this model has heads 0 to {n - 1}")
        for one in self.computed_in or ():
            one.check(grid)

    def plain(self) -> dict[str, object]:
        """As JSON-ready data.  Fields of later versions are left out at their defaults, so that hashes stay."""
        kind = "kv_heads" if isinstance(self.heads, KVHeads) else "heads"
        later = {"over": None, "by": "auto", "direction": None, "computed_in": None, "free": False}
        out = {k: v for k, v in self.__dict__.items() if k != "heads" and (k not in later or v != later[k])}
        if self.computed_in is not None:
            out["computed_in"] = [one.plain() for one in self.computed_in]
        return {
            kind: str(self.heads),
            **out,
            **{k: list(v) if (v := out[k]) else None for k in ("roles", "keys", "from_keys")},
            "donors": list(self.donors),
        }


def across(grid: Grid, heads: Heads, *, site: Site = "z", **fields: Any) -> tuple[Intervention, ...]:
    """The same write on heads of any layers: one intervention for each layer, at k and v on the KV groups of the heads."""

    def of(layer: int) -> Heads | KVHeads:
        if site in {"k", "v"}:
            return KVHeads(layer, tuple({grid.kv_group_of(h) for h in heads.at(layer)}))
        return Heads.of(layer, heads.at(layer))

    return tuple(Intervention(of(layer), site, **fields) for layer in heads.layers)


def lasts(write: Write) -> When:
    """When a write acts by default where text is read: a patch has no source beyond the prompt, nor have exchanged or
    resampled heads; what needs none goes on."""
    return "every_step" if write in {"zero", "mean", "add", "mask", "rescale", "force", "redistribute"} else "prefill"


def role_positions(encoded: Encoded, role: str) -> tuple[int, ...]:
    """Positions of a role; ``answer`` is the teacher-forced shared start, ``read`` where the logits are read.

    Raises InterventionError if unknown.
    """
    if role == "answer":
        return tuple(range(encoded.n_prompt, len(encoded.ids)))
    if role == "read":
        return (len(encoded.ids) - 1,)
    if role not in encoded.roles:
        raise InterventionError(
            f"no token role {role!r} in the edited prompt; it has {', '.join(encoded.roles)}, answer, read"
        )
    return encoded.roles[role]


def written(one: Intervention, pair: EncodedPair) -> tuple[tuple[int, int], ...]:
    """``(corrupted position, position that lends)`` for every position that ``one`` writes in this pair, in order.

    A ``patch`` from the other run takes them from its alignment; other writes edit a position from itself.

    Raises InterventionError for an unknown role, or when no position is left to write at (law 3: such an edit would
    fire without taking hold).
    """
    if one.write == "patch" and one.computed_in is None:
        found = align(pair, one.align)
    else:
        found = tuple((p, p) for p in range(len(pair.corrupted.ids)))
    if one.roles is not None:
        allowed = {p for role in one.roles for p in role_positions(pair.corrupted, role)}
        found = tuple(f for f in found if f[0] in allowed)
    if not found:
        raise InterventionError(
            f"pair {pair.pair.id}: {one.write!r} at {one.site!r} finds no position to write at "
            f"(roles {one.roles}, align {one.align!r})"
        )
    return found


def key_positions(one: Intervention, encoded: Encoded) -> tuple[list[int], list[int]]:
    """The keys that ``one`` writes at, and those it takes from (``redistribute``; none otherwise).

    Raises InterventionError for an unknown role, or too few other keys for a decoy.
    """

    def of(roles: tuple[str, ...] | None) -> list[int]:
        return sorted({p for role in roles or () for p in role_positions(encoded, role)})

    keys, source = of(one.keys), of(one.from_keys)
    if not one.decoy:
        return keys, source
    others = [p for p in range(1, encoded.n_prompt) if p not in {*keys, *source}]
    if len(others) < len(keys):
        raise InterventionError(f"a decoy for {len(keys)} keys needs as many others, the prompt has {len(others)}")
    drawn = random.Random(f"{one.seed} {encoded.ids}").sample(others, len(keys))
    return sorted(drawn), source


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many first tokens all prompts have in common."""
    first, last = min(prompts), max(prompts)
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return n


def first_change(one: Intervention, pair: EncodedPair, shared: int = 0) -> int:
    """The first corrupted position at which ``one`` can change anything; past the end when there is none.

    Before it nothing is written, or what is written was there: a ``patch`` from the same position after the same
    tokens, a ``mean`` or ``resample`` over prompts that all begin with the same ``shared`` tokens (causal models).
    What was computed in another run changes where that run's edits do.  A ``noop`` counts as a change: it is there to
    be executed.
    """
    found = written(one, pair)
    if one.computed_in is not None:
        first = min(first_change(inner, pair, shared) for inner in one.computed_in)
        found = tuple(f for f in found if f[0] >= first)
    elif one.write == "patch":
        same = shared_prefix([pair.clean.ids, pair.corrupted.ids])
        found = tuple(f for f in found if f[0] != f[1] or f[0] >= same)
    elif one.write in FROM_OTHERS and one.over is None:
        found = tuple(f for f in found if f[0] >= shared)
    return found[0][0] if found else len(pair.corrupted.ids)


def _arrives(sender: Intervention, receiver: Intervention) -> bool:
    """Whether what ``sender`` writes is computed before the receiver's site."""
    inside = receiver.site == "z" and sender.site in {"q", "k", "v", "scores", "pattern", "z"}
    return sender.layer < receiver.layer or (sender.layer == receiver.layer and inside)


@dataclass(frozen=True)
class World:
    """Interventions applied together: one counterfactual, one row of a batch.  No intervention: the baseline."""

    name: str
    interventions: tuple[Intervention, ...] = ()
    labels: Mapping[str, object] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.interventions, Intervention) or not all(
            isinstance(x, Intervention) for x in self.interventions
        ):
            raise InterventionError(
                f"world {brief(self.name)} takes a tuple of interventions, given {brief(self.interventions)}; write "
                "World('name', (Intervention(…),)): one needs its comma"
            )
        paths = [one for one in self.interventions if one.computed_in is not None]
        if paths and not any(_arrives(inner, one) for one in paths for inner in one.computed_in or ()):
            one = paths[0]
            raise InterventionError(
                f"world {self.name!r}: nothing that computed_in does lies before {one.site!r} of layer {one.layer}, so "
                "nothing could arrive; senders stand in lower layers than receivers"
            )

    @property
    def shape(self) -> tuple[object, ...]:
        each = tuple(i.shape for i in self.interventions)
        runs = [(i.computed_in, i.free) for i in self.interventions]
        shared = tuple(runs.index(run) for run in runs) if any(run[0] for run in runs) else ()
        return (*each, *shared)

    @property
    def first_layer(self) -> int | None:
        """The earliest layer edited, None for the baseline."""
        return min((i.layer for i in self.interventions), default=None)

    def content_hash(self) -> str:
        return hashlib.sha256(json.dumps([i.plain() for i in self.interventions], sort_keys=True).encode()).hexdigest()


def patch(name: str, heads: Heads, *, site: Site = "z", amount: float = 1.0, **fields: Any) -> World:
    """A world with one patch from the clean run; ``fields`` beyond those of Intervention become labels."""
    own = {k: fields.pop(k) for k in ("align", "when", "roles", "beyond", "seed") if k in fields}
    return World(name, (Intervention(heads, site, "patch", amount=amount, **own),), fields)
