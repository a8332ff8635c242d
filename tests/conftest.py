"""The conditions under which every test runs: no network, one thread, signatures checked.

Set before anything imports torch, tokenizers or headlab.  The environment may override each of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Explicit, so that timings and the order of floating-point sums do not depend on the machine's core count.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

# The shapes and types in headlab's signatures are checked under pytest only (HEADLAB_TYPECHECK=0: not here
# either).  Names imported under TYPE_CHECKING pass as Any: import at run time what shall be checked.
if os.environ.get("HEADLAB_TYPECHECK", "1") != "0":
    from jaxtyping import install_import_hook

    install_import_hook("headlab", "beartype.beartype")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of larger inputs beside the repository: tokenizers, problems, reference tables."""
    folder = Path(os.environ.get("HEADLAB_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the larger inputs (tokenizers, problems); no folder {folder.name!r}: set HEADLAB_SHARED")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty place for a store."""
    return tmp_path / "store"
