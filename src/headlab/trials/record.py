"""What a record says of the model, the software and how it was loaded."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from typing import Any

from headlab import organisms
from headlab.engine.model import Lab


def model_facts(lab: Lab) -> dict[str, Any]:
    g = lab.grid
    return {
        "name": lab.name,
        "revision": lab.revision,
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


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("headlab", "torch", "transformers", "tokenizers", "numpy", "scipy", "pandas")

    def of(name: str) -> str:
        try:
            return version(name)
        except Exception:
            return "not installed"

    return {"python": sys.version.split()[0], "platform": platform.machine(), **{n: of(n) for n in names}}
