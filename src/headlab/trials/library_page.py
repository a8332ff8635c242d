"""``docs/library.md``, written from the documents that ship and from ``tried.yaml``: ``python -m headlab.trials.library_page``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from textwrap import fill
from typing import Any

from headlab.claims import read_text
from headlab.trials import words
from headlab.trials.document import Document
from headlab.trials.registry import library

MISSING = {
    7: "McDougall 2023, copy suppression (arXiv 2310.04625): what L10H7 does is parted into its output along the attended "
    "token's unembedding and the rest, and the language has no write that keeps such a part (its removal is: "
    "`ioi-negative-movers`)."
}
"""Of the twenty claims that were asked for, by number: why one is not written."""
WIDTH = 118
_HEAD = """# The library of published claims

{n} claims about attention heads that somebody published, each a document of at most 30 lines that `headlab trial NAME
--model M` tries as it stands on the model it is meant for. `headlab list claims` lists them, `headlab check NAME --model M`
says what will run, and what another model needs changed goes in by `--amend FIELD=VALUE`, which stands in the record.

    headlab trial ioi-name-movers --model gpt2
    headlab trial ioi-name-movers --model ioi-small --amend sets.movers=L0H4 --amend reference.match=[] --amend chosen_on=other

Heads and figures were written down from memory of the papers unless a document says otherwise; `needs` says so. "Here" is
what came of it on a model that is at hand: an organism that ships, `stories260k` (TinyStories, 260,000 parameters), or
random weights in the shape that the claim names, with its tokenizer, where *untestable* is the right verdict. **A verdict
there says nothing about the model in the paper.** With `--amend waive.eligible="…"` such a trial shows every number and
withholds the verdict.

{missing}
"""


def tried() -> dict[str, dict[str, Any]]:
    """What was tried here, by claim: model, amend, pairs, prompts, wanted, outcome, said."""
    text = (resources.files("headlab.trials") / "tried.yaml").read_text("utf-8")
    data, _ = read_text(text, ".yaml", "tried.yaml")
    return dict(data)


def page() -> str:
    """The whole page."""
    known = library()
    missing = _wrapped(f"Not written: {' '.join(MISSING.values())}")
    parts = [_HEAD.format(n=len(known), missing=missing)]
    parts += ["| claim | for | here |", "|---|---|---|"]
    here = tried()
    for name, doc in known.items():
        case = here.get(name)
        came = f"{case['outcome']} on {case['model']}" if case else ""
        parts.append(f"| [`{name}`](#{name}) | {doc.model} | {came} |")
    return "\n".join([*parts, *(_section(d, here.get(n)) for n, d in known.items())]) + "\n"


def _section(doc: Document, case: Mapping[str, Any] | None) -> str:
    ref = doc.reference
    null = "none: nothing is ranked"
    if ref is not None:
        alike = f"the same {' and '.join(ref.match)}" if ref.match else "the same size, anywhere in the model"
        null = f"{ref.redraw or ref.labels} drawn anew up to {ref.n} times, with {alike}"
    read = "; ".join(f"{n}: {words.READOUT_WORDS.get(str(s['kind']), s['kind'])}" for n, s in doc.readouts.items())
    lines = [
        f"\n## {doc.id}\n\n{_wrapped(f'**{doc.words}**')}\n",
        _wrapped(f"Published: {doc.published}. Source: {doc.source}."),
        _wrapped(f"Needs: {doc.needs}."),
        _wrapped(f"Read: {read}. Null: {null}."),
        _wrapped(f"Upheld when: {'; '.join(f'`{p.statistic}` {p.brief}' for p in doc.predictions)}."),
    ]
    if case:
        changed = "; ".join(f"`{k}` = {v}" for k, v in (case.get("amend") or {}).items())
        lines.append(
            _wrapped(
                f"Here: on {case['model']}{f' with {changed}' if changed else ''}, {case['pairs']} prompts: **{case['outcome']}**. "
                f"{case['said']}"
            )
        )
    return "\n\n".join(line.rstrip() if n else line.rstrip("\n") for n, line in enumerate(lines))


def _wrapped(text: str) -> str:
    return fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/library.md").write_text(page(), "utf-8")
