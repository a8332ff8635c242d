"""The conditions under which every test runs: no network, one thread, signatures checked.

Set before anything imports torch, tokenizers or headlab.  The environment may override each of them.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# What is imported and collected stays to the end: the garbage collector need not walk it, neither meanwhile nor later.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Explicit, so that timings and the order of floating-point sums do not depend on the machine's core count.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

# A report takes a second; tests of reports ask for it.
os.environ.setdefault("HEADLAB_PAGES", "0")

# Signatures are checked under pytest only: of the modules that declare shapes (types are checked by pyright), of every
# module with HEADLAB_TYPECHECK=all, which `make accept` does and which takes two thirds longer, of none with 0.
# Names imported under TYPE_CHECKING pass as Any: import at run time what shall be checked.
CHECKED = os.environ.get("HEADLAB_TYPECHECK", "shapes")
if CHECKED not in {"0", "shapes", "all"}:
    raise pytest.UsageError(f"HEADLAB_TYPECHECK is {CHECKED!r}; expected 0, shapes or all")


def with_shapes(source: Path) -> list[str]:
    """The modules whose signatures declare shapes, by dotted name."""
    names = [p.relative_to(source).with_suffix("") for p in source.rglob("*.py") if "jaxtyping" in p.read_text("utf-8")]
    return sorted(".".join(name.parts) for name in names)


if CHECKED != "0":
    from jaxtyping import install_import_hook

    SHAPED = with_shapes(REPOSITORY / "src")
    install_import_hook("headlab" if CHECKED == "all" else SHAPED, "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """What fsync guards against, a power cut, no test can make, and a trial waits for hundreds of them.  That it is asked
    for before a file counts as written is for test_store, where it fails; processes that tests start call the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


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
