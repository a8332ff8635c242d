"""The claim that fills itself while one looks, and its trial: the only thing here that writes, and it writes into the store."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from headlab.claims import ClaimError
from headlab.effects import Progress, quiet
from headlab.experiments.trial import trial
from headlab.heads import Heads
from headlab.report import of_run
from headlab.store import Store, StoreError
from headlab.store.records import Plain
from headlab.trials import ledger
from headlab.trials.attainable import dead_end_of_document, of_document
from headlab.trials.document import Document
from headlab.trials.explain import explain
from headlab.trials.lending import drafted
from headlab.view.bench import WRITES, Bench

ALL = "all"
"""All three ablations, which a claim that heads are needed is tried with unless one alone was asked for."""
SETTLED = ("task", "pairs", "selection_pairs", "seed")
"""What the bench settled when it parted the prompts; a document with other values is another bench's."""


def choose(bench: Bench, given: Plain) -> None:
    """What the draft is about.  Raises ValueError for heads that are not there, or another write."""
    if "heads" in given:
        named = Heads.parse(str(given["heads"]))
        bench.lab.grid.check(named)
        bench.chosen = sorted(named)
    if "write" in given:
        if given["write"] not in (*WRITES, ALL) or (given["write"] == "patch" and not bench.paired):
            raise ValueError(f"no write {given['write']!r} on these prompts")
        bench.write = str(given["write"])
    if "words" in given:
        bench.words = " ".join(str(given["words"]).split())[:2000]


def text(bench: Bench) -> str:
    """The document about the heads that are chosen, as YAML; empty where none are."""
    if not bench.chosen:
        return ""
    write, asked = "" if bench.write == ALL else bench.write, bench.asked
    return drafted(
        str(Heads(bench.chosen)),
        [*bench.selection, *bench.test],
        bench.lab.tokenizer,
        bench.folder,
        lends=bench.lends,
        prompts=bench.file,
        task=asked.task,
        write=write,
        edit="corrupted" if write == "patch" else "clean",
        words=bench.words,
        pairs=asked.pairs,
        selection_pairs=asked.looked_at,
        seed=asked.seed,
        align=bench.align,
    )


def draft(bench: Bench) -> Plain:
    """The document in YAML and in words, what stands in its way, and the looks that will stand in its record."""
    made, told = text(bench), bench.looks.plain()
    looked = ledger.looked_words(told) if told["pairs"] else ""
    out: Plain = {"yaml": made, "says": {}, "faults": [], "looked": looked, "tried": bench.looks.tried}
    out |= {"heads": str(Heads(bench.chosen)) if bench.chosen else "", "write": bench.write, "words": bench.words}
    if made:
        doc = Document.from_text(made, name="the draft")
        sealed = doc.model_copy(update={"pairs": len(bench.test)})  # of the document's, as many as there are
        found = explain(sealed, bench.lab.grid, bench.folder)
        apart = (
            f"the heads on {len(bench.selection)} prompts that share no cluster with the {len(bench.test)} of the trial"
        )
        lines = {**found.lines, "chosen": [apart, *found.lines["chosen"][2:]]}
        out |= {"says": lines, "faults": [*found.faults, *undecidable(bench, doc)]}
    return out


def undecidable(bench: Bench, doc: Document) -> list[str]:
    """Why no outcome could decide a document on so many test prompts."""
    at = (doc, bench.lab.tokenizer, bench.folder, bench.test)
    return [line for line in (dead_end_of_document(*at), *of_document(*at)) if line]


def register(bench: Bench, given: str, store: Path, progress: Progress = quiet, *, anyway: bool = True) -> Plain:
    """Hash the document into a record, open the test prompts, try it; :func:`keep_report` is the end of it.  Without ``anyway``
    nothing is opened where no outcome could decide it: ``ask`` says why.

    Raises ClaimError for a document that is about other prompts than those of the bench.
    """
    doc, own = (Document.from_text(t, name="the claim") for t in (given, text(bench) or given))
    for name in SETTLED:
        if getattr(doc, name) != getattr(own, name):
            raise ClaimError(
                f"the claim says {name}: {getattr(doc, name)}, and this bench parted its prompts with {getattr(own, name)}; open "
                "another bench for other prompts"
            )
    if not anyway and (why := undecidable(bench, doc)):
        return {"ask": " ".join(why)}
    home = Store(store, hold=True)
    looks, bench.looks.begun = bench.looks.plain(), True
    result = trial(doc, bench.lab, prompts=(bench.test, bench.selection), store=home, progress=progress, looked=looks)
    record = result.record
    bench.looks.tried.append(record.id)
    verdict = result.verdict
    return {
        "id": record.id,
        "outcome": verdict.outcome if verdict else "",
        "sentence": verdict.sentence if verdict else record.error,
        "looked": ledger.looked_words(looks) if looks["pairs"] else "",
        "tried": bench.looks.tried,
    }


def keep_report(id: str, store: Path) -> None:
    """Write a run's report beside its record, and settle the run: the same claim registered again begins another one."""
    home = Store(store, hold=True)
    with suppress(StoreError):  # where no page can be kept, the report is made when it is asked for
        if home.page(id) is None:
            home.keep_page(id, of_run(home, id))
    home.settle(id)
