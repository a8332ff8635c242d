"""Reading a model from a hub id or a folder, safely, and saying in one sentence why it cannot be read.

No remote code, no pickle beyond ``weights_only=True``, float32 on a CPU unless told otherwise.  Config and headers of the
weight files are compared before anything is built, and every stored weight lands in the model or the load is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headlab.engine.checkpoint import (
    KINDS,
    ModelError,
    Stored,
    bounded,
    check_config,
    check_landed,
    check_size,
    headers,
    quietly,
    read_json,
    weight_files,
    why_not,
)
from headlab.engine.hub import is_local
from headlab.reading import expected_one_of

ADAPTER = "adapter_config.json"
_SMALL = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")


def pick_device(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        n = torch.cuda.device_count()
        raise ModelError(
            f"no such device: {device!r}; this machine has cpu" + (f" and cuda:0 to cuda:{n - 1}" if n else " only")
        ) from error
    return place


def pick_dtype(dtype: str | None, device: torch.device) -> Any:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise ModelError(f"unknown dtype {dtype!r}; {expected_one_of(dtype, known)}")
    return known[dtype]


def read_model(
    name: str, tokenizer: Any, revision: str | None, dtype: Any, device: torch.device, device_map: Any
) -> tuple[Any, Any, str]:
    """Model, tokenizer and name.  Raises ModelError in one sentence."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        folder = fetch(name, revision)
        stored = _checked(name, folder)
        with quietly():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _refuse_larger(name, config, stored)
        with quietly():
            tok = tokenizer or AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                weights_only=True,
                device_map=device_map,
                attn_implementation="eager",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # not ignored: refused below, by name
                trust_remote_code=False,
            )
        hf, found = loaded
        if any(k.startswith("codi.") for k in found["unexpected_keys"]):
            raise ModelError(_THINKS.format(name=name))
        check_landed(name, found)
        if len(tok) <= len(tok.all_special_ids):  # transformers makes one without words
            raise ModelError(
                f"{name} has no tokenizer; put its tokenizer.json and tokenizer_config.json beside the weights"
            )
    except ModelError:
        raise
    except Exception as error:
        hint = "; a CODI checkpoint is opened by headlab.thoughts.load" if "codi" in name.lower() else ""
        raise ModelError(why_not(name, revision, error) + hint) from error
    return (hf if device_map is not None else hf.to(device)), tok, name


def fetch(name: str, revision: str | None) -> Path:
    """The folder of a model: as given, or that of a hub id, downloaded where it is not in the cache: small
    files, then weights, safetensors before a pickle."""
    if is_local(name):
        if revision:
            raise ModelError(f"{name} is a local folder, which has no revision {revision!r}; drop --revision")
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    with quietly():
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_SMALL)))
        for kind in () if (folder / ADAPTER).is_file() else KINDS:
            patterns = [".".join(kind), "-*-of-*.".join(kind)]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
            if weight_files(folder, [kind]):
                break
    return folder


def _checked(name: str, folder: Path) -> dict[str, Stored]:
    """The headers of a folder's weights, after its config was compared with them.  Raises ModelError."""
    if thinks(folder):
        raise ModelError(_THINKS.format(name=name))
    if (folder / ADAPTER).is_file():
        raise ModelError(_is_adapter(name, folder))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"no model at {name}: expected a folder with config.json, safetensors and a tokenizer"
            + ("" if folder.exists() else " (the folder does not exist)")
        )
    raw, stored = read_json(folder / "config.json"), headers(weight_files(folder))
    if stored:  # without weights transformers says what it looked for
        check_config(name, raw, stored)
    return stored


def _is_adapter(name: str, folder: Path) -> str:
    said = read_json(folder / ADAPTER)
    base, kind = (said.get(k) for k in ("base_model_name_or_path", "peft_type")) if isinstance(said, dict) else ("", "")
    if (folder / "config.json").is_file():
        return (
            f"{name} holds a model and an adapter ({ADAPTER}) in one folder; move the adapter's two files into a folder of "
            f"their own, then give --model {name} --adapter THAT-FOLDER"
        )
    return (
        f"{name} is a {kind or 'peft'} adapter of {base or 'a model that it does not name'} and no model; "
        f"give --model {base or 'BASE'} --adapter {name}"
    )


def _refuse_larger(name: str, config: Any, stored: dict[str, Stored]) -> None:
    """Build the model without memory and compare it with its files.  Raises ModelError."""
    from transformers import AutoModelForCausalLM

    if not stored:
        return
    try:
        with quietly(), torch.device("meta"), bounded(name, stored):
            skeleton: Any = AutoModelForCausalLM.from_config(config)
    except NotImplementedError:  # cannot be built without memory; the load itself says what is wrong
        return
    check_size(name, skeleton, stored)


_THINKS = (
    "{name} is a model with continuous thoughts (CODI), of which an ordinary loader takes no weight; open it with "
    "headlab.thoughts.load({name!r}), or try it with headlab trial hubs --model {name}"
)


def thinks(folder: Path) -> bool:
    """Whether a folder holds a CODI model: a ``codi.json``, or weights called ``codi.…`` (only names are read)."""
    if (folder / "codi.json").is_file():
        return True
    try:
        return any(k.startswith("codi.") for k in headers(weight_files(folder)))
    except ModelError:  # damaged, or no weights at all: whoever opens it says so
        return False
