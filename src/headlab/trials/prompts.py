"""A document's prompts: drawn from a task, a file or a corpus, split by cluster, encoded for a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from headlab.claims import ClaimError
from headlab.prompts import EncodedPair, Pair, PromptError, PromptSet, encode, prompts_of
from headlab.reading import brief
from headlab.tasks import TASKS
from headlab.tasks.building import stands
from headlab.trials.document import Document
from headlab.trials.fields import needs_selection

MOST_SELECTED = 0.25
"""Of a file with fewer pairs than asked for, at most this share is kept for choosing."""


def split(
    doc: Document, tokenizer: Any, prompts: PromptSet | tuple[PromptSet, PromptSet] | None, folder: Path
) -> tuple[PromptSet, PromptSet]:
    """Test and selection prompts that share no cluster.  Raises PromptError or ClaimError."""
    if isinstance(prompts, tuple):
        return prompts
    n = doc.selection_pairs if needs_selection(doc) else 0
    wanted = doc.pairs + n
    own = prompts is not None or "file" in doc.task
    if prompts is None:
        prompts = _all(doc, 2 * wanted, tokenizer, folder)
        if "selection" in doc.task:
            return _apart(doc, prompts, PromptSet.from_file(beside(folder, doc.task["selection"])))
    share = n / wanted if len(prompts) >= wanted else min(n / wanted, MOST_SELECTED)
    selection, test = prompts.split(share, doc.seed)
    if not own and len(test) < min(doc.pairs, 2):
        raise PromptError(f"{doc.pairs} test pairs asked for; the task gives {len(test)} here; ask for fewer")
    if n and not len(selection):
        raise PromptError(
            f"{len(prompts)} pair(s) are too few to choose anything on prompts that the test never sees; give more that "
            "share no cluster"
        )
    return test.sample(doc.pairs, doc.seed), selection.sample(max(n, 1), doc.seed)


def split_for_all(doc: Document, tokenizers: Sequence[Any], folder: Path) -> tuple[PromptSet, PromptSet] | None:
    """:func:`split` of prompts of a task that stand in every tokenizer: those that the first one gives and the others can read.
    None where each gives the same anyhow, and where too few stand in all."""
    wanted = doc.pairs + (doc.selection_pairs if needs_selection(doc) else 0)
    first, *others = tokenizers
    if len({_all(doc, 2 * wanted, t, folder).content_hash() for t in tokenizers}) == 1:
        return None
    for more in (2, 4, 8):
        drawn = _all(doc, more * wanted, first, folder)
        common = drawn.subset(p for p in drawn if all(_stands(p, first, t) for t in others))
        if len(common) >= wanted:
            return split(doc, first, common, folder)
    return None


def _stands(pair: Pair, first: Any, other: Any) -> bool:
    """Whether a pair of one tokenizer can be read by another: it is text, and its sides are as long as each other if they were."""
    if pair.clean.ids or pair.corrupted.ids:
        return False
    one = encode(pair, first)
    return stands(pair, other, same_length=len(one.clean.ids) == len(one.corrupted.ids))


def _apart(doc: Document, test: PromptSet, selection: PromptSet) -> tuple[PromptSet, PromptSet]:
    """Test and selection prompts of two files.  Raises ClaimError where a prompt of one stands in the other."""
    seen = {prompts_of(p)[0] for p in selection}
    if again := [p.id for p in test if prompts_of(p)[0] in seen]:
        raise ClaimError(
            f"{len(again)} of {len(test)} test prompts (first {brief(again[0])}) stand among those that heads were found on, "
            f"{doc.task['selection']}; take them out of {doc.task['file']}"
        )
    return test.sample(doc.pairs, doc.seed), selection.sample(doc.selection_pairs, doc.seed)


def _all(doc: Document, n: int, tokenizer: Any, folder: Path) -> PromptSet:
    if "file" in doc.task:
        return PromptSet.from_file(beside(folder, doc.task["file"]))
    if "corpus" in doc.task:
        return windows(doc, beside(folder, doc.task["corpus"]), tokenizer, n)
    options = {k: v for k, v in doc.task.items() if k != "name"}
    return TASKS[doc.task["name"]].pairs(n, seed=doc.seed, tokenizer=tokenizer, **options)


def windows(doc: Document, path: Path, tokenizer: Any, n: int = 0) -> PromptSet:
    """At most ``n`` (0: all) windows of a text, as the document's task cuts them."""
    from headlab.tasks.corpus import corpus

    more = {k: v for k, v in doc.task.items() if k != "corpus"}
    return corpus(path, tokenizer, n=n, seed=doc.seed, **more)


def beside(folder: Path, name: str) -> Path:
    """A file that a document names: beside the document, or as given from here.  Raises ClaimError for one outside."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ClaimError(f"{name!r} leads out of the claim's folder; put the file beside the claim and name it alone")
    return folder / path if (folder / path).exists() or not path.exists() else path


def encoded(prompts: PromptSet, tokenizer: Any) -> list[EncodedPair]:
    """Every pair as tokens."""
    return [encode(p, tokenizer) for p in prompts]


def clusters(pairs: Iterable[Any]) -> list[str]:
    """The clusters of some pairs, in order."""
    return sorted({p.cluster or p.id for p in pairs})
