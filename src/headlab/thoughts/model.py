"""A CODI model: a causal language model that thinks in vectors before it answers.

The question and a ``bot`` token are read; the last hidden state goes through a small projector and is fed back as the
next input, six times; then an ``eot`` token, and the answer in words (Shen et al. 2025, arXiv 2502.21074).  The three
tokens ``pad``, ``bot``, ``eot`` are the last rows V, V+1, V+2 of the embedding; the tokenizer does not know them.

Names of weights are those of the published checkpoints: ``codi.<Hugging Face name>``, ``prj.1``, ``prj.3``, ``prj.ln``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headlab.reading import OneLine, brief, read_document

Mode = Literal["codi", "none", "filler"]
SPEC = "codi.json"
"""The file of a model folder that says that, and how, its model thinks."""


class ThoughtError(OneLine, ValueError):
    """A thought model or a request to it that cannot be served; the message says why and what to do."""


_BOUNDS = {"pad": (0, 2**31), "bot": (0, 2**31), "eot": (0, 2**31), "prj_dim": (1, 2**17), "n_thoughts": (0, 10_000)}


@dataclass(frozen=True)
class Spec:
    """How a model thinks.

    ``n_thoughts`` latents are fed (6 in the published models).  ``mode``: ``codi``; ``filler``, the twin that is fed
    learned constant vectors instead (extra positions without content); ``none``, the twin that goes from ``bot``
    straight to ``eot``.  ``prj_dim``: width of the projector.
    """

    pad: int
    bot: int
    eot: int
    prj_dim: int
    n_thoughts: int = 6
    mode: Mode = "codi"

    def __post_init__(self) -> None:
        if self.mode not in ("codi", "none", "filler"):
            raise ThoughtError(f"unknown mode {brief(self.mode)}; expected codi, none or filler")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ThoughtError(f"{name} is {brief(value)}; expected a whole number from {least} to {most:,}")
        if (self.mode == "none") != (self.n_thoughts == 0):
            raise ThoughtError(f"mode {self.mode!r} does not go with {self.n_thoughts} thoughts")

    @classmethod
    def after(cls, vocabulary: int, prj_dim: int, **fields: Any) -> Spec:
        """The published layout: pad, bot, eot stand behind a vocabulary of that size."""
        return cls(vocabulary, vocabulary + 1, vocabulary + 2, prj_dim, **fields)


def projector(d_model: int, prj_dim: int, dropout: float = 0.0) -> nn.Sequential:
    """Hidden state → next input: dropout, linear, GELU (exact), linear, layer norm, under the published names."""
    parts: dict[str, nn.Module] = {
        "0": nn.Dropout(dropout),
        "1": nn.Linear(d_model, prj_dim),
        "2": nn.GELU(),
        "3": nn.Linear(prj_dim, d_model),
        "ln": nn.LayerNorm(d_model),
    }
    return nn.Sequential(OrderedDict(parts))


class Codi(nn.Module):
    """The language model (``codi``), its projector (``prj``) and, for a filler twin, its constants (``filler``).

    ``codi`` is an ordinary Hugging Face causal LM whose embedding has the three extra rows.
    """

    def __init__(self, language_model: Any, spec: Spec, dropout: float = 0.0) -> None:
        super().__init__()
        embedding = language_model.get_input_embeddings()
        if spec.eot >= embedding.num_embeddings:
            raise ThoughtError(
                f"the embedding has {embedding.num_embeddings} rows, but eot is token {spec.eot}; "
                "resize it to the vocabulary and three more (pad, bot, eot)"
            )
        self.codi = language_model
        self.spec = spec
        self.prj = projector(embedding.embedding_dim, spec.prj_dim, dropout)
        if spec.mode == "filler":
            self.filler = nn.Parameter(0.02 * torch.randn(spec.n_thoughts, embedding.embedding_dim))

    def embed(self, ids: Any) -> Tensor:
        """Rows of the input embedding, [..., d_model]."""
        return self.codi.get_input_embeddings()(ids)

    def thought(self, hidden: Float[Tensor, "row d_model"], j: int) -> Float[Tensor, "row d_model"]:
        """What is fed as thought ``j``, from the last hidden state (after the final norm) of the position before it."""
        if self.spec.mode == "filler":
            return self.filler[j].expand_as(hidden)
        return self.prj(hidden)

    def save(self, folder: str | Path, tokenizer: Any) -> Path:
        """A folder that :func:`headlab.thoughts.load` opens: config, tokenizer, ``model.safetensors`` with the published
        names (a tied output embedding is written once), and ``codi.json``.  Raises ThoughtError while LoRA is kept apart."""
        from safetensors.torch import save_file

        if any("lora_" in k for k in self.state_dict()):
            raise ThoughtError(
                "this model keeps its LoRA apart, whose alpha no file holds; merge it first (lora='merge')"
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.codi.config.save_pretrained(folder)
        self.codi.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        tied = {f"codi.{k}" for k in tied_keys(self.codi)}
        state = {k: v.detach().contiguous() for k, v in self.state_dict().items() if k not in tied}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
        (folder / SPEC).write_text(json.dumps(asdict(self.spec), indent=1) + "\n", encoding="utf-8")
        return folder


def tied_keys(language_model: Any) -> set[str]:
    """Names of parameters that are another parameter of the model (an output embedding tied to the input's)."""
    first: dict[int, str] = {}
    tied = set()
    for name, value in language_model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(value), name) != name:
            tied.add(name)
    return tied


def spec_of(folder: str | Path) -> Spec | None:
    """How the model of a folder thinks; None when it has no ``codi.json``.  Raises ThoughtError for a broken one."""
    path = Path(folder) / SPEC
    if not path.is_file():
        return None
    data, _ = read_document(path, "json", most=2**16, error=ThoughtError)
    try:
        return Spec(**data)
    except (TypeError, ThoughtError) as error:
        said = " ".join(str(error).replace("Spec.__init__()", "it").split())[:200]
        raise ThoughtError(f"{path} does not say how the model thinks: {said}") from error
