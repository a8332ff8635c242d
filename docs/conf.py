"""The site: every page of this folder, the names of the package, three notebooks that are run while it is built.

``make docs``, or ``sphinx-build -W docs docs/_build``.  Offline; a broken link ends the build.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import headlab

sys.path.insert(0, str(Path(__file__).parent))
import gallery

project, author, copyright = "headlab", "The headlab authors", "The headlab authors"
release = headlab.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"headlab {release}"
html_extra_path = ["_build/pages"]
(Path(__file__).parent / "_build" / "pages").mkdir(parents=True, exist_ok=True)
html_copy_source = False
templates_path: list[str] = []

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["config.cache", "mystnb.unknown_mime_type"]

# Each notebook is run anew; one that raises ends the build.
os.environ.setdefault("HEADLAB_STORE", str(Path(__file__).parent / "_build" / "runs"))
nb_execution_mode = os.environ.get("HEADLAB_NOTEBOOKS", "force")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True


_ITEM = re.compile(r"(Definition|Table|Shapes?|Units|Range|Raises|Source|When it misleads)\b")


def paragraphs(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """The docstrings' items (``Units: …`` with what belongs to it indented) as paragraphs."""
    if any(line.rstrip().endswith("::") or ">>>" in line for line in lines):
        return
    out: list[str] = []
    for n, line in enumerate(lines):
        hanging = n + 1 < len(lines) and lines[n + 1].startswith(" ") and not line.startswith(" ")
        after = n > 0 and lines[n - 1].startswith(" ") and not line.startswith(" ")
        if line and out and out[-1] and (hanging or after or _ITEM.match(line)):
            out.append("")
        out.append(line.strip())
    lines[:] = out


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda app: gallery.make(Path(app.srcdir)))
    app.connect("autodoc-process-docstring", paragraphs)
