"""Part of the suite against the lowest and the newest of the ranges in pyproject.toml: ``python -m benchmarks.ranges``.

For each package and end the version, with what it needs, goes into a folder of its own below .venv/ranges, which stands
before the environment when the tests run; nothing else changes.  ``--docs`` writes the rows to docs/ranges.md, beside
those of other days.  Tests to run may be given after ``--``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

from benchmarks.envs import ROOT
from benchmarks.results import commit

PAGE = ROOT / "docs" / "ranges.md"
WITH = {
    "transformers": (),
    "torch": (),
    "pandas": (),
    "numpy": ("pandas", "scipy", "statsmodels", "scikit-learn"),  # built against it
}
PART = (
    "tests/engine/test_decode.py",
    "tests/engine/test_loading.py",
    "tests/engine/test_families.py",
    "tests/stats",
    "tests/test_store.py",
)
_HEAD = """# Versions that were run

pyproject.toml has ranges, constraints.txt the one set that the whole suite runs with. Here part of the suite ran with the
lowest or the newest of a range in its place (`make ranges`); what it is built with moved with it (with numpy
pandas, scipy, statsmodels, scikit-learn), the rest stayed pinned. A row is the newest run of its
package and end; what has no row was not run.

| package | end | version | outcome | tests | date | commit |
|---|---|---|---|---|---|---|
"""


def requirement(package: str) -> tuple[str, str]:
    """Lowest version of a package's range, and the range itself."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    span = next(m[1] for r in wanted if (m := re.fullmatch(rf"{package}([<>=!~].*)", r)))
    return re.search(r">=([^,]+)", span)[1], span  # type: ignore[index]


def row(package: str, end: str, tests: list[str]) -> str:
    """Install, run, and the line of the table."""
    lowest, span = requirement(package)
    folder = ROOT / ".venv" / "ranges" / f"{package}-{end}"
    pinned = f"{package}=={lowest}" if end == "lowest" else package + span
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--upgrade", "--target", str(folder)]
    flags = os.environ.get("TORCH_FLAGS", "").split() if package == "torch" else []
    subprocess.run([*pip, *flags, pinned, *WITH[package]], check=True)
    return tried(package, end, folder, tests)


def tried(package: str, end: str, folder: Path, tests: list[str]) -> str:
    """Run the tests with a folder of packages before the environment's."""
    env = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'src'}"}
    said = subprocess.run(
        [sys.executable, "-c", f"import {package}; print({package}.__version__)"],
        env=env,
        capture_output=True,
        text=True,
    )
    version = said.stdout.strip() or "does not import"
    run = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    found = subprocess.run(run, env=env, cwd=ROOT, capture_output=True, text=True).stdout.strip().splitlines()
    outcome = re.sub(r" in .*", "", found[-1]) if found else "no test ran"
    names = ", ".join(t.removeprefix("tests/") for t in tests)
    return f"| {package} | {end} | {version} | {outcome} | {names} | {date.today()} | {commit(ROOT)} |"


def write(lines: list[str]) -> None:
    """Put rows into the page, each in the place of the older one of its package and end."""
    old = PAGE.read_text().splitlines() if PAGE.is_file() else []
    rows = {
        tuple(r.split(" | ")[:2]): r for r in [*old, *lines] if r.startswith("| ") and not r.startswith("| package ")
    }
    PAGE.write_text(_HEAD + "".join(f"{rows[k]}\n" for k in sorted(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(WITH), action="append", help="packages (default: all)")
    parser.add_argument("--end", choices=["lowest", "newest"], action="append", help="ends (default: both)")
    parser.add_argument("--docs", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("tests", nargs="*", default=[], help="what pytest runs (default: the part named in this file)")
    given = parser.parse_args()
    for package in given.only or WITH:
        for end in given.end or ("lowest", "newest"):
            line = row(package, end, given.tests or list(PART))
            print(line, flush=True)
            if given.docs:
                write([line])


if __name__ == "__main__":
    main()
