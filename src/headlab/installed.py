"""What installed packages add to headlab, by the name of their entry point: tasks and scores.

A name is looked up among installed packages only, and a package is loaded when its name is asked for: a claim may name
what it likes, and never brings code with it.  What lies in the folder from which Python was started is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any


class InstalledError(ValueError):
    """An installed package that cannot give what it names; the message says which, and why."""


@lru_cache(maxsize=8)
def _entries(group: str, path: tuple[str, ...], here: str) -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    seen: set[str] = set()
    for one in distributions(path=[p for p in path if p and str(Path(p).resolve()) != here]):
        name = str(one.metadata["Name"]).lower()
        if name in seen:
            continue  # the first on the path is the one that is imported
        seen.add(name)
        for entry in one.entry_points:
            if entry.group == group:
                found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


class Installed(Mapping[str, Any]):
    """What packages have under an entry point group; ``[name]`` loads it.  Raises InstalledError, or KeyError."""

    def __init__(self, group: str) -> None:
        self.group = group

    @property
    def entries(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        """Entry points by name, as they are installed now; nothing is loaded."""
        with suppress(OSError):  # the folder may be gone
            return _entries(self.group, tuple(sys.path), str(Path.cwd().resolve()))
        return _entries(self.group, tuple(sys.path), "")

    def package(self, name: str) -> str:
        """The package that has it."""
        dist = self.entries[name][0].dist
        return str(dist.metadata["Name"]) if dist else self.entries[name][0].value

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> Any:
        entry, *more = self.entries[name]
        if more:
            who = ", ".join(str(e.dist.metadata["Name"]) if e.dist else e.value for e in (entry, *more))
            raise InstalledError(f"{name!r} ({self.group}) is in several packages: {who}; uninstall all but one")
        try:
            return entry.load()
        except Exception as error:
            raise InstalledError(
                f"{name!r} ({self.group}) of the package {self.package(name)} cannot be loaded "
                f"({type(error).__name__}: {error}); mend or uninstall it"
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
