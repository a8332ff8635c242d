"""What was seen: a table with its unit, a figure that shows itself in a notebook, and the way to a claim."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from headlab.claims import ClaimError
from headlab.effects import Figure
from headlab.heads import Head, Heads
from headlab.looking.given import HeadsLike, PromptsLike, named_of
from headlab.prompts import Pair, Prompt, PromptError, PromptSet, prompts_of
from headlab.reading import brief
from headlab.trials.lending import drafted
from headlab.trials.starting import saved

if TYPE_CHECKING:
    import pandas as pd

Named = HeadsLike | None
MOST_SHOWN = 30_000
"""Bytes of what a notebook shows."""


@dataclass(frozen=True)
class Look:
    """A table of numbers (``unit`` says of what), and the figure of it.  In a notebook the figure is shown.

    ``pairs``, ``texts``: the prompts that were looked at.  What is found on them is no evidence on them.  ``ranked``: the heads
    that were looked at, the most promising first.  ``terms``: how a claim of it is written
    (:func:`headlab.trials.starting.starting`).
    """

    table: pd.DataFrame
    figure: Figure
    unit: str
    pairs: tuple[Pair, ...] = field(default=(), repr=False)
    texts: tuple[str, ...] = field(default=(), repr=False)
    ranked: tuple[Head, ...] = field(default=(), repr=False)
    terms: Mapping[str, object] = field(default_factory=dict, repr=False)
    tokenizer: object = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"Look({self.figure.title}; {len(self.table)} rows, in {self.unit})"

    def _repr_html_(self) -> str:
        """The figure as SVG; where that takes more than 30 kB, as a picture of no more, with its words."""
        from headlab.report import figures

        if len((drawn := self.svg()).encode()) <= MOST_SHOWN:
            return drawn
        said = escape(figures.describe(self.figure)[:2000])
        for scale in (1.0, 0.7, 0.5, 0.35, 0.25):
            picture = b64encode(figures.png(figures.spec(self.figure), scale=scale)).decode()
            if len(picture) + len(said.encode()) < MOST_SHOWN - 200:
                return f'<img alt="{said}" src="data:image/png;base64,{picture}">'
        return f"<p>{said}</p>"

    def svg(self) -> str:
        """The figure as SVG."""
        from headlab.report import figures

        return figures.svg(figures.spec(self.figure))

    def save(self, path: str | Path) -> Path:
        """Write the figure (``.svg``, ``.png``) or the table (``.csv``).  Raises ValueError for another ending."""
        from headlab.report import figures
        from headlab.store.export import csv_text
        from headlab.store.outward import write_out

        path = Path(path)
        made = {
            ".svg": lambda: self.svg().encode(),
            ".png": lambda: figures.png(figures.spec(self.figure)),
            ".csv": lambda: csv_text(self.table).encode(),
        }
        if path.suffix not in made:
            raise ValueError(f"{path}: expected one of {', '.join(made)}")
        write_out(path, made[path.suffix]())
        return path

    def top(self, n: int = 5) -> pd.DataFrame:
        """The ``n`` rows with the largest absolute value."""
        return self.table.sort_values("value", key=lambda v: v.astype(float).abs(), ascending=False).head(n)

    def heads(self, n: int = 1) -> Heads:
        """The ``n`` heads that this look points to.  Raises ClaimError where it is of no heads."""
        if not self.ranked or n < 1:
            raise ClaimError(f"this look ranks {len(self.ranked)} heads, asked for {n}; name heads, such as 'L1H3'")
        return Heads(self.ranked[:n])

    def claim(self, heads: Named, prompts: str | Path, **fields: object) -> str:
        """A document (YAML) that puts ``heads`` (None: those it points to) on trial on the pairs of a file, every default
        spelled out.

        Where the file holds a prompt that was looked at here, the heads count as found on ``these``: nothing is upheld.
        ``fields``: ``write``, ``edit``, ``words`` as in ``headlab new``.  Save it, then ``headlab trial FILE --model M``.
        :meth:`to_trial` writes the files, too.

        Raises ClaimError for heads that cannot be read, PromptError for a file that cannot.
        """
        if not isinstance(prompts, str | Path):
            raise PromptError(
                f"a document names its file of prompts, given {brief(prompts)}; to_trial(folder, prompts) writes one"
            )
        given = PromptSet.from_file(prompts)
        again = sum(prompts_of(p)[0] in self._seen for p in given)
        if "chosen_on" in fields:
            raise ClaimError("chosen_on follows from the prompts that were looked at; leave it out")
        return self._document(heads, Path(prompts), given, "these" if again else "other", fields)

    def to_trial(self, folder: str | Path, prompts: PromptsLike, heads: Named = None, **fields: object) -> Path:
        """Put what was seen on trial: a document about ``heads`` (None: those it points to) in ``folder``, with its prompts.

        ``prompts``: pairs that nobody has looked at (a set, a file, a DataFrame, rows); those that were looked at here, and
        those of their clusters, are left out; what was looked at stands in a file of its own as the selection prompts of the
        claim, which lend means and directions and are never tried.
        ``fields`` as for :meth:`claim`.  Gives the document's path: ``headlab.trial(path, model)``, or ``headlab check PATH``.

        Raises ClaimError for heads that cannot be read, or where every prompt was looked at; PromptError for unreadable ones.
        """
        some = PromptSet.of(prompts)
        clusters = {p.cluster or p.id for p in some if prompts_of(p)[0] in self._seen}
        test = some.subset(p for p in some if (p.cluster or p.id) not in clusters)
        if len(test) < 2:
            raise ClaimError(
                f"{len(some) - len(test)} of {len(some)} prompts were looked at or share a cluster with one that was, so that "
                f"{len(test)} are left to try; give others"
            )
        place = Path(folder)
        if not place.is_dir():
            raise ClaimError(f"there is no folder {place}; make it first")
        name = str(self._named(heads)).replace(" ", "-").lower()[:60]
        known, looked = (
            saved(_csv(s), place, name + e, ".csv") if s else None for s, e in ((test, ""), (self._looked, "-looked"))
        )
        assert known is not None
        text = self._document(heads, known, test, "other", {**fields, "selection": looked})
        return saved(text, place, f"claim-{name}")

    @cached_property
    def _seen(self) -> frozenset[str]:
        """What tells the prompts that were looked at from others (clean ones)."""
        alone = [Pair("text", Prompt(t), Prompt(t), "?", "", partner=False) for t in self.texts]
        return frozenset(prompts_of(p)[0] for p in (*self.pairs, *alone))

    @property
    def _looked(self) -> PromptSet | None:
        return PromptSet(self.pairs, "looked at") if self.pairs else None

    def _named(self, heads: Named) -> Heads:
        if heads is None:
            return self.heads(int(str(self.terms.get("heads", 1))))
        try:
            return named_of(heads)
        except ValueError as error:
            raise ClaimError(str(error)) from error

    def _document(
        self, heads: Named, file: Path, given: PromptSet, chosen_on: str, fields: Mapping[str, object]
    ) -> str:
        on = f"{len(self.pairs)} pairs" if self.pairs else f"{len(self.texts)} text(s)"
        source = f"a look: {self.figure.title} ({len(self.ranked)} heads looked at on {on})"
        terms = {"source": source, **{k: v for k, v in self.terms.items() if k != "heads"}, **fields}
        named = str(self._named(heads))
        return drafted(named, list(given), self.tokenizer, file.parent, prompts=file, chosen_on=chosen_on, **terms)


def _csv(some: PromptSet) -> str:
    import pandas as pd

    return pd.DataFrame(some.rows()).to_csv(index=False)
