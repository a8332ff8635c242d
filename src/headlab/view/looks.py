"""How often one has looked, and at how much, before a claim is written: what the record says of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from headlab.heads import Head
from headlab.prompts import Pair, prompts_of
from headlab.store.records import Plain


@dataclass
class Looks:
    """Looks at one model on one set of selection prompts: ``heads`` and ``pairs`` looked at, ``grids`` by name, how many
    ``edits`` were tried and ``patterns`` opened.  Test prompts are never among them; ``tried`` are the runs that opened them,
    and ``begun`` says whether one was asked for.  ``prompts``: what tells the prompts that were looked at from others."""

    heads: set[Head] = field(default_factory=set)
    pairs: set[str] = field(default_factory=set)
    grids: dict[str, int] = field(default_factory=dict)
    edits: int = 0
    patterns: int = 0
    tried: list[str] = field(default_factory=list)
    prompts: set[Hashable] = field(default_factory=set)
    begun: bool = False

    def seen(self, heads: Iterable[Head], pairs: Iterable[Pair]) -> None:
        """Some heads were looked at on some pairs."""
        self.heads |= set(heads)
        for pair in pairs:
            self.pairs.add(pair.id)
            self.prompts.add(prompts_of(pair)[0])

    def grid(self, name: str, heads: Iterable[Head], pairs: Iterable[Pair]) -> None:
        """Every head was measured on every pair."""
        self.seen(heads, pairs)
        self.grids[name] = self.grids.get(name, 0) + 1

    def edit(self, heads: Iterable[Head], pairs: Iterable[Pair]) -> None:
        """Some heads were edited together."""
        self.seen(heads, pairs)
        self.edits += 1

    def pattern(self, head: Head, pair: Pair | None) -> None:
        """The pattern of a head over a prompt was opened, or (None) over a text of one's own."""
        self.seen([head], [pair] if pair else [])
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
