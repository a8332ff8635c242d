"""What a record says of the model, the software and how it was loaded."""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headlab import organisms
from headlab.engine.model import Lab
from headlab.engine.scale import ADDRESS
from headlab.prompts import PromptSet
from headlab.store import Record
from headlab.tasks.word_problems import ProblemSet
from headlab.trials import amending


def model_facts(lab: Lab) -> dict[str, Any]:
    g = lab.grid
    return {
        "name": lab.name,
        "revision": lab.revision,
        "commit": getattr(lab.model.config, "_commit_hash", None),
        "family": lab.info["family"],
        "architecture": lab.info["architecture"],
        "adapter": lab.info.get("adapter"),
        "fingerprint": lab.fingerprint,
        "dtype": str(lab.dtype).removeprefix("torch."),
        "device": str(lab.device),
        "grid": {"n_layers": g.n_layers, "n_heads": g.n_heads, "n_kv_heads": g.n_kv_heads, "head_dim": lab.head_dim},
        "selfcheck": lab.info.get("selfcheck", {}),
        **({"truth": organisms.card(lab.name).truth} if lab.name in organisms.names("decimals") else {}),
    }


def plain_loading(loading: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in loading.items() if isinstance(v, str)}


def content_of(own: Any) -> Any:
    """Prompts or problems that were given, as inputs of a run: what they say, whatever their file is called."""
    if isinstance(own, Mapping):
        return {name: content_of(one) for name, one in own.items()}
    if isinstance(own, str | Path):  # what is no file is told by the trial
        return hashlib.sha256(Path(own).read_bytes()).hexdigest() if Path(own).is_file() else str(own)
    if isinstance(own, tuple):
        return [content_of(one) for one in own]
    return own if own is None else (own if isinstance(own, ProblemSet) else PromptSet.of(own)).content_hash()


def versions(*code: str) -> dict[str, str]:
    """What may move a number: Python, libraries, headlab's own code (``code``: these folders and files alone, if any)."""
    from importlib.metadata import version

    names = [
        "headlab",
        "torch",
        "transformers",
        "tokenizers",
        "peft",
        "numpy",
        "scipy",
        "scikit-learn",
        "statsmodels",
        "pandas",
    ]

    def of(name: str) -> str:
        try:
            return version(name)
        except Exception:
            return "not installed"

    found = {"python": sys.version.split()[0], "platform": platform.machine(), **{n: of(n) for n in names}}
    return {**found, "source": source_hash(*code)}


@cache
def source_hash(*code: str) -> str:
    """The first letters of the SHA-256 of headlab's own code, but for what only prints: a version's number says too
    little while it is being worked on.  ``code``: of these folders and files alone."""
    whole, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for file in sorted(whole.rglob("*.py")):
        name = file.relative_to(whole)
        if any(map(name.is_relative_to, code)) if code else name.parts[0] not in {"cli", "report"}:
            digest.update(f"{name.as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def decided(record: Record) -> str:
    """How a record's ranks were decided: by a fixed number of sets where it is from before a claim could say it."""
    return str(record.settings.get("decide", "fixed"))


BY_RECORD = {"command": "headlab repeat {id}", "python": "headlab.repeat(headlab.Store().record('{id}'))"}
"""What repeats a trial of pairs that no file holds, or of a claim that none does; the store puts the run's id there."""


def again(
    named: str,
    model: str | None,
    told: Mapping[str, Any],
    own: tuple[str, Any] = ("", None),
    amend: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, str]:
    """The command and the line of Python that try this very claim on this model.  ``told``: whatever was given beside
    them (what is no word and no number, and the engine that is the default, is left out); ``own``: the option that names
    the file of own prompts, and that file; ``amend``: what was changed inside a document."""
    flags = {k: v for k, v in told.items() if isinstance(v, str | int) and (k, v) != ("engine", "here")}
    option, file = own
    words = ["headlab", "trial", named, *(() if model is None else ("--model", model))]
    for key, value in {**flags, **({option: file} if file is not None else {})}.items():
        words += [ADDRESS if key == "address" else f"--{key.replace('_', '-')}", str(value)]
    for change in amending.written(amend):
        words += ["--amend", change]
    given = {
        **flags,
        **({"prompts": str(file)} if file is not None else {}),
        **({"amend": dict(amend)} if amend else {}),
    }
    python = "".join(f", {k}={v!r}" for k, v in given.items())
    return {
        "command": shlex.join(words),
        "python": f"headlab.trial({named!r}{'' if model is None else f', {model!r}'}{python})",
    }
