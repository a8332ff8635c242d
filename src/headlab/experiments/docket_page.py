"""The list of experiments in ``docs/docket.md``, written from the registry: ``python -m headlab.experiments.docket_page``.

Each experiment's question, steps and warning are its module's own words; its claim is the one that ships.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import dedent, fill
from types import ModuleType

from headlab.claims import Claim, Prediction
from headlab.experiments.known import builtin_claims
from headlab.experiments.trial import EXPERIMENTS

BEGIN, END = "<!-- begin: written by headlab.experiments.docket_page -->", "<!-- end -->"
WIDTH = 118


def listing() -> str:
    """Every experiment of the registry as Markdown.  Raises LookupError for one that does not say when it misleads."""
    claims = builtin_claims()
    lines = ["| experiment | asks |", "|---|---|"]
    lines += [f"| [`{slug}`](#{slug}) | {e.question} |" for slug, e in EXPERIMENTS.items()]
    return "\n".join([*lines, *(_section(slug, claims[slug]) for slug in EXPERIMENTS)])


def _section(slug: str, claim: Claim) -> str:
    room, experiment = _room(slug), EXPERIMENTS[slug]
    asked = "; ".join(_asked(p) for p in claim.predictions)
    given = ", ".join(f"`{k}` = {claim.options.get(k, v)}" for k, v in experiment.options.items())
    parts = [
        f"\n### {slug}\n\n**{experiment.question}**\n",
        _wrapped(f"Claimed: {claim.words} Published: {claim.published}. Source: {claim.source}."),
        "\n" + _steps(room),
        "\n" + _wrapped(f"Upheld when: {asked}. Controls: {', '.join(f'`{c}`' for c in claim.controls)}."),
        *(["\n" + _wrapped(f"Options: {given}.")] if given else []),
        "\n" + _wrapped(f"*When this misleads.* {_misleads(room)}"),
    ]
    return "\n".join(parts)


def _asked(p: Prediction) -> str:
    how = f"p < {p.threshold:g} among matched sets" if p.op == "rank<" else f"wholly {p.op} {p.threshold:g}"
    return f"{p.words or p.statistic} (`{p.statistic}` {how})"


def _room(slug: str) -> ModuleType:
    return sys.modules[EXPERIMENTS[slug].run.__module__]


def _steps(room: ModuleType) -> str:
    """The numbered steps of the module's docstring."""
    text = dedent("\n".join((room.__doc__ or "").splitlines()[1:]))
    found = re.findall(r"^(\d+\. .*?)(?=^\d+\. |^\s*$|\Z)", text, flags=re.M | re.S)
    if not found:
        raise LookupError(f"{room.__name__}: its docstring has no numbered steps")
    return "\n".join(_wrapped(s, "   ") for s in found)


def _misleads(room: ModuleType) -> str:
    """Where the module's page warns its reader."""
    for name in ("_SECTIONS", "SECTIONS"):
        for section in getattr(room, name, ()):
            if "misleads" in section["heading"]:
                return section["text"]
    if text := getattr(getattr(room, "_WORDS", None), "misleads", ""):
        return text
    raise LookupError(f"{room.__name__} does not say when it misleads; give its _SECTIONS a heading that does")


def _wrapped(text: str, indent: str = "") -> str:
    return fill(" ".join(text.split()), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def written(page: str) -> str:
    """The page with its list as the registry has it now.  Raises LookupError when it has no place for one."""
    if BEGIN not in page or END not in page:
        raise LookupError(f"the page has no lines {BEGIN!r} and {END!r}")
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{listing()}\n\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or ["docs/docket.md"]):
        path.write_text(written(path.read_text("utf-8")), encoding="utf-8")
