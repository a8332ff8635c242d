"""Opening a CODI model: a folder that :meth:`Codi.save` wrote, or a published checkpoint.

A published checkpoint is one state dict of a wrapper: ``codi``, a causal LM inside a peft model (or alone, after a full
fine-tune), and ``prj``, the projector.  It is read here into the same objects, strictly: the names of the file must be
the names of the model, tensor for tensor.  LoRA is then merged into the weights or kept.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headlab.engine.adapters import merge
from headlab.engine.checkpoint import ModelError, bounded, check_size, quietly
from headlab.engine.loading import pick_device, pick_dtype
from headlab.engine.model import Lab, fingerprint, open_model
from headlab.engine.selfcheck import prove
from headlab.thoughts.model import Codi, Spec, ThoughtError, spec_of
from headlab.thoughts.published import (
    BARE,
    WRAPPED,
    base_config,
    check_tokenizer,
    embedding_of,
    fetch,
    gathered,
    plain,
    read_weights,
    shapes_of,
    tokenizer_of,
)

_LORA = re.compile(r"(.+)\.(?:base_layer|lora_[AB]\.default)\.")
_BUFFERS = {"attn.bias": 4, "attn.masked_bias": 0, "rotary_emb.inv_freq": 1}
"""Constants that older versions of transformers wrote among the weights (a causal mask, what hides by it, rotary
frequencies), and their numbers of axes."""


@dataclass
class Thinker:
    """A CODI model ready for trial: ``lab`` is its language model with heads located, ``model`` the whole.

    ``lab.info["checkpoint"]`` says what was read.
    """

    lab: Lab
    model: Codi
    name: str

    @property
    def spec(self) -> Spec:
        return self.model.spec

    @property
    def tokenizer(self) -> Any:
        return self.lab.tokenizer

    def __repr__(self) -> str:
        return f"Thinker({self.name!r}: {self.spec.n_thoughts} thoughts, {self.lab!r})"


def load(
    source: str | Path,
    base: Any = None,
    lora: str = "merge",
    alpha: float | int = 32,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    revision: str | None = None,
    ignore: Sequence[str] = (),
    *,
    tokenizer: Any = None,
    name: str | None = None,
) -> Thinker:
    """A CODI model ready for trial: its attention led through headlab's function, the self-check run.

    ``source``: a folder or hub id with ``model.safetensors`` (or its shards) or ``pytorch_model.bin``, of
    :meth:`Codi.save` or of a published model.  ``base``: folder, hub id or config of the model it was trained from,
    where the checkpoint has no config.json or no tokenizer (nothing is needed for the shapes of the two published
    models, whose tokenizers come from the hub).  Weights, embeddings included, are always those of the checkpoint.

    ``lora``: "merge", W + (alpha / r)·B·A in float32; or "keep", a peft model in ``.model.codi``, whose adapter can be
    switched off.  ``alpha``: 32 in the published models; no file says it.  ``dtype``: of all weights, whatever the
    files mix; float32 on a CPU, else that of the stored embedding.  ``ignore``: beginnings of names that may be left
    unread, such as ``("decoder.",)`` in SIM-CoT's.  pad, bot and eot are the embedding's last three rows.

    Raises ThoughtError in one sentence: no checkpoint, not a CODI model, damaged, a base that does not fit, any tensor
    missing, unknown or of another shape (all are named); ModelError: no such device or dtype, a failed self-check.
    """
    place = pick_device(device)
    model, words, record = read(
        source,
        base,
        lora,
        alpha,
        dtype if dtype is not None else pick_dtype(None, place),
        revision,
        ignore,
        tokenizer=tokenizer,
    )
    model = model.to(place)
    lab = open_model(_language_model(model), tokenizer=words)
    lab.name, lab.revision, lab.info["checkpoint"] = name or str(source), revision, record
    lab.fingerprint = fingerprint(model)  # the projector is part of what was tried
    prove(lab)
    return Thinker(lab, model, lab.name)


def read(
    source: str | Path,
    base: Any = None,
    lora: str = "merge",
    alpha: float | int = 32,
    dtype: str | torch.dtype = torch.float32,
    revision: str | None = None,
    ignore: Sequence[str] = (),
    *,
    tokenizer: Any = None,
) -> tuple[Codi, Any, dict[str, Any]]:
    """Model (CPU, evaluation mode), tokenizer, and what was read: as :func:`load`, with nothing done to the model's
    attention.  ``dtype`` "auto" is that of the stored embedding.
    """
    if lora not in ("merge", "keep"):
        raise ThoughtError(f"lora is {lora!r}; expected 'merge' or 'keep'")
    if not 0 < alpha < float("inf"):
        raise ThoughtError(f"alpha is {alpha}; expected a positive number (the published models have 32)")
    folder = fetch(source, revision)
    chosen: Any = pick_dtype(dtype, torch.device("cpu")) if isinstance(dtype, str) and dtype != "auto" else dtype
    model, config, record = _assembled(folder, base, lora, alpha, chosen, tuple(ignore))
    words, record["tokenizer"] = (
        (tokenizer, "the given one") if tokenizer is not None else tokenizer_of(folder, base, config, record["base"])
    )
    check_tokenizer(words, model.spec.pad, str(source))
    # a folder of the hub's cache is named by its commit
    commit = folder.name if not Path(source).expanduser().exists() else None
    origin = {"source": str(source), "revision": revision, "commit": commit}
    return model.eval().requires_grad_(False), words, origin | record


def read_folder(folder: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Codi, Any]:
    """Model (eval mode) and tokenizer of a folder that :meth:`Codi.save` wrote.  Raises ThoughtError."""
    folder = Path(folder)
    if spec_of(folder) is None:
        raise ThoughtError(f"{folder} has no codi.json, so it is no folder of a thought model")
    return read(folder, dtype=dtype)[:2]


def _language_model(model: Codi) -> Any:
    """The Hugging Face model itself; with LoRA kept it stands inside the peft model, its layers wrapped in place."""
    return model.codi.get_base_model() if hasattr(model.codi, "peft_config") else model.codi


def _assembled(
    folder: Path, base: Any, lora: str, alpha: float | int, dtype: Any, ignore: tuple[str, ...]
) -> tuple[Codi, Any, dict[str, Any]]:
    """The model in its dtype, its language model's config, and what was read, for the record."""
    weights = read_weights(folder)
    dtypes = Counter(str(v.dtype).removeprefix("torch.") for v in weights.state.values())
    ignored = [k for k in weights.state if ignore and k.startswith(ignore)]
    state = {k: v for k, v in weights.state.items() if k not in set(ignored)}
    _refuse_other(folder, state)
    spec = spec_of(folder)
    config, said = base_config(folder, base, state, resize=spec is None)
    if dtype == "auto":
        dtype = embedding_of(state, str(folder))[1].dtype
    model = _built(folder, config, said, spec, state, alpha)
    buffers = _buffers(model, state)
    land(model, {k: v for k, v in state.items() if k not in set(buffers)}, str(folder))
    wrapped = hasattr(model.codi, "peft_config")
    if wrapped and lora == "merge":
        model.codi = _merged(model, str(folder))
    record = {
        "files": list(weights.files),
        "tensors": len(weights.state),
        "dtypes": dict(dtypes),
        "dtype": str(dtype).removeprefix("torch."),
        "base": said,
        "lora": {"merge": "merged", "keep": "kept"}[lora] if wrapped else "none in the checkpoint",
        "alpha": alpha if wrapped else None,
        "rank": sorted(set(_ranks(state).values())) if wrapped else None,
        "special tokens": {"pad": model.spec.pad, "bot": model.spec.bot, "eot": model.spec.eot},
        "ignored": sorted(ignored),
        "buffers not read": sorted(buffers),
    }
    for weight in model.parameters():  # buffers, such as rotary frequencies, stay in float32
        weight.data = weight.data.to(dtype)
    return model, config, record


def _merged(model: Codi, where: str) -> Any:
    try:
        return merge(model.eval().codi, f"the LoRA of {where}")
    except ModelError as error:
        raise ThoughtError(str(error)) from error


def _buffers(model: Codi, state: Mapping[str, Tensor]) -> list[str]:
    """Names of old constants in the file that are none of the model's weights, in places that the model has."""
    own, places = model.state_dict().keys(), {n for n, _ in model.named_modules()}
    ends = tuple(f".{e}" for e in _BUFFERS)
    named = [k for k in state if k.startswith(BARE) and k.endswith(ends) and k not in own]
    return [
        k
        for k in named
        for end, axes in _BUFFERS.items()
        if k.endswith(f".{end}")
        and state[k].dim() == axes
        and {k.removesuffix(f".{end.split('.')[1]}"), k.removesuffix(f".{end}")} & places
    ]


def _refuse_other(folder: Path, state: Mapping[str, Tensor]) -> None:
    """A checkpoint of something else."""
    if not any(k.startswith(BARE) for k in state):
        prefixes = sorted({k.split(".")[0] + "." for k in state})
        said = ", ".join(prefixes[:4]) + (", …" if len(prefixes) > 4 else "") or "nothing"
        raise ThoughtError(
            f"{folder} is not a CODI model: its weights begin with {said}, expected codi. and prj.; "
            "an ordinary language model is opened by headlab.load"
        )


def _ranks(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Module → rank of its LoRA, by the language model's own names."""
    return {plain(m[1]): len(v) for k, v in state.items() if ".lora_A." in k and (m := _LORA.match(k))}


def _built(
    folder: Path, config: Any, said: str, spec: Spec | None, state: Mapping[str, Tensor], alpha: float | int
) -> Codi:
    """A model with the names and shapes that the checkpoint should have, untrained, in float32."""
    from transformers import AutoModelForCausalLM

    stored = shapes_of(state)
    try:
        with quietly(), bounded(str(folder), stored), torch.device("meta"):  # its size, before it takes memory
            check_size(str(folder), AutoModelForCausalLM.from_config(config), stored)
        with quietly():
            bare: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except ModelError as error:
        raise ThoughtError(str(error)) from error
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ThoughtError(f"the base model ({said}) cannot be built: {str(error).splitlines()[0]}") from error
    name, embedding = embedding_of(state, str(folder))
    known = {k for k, _ in bare.named_parameters(remove_duplicate=False)}
    if plain(name) not in known:
        raise ThoughtError(
            f"the base model does not fit {folder}: it is a {config.model_type} ({said}), in which no weight is called "
            f"{plain(name)}; give base= the model that the checkpoint was trained from"
        )
    if spec is None:
        first = state.get("prj.1.weight")
        spec = Spec.after(len(embedding) - 3, embedding.shape[1] if first is None else len(first))
    if any(k.startswith(WRAPPED) for k in state):
        bare = _wrapped(bare, state, alpha)
    return Codi(bare, spec)


def _wrapped(bare: Any, state: Mapping[str, Tensor], alpha: float | int) -> Any:
    """The language model inside a peft model, with LoRA where the checkpoint names it and of its ranks."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    modules = dict(bare.named_modules())
    named = {plain(m[1]) for k in state if k.startswith(WRAPPED) and (m := _LORA.match(k))}
    # what is not there stays out, and is listed as unknown when the weights land
    targets = sorted(n for n in named if isinstance(modules.get(n), torch.nn.Linear | Conv1D))
    if not targets:
        raise ThoughtError("the checkpoint's names are those of a peft model, but none of its weights is a LoRA")
    ranks = _ranks(state)
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=usual,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=targets,
        rank_pattern={f"^{re.escape(n)}": r for n, r in ranks.items() if r != usual and r > 0},
        fan_in_fan_out=any(isinstance(modules[n], Conv1D) for n in targets),
    )
    with warnings.catch_warnings(), quietly():
        warnings.simplefilter("ignore")  # about names inside transformers, of no use to a reader
        return get_peft_model(bare, config, autocast_adapter_dtype=False)


def land(model: Codi, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict whole: every tensor lands, every parameter is filled, or one error lists what does not.

    A tied output embedding may be absent, stand there with the input embedding's values, or stand in its place.
    """
    ties = _ties(model)
    given = {ties[k]: state[k] for k in ties if k in state and ties[k] not in state} | dict(state)
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    wrong = [
        f"{k} {tuple(given[k].shape)} for {shape}"
        for k, shape in wanted.items()
        if k in given and tuple(given[k].shape) != shape
    ]
    problems = {
        "missing": [k for k in wanted if k not in given and k not in ties],
        "not known": [k for k in given if k not in wanted],
        "of another shape": wrong,
    }
    if any(problems.values()):
        said = "; ".join(f"{what} ({len(names)}): {gathered(names)}" for what, names in problems.items() if names)
        hint = " (ignore= takes beginnings of names that may be left out)" if problems["not known"] else ""
        raise ThoughtError(f"the weights in {where} do not fit the model; {said}{hint}")
    for second, first in ties.items():
        if second in given and not _same(given[first], given[second]):
            raise ThoughtError(
                f"the config of {where} ties {second} to {first}, but the two differ in the file; "
                "correct tie_word_embeddings, or give base= a config that has it right"
            )
    own = model.state_dict()
    with torch.no_grad():
        for key, value in given.items():
            own[key].copy_(value)


def _same(a: Tensor, b: Tensor) -> bool:
    kind = torch.promote_types(a.dtype, b.dtype)
    return torch.equal(a.to(kind), b.to(kind))


def _ties(model: Codi) -> dict[str, str]:
    """Second name → first name of the parameters that have two (an output embedding tied to the input's)."""
    first: dict[int, str] = {}
    ties = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(value), name) != name:
            ties[name] = first[id(value)]
    return ties
