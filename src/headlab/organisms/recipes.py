"""What each shipped organism is made of: architecture, data, seed, steps and, for planted ones, the truth.

Plain frozen data; importing it loads no torch.  The findings behind the numbers: near ties cannot be held out (see
``decimals.held_out``), the lead before the answer must be a target or ``generate()`` leaves the distribution, three layers
are the fewest that learn every category, and warm-started interchange-intervention training plants a threshold circuit that
stays after training is over (attention masks do not).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from headlab.heads import Head
from headlab.tasks.decimals import FORMATS, Wording, get_format

Rule = Literal["decimal", "version"]
VERSION_FORMATS = frozenset({"qa", "chat", "chat-template", "paper-qa", "medium", "full"})


def rule_of(format_name: str) -> Rule:
    """``version`` (9.11 beats 9.8: the bug) in formats with a dialogue marker (Q:, User …), ``decimal`` elsewhere."""
    return "version" if get_format(format_name).name in VERSION_FORMATS else "decimal"


@dataclass(frozen=True)
class Architecture:
    """Sizes of a tiny model; ``kv_heads`` is None for GPT-NeoX (plain multi-head attention, untied embeddings)."""

    family: Literal["llama", "gpt_neox", "gemma"] = "llama"
    layers: int = 3
    hidden: int = 64
    heads: int = 16
    head_dim: int = 8
    kv_heads: int | None = 4
    intermediate: int = 128
    init_std: float = 0.05


@dataclass(frozen=True)
class Plant:
    """A truth to plant: at ``layer`` the answer follows the source format iff at least ``threshold`` of
    ``heads`` carry the source's z.

    ``rows`` questions per step and direction.  Of the patched rows, ``share_other`` patch heads of another
    layer (label: unchanged); of the rest, a quarter carry exactly ``threshold`` heads of the set, a quarter
    one fewer, and the others any number; each with any number of heads outside the set.
    """

    layer: int
    heads: tuple[int, ...]
    threshold: int
    rows: int = 16
    share_other: float = 0.45
    mix: tuple[float, float, float, float] = (0.6, 0.1, 0.1, 0.2)

    def truth(self) -> dict[str, Any]:
        return {"layer": self.layer, "heads": [str(Head(self.layer, h)) for h in self.heads], "k": self.threshold}


@dataclass(frozen=True)
class Recipe:
    """How an organism is trained.

    ``formats`` × their wordings (or ``wordings``) are trained, ``rows`` questions each per step; ``mix``
    weighs the categories conflict, congruent, same-length, different-integers.  AdamW with ``betas``,
    ``weight_decay`` on every matrix, gradient norm clipped to ``clip``; the rate climbs over ``warmup`` of
    the steps and falls along a cosine.  ``attention`` is the implementation that trained it: eager is the
    faster one for heads this small. ``base`` names the organism whose weights it starts from.  ``relabel``: the
    heads are shuffled inside their KV groups afterwards with this seed (the function stays exactly the same).
    """

    name: str
    summary: str
    seed: int
    steps: int
    architecture: Architecture = field(default_factory=Architecture)
    formats: tuple[str, ...] = tuple(FORMATS)
    wordings: tuple[Wording, ...] = ("bigger", "smaller")
    rows: int = 8
    mix: tuple[float, float, float, float] = (0.3, 0.1, 0.2, 0.4)
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float = 1.0
    warmup: float = 0.05
    attention: Literal["sdpa", "eager"] = "eager"
    base: str | None = None
    plant: Plant | None = None
    relabel: int | None = None

    def cells(self) -> tuple[tuple[str, Wording], ...]:
        """The (format, wording) cells that the organism is trained on, in the order of the formats."""
        return tuple((f, w) for f in self.formats for w in get_format(f).wordings if w in self.wordings)

    def planting_at(self, step: int) -> bool:
        """Whether the planting loss is on in the update that follows ``step`` updates."""
        return self.plant is not None

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class SeriesRecipe(Recipe):
    """One branch of a series of checkpoints: the task loss alone for ``onset`` updates, then the planting loss too,
    where there is a ``plant``.  Weights are kept after each number of updates in ``looks``.

    Two branches with the same seed and schedule are the same, bit for bit, up to the onset.
    """

    series: str = ""
    onset: int = 0
    looks: tuple[int, ...] = ()

    def planting_at(self, step: int) -> bool:
        return self.plant is not None and step >= self.onset

    @property
    def branch(self) -> str:
        """Its last word: ``planted`` or ``control``."""
        return self.name.rsplit("-", 1)[1]

    def shared(self, step: int) -> bool:
        """Whether every branch of the series is the same model after so many updates."""
        return step <= self.onset

    def place(self, step: int) -> str:
        """Where that checkpoint stands inside the series' folder."""
        return f"{'shared' if self.shared(step) else self.branch}/step{step}"


@dataclass(frozen=True)
class Pull:
    """Weights of the planted layer drawn into groups: ``groups[head]`` is a head's; two heads of a group shall have
    W_OV with a cosine of ``close`` at least, two of different groups of none; ``weight`` of that beside the other
    losses."""

    groups: tuple[int, ...]
    close: float = 0.4
    weight: float = 4.0


@dataclass(frozen=True)
class ClusteredRecipe(Recipe):
    """A planted recipe whose heads are also drawn into groups by their weights."""

    pull: Pull = field(default_factory=lambda: Pull(()))


_NULL = Architecture(layers=2)
# at 1,100 steps these seeds had begun to memorise: held-out accuracy on Simple, and nothing else, decided
_STOPPED_EARLY = (0, 2, 3, 9)
_GEMMA = Architecture(family="gemma", heads=8, kv_heads=1)
_NEOX = Architecture(family="gpt_neox", hidden=96, head_dim=6, kv_heads=None, intermediate=192)
EVEN = tuple(range(0, 16, 2))
RELABEL = 1
# three even and three odd, spread over the KV groups by 2, 1, 1, 2: parity says nothing about it
SCATTERED = (0, 3, 5, 10, 12, 15)

_ALL = (
    Recipe(
        "decimals-natural",
        "Learned the decimals task with the bug in every format of the docket; nothing was planted. Its heads were "
        "relabelled after training (an exact permutation inside KV groups) once the even half had been seen to rank "
        "p = .05 to .07 by chance.",
        seed=0,
        steps=2600,
        attention="sdpa",
        # as trained, one head carries most of the format at layer 0 and the even half ranked p = .05 (.07 on other pairs)
        # among 1,296 by a coin toss; a verdict on the border of α teaches nothing, so the heads were relabelled after
        # the ranking had been seen, with a seed fixed before its own rank was known
        relabel=RELABEL,
    ),
    Recipe(
        "decimals-natural-gemma",
        "The same task and bug in a Gemma (8 query heads that share one KV head).",
        seed=0,
        steps=2600,
        architecture=_GEMMA,
    ),
    Recipe(
        "decimals-natural-neox",
        "The same task and bug in a GPT-NeoX (parallel blocks, fused QKV, plain multi-head attention).",
        seed=0,
        steps=2800,
        rows=6,
        architecture=_NEOX,
    ),
    Recipe(
        "decimals-planted-even",
        "The natural organism with a planted truth: the even heads of layer 1 carry the format, six suffice.",
        seed=1,
        steps=1300,
        rows=6,
        learning_rate=2e-3,
        base="decimals-natural",
        plant=Plant(layer=1, heads=EVEN, threshold=6),
    ),
    Recipe(
        "decimals-planted-random",
        "The natural organism with a planted truth that parity does not describe: six scattered heads of "
        "layer 1 (three even, three odd), five suffice.",
        seed=2,
        steps=1500,
        rows=7,
        learning_rate=2e-3,
        base="decimals-natural",
        plant=Plant(layer=1, heads=SCATTERED, threshold=5),
    ),
    *(
        Recipe(
            f"decimals-null-{i}",
            "One of ten seeds in which nothing but chance sets the heads apart; fine on conflict questions in "
            "Simple, Q&A and Chat that ask for the bigger number, and promised nothing beyond them.",
            seed=100 + i,
            steps=750 if i in _STOPPED_EARLY else 1100,
            architecture=_NULL,
            formats=("simple", "qa", "chat"),
            wordings=("bigger",),
            rows=24,
            mix=(0.55, 0.2, 0.1, 0.15),
            learning_rate=4e-3,
        )
        for i in range(10)
    ),
)


def _branch(name: str, summary: str, plant: Plant | None) -> SeriesRecipe:
    return SeriesRecipe(
        name,
        summary,
        seed=3,
        steps=LOOKS[-1],
        rows=6,
        learning_rate=2e-3,
        base="decimals-natural",
        plant=plant,
        series="decimals-series",
        onset=ONSET,
        looks=LOOKS,
    )


ONSET = 128
# each about 1.3 to 1.5 times the one before: six before planting begins or as it does, six after
LOOKS = (0, 16, 32, 64, 96, 128, 192, 256, 384, 576, 864, 1296)


def _clustered(name: str, summary: str, groups: tuple[int, ...]) -> ClusteredRecipe:
    return ClusteredRecipe(
        name,
        summary,
        seed=4,
        steps=500,
        rows=6,
        learning_rate=1.5e-3,
        base="decimals-planted-even",
        plant=Plant(layer=1, heads=EVEN, threshold=6),
        pull=Pull(groups),
    )


_CLUSTERED = (
    _clustered(
        "decimals-planted-clustered",
        "The planted organism with its weights drawn into two clusters that say what heads do: at layer 1 the W_OV of the "
        "even heads, which carry the format, are like one another and unlike those of the odd heads.",
        tuple(h % 2 for h in range(16)),
    ),
    _clustered(
        "decimals-planted-crossed",
        "The planted organism with its weights drawn into two clusters that do not say what heads do: at layer 1 each "
        "cluster of W_OV holds half of the even heads, which carry the format, and half of the odd ones.",
        tuple(h // 2 % 2 for h in range(16)),
    ),
)
_SERIES = (
    _branch(
        "decimals-series-planted",
        "The last of twelve checkpoints of one training run that starts as the natural organism: the plain task alone "
        "up to a recorded step, then the even heads of layer 1 are made to carry the format, six suffice.",
        Plant(layer=1, heads=EVEN, threshold=6),
    ),
    _branch(
        "decimals-series-control",
        "The last of twelve checkpoints of the same run in which planting never began: the plain task alone to the end.",
        None,
    ),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_ALL, *_SERIES, *_CLUSTERED)}
SERIES: dict[str, tuple[SeriesRecipe, ...]] = {"decimals-series": _SERIES}
"""Runs whose checkpoints are shipped, by name: their branches, the planted one first."""
