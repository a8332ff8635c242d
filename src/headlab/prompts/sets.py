"""Sets of pairs: read from rows, frames and files, drawn, split, hashed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headlab.reading import brief, check_columns, csv_rows, json_rows
from headlab.reading.bounds import many_objects

from .data import Pair, PromptError, clusters_of
from .rows import COLUMNS, MOST_PAIRS, OPTIONAL_COLUMNS, needed, pair_from_row

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class PromptSet:
    """Pairs in a fixed order.  ``grader`` names how generated text is graded: ``number`` or ``prefix``."""

    pairs: tuple[Pair, ...]
    name: str = "prompts"
    grader: Literal["number", "prefix"] = "prefix"
    meta: Mapping[str, object] = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        stranger = next((p for p in self.pairs if not isinstance(p, Pair)), None)
        if isinstance(self.pairs, str | Path) or stranger is not None:
            raise PromptError(
                f"a PromptSet holds pairs, given {brief(self.pairs if stranger is None else stranger)}; PromptSet.from_file, "
                "from_rows and from_frame read others"
            )
        seen: set[str] = set()
        for p in self.pairs:
            if p.id in seen:
                raise PromptError(f"two pairs have the id {brief(p.id)}; ids must be unique")
            seen.add(p.id)
        own = zip(self.pairs, clusters_of(self.pairs), strict=True)
        object.__setattr__(
            self, "pairs", tuple(p if c == (p.cluster or p.id) else replace(p, cluster=c) for p, c in own)
        )

    def __repr__(self) -> str:
        return f"PromptSet({self.name!r}, {len(self.pairs)} pairs)"

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __getitem__(self, i: int) -> Pair:
        return self.pairs[i]

    def subset(self, pairs: Iterable[Pair]) -> PromptSet:
        return replace(self, pairs=tuple(pairs))

    def sample(self, n: int, seed: int) -> PromptSet:
        """``n`` pairs drawn without replacement, in their old order (all of them when there are fewer)."""
        if n >= len(self.pairs):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.pairs)), n))
        return self.subset(self.pairs[i] for i in chosen)

    def split(self, share: float, seed: int) -> tuple[PromptSet, PromptSet]:
        """Two disjoint sets of pairs that share no cluster; the first holds about ``share`` of the clusters."""
        clusters = sorted({p.cluster or p.id for p in self.pairs})
        random.Random(seed).shuffle(clusters)
        first = set(clusters[: round(share * len(clusters))])
        return (
            self.subset(p for p in self.pairs if (p.cluster or p.id) in first),
            self.subset(p for p in self.pairs if (p.cluster or p.id) not in first),
        )

    def plain(self) -> dict[str, object]:
        return {"name": self.name, "grader": self.grader, "pairs": [p.plain() for p in self.pairs]}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> PromptSet:
        return cls(tuple(Pair.from_plain(p) for p in data["pairs"]), data["name"], data["grader"])

    def rows(self) -> list[dict[str, str]]:
        """Rows that :meth:`from_rows` and a CSV file take: what stands between prompt and answer goes to the answers,
        spans that a partner may lack are left out.  Raises PromptError for prompts that are no plain text."""

        def cell(texts: Sequence[str], lead: str) -> str:
            return lead + texts[0] if len(texts) == 1 else json.dumps([lead + t for t in texts], ensure_ascii=False)

        made = []
        for p in self.pairs:
            both = {"clean": p.clean, **({"corrupted": p.corrupted} if p.partner else {})}
            if any(q.ids or not q.special for q in both.values()) or len({q.lead for q in both.values()}) > 1:
                raise PromptError(
                    f"pair {p.id}: tokens, special tokens or two ways to begin an answer do not fit into a row"
                )
            row = {"id": p.id, **{c: q.text for c, q in both.items()}, "answer": cell(p.answers, p.clean.lead)}
            row |= {"wrong": cell(p.wrongs, p.clean.lead)} if p.wrong else {}
            for c, q in both.items():
                spans: dict[str, list[list[int]]] = {}
                for s in q.spans:
                    if not s.optional:
                        spans.setdefault(s.role, []).append([s.start, s.end])
                row |= {f"{c}_spans": json.dumps(spans)} if spans else {}
            made.append({**row, "cluster": p.cluster, "category": p.category})
        return made

    def content_hash(self) -> str:
        """SHA-256 of every text, span and answer."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, object]], *, name: str, first_row: int = 1) -> PromptSet:
        """From mappings with ``clean``, ``corrupted``, ``answer``, ``wrong`` and optionally ``id``, ``cluster``,
        ``category``, ``clean_spans``, ``corrupted_spans`` (``{"role": [start, end]}``, characters; a role that stands in
        several places is a list of such).

        ``answer`` and ``wrong`` may each be a list of accepted texts, or a JSON list of strings in a cell.  Without
        ``corrupted`` a prompt has no partner, and may have no ``wrong``.  Without ``id`` the n-th row has the id n, wherever
        rows come from.

        Raises PromptError with the row number and the reason: a key that is none of these and does not begin with ``_``,
        two rows that are equal in prompts and answers.
        """
        return cls._from_numbered(enumerate(rows, start=first_row), name)

    @classmethod
    def _from_numbered(cls, rows: Iterable[tuple[int, Mapping[str, Any]]], name: str) -> PromptSet:
        with many_objects():
            return cls._read(rows, name)

    @classmethod
    def _read(cls, rows: Iterable[tuple[int, Mapping[str, Any]]], name: str) -> PromptSet:
        pairs: list[Pair] = []
        ids: dict[str, int] = {}
        texts: dict[tuple[Any, ...], int] = {}
        columns: list[Any] = []
        for place, (number, row) in enumerate(rows, start=1):
            try:
                if columns != (columns := list(row)):
                    check_columns(columns, (*COLUMNS, *OPTIONAL_COLUMNS), (), "it", PromptError)
                pair = pair_from_row(row, place)
                if (first := ids.setdefault(pair.id, number)) != number:
                    raise PromptError(f"its id {brief(pair.id)} is that of row {first} too; ids must be unique")
                said = (pair.clean.text, pair.corrupted.text, pair.answers, pair.wrongs, pair.partner)
                if (first := texts.setdefault(said, number)) != number:
                    raise PromptError(f"it repeats row {first} (prompts and answers are the same); give each pair once")
                if len(pairs) == MOST_PAIRS:
                    raise PromptError(f"more than {MOST_PAIRS:,} pairs")
            except (PromptError, TypeError, ValueError) as error:
                raise PromptError(f"{name}, row {number}: {error}") from error
            pairs.append(pair)
        if not pairs:
            raise PromptError(f"{name} has no rows; expected at least one with columns {', '.join(COLUMNS)}")
        made = cls(tuple(pairs), name)
        for pair in made.pairs:
            if not pair.cluster:  # set in place: nobody has it yet, and a copy of each costs as much as reading it
                object.__setattr__(pair, "cluster", pair.id)
        return made

    @classmethod
    def of(cls, given: object, *, name: str = "prompts") -> PromptSet:
        """From whatever holds pairs: a set of them, a file, a DataFrame, rows (mappings), or pairs.

        Raises PromptError with the row and the reason.
        """
        if isinstance(given, PromptSet):
            return given
        if isinstance(given, str | Path):
            return cls.from_file(given)
        if hasattr(given, "columns"):
            return cls.from_frame(given, name=name)  # type: ignore[arg-type]
        rows: list[Any] | None = (
            [given] if isinstance(given, Pair) else list(given) if isinstance(given, Iterable) else None
        )
        if rows and all(isinstance(row, Mapping) for row in rows):
            return cls.from_rows(rows, name=name)
        if isinstance(given, Mapping) or not rows:
            raise PromptError(
                f"expected pairs of prompts (a PromptSet, a .csv or .jsonl file, a DataFrame, rows), given {brief(given)}"
            )
        return cls(tuple(rows), name)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, name: str = "DataFrame") -> PromptSet:
        """From a pandas DataFrame (row numbers in errors count from 0, as pandas does)."""
        columns = list(frame.columns)
        check_columns(columns, (*COLUMNS, *OPTIONAL_COLUMNS), needed(columns), name, PromptError)
        return cls.from_rows(frame.to_dict("records"), name=name, first_row=0)

    @classmethod
    def from_file(cls, path: str | Path) -> PromptSet:
        """From a ``.csv`` or ``.jsonl`` file."""
        path = Path(path)
        if path.suffix not in {".csv", ".jsonl"}:
            raise PromptError(f"{path}: expected a .csv or .jsonl file, given {path.suffix or 'no suffix'}")
        if not path.is_file():
            raise PromptError(f"no such prompt file: {path}; expected a .csv or .jsonl with {', '.join(COLUMNS)}")
        if path.suffix == ".jsonl":
            return cls._from_numbered(json_rows(path, error=PromptError), path.name)
        columns, rows = csv_rows(path, error=PromptError)
        check_columns(columns, (*COLUMNS, *OPTIONAL_COLUMNS), needed(columns), path.name, PromptError)
        return cls.from_rows(rows, name=path.name, first_row=2)
