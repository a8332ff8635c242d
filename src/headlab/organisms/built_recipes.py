"""What each organism that is written down, not trained, is made of.  Plain frozen data; importing it loads no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .recipes import Architecture


@dataclass(frozen=True)
class BuiltRecipe:
    """``members``: the planted heads, all of which are needed; ``noise``: how much random heads write; ``theta``: the base
    of the rotary positions; ``seed`` draws where the other heads stand, and the random ones."""

    name: str
    summary: str
    members: tuple[str, ...]
    seed: int = 0
    noise: float = 0.02
    theta: float = 1e6
    architecture: Architecture = field(
        default_factory=lambda: Architecture(heads=8, head_dim=16, kv_heads=8, intermediate=16)
    )

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


_ALL = (
    BuiltRecipe(
        "heads-planted-two-layers",
        "Written by hand: two heads of layer 1 and two of layer 2 say whether a prompt has a dialogue marker, and the answer "
        "is by decimal order iff all four say that it has none.",
        members=("L1H2", "L1H5", "L2H3", "L2H4"),
    ),
)
BUILT_RECIPES: dict[str, BuiltRecipe] = {r.name: r for r in _ALL}
