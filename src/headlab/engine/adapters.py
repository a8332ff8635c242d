"""An adapter merged into a model, exactly, or refused: every stored tensor lands, and merging changes no logit.

1. Its config says what kind it is; kinds that add no weights (prompts, prefixes) are refused by name.
2. peft wraps the model; the names and shapes in the adapter's file must be those that the wrapped model has.
3. Where an adapted output matrix is tied to the embedding, the two become two first: merging would change both.
4. The logits of the wrapped model, before merging, are those of the merged one, and not those of the model alone.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headlab.engine.checkpoint import ModelError, headers, quietly, why_not

_TENSORS = ("adapter_model.safetensors", "adapter_model.bin")


def with_adapter(hf: Any, adapter: str) -> Any:
    """The model with the adapter's weights merged in.  Raises ModelError in one sentence."""
    from peft import PeftModel

    try:
        folder, kind = _described(adapter)
        hf.eval()
        ids = _probe(hf)
        before = _logits(hf, ids)
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what does not fit is listed below, in one error
            wrapped = PeftModel.from_pretrained(hf, str(folder)).eval()
        _refuse_unfit(adapter, folder, wrapped)
        if not hasattr(wrapped.base_model, "merge_and_unload"):
            raise ModelError(
                f"adapter {adapter!r} ({kind}) cannot be merged into weights; headlab tries those that can"
            )
        merged = merge(wrapped, f"adapter {adapter!r}")
        if torch.equal(_logits(merged, ids), before):
            raise ModelError(f"adapter {adapter!r} changes nothing: its weights are those of an untrained adapter")
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"adapter {adapter!r} could not be applied: {_first(error)}") from error
    return merged


def merge(wrapped: Any, what: str) -> Any:
    """The language model of a peft model in evaluation mode, with its adapter merged in.

    Raises ModelError when its logits are then not those of before, to the rounding of its dtype.
    """
    _untie(wrapped)
    ids = _probe(wrapped.get_base_model())
    wanted = _logits(wrapped, ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = wrapped.merge_and_unload()
    got = _logits(merged, ids)
    times = 250 if got.dtype in {torch.float32, torch.float64} else 50
    bound = times * torch.finfo(got.dtype).eps * wanted.abs().max().clamp(min=1)
    if not bool((gap := (wanted - got).abs().max()) <= bound):  # not a number, too
        raise ModelError(
            f"{what} cannot be merged exactly: logits differ by {gap:.3g} from those of the model with the adapter "
            f"beside its weights (bound {bound:.3g}); merge it where it was trained and give the merged model"
        )
    return merged


def _described(adapter: str) -> tuple[Path, str]:
    """The folder of an adapter and its kind.  Raises ModelError for a kind without weights to merge."""
    from huggingface_hub import snapshot_download
    from peft import PeftConfig

    folder = Path(adapter).expanduser()
    if not (folder.exists() or adapter.startswith((".", "/", "~"))):
        try:
            with quietly():
                folder = Path(snapshot_download(adapter, allow_patterns=["adapter_config.json", *_TENSORS]))
        except Exception as error:
            raise ModelError(f"adapter {adapter!r} could not be applied: {why_not(adapter, None, error)}") from error
    if not (folder / "adapter_config.json").is_file():
        there = "the folder has none" if folder.is_dir() else "there is no such folder"
        raise ModelError(
            f"adapter {adapter!r} could not be applied: expected a folder with adapter_config.json; {there}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = PeftConfig.from_pretrained(str(folder))
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ModelError(
            f"adapter {adapter!r} is of the kind {kind}: it adds vectors to the prompt or to keys and values, and has no "
            "weights that could be merged into heads; headlab tries adapters of weights, such as LoRA"
        )
    return folder, kind


def _refuse_unfit(adapter: str, folder: Path, wrapped: Any) -> None:
    """Every tensor of the adapter's file has its place in the wrapped model, and every place its tensor."""
    from peft import get_peft_model_state_dict

    file = next((folder / n for n in _TENSORS if (folder / n).is_file()), None)
    if file is None:
        raise ModelError(f"adapter {adapter!r} has no weights; expected {' or '.join(_TENSORS)} beside its config")
    stored = set(headers([file]))
    has = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    whole = {k for k in stored - has if k.removeprefix("base_model.model.") in _names(wrapped)}
    missing, surplus = sorted(has - stored), sorted(stored - has - whole)
    said = [
        f"{len(names)} of its weights {what}, first {names[0]}"
        for what, names in (("have no place in this model", surplus), ("are missing from its file", missing))
        if names
    ]
    if not stored:
        said = ["its file holds no weights"]
    if said:
        raise ModelError(
            f"adapter {adapter!r} does not fit this model: {'; '.join(said)}; give the model it was made for"
        )


def _names(wrapped: Any) -> set[str]:
    """Names of the model's own embeddings, which an adapter's file may hold whole."""
    model = wrapped.get_base_model()
    ends = [m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None]
    found = [n for n, m in model.named_modules() if any(m is e for e in ends)]
    return {f"{n}.{part}weight" for n in found for part in ("", "base_layer.")}


def _untie(wrapped: Any) -> None:
    """Give the output matrix weights of its own where an adapter changes it or the embedding it is tied to."""
    model = wrapped.get_base_model()
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if last is None or (_base(last) is last and _base(first) is first):
        return
    inner = _base(last)
    if inner.weight is not _base(first).weight:
        return
    inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _base(module: Any) -> Any:
    return module.get_base_layer() if hasattr(module, "get_base_layer") else getattr(module, "original_module", module)


def _probe(hf: Any) -> Tensor:
    """Some token ids of the model, [row, position]."""
    weight = _base(hf.get_input_embeddings()).weight
    return torch.randint(0, max(2, len(weight) // 2), (2, 7), generator=torch.Generator().manual_seed(0)).to(
        weight.device
    )


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


def _first(error: BaseException) -> str:
    """The lines of a message that say something, as one of at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = (
        lines[1]
        if len(lines) > 1 and lines[0].startswith("Error(s) in loading")
        else (lines or [type(error).__name__])[0]
    )
    return said[:200]
