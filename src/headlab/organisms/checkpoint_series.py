"""A series of checkpoints of one training run: which models, in which order, loaded one at a time.

From a shipped organism's run, local folders, or a hub id with revisions; the Pythia suite's steps and seeds are known
by name.  Nothing here measures anything.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headlab import organisms
from headlab.engine.model import ABILITIES, Lab, ModelError, open_model
from headlab.engine.selfcheck import prove
from headlab.organisms.steps import SeriesError, ordered, steps_of

PYTHIA_STEPS = (0, *(2**n for n in range(10)), *range(1000, 143001, 1000))
"""The 154 steps at which every Pythia model was saved, as revisions ``step0`` … ``step143000``."""
PYTHIA_LOG_STEPS = (0, *(2**n for n in range(10)), *(1000 * 2**n for n in range(8)), 143000)
"""Of these, about as many as there are doublings."""
PYTHIA_SEEDS = tuple(f"EleutherAI/pythia-160m-seed{n}" for n in range(1, 10))
"""The nine further seeds of pythia-160m, saved at the same steps."""
PRESETS = {"pythia-160m": ("EleutherAI/pythia-160m", *PYTHIA_SEEDS)}
STEPS = {"all": PYTHIA_STEPS, "log": PYTHIA_LOG_STEPS}
LEAST = 2


@dataclass(frozen=True)
class Checkpoint:
    """One look: a folder or a hub id with its revision.  ``tokenizer``: where the tokenizer is when not beside it."""

    step: int
    model: str
    revision: str | None = None
    tokenizer: str | None = None

    @property
    def key(self) -> str:
        """What tells it from every other checkpoint."""
        return f"{self.model}@{self.revision}" if self.revision else self.model


@dataclass(frozen=True)
class Series:
    """Checkpoints of one run, by rising step.  ``onset``: the last step before something was switched on in training,
    where that is recorded.  Raises SeriesError for fewer than two, or a step that stands twice."""

    name: str
    checkpoints: tuple[Checkpoint, ...]
    onset: int | None = None

    def __post_init__(self) -> None:
        steps = [c.step for c in self.checkpoints]
        if len(steps) < LEAST:
            raise SeriesError(f"{self.name} has {len(steps)} checkpoint(s); a series needs at least {LEAST}")
        if twice := [s for s in steps if steps.count(s) > 1]:
            raise SeriesError(f"{self.name} has step {twice[0]} twice; give each step once")
        object.__setattr__(self, "checkpoints", tuple(sorted(self.checkpoints, key=lambda c: c.step)))

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(c.step for c in self.checkpoints)

    def without(self, steps: Container[int]) -> Series:
        """The series without some steps.  Raises SeriesError when fewer than two are left."""
        kept = tuple(c for c in self.checkpoints if c.step not in steps)
        if len(kept) < LEAST:
            raise SeriesError(f"all checkpoints of {self.name} have the same weights; a series needs at least {LEAST}")
        return self if len(kept) == len(self.checkpoints) else replace(self, checkpoints=kept)

    @property
    def order(self) -> str:
        """The checkpoints in the order in which they are looked at, with the step that each name was read as."""
        return ordered([c.revision or Path(c.model).name for c in self.checkpoints], self.steps)

    @property
    def last(self) -> Checkpoint:
        return self.checkpoints[-1]

    def plain(self) -> Any:
        """As nested lists, or an organism's name: what a claim's options hold."""
        if of_organism(self.name) == self:
            return self.name
        return [self.name, self.onset, [[c.step, c.model, c.revision, c.tokenizer] for c in self.checkpoints]]

    @classmethod
    def from_plain(cls, data: Any) -> Series:
        """Raises SeriesError where `data` is not what :meth:`plain` gives."""
        if isinstance(data, str) and (known := of_organism(data)) is not None:
            return known
        try:
            name, onset, rows = data
            made = tuple(Checkpoint(int(s), str(m), r, t) for s, m, r, t in rows)
            return cls(str(name), made, None if onset is None else int(onset))
        except (TypeError, ValueError) as error:
            if isinstance(error, SeriesError):
                raise
            raise SeriesError(
                f"a series is [name, onset or null, [[step, model, revision, tokenizer], …]], given {str(data)[:80]}"
            ) from error


def of_organism(name: str) -> Series | None:
    """The shipped checkpoints of the run whose last step the organism is; None for other names."""
    if name not in organisms.names() or not (found := organisms.checkpoints(name)):
        return None
    recipe = organisms.RECIPES[name]
    assert isinstance(recipe, organisms.SeriesRecipe)
    last = str(found[max(found)])
    looks = tuple(Checkpoint(step, str(folder), None, last) for step, folder in found.items())
    return Series(name, looks, recipe.onset if recipe.plant else None)


def siblings(name: str) -> list[Series]:
    """The other branches of the organism's run, the planted one first."""
    recipe = organisms.RECIPES.get(name)
    if not isinstance(recipe, organisms.SeriesRecipe):
        return []
    made = (of_organism(r.name) for r in organisms.SERIES[recipe.series] if r.name != name)
    return [s for s in made if s is not None]


def of_folders(folders: Sequence[str | Path], name: str = "") -> Series:
    """A series of local folders, their steps read from their names (:func:`steps_of`).  A folder without a tokenizer takes
    that of the last step.  Raises SeriesError."""
    paths = [Path(f) for f in folders]
    steps = steps_of([p.name for p in paths])
    last = str(paths[max(range(len(paths)), key=lambda i: steps[i])])
    looks = tuple(Checkpoint(s, str(p), None, last) for s, p in zip(steps, paths, strict=True))
    return Series(name or paths[0].resolve().parent.name, looks)


def of_hub(model: str, revisions: Sequence[str]) -> Series:
    """A series of revisions of a hub model, their steps read from their names (:func:`steps_of`).  Raises SeriesError."""
    return Series(model, tuple(Checkpoint(s, model, r) for s, r in zip(steps_of(revisions), revisions, strict=True)))


def listed(models: Sequence[str], revisions: Sequence[str] = ()) -> list[Series]:
    """What a list of names on the command line means: each organism, each hub id (with the same ``revisions``) and each
    folder that holds checkpoint folders is a series; folders that are checkpoints themselves make one together.

    Raises SeriesError.
    """
    if not models:
        raise SeriesError("no model given; expected organisms, folders, or hub ids with --revisions or --steps")
    single = [m for m in models if (Path(m) / "config.json").is_file()]
    if single and len(single) < len(models):
        other = next(m for m in models if m not in single)
        raise SeriesError(f"{single[0]} is a checkpoint and {other} is not; give checkpoints only, or series only")
    if single:
        return [of_folders(single)]
    return [_one(m, revisions) for m in models]


def _one(model: str, revisions: Sequence[str]) -> Series:
    if (made := of_organism(model)) is not None:
        return made
    if Path(model).is_dir():
        inside = sorted(p.parent for p in Path(model).glob("*/config.json"))
        if len(inside) < LEAST:
            raise SeriesError(
                f"{model} holds {len(inside)} folder(s) with a config.json; a series needs at least {LEAST}"
            )
        return of_folders(inside, Path(model).name)
    if model in organisms.names():
        runs = ", ".join(r.name for branch in organisms.SERIES.values() for r in branch)
        raise SeriesError(f"{model} is shipped as one model; organisms with checkpoints are {runs}")
    if not revisions:
        raise SeriesError(f"which checkpoints of {model}? give --revisions step0,step1000,… or --steps all")
    return of_hub(model, revisions)


def open_checkpoint(
    one: Checkpoint,
    *,
    proven: Lab | None = None,
    prompts: bool = True,
    device: str | None = None,
    dtype: str | None = None,
) -> Lab:
    """The checkpoint as a Lab.  The load-time proof is about code and shapes: it is run where ``prompts`` will be, unless
    a ``proven`` Lab of the same architecture hands on what it found.  Raises ModelError."""
    lab = open_model(one.model, tokenizer=beside(one), revision=one.revision, device=device, dtype=dtype)
    if proven is not None and _alike(lab) == _alike(proven):
        for able in (*ABILITIES, "end", "no_decoding"):
            setattr(lab, able, getattr(proven, able))
        for slot, other in zip(lab.slots, proven.slots, strict=True):
            for name, value in other.proved.items():
                setattr(slot, name, value)
    elif prompts:
        prove(lab)
    return lab


def _alike(lab: Lab) -> tuple[Any, ...]:
    """What the proof depends on."""
    made = {k: v for k, v in lab.model.config.to_dict().items() if k not in {"_name_or_path", "dtype", "torch_dtype"}}
    return (lab.info["architecture"], lab.grid, lab.d_model, lab.head_dim, lab.dtype, lab.device, made)


def beside(one: Checkpoint) -> Any:
    """The tokenizer of a checkpoint whose folder has none: that of the last step; None where it has its own.  Raises
    ModelError."""
    folder = Path(one.model)
    bare = folder.is_dir() and not (folder / "tokenizer_config.json").is_file()
    return _tokenizer(one.tokenizer) if bare and one.tokenizer is not None and one.tokenizer != one.model else None


def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"no tokenizer in {folder}; put tokenizer.json beside the weights of the last step") from error


def one_at_a_time(series: Sequence[Series]) -> Iterator[Checkpoint]:
    """Every distinct checkpoint, once, in the order of the series."""
    seen: set[str] = set()
    for one in series:
        for look in one.checkpoints:
            if look.key not in seen:
                seen.add(look.key)
                yield look


__all__ = [
    "PRESETS",
    "PYTHIA_LOG_STEPS",
    "PYTHIA_SEEDS",
    "PYTHIA_STEPS",
    "STEPS",
    "Checkpoint",
    "ModelError",
    "Series",
    "SeriesError",
    "beside",
    "listed",
    "of_folders",
    "of_hub",
    "of_organism",
    "one_at_a_time",
    "open_checkpoint",
    "siblings",
]
