"""What a package index shows: the README with links that lead somewhere from there, too (a hook of the build, hatchling's).

A relative link leads nowhere outside the repository.  Where pyproject.toml names the repository (``[project.urls]``, ``Source``)
links become absolute; where it does not, they become the names of files, all of which the source distribution has.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def outside(text: str, address: str = "") -> str:
    """A page as it can be read away from its repository, whose ``address`` has files below ``blob/HEAD`` and ``raw/HEAD``."""

    def led(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if address:
            return f"{picture}[{words}]({address.rstrip('/')}/{'raw' if picture else 'blob'}/HEAD/{path})"
        return f"*({words})*" if picture else words if words == path else f"{words} ({path})"

    return _LINK.sub(led, text)


class Readme(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text("utf-8")
        shown = outside(text, metadata.get("urls", {}).get("Source", ""))
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}
