"""The pages of ``docs/docket``, one for each experiment, and their index in ``docs/docket.md``, written from the registry:
``python -m headlab.experiments.docket_page``.

Each experiment's question, steps, readings and warning are its own words; its claim is the one that ships.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, fill
from types import ModuleType

from headlab.claims import Claim, Prediction
from headlab.experiments.known import builtin_claims
from headlab.experiments.trial import EXPERIMENTS, ROOMS
from headlab.trials.experiment import Entry
from headlab.trials.flow import Declared

BEGIN, END = "<!-- begin: written by headlab.experiments.docket_page -->", "<!-- end -->"
WIDTH = 118


def index() -> str:
    """Every experiment of the registry as a table with links."""
    lines = ["| experiment | asks |", "|---|---|"]
    return "\n".join([*lines, *(f"| [`{slug}`](docket/{slug}.md) | {e.question} |" for slug, e in EXPERIMENTS.items())])


def pages() -> Iterator[tuple[str, str]]:
    """Slug and page of every experiment.  Raises LookupError for one that does not say when it misleads."""
    claims = builtin_claims()
    for slug, experiment in EXPERIMENTS.items():
        yield slug, page(slug, experiment, claims[slug])


def page(slug: str, experiment: Entry, claim: Claim) -> str:
    """One experiment: what is claimed, what is done, what would uphold it, and when it misleads."""
    parts = [
        f"# {slug}\n\n**{experiment.question}**",
        f"Claimed: {claim.words} Published: {claim.published}. Source: {claim.source}.",
        "## What is done",
        _steps(ROOMS[slug]),
        *_readings(experiment),
        "## What would uphold it",
        "\n".join(_wrapped(f"- {_asked(p)}", "  ") for p in claim.predictions),
        f"Controls: {', '.join(f'`{c}`' for c in claim.controls)}.",
        *_options(experiment, claim),
        "## When this misleads",
        _misleads(experiment, ROOMS[slug]),
        f"    headlab trial {slug} --model MODEL",
        f"[All experiments](../docket.md) · the claim: `headlab check {slug}`",
    ]
    kept = ("#", "-", "1.", "    ", "|")
    return "\n\n".join(p if p.startswith(kept) else _wrapped(p) for p in parts) + "\n"


def _readings(experiment: Entry) -> list[str]:
    """What each protocol does, in its own words."""
    if not isinstance(experiment, Declared):
        return []
    said = {name: m.words for name, m in experiment.methods.items() if isinstance(m.words, str)}
    return ["\n".join(_wrapped(f"- *{name}*: {words}.", "  ") for name, words in said.items())] if said else []


def _options(experiment: Entry, claim: Claim) -> list[str]:
    given = ", ".join(f"`{k}` = {claim.options.get(k, v)}" for k, v in experiment.options.items())
    return [f"Options: {given}."] if given else []


def _asked(p: Prediction) -> str:
    how = f"p < {p.threshold:g} in its null" if p.op == "rank<" else f"wholly {p.op} {p.threshold:g}"
    return f"{p.words or p.statistic} (`{p.statistic}` {how})"


def _steps(room: ModuleType) -> str:
    """The numbered steps of the module's docstring."""
    text = dedent("\n".join((room.__doc__ or "").splitlines()[1:]))
    found = re.findall(r"^(\d+\. .*?)(?=^\d+\. |^\s*$|\Z)", text, flags=re.M | re.S)
    if not found:
        raise LookupError(f"{room.__name__}: its docstring has no numbered steps")
    return "\n".join(_wrapped(s, "   ") for s in found)


def _misleads(experiment: Entry, room: ModuleType) -> str:
    """Where the experiment warns its reader."""
    if isinstance(experiment, Declared):
        found = dict(experiment.sections)
    else:
        said = getattr(room, "_SECTIONS", None) or getattr(room, "SECTIONS", ())
        found = {s["heading"]: s["text"] for s in said}
    for heading, text in found.items():
        if "misleads" in heading:
            return text
    raise LookupError(f"{room.__name__} does not say when it misleads; give it a section whose heading does")


def _wrapped(text: str, indent: str = "") -> str:
    return fill(" ".join(text.split()), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def written(text: str) -> str:
    """The index page with its table as the registry has it now.  Raises LookupError when it has no place for one."""
    if BEGIN not in text or END not in text:
        raise LookupError(f"the page has no lines {BEGIN!r} and {END!r}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{index()}\n\n{END}{rest.split(END, 1)[1]}"


def main(docs: Path) -> None:
    """Write the index and every page below ``docs``; pages of experiments that are gone go."""
    place = docs / "docket.md"
    place.write_text(written(place.read_text("utf-8")), encoding="utf-8")
    (docs / "docket").mkdir(exist_ok=True)
    made = dict(pages())
    for slug, text in made.items():
        (docs / "docket" / f"{slug}.md").write_text(text, encoding="utf-8")
    for stale in (docs / "docket").glob("*.md"):
        if stale.stem not in made:
            stale.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
