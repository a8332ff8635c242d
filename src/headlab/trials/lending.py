"""Whether the prompts at hand can lend what a document's means and draws need: on tokens alone, before a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from headlab.heads import Grid, Heads
from headlab.interventions import InterventionError
from headlab.material import Population
from headlab.prompts import Alignment, EncodedPair, Pair, PromptError, align, encode
from headlab.trials.document import Document
from headlab.trials.material import population
from headlab.trials.prompts import encoded, split
from headlab.trials.starting import starting
from headlab.trials.subject import oriented
from headlab.trials.worlds import FITTED, interventions, populations


def alignment(pairs: Iterable[EncodedPair]) -> Alignment:
    """``role`` where every pair can be aligned so, else ``end``."""
    try:
        for pair in pairs:
            align(pair, "role")
    except PromptError:
        return "end"
    return "role"


def cannot_lend(doc: Document, tokenizer: Any, folder: Path) -> str:
    """Why some prompt cannot be written to, or empty."""
    if not populations(doc):
        return ""
    grid, heads = Grid(1, 1, 1), Heads.of(0, [0])  # which heads are written makes no difference
    try:
        tests, chosen = (oriented(encoded(s, tokenizer), doc) for s in split(doc, tokenizer, None, folder))
        subject = SimpleNamespace(doc=doc, encoded=tests, chosen=chosen, lab=SimpleNamespace(tokenizer=tokenizer))
        lent = {n: Population(n, tuple(population(subject, d, folder))) for n, d in populations(doc).items()}
        for write in (w.at(c) for writes in doc.world_axes().values() for w in writes for c in w.cells()):
            if write.write not in FITTED:
                continue
            (one,) = interventions(doc, grid, write, heads)
            donors = lent[str(one.over)]
            for pair in tests:
                (donors.cells if write.write == "mean" else donors.donor)(one, pair)
    except (InterventionError, PromptError) as error:
        return str(error)
    return ""


def drafted(
    heads: str,
    given: Sequence[Pair],
    tokenizer: Any,
    folder: Path,
    *,
    lends: dict[str, bool] | None = None,
    **terms: Any,
) -> str:
    """The YAML of a document about ``heads`` (:func:`headlab.trials.starting.starting`, which ``terms`` are for) that the
    prompts ``given`` can be tried with; it is checked before it is handed out.

    Where they cannot lend a mean to every token of each other (natural length, no roles in common) in this tokenizer, heads are
    written where the answer is read, and where all have one answer, what the other run has is written; where some prompt has no
    wrong answer, the right one's log probability is read; where pairs do not align by role, a patch aligns by end; the document
    says why.
    ``lends``: whether they can, by write, kept from one draft about them to the next.
    """
    answers, known = [frozenset(p.answers) for p in given], {} if lends is None else lends
    one_answer = bool(answers) and bool(frozenset.intersection(*answers))
    paired = all(p.partner for p in given)
    if not all(p.wrong for p in given):
        terms = {"readout": "logprob", **terms}
    patches = "patch" in (write := str(terms.get("write", ""))) or (one_answer and not write)
    if paired and patches and tokenizer is not None and "align" not in terms:
        terms["align"] = alignment([encode(p, tokenizer) for p in given])
    made = partial(starting, heads, paired=paired, one_answer=one_answer, **terms)
    text = made()
    if write not in known:
        doc = Document.from_text(text, name="the document")
        known[write] = tokenizer is None or not cannot_lend(doc, tokenizer, folder)
    return text if known[write] else made(at_read=True)


def tokenizer_of(model: str, revision: str | None = None) -> Any:
    """The tokenizer of a shipped organism, a folder or a hub id (at a revision); no weight is read.  None where there is none."""
    from transformers import AutoTokenizer

    from headlab import organisms

    try:
        where = str(organisms.path(model)) if model in organisms.names() else model
        return AutoTokenizer.from_pretrained(where, revision=revision or "main", trust_remote_code=False)
    except Exception:
        return None
