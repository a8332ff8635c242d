"""What was seen: a table with its unit, a figure that shows itself in a notebook, and the way to a claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headlab.claims import ClaimError
from headlab.effects import Figure
from headlab.heads import Head
from headlab.prompts import Pair, PromptSet, prompts_of
from headlab.trials.starting import starting

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Look:
    """A table of numbers (``unit`` says of what), and the figure of it.  In a notebook the figure is shown.

    ``pairs``: the prompts that were looked at.  What is found on them is no evidence on them.
    """

    table: pd.DataFrame
    figure: Figure
    unit: str
    pairs: tuple[Pair, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        return f"Look({self.figure.title}; {len(self.table)} rows, in {self.unit})"

    def _repr_html_(self) -> str:
        return self.svg()

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
        return self.table.sort_values("value", key=abs, ascending=False).head(n)

    def claim(self, heads: str | Sequence[str | Head], prompts: str | Path, **fields: object) -> str:
        """A document (YAML) that puts ``heads`` on trial on the pairs of a file, every default spelled out.

        Where the file holds a prompt that was looked at here, the heads count as found on ``these``: nothing is upheld.
        ``fields``: ``write``, ``edit``, ``words`` as in ``headlab new``.  Save it, then ``headlab trial FILE --model M``.

        Raises ClaimError for heads that cannot be read, PromptError for a file that cannot.
        """
        named = heads if isinstance(heads, str) else " ".join(map(str, heads))
        given = PromptSet.from_file(prompts)
        seen = {prompts_of(p) for p in self.pairs}
        again = sum(prompts_of(p) in seen for p in given)
        if "chosen_on" in fields:
            raise ClaimError("chosen_on follows from the prompts that were looked at; leave it out")
        return starting(
            named,
            prompts=Path(prompts),
            paired=all(p.partner for p in given),
            chosen_on="these" if again else "other",
            **fields,  # type: ignore[arg-type]
        )
