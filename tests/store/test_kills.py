"""A command killed at any store operation, or at any moment, and given again ends as if nothing had happened.

The same runs (no second one), the same tables and verdicts, no leftovers: see ``kills.py`` beside this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headlab.store import files

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def killed(*words: str) -> list[dict]:
    script = Path(__file__).with_name("kills.py")
    out = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, env=ENVIRONMENT)
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.splitlines()]


def test_a_seeded_sample_of_kills():
    (found,) = killed("--only", "store", "--kills", "12", "--seed", "7")
    assert found["kills"] >= 8 and found["operations"] > 60


@pytest.mark.accept
def test_every_store_operation_and_every_kind_of_command():
    found = killed()
    assert sum(f["kills"] for f in found) >= 150 and len(found) == 6, found
