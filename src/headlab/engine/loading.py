"""Reading a model from a hub id or a folder, safely, and saying in one sentence why it cannot be read.

No remote code, no pickle beyond ``weights_only=True``, float32 on a CPU unless told otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class ModelError(RuntimeError):
    """A model that cannot be loaded or tried: what was given, what was expected, what to do."""


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
        raise ModelError(f"unknown dtype {dtype!r}; expected one of {', '.join(known)}")
    return known[dtype]


def read_model(
    name: str, tokenizer: Any, revision: str | None, dtype: Any, device: torch.device, device_map: Any
) -> tuple[Any, Any, str]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = Path(name).expanduser()
    local = folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1
    if local and thinks(folder):
        raise ModelError(_THINKS.format(name=name))
    if local and not (folder / "config.json").is_file():
        raise ModelError(
            f"no model at {name}: expected a folder with config.json, safetensors and a tokenizer"
            + ("" if folder.exists() else " (the folder does not exist)")
        )
    where = str(folder) if local else name
    common: dict[str, Any] = {"trust_remote_code": False, **({"revision": revision} if revision and not local else {})}
    if revision and local:
        raise ModelError(f"{name} is a local folder, which has no revision {revision!r}; drop --revision")
    try:
        with quietly():
            config = AutoConfig.from_pretrained(where, **common)
        if getattr(config, "quantization_config", None):
            raise ModelError(f"{name} has quantised weights, which cannot be read per head; use the 16-bit checkpoint")
        with quietly():
            tok = tokenizer or AutoTokenizer.from_pretrained(where, **common)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where, config=config, dtype=dtype, weights_only=True, device_map=device_map,
                attn_implementation="eager", output_loading_info=True, **common,
            )  # fmt: skip
        hf, found = loaded
        if any(k.startswith("codi.") for k in found["unexpected_keys"]):
            raise ModelError(_THINKS.format(name=name))
        _refuse_incomplete(name, tok, sorted(found["missing_keys"]))
    except ModelError:
        raise
    except Exception as error:
        hint = "; a CODI checkpoint is opened by headlab.thoughts.load" if "codi" in name.lower() else ""
        raise ModelError(why_not(name, revision, error) + hint) from error
    return (hf if device_map is not None else hf.to(device)), tok, name


_THINKS = (
    "{name} is a model with continuous thoughts (CODI), of which an ordinary loader takes no weight; open it with "
    "headlab.thoughts.load({name!r}), or try it with headlab run hubs --model {name}"
)


def thinks(folder: Path) -> bool:
    """Whether a folder holds a CODI model: a ``codi.json``, or weights called ``codi.…`` (only names are read)."""
    from safetensors import safe_open

    if (folder / "codi.json").is_file():
        return True
    for file in sorted([*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        try:
            if file.suffix == ".bin":
                names = list(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
            else:
                with safe_open(file, "pt") as opened:
                    names = list(opened.keys())
        except Exception:  # damaged, or no weights at all: whoever opens it says so
            continue
        return any(str(k).startswith("codi.") for k in names)
    return False


def _refuse_incomplete(name: str, tokenizer: Any, missing: list[str]) -> None:
    """What transformers would fill in by itself: random weights, and a tokenizer without words."""
    if missing:
        raise ModelError(
            f"{name} is incomplete: {len(missing)} weight(s) are missing, first {missing[0]}; fetch it again"
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"{name} has no tokenizer; put its tokenizer.json and tokenizer_config.json beside the weights"
        )


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
    offline = ("LocalEntryNotFound", "OfflineMode", "ConnectionError", "ConnectError", "Max retries", "ConnectTimeout",
               "couldn't connect", "ReadTimeout", "ProxyError", "offline mode")  # fmt: skip
    if any(word in text for word in offline):
        return (
            f"cannot reach the hub for {name!r} and it is not in the local cache; check the network, or give a "
            "local folder or a shipped organism (headlab models)"
        )
    if "Weights only load failed" in text:
        return (
            f"{name} is a pickle that holds more than tensors, which could run code of its own, so headlab does not open "
            "it; convert the checkpoint to safetensors"
        )
    if "backend tokenizer" in text or "Can't load tokenizer" in text:
        return f"{name} has no tokenizer; put its tokenizer.json and tokenizer_config.json beside the weights"
    if "Unrecognized configuration class" in text:
        return f"{name} is not a causal language model that transformers can load"
    first = str(error).strip().splitlines()
    return f"{name} could not be loaded: {type(error).__name__}: {first[0] if first else ''}"


def with_adapter(hf: Any, adapter: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(hf, adapter).merge_and_unload()
    except Exception as error:
        raise ModelError(f"adapter {adapter!r} could not be applied: {str(error).splitlines()[0]}") from error
