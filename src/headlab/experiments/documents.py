"""The way in for documents: read, adjusted, hashed, tried, stored; the library of published claims."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from headlab.claims import ClaimError
from headlab.engine.model import Lab
from headlab.prompts import PromptSet
from headlab.store import Record, Result, Run, Store, content_hash
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.loading import Thinker
from headlab.trials import amending, ledger, prompts, thinking
from headlab.trials.attainable import dead_end_of_document, of_document, said_before
from headlab.trials.cells import is_over, one_cell
from headlab.trials.document import Document
from headlab.trials.explain import untestable_ranks
from headlab.trials.findings import Findings
from headlab.trials.loading import load, load_thinker
from headlab.trials.material import material
from headlab.trials.record import BY_RECORD, again
from headlab.trials.recorded import How, Prepared, recorded
from headlab.trials.run import Trial
from headlab.trials.stand_ins import MOST
from headlab.trials.subject import Language, check_answers, oriented
from headlab.trials.thinking import Thinking

LANGUAGE = 1
_CHANGES = {"layer", "pairs", "seed", "matched_sets", "decide"}


def adjusted(doc: Document, changes: Mapping[str, Any]) -> tuple[Document, dict[str, Any]]:
    """The document with what the command line changed, and those changes (recorded as amendments)."""
    given = {k: v for k, v in changes.items() if v is not None}
    amend = given.pop("amend", None) or {}
    if unknown := sorted(set(given) - _CHANGES):
        raise ClaimError(f"{doc.id} is a document: {unknown[0]} stands inside it; write it there")
    if not given and not amend:
        return doc, {}
    plain = amending.by_hand(doc.plain(), amend, f"{doc.id}, --amend")
    for key, value in given.items():
        if key == "matched_sets":
            if "reference" not in plain:
                raise ClaimError(f"{doc.id} has no reference whose size --matched-sets could change")
            plain["reference"] = {**plain["reference"], "n": value}
        else:
            plain[key] = value
    return Document.from_data(plain, name=f"{doc.id} as amended"), {**given, **amend}


def prepared(
    doc: Document, model: Any, own: Any, loading: Mapping[str, Any], folder: Path
) -> tuple[Lab | Thinker, Any, Any]:
    """The model, and test and selection prompts (problems, for a thinking model)."""
    if doc.thinking:
        return _thinking(doc, model, own, loading, folder)
    text = own if isinstance(own, str | Path) and "corpus" in doc.task else None
    own = PromptSet.from_file(own) if isinstance(own, str | Path) and text is None else own
    lab = load(model, **{k: v for k, v in loading.items() if v is not None})
    own = own if text is None else prompts.windows(doc, Path(text), lab.tokenizer)
    if own is not None and not isinstance(own, PromptSet | tuple):
        raise ClaimError(f"{doc.id} is about a language model; expected prompt pairs, given {type(own).__name__}")
    test, selection = prompts.split(doc, lab.tokenizer, own, folder)
    check_answers(doc, test)
    return lab, test, selection


def _thinking(
    doc: Document, model: Any, own: Any, loading: Mapping[str, Any], folder: Path
) -> tuple[Thinker, ProblemSet, ProblemSet]:
    own = thinking.read_problems(own) if isinstance(own, str | Path) else own
    if isinstance(own, PromptSet):
        raise ClaimError(f"{doc.id} is about a thinking model; expected problems, given prompt pairs")
    thinker = load_thinker(model, **{k: v for k, v in loading.items() if v is not None})
    if isinstance(own, tuple):
        return thinker, *own
    if own is None and "file" in doc.task:
        own = thinking.read_problems(prompts.beside(folder, doc.task["file"]))
    return thinker, *thinking.drawn(doc.pairs, doc.selection_pairs, doc.seed, thinker, own)


def _problems(doc: Document, thinker: Thinker, pairs: int) -> ProblemSet:
    """The test problems of another size."""
    return thinking.drawn(pairs, doc.selection_pairs, doc.seed, thinker, None)[0]


def trial(
    doc: Document,
    given: Any,
    model: Any,
    how: How,
    *,
    changes: Mapping[str, Any],
    own: Any = None,
    folder: Path | None = None,
    stand_ins: int | None = MOST,
    setting: str = "",
) -> Result:
    """Try a document on a model, in one of its settings, and store the record (see :func:`headlab.trial`).  ``own``: prompts of
    the reader's; ``stand_ins``: how many drawn sets are decided in place of the named one (None: all, all of their worlds run)."""
    whole, amended = adjusted(doc, changes)
    doc, folder = one_cell(whole, setting), folder or folder_of(given)
    loaded, test, selection = prepared(doc, model, own, how.loading, folder)
    kept = own is not None or bool(set(doc.task) & {"file", "corpus"})
    short = [] if isinstance(loaded, Thinker) else of_document(doc, loaded.tokenizer, folder, test, own=own is not None)
    said_before(short)
    tried = Prepared(doc.id, doc.id, doc.plain(), doc.seed, loaded, test, selection, kept)
    doc = doc.model_copy(update={"decide": how.decide or doc.decide})
    design = content_hash(design_of(doc, test, selection, folder, own=own is not None))
    home = how.store if isinstance(how.store, Store) else Store(how.store)
    facts: dict[str, Any] = {
        **(of := {"setting": setting, "document": content_hash(whole.plain())} if setting else {}),
        "design_hash": design,
        "decide": doc.decide,
        "amended": amended,
        "ledger": ledger.looks(home, tried.lab.fingerprint, test, of.get("document", design)),
        "test_clusters": ledger.marks(test),
    }

    def find(run: Run) -> Findings:
        if isinstance(loaded, Thinker):
            subject: Any = Thinking(loaded, doc, test, selection, run, how.progress, how.memory, how.where.engine)
        else:
            tests, chosen = (oriented(prompts_encoded(s, loaded), doc) for s in (test, selection))
            subject = Language(
                loaded, doc, test, selection, tests, chosen, run, how.progress, how.memory, how.where.engine
            )
            subject.material = material(subject, folder)
        found = Trial(doc, subject, folder, facts=facts, stand_ins=stand_ins).findings()
        if doc.as_published is not None:
            _read_as_published(doc, subject, folder, found)
        found.notes += [*short, *ledger.words(facts["ledger"]), *amended_words(amended), *_of_several(whole, setting)]
        return found

    end = dead_end_of_document(
        doc,
        tried.lab.tokenizer,
        folder,
        test,
        own=own is not None,
        never=untestable_ranks(doc, tried.lab.grid, folder),
        problems=partial(_problems, doc, loaded) if isinstance(loaded, Thinker) else None,
    )
    call = how.before(end, _call(given, tried.lab, own, how.told, _narrowed(changes, whole, setting)))
    inputs = {"design": design} | ({"stand_ins": "all"} if stand_ins is None else {})
    return recorded(tried, replace(how, store=home), call, find, facts=facts, inputs=inputs)


def _read_as_published(doc: Document, subject: Language, folder: Path, found: Findings) -> None:
    """Add what the document reads with its ``as_published`` overrides, on the same prompts."""
    published = doc.published_as()
    tests, chosen = (oriented(prompts_encoded(s, subject.lab), published) for s in (subject.test, subject.selection))
    beside = replace(subject, doc=published, encoded=tests, chosen=chosen, material=None, label="as_published_")
    beside.material = material(beside, folder)
    reading = Trial(published, beside, folder, stand_ins=0).findings().readings[0]
    found.readings.append(reading.model_copy(update={"protocol": "as published"}))


def prompts_encoded(some: PromptSet, lab: Lab) -> list[Any]:
    """Prompts as tokens."""
    return prompts.encoded(some, lab.tokenizer)


def design_of(
    doc: Document, test: PromptSet | ProblemSet, selection: PromptSet | ProblemSet, folder: Path, *, own: bool = False
) -> dict[str, Any]:
    """All that the numbers depend on beside the model: resolved defaults, files, splits, seeds (rule 26).

    ``own``: the prompts were given, so that the task's file is not read.
    """
    return {
        "language": LANGUAGE,
        "document": doc.model_dump(mode="json"),
        "files": {n: _file_hash(prompts.beside(folder, n)) for n in sorted(_files(doc, own))},
        "test": [p.id for p in test],
        "selection": [p.id for p in selection],
        "prompts": [test.content_hash(), selection.content_hash()],
    }


def _files(doc: Document, own: bool) -> set[str]:
    """Every file that a document names and that is read."""
    out = set() if own else {doc.task[k] for k in ("file", "corpus", "selection") if k in doc.task}
    out |= {s["file"] for s in doc.scores.values() if isinstance(s, Mapping) and "file" in s}
    out |= {s.name for spec in doc.set_specs().values() for s in spec.walk() if s.kind == "file"}
    for writes in doc.world_axes().values():
        for write in writes:
            for cell in write.cells():
                one = write.at(cell)
                out |= {one.mean.over} - {"selection", "test"} if isinstance(one.mean.over, str) else set()
                if isinstance(one.direction, Mapping) and "file" in one.direction:
                    out.add(one.direction["file"])
    return out


def _file_hash(path: Path) -> str:
    import hashlib

    if not path.is_file():
        raise ClaimError(f"no such file: {path}; it is named in the claim")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _of_several(doc: Document, setting: str) -> list[str]:
    """What stands beside a cell alone."""
    axes = is_over(doc)
    named = "; ".join(", ".join(map(str, doc.over[axis])) for axis in axes.split(" × ")) if axes else ""
    here = f" Here the setting is {setting}." if setting else ""
    return [f"One cell of a claim over {axes} ({named}): it says nothing of the others.{here}"] if axes else []


def amended_words(changes: Mapping[str, Any]) -> list[str]:
    """What was changed beside the document, as a note."""
    return (
        [f"As amended on the command line: {', '.join(f'{k} = {v}' for k, v in changes.items())}."] if changes else []
    )


def _narrowed(changes: Mapping[str, Any], doc: Document, setting: str) -> Mapping[str, object]:
    """What is changed beside a document, so that of its settings only this one is tried."""
    one = {"over.settings": {setting: doc.over["settings"][setting]}} if setting else {}
    return {**changes, "amend": {**(changes.get("amend") or {}), **one}}


def _call(given: Any, lab: Lab, prompts: Any, told: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, str]:
    """The command and the line of Python that repeat this trial."""
    file = isinstance(prompts, str | Path)
    if not isinstance(given, str | Path) or (prompts is not None and not file):
        return dict(BY_RECORD)
    flags, amend = {k: v for k, v in changes.items() if k != "amend"}, changes.get("amend") or {}
    return again(str(given), lab.name, {**flags, **told}, ("prompts", prompts if file else None), amend)


def repeat(record: Record, how: How) -> Result:
    """Run a record's document again, on the same model and prompts."""
    assert record.claim is not None
    doc = Document.from_data(record.claim, name=record.id)
    own = None
    if stored := record.prompts.get("pairs"):
        test, selection = ((ProblemSet if doc.thinking else PromptSet).from_plain(p) for p in stored)
        own = (test, selection)
    return trial(doc, doc, record.model["name"], how, changes={}, own=own, folder=folder_of_record(record))


def folder_of(given: Any) -> Path:
    """Where a claim given as a file lies: files that it names lie beside it."""
    return Path(given).parent if isinstance(given, str | Path) and Path(given).is_file() else Path(".")


def folder_of_record(record: Record) -> Path:
    """Where the claim of a record lay: files that it names lie beside it."""
    words = shlex.split(record.call.get("command", ""))
    return Path(words[2]).parent if len(words) > 2 else Path(".")


__all__ = ["adjusted", "prepared", "repeat", "trial"]
