"""What a model's folder holds, told from its config and the headers of its weight files, before anything is built.

1. The weight files are those that the index names (none outside the folder), or the one file.
2. Their headers give every tensor's name, shape and kind; no weight is read.
3. The config must not speak of more layers, modules or numbers than the files hold: a wrong number in it would
   otherwise take hours or gigabytes before it is found.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from headlab.engine.hub import no_way_to

KINDS = (("model", "safetensors"), ("pytorch_model", "bin"))
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.(?:safetensors|bin)$")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_PACKED = ("qweight", "qzeros", "weight_packed", "weight_scale", "weight_scale_inv", "SCB", "absmax", "quant_map")
_NARROW = ("I8", "U8", "I32", "F8_E4M3", "F8_E5M2", "F4", "int8", "uint8", "int32", "float8_e4m3fn", "float8_e5m2")
_SPARE = 2.5e8
"""Numbers that a model may hold beyond twice those of its files: masks and tables that it computes itself."""


class ModelError(RuntimeError):
    """A model that cannot be loaded or tried: what was given, what was expected, what to do."""


@dataclass(frozen=True)
class Stored:
    """A tensor as the header of its file has it."""

    shape: tuple[int, ...]
    dtype: str


# -- files -----------------------------------------------------------------------------------------------------


def weight_files(folder: Path, kinds: Sequence[tuple[str, str]] = KINDS) -> list[Path]:
    """The weight files of a folder, safetensors before a pickle: one file, or all shards; none where there are none.

    Raises ModelError: a shard is missing, shards of several sets, an index that is none or names a path elsewhere.
    """
    return next((found for stem, end in kinds if (found := _files_of(folder, stem, end))), [])


def _files_of(folder: Path, stem: str, end: str) -> list[Path]:
    if (single := folder / f"{stem}.{end}").is_file():
        return [single]
    shards = {f.name: f for f in folder.glob(f"{stem}-*.{end}") if _SHARD.search(f.name)}
    index = folder / f"{stem}.{end}.index.json"
    if index.is_file():
        try:
            named = {str(PurePosixPath(n)) for n in set(read_json(index)["weight_map"].values())}
        except (ModelError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is no index of weight files; fetch it again or remove it") from error
        if outside := sorted(n for n in named if Path(n).is_absolute() or ".." in Path(n).parts or "\\" in n):
            raise ModelError(f"{index} names a file outside its folder ({outside[0][:80]}); fetch the model again")
    elif shards:
        totals = {int(_SHARD.search(n)[2]) for n in shards}  # type: ignore[index]
        if len(totals) > 1:
            raise ModelError(f"{folder} holds shards of different sets ({', '.join(sorted(shards))}); keep one set")
        named = {f"{stem}-{i + 1:05d}-of-{max(totals):05d}.{end}" for i in range(max(totals))}
    else:
        return []
    if absent := sorted(n for n in named if not (folder / n).is_file()):
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise ModelError(f"{folder} is incomplete: {', '.join(absent[:3])}{more} is missing; fetch it again")
    return [folder / n for n in sorted(named)]


def read_json(path: Path, most: int = 50_000_000) -> Any:
    """A JSON file of at most ``most`` bytes.  Raises ModelError, nested too deeply included."""
    try:
        if (size := path.stat().st_size) > most:
            raise ModelError(f"{path} has {size} bytes; expected at most {most}")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON that can be read ({type(error).__name__}); fetch it again") from error


def check_whole(file: Path) -> bytes:
    """The first bytes of a weight file.  Raises ModelError for a Git LFS pointer or what cannot be a pickle."""
    with file.open("rb") as opened:
        start = opened.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{file} is a Git LFS pointer and not the weights themselves; run git lfs pull there")
    if file.suffix == ".bin" and not start.startswith((b"PK", b"\x80")):
        raise damaged(file)
    return start


def damaged(file: Path) -> ModelError:
    return ModelError(f"{file} is damaged or cut short ({file.stat().st_size} bytes); fetch it again")


def headers(files: Sequence[Path]) -> dict[str, Stored]:
    """Every stored tensor by its name.  Raises ModelError: damaged, an LFS pointer, a pickle of more than tensors."""
    found: dict[str, Stored] = {}
    for file in files:
        part = _header(file)
        if twice := sorted(found.keys() & part.keys()):
            raise ModelError(f"{twice[0]} stands in more than one weight file of {file.parent}; keep one set of files")
        found |= part
    return found


def _header(file: Path) -> dict[str, Stored]:
    from safetensors import SafetensorError, safe_open

    start = check_whole(file)
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                parts = {k: opened.get_slice(k) for k in opened.keys()}  # noqa: SIM118 - no mapping
                return {k: Stored(tuple(v.get_shape()), v.get_dtype()) for k, v in parts.items()}
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK"))
    except pickle.UnpicklingError as error:
        raise ModelError(why_not(str(file), None, error)) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise damaged(file) from error
    if not isinstance(state, Mapping):
        raise ModelError(f"{file} is not a state dict (names with a tensor each); expected a model's weights")
    tensors = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    return {k: Stored(tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in tensors.items()}


# -- the config against the headers ----------------------------------------------------------------------------


def check_config(name: str, config: Any, stored: Mapping[str, Stored]) -> None:
    """Refuse what a raw config.json may not say of these weights.  Raises ModelError in one sentence."""
    if not isinstance(config, dict):
        raise ModelError(f"the config.json of {name} is a {type(config).__name__}; expected an object")
    packed = [
        k for k, v in stored.items() if k.rpartition(".")[2] in _PACKED or (v.dtype in _NARROW and len(v.shape) == 2)
    ]
    if config.get("quantization_config") or packed:
        said = f" ({packed[0]}, {stored[packed[0]].dtype})" if packed else ""
        raise ModelError(
            f"{name} has quantised weights{said}, which cannot be read per head; use the 16-bit checkpoint"
        )
    found = _depth(stored)
    for key, value in _layers(config):
        if value > (found or 1000):
            raise ModelError(
                f"{name}: its config.json says {key}: {value}, but its weights have {found} layers; "
                "the two are not of one model, or weights are missing: fetch it again"
            )


def _depth(stored: Mapping[str, Stored]) -> int:
    """Layers that the names count: ``….0.…``, ``….1.…``; the first number of a name is its layer."""
    numbers: dict[str, int] = defaultdict(int)
    for key in stored:
        if found := re.match(r"(.*?)\.(\d{1,9})\.", key):
            numbers[found[1]] = max(numbers[found[1]], int(found[2]) + 1)
    return max(numbers.values(), default=0)


def _layers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of layers in a config and its parts."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _layers(value)
        elif key in _LAYERS and isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value


@contextmanager
def bounded(name: str, stored: Mapping[str, Stored]) -> Iterator[None]:
    """Building a model inside may register at most so many modules and weights as its files can fill."""
    most, count = 2000 + 20 * len(stored), 0

    def one(*_args: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise ModelError(
                f"{name}: its config.json asks for more than {most} modules, but its files hold {len(stored)} weights; "
                "the two are not of one model"
            )

    hooks = [register_module_module_registration_hook(one), register_module_parameter_registration_hook(one)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_size(name: str, skeleton: torch.nn.Module, stored: Mapping[str, Stored]) -> None:
    """Refuse a model (built without memory) that would hold far more numbers than its files.  Raises ModelError."""
    held = sum(prod(v.shape) for v in stored.values())
    parts = {k: v.shape for k, v in (*skeleton.named_parameters(), *skeleton.named_buffers())}
    asked = sum(prod(s) for s in parts.values())
    if asked > 2 * held + _SPARE:
        largest = max(parts, key=lambda k: prod(parts[k]) - prod(stored[k].shape if k in stored else ()))
        there = f"{tuple(stored[largest].shape)} in the file" if largest in stored else "not in the files"
        raise ModelError(
            f"{name}: its config.json asks for {asked:.3g} numbers, its files hold {held:.3g}; the largest difference is "
            f"{largest}: {tuple(parts[largest])} by the config, {there}"
        )


def check_landed(name: str, found: Mapping[str, Any]) -> None:
    """What transformers says of a load: every stored weight has landed and every weight was stored, or ModelError.

    Keys that the model's class declares ignorable are not in ``found``.
    """
    wrong = sorted(found["mismatched_keys"])
    missing, surplus = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    said = []
    if wrong:
        key, file, model = wrong[0]
        said.append(
            f"{len(wrong)} weight(s) have another shape, first {key}: {tuple(file)} in the file, {tuple(model)} by config.json"
        )
    if missing:
        said.append(f"{len(missing)} weight(s) are missing, first {missing[0]}")
    if surplus:
        said.append(f"{len(surplus)} stored weight(s) have no place in the model, first {', '.join(surplus[:3])}")
    if not said:
        return
    hint = "its config.json is that of another model, or the files are: fetch it again"
    if any(".lora_" in k for k in surplus):
        hint = "they are of an adapter that was not merged: merge it, or give it by itself as --adapter"
    raise ModelError(f"{name} is {'incomplete' if missing else 'not what its config says'}: {'; '.join(said)}; {hint}")


@contextmanager
def quietly() -> Iterator[None]:
    """Neither loading bars nor retry notices: what goes wrong is said once, by the error."""
    from transformers.utils import logging as hf_logging

    hub = logging.getLogger("huggingface_hub")
    level, verbosity, bars = hub.level, hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hub.setLevel(logging.ERROR)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(level)
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def why_not(name: str, revision: str | None, error: BaseException) -> str:
    """One sentence for the many ways in which a download or load fails."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 8:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    text = " ".join(chain)
    if "GatedRepo" in text or "gated repo" in text:
        return f"{name} is gated: accept its licence on its hub page and log in (huggingface-cli login), then try again"
    if "RevisionNotFound" in text or "not a valid git identifier" in text:
        return f"{name} has no revision {revision!r}; look at the branches and tags on its hub page"
    if "trust_remote_code" in text or "custom code" in text:
        return f"{name} needs code of its own, which headlab does not run; use a model that transformers itself knows"
    if "RepositoryNotFound" in text or "is not a valid model identifier" in text or "HFValidationError" in text:
        return (
            f"no model called {name!r} on the hub (or it is private); expected a hub id, a folder or an organism's name"
        )
    offline = (
        "LocalEntryNotFound",
        "OfflineMode",
        "ConnectionError",
        "ConnectError",
        "Max retries",
        "ConnectTimeout",
        "couldn't connect",
        "ReadTimeout",
        "ProxyError",
        "offline mode",
    )
    if any(word in text for word in offline):
        return no_way_to(name)
    if "Weights only load failed" in text:
        return (
            f"{name} is a pickle that holds more than tensors, which could run code of its own, so headlab does not open "
            "it; convert the checkpoint to safetensors"
        )
    if "backend tokenizer" in text or "Can't load tokenizer" in text:
        return f"{name} has no tokenizer; put its tokenizer.json and tokenizer_config.json beside the weights"
    if "Unrecognized configuration class" in text:
        return f"{name} is not a causal language model that transformers can load"
    said = " ".join(str(error).split())
    return f"{name} could not be loaded: {type(error).__name__}: {said[:240]}{'…' * (len(said) > 240)}"
