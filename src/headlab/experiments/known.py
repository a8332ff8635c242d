"""Claims by name: those that ship with headlab, found and adjusted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from headlab.claims import Claim, ClaimError
from headlab.reading import expected_one_of, problems
from headlab.trials import registry
from headlab.trials.document import Document


@cache
def builtin_claims() -> dict[str, Claim]:
    """The claims that ship with headlab, by id."""
    folder = resources.files("headlab.experiments") / "claims"
    found = [
        Claim.from_text(f.read_text("utf-8"), ".yaml", f.name) for f in folder.iterdir() if f.name.endswith(".yaml")
    ]
    return {c.id: c for c in sorted(found, key=lambda c: c.id)}


def find_claim(claim: Claim | Document | Mapping[str, Any] | str | Path) -> Claim | Document:
    """A claim as given, a built-in one by name, or one read from a file or from YAML of several lines: a document where it declares
    ``worlds``."""
    if isinstance(claim, Claim | Document):
        return claim
    if isinstance(claim, Mapping):
        return registry.from_data(claim, "claim", {})
    if isinstance(claim, str) and "\n" in claim:
        return registry.from_text(claim)
    known = builtin_claims()
    if str(claim) in known:
        return known[str(claim)]
    if Path(claim).suffix in {".yaml", ".yml", ".toml"}:
        return registry.from_file(claim)
    if str(claim) in (library := registry.library()):
        return library[str(claim)]
    raise ClaimError(f"no claim {str(claim)!r}; {expected_one_of(claim, [*known, *library])}, or a .yaml or .toml file")


def adjusted(claim: Claim, **changes: Any) -> Claim:
    """The claim with some fields changed, checked again (it is another claim then, with another hash)."""
    given = {k: v for k, v in changes.items() if v is not None}
    if not given:
        return claim
    from pydantic import ValidationError

    try:
        return Claim.model_validate({**claim.model_dump(), **given})
    except ValidationError as error:
        raise ClaimError(problems(error, {}, Claim)) from error
