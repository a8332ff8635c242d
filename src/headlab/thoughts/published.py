"""Reading a CODI checkpoint: its files, its base model's config, its tokenizer.

1. The folder is given, or fetched from the hub: only what is needed, safetensors before a pickle.
2. The tensors are read as they stand, from ``model.safetensors``, its shards, or ``pytorch_model.bin`` (tensors only).
3. The base model's config is the folder's, else ``base``, else known from the shapes of the two published models.
4. The tokenizer is the folder's, else that of the base.

Each of these ends in one sentence when it cannot be done.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headlab.engine.checkpoint import (
    KINDS,
    ModelError,
    Stored,
    check_config,
    check_whole,
    damaged,
    quietly,
    read_json,
    weight_files,
    why_not,
)
from headlab.thoughts.model import SPEC, ThoughtError

_WORDS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_SMALL = ("config.json", "generation_config.json", SPEC, "*.index.json", *_WORDS)
_EMBEDDINGS = ("wte.weight", "embed_tokens.weight", "embed_in.weight", "word_embeddings.weight")
WRAPPED, BARE = "codi.base_model.model.", "codi."
"""What names of the language model's weights begin with: inside a peft model, and without one."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint as they stand in its files (CPU, stored dtype), and the files' names."""

    state: dict[str, Tensor]
    files: tuple[str, ...]


# -- the folder ------------------------------------------------------------------------------------------------


def fetch(source: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint: as given, or that of a hub id, downloaded where it is not in the cache."""
    name, folder = str(source), Path(source).expanduser()
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise ThoughtError(f"no CODI checkpoint at {name}: it {what}; expected a folder with {_expected()}")
        if revision:
            raise ThoughtError(f"{name} is a local folder, which has no revision {revision!r}; leave revision out")
        return folder
    from huggingface_hub import snapshot_download

    try:
        with quietly():
            for kind in KINDS:
                wanted = [*_SMALL, ".".join(kind), "-*-of-*.".join(kind)]
                found = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
                if _files(found, [kind]):
                    break
    except Exception as error:
        raise ThoughtError(why_not(name, revision, error)) from error
    return found


def _expected() -> str:
    return "model.safetensors, model-00001-of-….safetensors or pytorch_model.bin"


def _files(folder: Path, kinds: Sequence[tuple[str, str]] = KINDS) -> list[Path]:
    try:
        return weight_files(folder, kinds)
    except ModelError as error:
        raise ThoughtError(str(error)) from error


# -- the tensors -----------------------------------------------------------------------------------------------


def read_weights(folder: Path) -> Weights:
    """All tensors of a folder's weight files.  Raises ThoughtError: none there, damaged, a pickle of more than tensors."""
    files = _files(folder)
    if not files:
        raise ThoughtError(f"{folder} holds no weights; expected {_expected()}")
    state: dict[str, Tensor] = {}
    for file in files:
        part = _read(file)
        if twice := sorted(state.keys() & part.keys()):
            raise ThoughtError(
                f"{gathered(twice)} stands in more than one weight file of {folder}; keep one set of files"
            )
        state |= part
    return Weights(state, tuple(f.name for f in files))


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        start = check_whole(file)
        if file.suffix == ".safetensors":
            return load_file(file)
        # a zip archive is mapped, not copied; the older format cannot be
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK"))
    except pickle.UnpicklingError as error:
        raise ThoughtError(why_not(str(file), None, error)) from error
    except ModelError as error:
        raise ThoughtError(str(error)) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ThoughtError(str(damaged(file))) from error
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ThoughtError(f"{file} is not a state dict (names with a tensor each); expected the one of a CODI model")
    return dict(found)


def gathered(names: Iterable[str]) -> str:
    """Names in one line, complete: those that differ by one number between dots are one, ``h.{0-11}.attn.bias``."""
    groups: dict[str, list[str]] = {}
    number = re.compile(r"(?<=\.)\d+(?=\.)")
    for name in names:
        numbers = number.findall(name)
        groups.setdefault(number.sub("{}", name) if len(numbers) == 1 else name, []).extend(numbers[:1])
    return ", ".join(
        sorted(
            k.replace("{}", v[0] if len(v) == 1 else "{" + _ranges(v) + "}", 1) if v else k for k, v in groups.items()
        )
    )


def _ranges(numbers: Iterable[str]) -> str:
    runs = [[n for _, n in run] for _, run in groupby(enumerate(sorted(map(int, numbers))), lambda at: at[1] - at[0])]
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def plain(name: str) -> str:
    """The Hugging Face name of a language-model weight: without the wrapper's and peft's additions."""
    return name.removeprefix(WRAPPED).removeprefix(BARE).replace(".base_layer.", ".")


# -- the base model --------------------------------------------------------------------------------------------


def embedding_of(state: Mapping[str, Tensor], where: str) -> tuple[str, Tensor]:
    """Name and tensor of the input embedding (or of a tied output embedding that stands for it)."""
    for ends in (_EMBEDDINGS, ("lm_head.weight", "embed_out.weight")):
        for name, value in state.items():
            if name.startswith(BARE) and name.endswith(ends) and value.dim() == 2:
                return name, value
    raise ThoughtError(
        f"{where} holds no embedding (codi.….{' or …'.join(_EMBEDDINGS[:2])}); the base model's weights must be in the file"
    )


def base_config(folder: Path, base: Any, state: Mapping[str, Tensor], resize: bool) -> tuple[Any, str]:
    """Config of the language model, its vocabulary that of the checkpoint, and where it is from.

    ``resize``: the config may speak of the vocabulary before pad, bot and eot were added.
    """
    rows, width = embedding_of(state, str(folder))[1].shape
    config, said = _config(folder, base, state)
    if config.hidden_size != width:
        raise ThoughtError(
            f"the base model does not fit {folder}: its width is {config.hidden_size} ({said}), that of the "
            f"checkpoint is {width}; give base= the model it was trained from"
        )
    if config.vocab_size not in ((rows, rows - 3) if resize else (rows,)):
        raise ThoughtError(
            f"the base model does not fit {folder}: its vocabulary is {config.vocab_size} ({said}), the checkpoint's "
            f"embedding has {rows} rows, which is {rows - 3} and pad, bot, eot; give base= the model it was trained from"
        )
    config.vocab_size = rows
    return config, said


def _config(folder: Path, base: Any, state: Mapping[str, Tensor]) -> tuple[Any, str]:
    from transformers import AutoConfig

    try:
        own = read_json(folder / "config.json")
    except ModelError:  # SIM-CoT's is empty
        own = None
    if isinstance(own, dict) and own.get("model_type"):
        _refuse_config(folder, state)
        return _auto(AutoConfig, str(folder)), "config.json of the checkpoint"
    if isinstance(base, str | Path):
        given = Path(base).expanduser()
        if given.is_dir():
            _refuse_config(given, state)
        return _auto(AutoConfig, str(given) if given.is_dir() else str(base)), f"base {str(base)!r}"
    if base is not None:
        if not hasattr(base, "model_type"):
            raise ThoughtError(f"base is a {type(base).__name__}; expected a folder, a hub id or a transformers config")
        return copy.deepcopy(base), f"the given {type(base).__name__}"
    return _inferred(folder, {plain(k): tuple(v.shape) for k, v in state.items()})


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, Stored]:
    """The language model's tensors in a checkpoint as headers, by its own names."""
    own = {plain(k): v for k, v in state.items() if k.startswith(BARE)}
    return {k: Stored(tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in own.items()}


def _refuse_config(folder: Path, state: Mapping[str, Tensor]) -> None:
    """A config.json that speaks of more layers than the checkpoint has, before it is taken at its word."""
    try:
        check_config(str(folder), read_json(folder / "config.json"), shapes_of(state))
    except ModelError as error:
        raise ThoughtError(str(error)) from error


def _inferred(folder: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[Any, str]:
    """The config of a published model, known from its shapes; they do not tell numbers of heads, so no others are."""
    from transformers import GPT2Config, LlamaConfig

    layers = 1 + max((int(m[1]) for k in shapes if (m := re.search(r"\.(?:h|layers)\.(\d+)\.", k))), default=-1)
    known = (shapes.get("transformer.wte.weight"), layers)
    if known in {((50260, 64 * heads), n) for heads, n in ((12, 12), (16, 24), (20, 36), (25, 48))}:
        width = known[0][1]  # type: ignore[index]
        sizes = {"n_embd": width, "n_layer": layers, "n_head": width // 64, "vocab_size": 50260}
        said = f"inferred from the shapes: GPT-2 of {layers} layers, {width} / 64 = {width // 64} heads"
        config = GPT2Config(**sizes)
        config.name_or_path = "openai-community/gpt2"
        return config, said
    told = (
        shapes.get("model.embed_tokens.weight"),
        layers,
        shapes.get("model.layers.0.mlp.up_proj.weight"),
        shapes.get("model.layers.0.self_attn.k_proj.weight"),
    )
    if told == ((128259, 2048), 16, (8192, 2048), (512, 2048)):
        rope = {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        config = LlamaConfig(
            vocab_size=128259,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=64,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            rope_parameters=rope,
            tie_word_embeddings=True,
            bos_token_id=128000,
            eos_token_id=[128001, 128008, 128009],
        )
        config.name_or_path = "meta-llama/Llama-3.2-1B-Instruct"
        return config, "inferred from the shapes: Llama-3.2-1B, 32 heads on 8 KV heads, scaled rotary positions"
    raise ThoughtError(
        f"{folder} has no config.json that names a model type, and its shapes are not those of a published CODI model "
        "(GPT-2, Llama-3.2-1B); give base= the folder, hub id or config of the model it was trained from"
    )


def _auto(kind: Any, where: str, **given: Any) -> Any:
    """AutoConfig or AutoTokenizer, without code of the checkpoint's own."""
    try:
        with quietly():
            return kind.from_pretrained(where, trust_remote_code=False, **given)
    except Exception as error:
        raise ThoughtError(why_not(where, None, error)) from error


def tokenizer_of(folder: Path, base: Any, config: Any, said: str) -> tuple[Any, str]:
    """The folder's tokenizer, else that of the base, and where it is from.  Raises ThoughtError where there is none."""
    from transformers import AutoTokenizer

    if any((folder / name).is_file() for name in _WORDS):
        where, origin = str(folder), "the checkpoint's"
    elif isinstance(base, str | Path):
        where, origin = str(Path(base).expanduser()) if Path(base).expanduser().is_dir() else str(base), f"{base}'s"
    elif said.startswith("inferred"):
        where, origin = config.name_or_path, f"{config.name_or_path}'s"
    else:
        where = origin = ""
    missing = (
        f"{folder} has no tokenizer; put its files there, or give base= a folder or hub id that has one, or tokenizer="
    )
    if not where:
        raise ThoughtError(missing)
    try:
        found = _auto(AutoTokenizer, where, config=copy.deepcopy(config))
    except ThoughtError as error:
        raise ThoughtError(f"{error}; a tokenizer may also be given as tokenizer=") from error
    if len(found) <= len(found.all_special_ids):
        raise ThoughtError(missing)
    return found, origin


def check_tokenizer(tokenizer: Any, pad: int, where: str) -> None:
    """Its tokens are rows of the embedding below pad; a padding token of its own may be pad (the published set-up)."""
    ids = {i for t, i in tokenizer.get_vocab().items() if i > pad or (i == pad and t != tokenizer.pad_token)}
    if ids:
        raise ThoughtError(
            f"the tokenizer does not fit {where}: it has tokens up to {max(ids)}, but words end at {pad - 1} there "
            f"(pad, bot and eot are {pad}, {pad + 1}, {pad + 2}); give base= the model that it was trained from"
        )
