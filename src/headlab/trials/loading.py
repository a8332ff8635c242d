"""Models made ready for trial: shipped organisms by name, folders, hub ids, models in memory."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from headlab import organisms
from headlab.engine.hub import is_local
from headlab.engine.model import Lab, ModelError, open_model
from headlab.engine.selfcheck import prove
from headlab.organisms.checkpoint_series import Checkpoint, beside, of_organism
from headlab.organisms.steps import SeriesError, steps_of
from headlab.reading import some
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loading import load as load_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    ModelLike = str | Path | PreTrainedModel | Lab
    TokenizerLike = str | Path | PreTrainedTokenizerBase
else:  # what is no model or tokenizer is refused in one sentence, not by its type
    ModelLike = TokenizerLike = object


class Opening(TypedDict, total=False):
    """How a language model is loaded: what :func:`load` takes beside the model."""

    tokenizer: TokenizerLike | None
    revision: str | None
    dtype: str | None
    device: str | None
    device_map: str | dict[str, int | str] | None
    adapter: str | None


class Loading(Opening, total=False):
    """How a model is loaded, a thinking one too: ``base`` and ``lora`` are for CODI models."""

    base: str | None
    lora: str | None


def load(
    model: ModelLike,
    *,
    tokenizer: TokenizerLike | None = None,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    device_map: str | dict[str, int | str] | None = None,
    adapter: str | None = None,
) -> Lab:
    """A model ready for trial: a shipped organism's name, a local folder, a hub id, or a Hugging Face model in memory
    (then with ``tokenizer``).  Its attention is led through headlab's function and the self-check is run.

    Raises ModelError with one clear sentence: unknown, gated or unreachable model, unknown revision, no such device,
    quantised weights, a family whose heads cannot be reached, a failed self-check.
    """
    if isinstance(model, Lab):
        return model
    _given(model)
    name = str(model) if isinstance(model, str | Path) else ""
    shipped = name in organisms.names()
    if name in organisms.names("thoughts"):
        raise ModelError(
            f"{name} thinks in vectors before it answers; this claim is about ordinary language models, such as "
            f"{organisms.names('decimals')[0]}. Claims about thoughts: headlab trial hubs --model {name}; in Python, "
            f"headlab.experiments.trial.load_thinker({name!r})"
        )
    if near := get_close_matches(name, organisms.names(), 1, 0.85) if name and not shipped else []:
        raise ModelError(f"no model {name!r}; did you mean the shipped organism {near[0]}? (headlab models lists them)")
    look = revised(name, revision)
    lab = open_model(
        look.model if look else str(organisms.path(name)) if shipped else model,
        tokenizer=tokenizer or (beside(look) if look else None),
        revision=None if look else revision,
        dtype=dtype,
        device=device,
        device_map=device_map,
        adapter=adapter,
    )
    if name:
        lab.name, lab.revision = name, revision
    prove(lab)
    return lab


def revised(name: str, revision: str | None) -> Checkpoint | None:
    """The checkpoint that is a revision of a shipped run or of a folder of checkpoint folders: that folder by its name, or by
    the step that it says.  None without a revision, and of a hub id, whose revisions the hub knows.

    Raises ModelError where there is no such checkpoint.
    """
    if not revision or not (name in {*organisms.names(), *organisms.names("thoughts")} or is_local(name)):
        return None
    folder = Path(name).expanduser()
    if name in organisms.names():
        series = of_organism(name)
        known = {} if series is None else {f"step{c.step}": c for c in series.checkpoints}
        kind = "a shipped organism"
    else:
        inside = sorted(p.parent for p in folder.glob("*/config.json"))
        known = {p.name: Checkpoint(0, str(p), None, str(inside[-1])) for p in inside}
        kind = "a local folder"
    if revision in known:
        return known[revision]
    with suppress(SeriesError):
        by_step = dict(zip(steps_of(list(known)), known.values(), strict=True)) if known else {}
        if (step := steps_of([revision])[0]) in by_step:
            return by_step[step]
    has = f"it holds {some(known, 12)}" if known else "it holds no folders of checkpoints; drop the revision"
    raise ModelError(f"{name} is {kind}, which has no revision {revision!r}; {has}")


def _given(model: object) -> None:
    if model is None:
        raise ModelError("no model given; name a shipped organism (headlab models), a folder or a hub id")


def load_thinker(model: ModelLike | Thinker, **loading: object) -> Thinker:
    """A thinking model ready for trial: a shipped one's name, a folder or a hub id (see :func:`headlab.thoughts.load`).

    Raises ThoughtError or ModelError with one clear sentence.
    """
    if isinstance(model, Thinker):
        return model
    if isinstance(model, Lab):
        raise ModelError(f"{model.name} is a language model without thoughts; expected a CODI model (headlab models)")
    _given(model)
    name = str(model)
    if name in organisms.names("thoughts"):
        thinker = load_thoughts(organisms.path(name), name=name, **loading)  # type: ignore[arg-type]
        recipe = organisms.thought_card(name).recipe
        thinker.lab.info["problems"] = {"steps": tuple(recipe["steps"]), "values": recipe["values"]}
        return thinker
    if name in organisms.names():
        raise ModelError(
            f"{name} is a language model without thoughts; this claim needs a thinking one, such as "
            f"{organisms.names('thoughts')[0]} (headlab models)"
        )
    if near := get_close_matches(name, organisms.names("thoughts"), 1, 0.85):
        raise ModelError(f"no model {name!r}; did you mean the shipped organism {near[0]}? (headlab models lists them)")
    return load_thoughts(name, **loading)  # type: ignore[arg-type]
