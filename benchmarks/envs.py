"""An environment for each peer, made once and taken up where an interrupted installation stopped."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / ".venv" / "peers"
"""Inside the checkout's own environment, which git, the wheel and the tests leave out already."""


class NotRun(Exception):
    """A library that cannot be measured here; says why in one line."""


@dataclass(frozen=True)
class Peer:
    """What pip installs for a family, and the module that shows it is there."""

    module: str
    requirement: str


PEERS = {
    "tl": Peer("transformer_lens", "transformer-lens"),
    "nnsight": Peer("nnsight", "nnsight"),
    "pyvene": Peer("pyvene", "pyvene==0.1.8"),
}


def python_for(family: str, *, here: bool, envs: Path = ENVS) -> str:
    """The interpreter that runs a family: this one for headlab and plain hooks, and for all with ``here``.

    Raises NotRun when the library is not there and cannot be installed.
    """
    peer = PEERS.get(family)
    if peer is None:
        return sys.executable
    if here:
        if find_spec(peer.module) is None:
            raise NotRun(f"{peer.module} is not installed in this environment")
        return sys.executable
    return str(_environment(peer, envs / peer.module))


def _environment(peer: Peer, home: Path) -> Path:
    python, stamp = home / "bin" / "python", home / ".ready"
    pins = ROOT / "constraints.txt"
    wanted = f"{peer.requirement}\n{pins.read_text(encoding='utf-8')}"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"setting up {peer.requirement} (once; some minutes) ...", flush=True)
    if not python.exists():
        _call([sys.executable, "-m", "venv", str(home)], f"no virtual environment for {peer.requirement}")
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(pins)]
    # torch first and alone: TORCH_FLAGS says which of its builds, as for `make`
    _call([*pip, *shlex.split(os.environ.get("TORCH_FLAGS", "")), "torch"], "torch could not be installed")
    _call([*pip, peer.requirement, "transformers", "safetensors"], f"{peer.requirement} could not be installed")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _call(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if x.strip()]
        said = next((x for x in reversed(lines) if x.startswith("ERROR")), lines[-1] if lines else "no message")
        raise NotRun(f"{failure}: {said}")
