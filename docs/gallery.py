"""The gallery: real pages and figures, made anew for each build of the site from small trials on shipped models.

``python docs/gallery.py`` makes it without the site, and the README's picture with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

SHOWN: dict[str, tuple[str, dict[str, Any], str]] = {
    "parity": (
        "decimals-planted-even",
        {"layer": 1, "pairs": 100, "matched_sets": 999, "decide": "fixed"},
        "A claim that holds: planted heads repair the bug",
    ),
    "head-count": (
        "decimals-planted-even",
        {"layer": 1, "pairs": 100, "pool": "even"},
        "How many heads of a pool it takes",
    ),
    "routing": ("decimals-natural", {"layer": 1, "pairs": 40}, "Who reads from where: attention, measured"),
    "induction-pattern-completion": ("induction", {}, "A claim of the library, tried by name"),
    "hubs": ("thoughts-gpt2", {"pairs": 24}, "A model that thinks in vectors"),
    "scorecard": (
        "decimals-planted-even",
        {"experiments": ["parity", "head-count", "layer-scan", "bug-rate", "robustness"], "layer": 1, "pairs": 100},
        "Several claims about one model on one page",
    ),
}
"""Claim (or ``scorecard``) → model, sizes, and what its page shows."""
PICTURE = "parity"
"""The trial whose null is the picture in the README: every half of the layer, and the one that was named."""


def make(docs: Path, shown: Mapping[str, tuple[str, dict[str, Any], str]] = SHOWN) -> None:
    """Try each claim of ``shown``, put its page and its first figure below ``_build/pages``, and write ``gallery.md``, which
    shows the figures and links the pages; the null of :data:`PICTURE` becomes ``images/null.svg``.

    Pages that a finished build left are kept: remove ``_build`` to make them anew.
    """
    pages = docs / "_build" / "pages" / "gallery"
    pages.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Gallery",
        "",
        "Reports as `headlab trial` writes them: one file each, made while this site was built, with figures that can be",
        "touched. Small trials on the shipped models; the record of each stands at the end of its page. Below each link: the",
        "first figure of the page (a scorecard has its trials' pages inside).",
        "",
    ]
    for claim, (model, sizes, words) in shown.items():
        if not (pages / f"{claim}.html").exists():
            _try(docs, pages, claim, model, sizes)
        lines += [f"## {words}", "", f"<a href='gallery/{claim}.html'>{claim} on {model}</a>", ""]
        if (words_of := pages / f"{claim}.txt").exists():
            said = escape(words_of.read_text("utf-8"), quote=True)
            lines += [f"<img src='gallery/{claim}.svg' alt='{said}'>", ""]
    text = "\n".join(lines)
    made = docs / "gallery.md"
    if not made.exists() or made.read_text("utf-8") != text:
        made.write_text(text, encoding="utf-8")


def _try(docs: Path, pages: Path, claim: str, model: str, sizes: Mapping[str, Any]) -> None:
    """One trial (or scorecard): its first figure, with words for it, and then its page."""
    import headlab
    from headlab import report
    from headlab.effects import Figure
    from headlab.experiments.scorecard import scorecard
    from headlab.report import figures, stills

    store = headlab.Store(docs / "_build" / "runs")
    result = (
        scorecard(model, store=store, **sizes)
        if claim == "scorecard"
        else headlab.trial(claim, model, store=store, **sizes)
    )
    drawn = [Figure.from_plain(f) for f in result.record.figures]
    if drawn:
        (pages / f"{claim}.svg").write_text(stills.slim(figures.svg(figures.spec(drawn[0]))), "utf-8")
        (pages / f"{claim}.txt").write_text(" ".join(figures.describe(drawn[0]).split()), "utf-8")
    if claim == PICTURE:
        (docs / "images").mkdir(exist_ok=True)
        (docs / "images" / "null.svg").write_text(null(drawn), "utf-8")
    (pages / f"{claim}.html").write_text(report.of_run(store, result.record.id), encoding="utf-8")


def null(drawn: list[Any]) -> str:
    """The first null among some figures, without its title."""
    from headlab.report import figures, stills

    first = next(f for f in drawn if f.kind == "null")
    return stills.slim(figures.svg(figures.spec(first), titled=False))


if __name__ == "__main__":
    shutil.rmtree(Path(__file__).parent / "_build" / "pages", ignore_errors=True)
    make(Path(__file__).parent)
