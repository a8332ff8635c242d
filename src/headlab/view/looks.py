"""How often one has looked, and at how much, before a claim is written: what the record says of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from headlab.heads import Head
from headlab.store.records import Plain


@dataclass
class Looks:
    """Looks at one model on one set of selection prompts: ``heads`` and ``pairs`` looked at, ``grids`` by name, how many
    ``edits`` were tried and ``patterns`` opened.  Test prompts are never among them; ``tried`` are the runs that opened them."""

    heads: set[Head] = field(default_factory=set)
    pairs: set[str] = field(default_factory=set)
    grids: dict[str, int] = field(default_factory=dict)
    edits: int = 0
    patterns: int = 0
    tried: list[str] = field(default_factory=list)

    def grid(self, name: str, heads: Iterable[Head], pairs: Iterable[str]) -> None:
        """Every head was measured on every pair."""
        self.heads |= set(heads)
        self.pairs |= set(pairs)
        self.grids[name] = self.grids.get(name, 0) + 1

    def edit(self, heads: Iterable[Head], pairs: Iterable[str]) -> None:
        """Some heads were edited together."""
        self.heads |= set(heads)
        self.pairs |= set(pairs)
        self.edits += 1

    def pattern(self, head: Head, pair: str) -> None:
        """The pattern of a head over a prompt was opened."""
        self.heads.add(head)
        self.pairs.add(pair)
        self.patterns += 1

    def plain(self) -> Plain:
        """As it stands in the record's settings (``looked``)."""
        return {
            "heads": len(self.heads),
            "pairs": len(self.pairs),
            "grids": dict(sorted(self.grids.items())),
            "edits": self.edits,
            "patterns": self.patterns,
            "tried": len(self.tried),
        }
