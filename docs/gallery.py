"""The gallery: real pages and figures, made anew for each build of the site from small trials on shipped models."""

from __future__ import annotations

import shutil
from pathlib import Path

SHOWN = {
    "parity": ("decimals-planted-even", {"layer": 1, "pairs": 100}, "A claim that holds: planted heads repair the bug"),
    "head-count": (
        "decimals-planted-even",
        {"layer": 1, "pairs": 100, "pool": "even"},
        "How many heads of a pool it takes",
    ),
    "routing": ("decimals-natural", {"layer": 1, "pairs": 40}, "Who reads from where: attention, measured"),
    "induction-pattern-completion": ("induction", {}, "A claim of the library, tried by name"),
    "hubs": ("thoughts-gpt2", {"pairs": 24}, "A model that thinks in vectors"),
}
"""Claim → model, sizes, and what its page shows."""


def make(docs: Path) -> None:
    """Try each claim of :data:`SHOWN`, put its page below ``_build/pages`` and write ``gallery.md``, which links them.

    Pages that a finished build left are kept: remove ``_build`` to make them anew.
    """
    import headlab
    from headlab import report

    pages = docs / "_build" / "pages" / "gallery"
    pages.mkdir(parents=True, exist_ok=True)
    store = headlab.Store(docs / "_build" / "runs")
    lines = [
        "# Gallery",
        "",
        "Reports as `headlab trial` writes them: one file each, made while this site was built, with figures that can be",
        "touched. Small trials on the shipped models; the record of each stands at the end of its page.",
        "",
    ]
    for claim, (model, sizes, words) in SHOWN.items():
        page = pages / f"{claim}.html"
        if not page.exists():
            result = headlab.trial(claim, model, store=store, **sizes)
            page.write_text(report.page(result.record, result.tables), encoding="utf-8")
        lines += [f"- {words}: <a href='gallery/{claim}.html'>{claim} on {model}</a>"]
    text = "\n".join([*lines, ""])
    made = docs / "gallery.md"
    if not made.exists() or made.read_text("utf-8") != text:
        made.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    shutil.rmtree(Path(__file__).parent / "_build" / "pages", ignore_errors=True)
    make(Path(__file__).parent)
