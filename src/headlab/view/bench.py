"""A model and prompts on the table: grids of heads, patterns, edits that are read on every prompt.

Everything here runs in the worker's thread, and on selection prompts only: the test prompts are drawn when the bench is
opened, and nothing of this file reads one of them before :func:`headlab.view.drafts.register`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headlab.effects import Progress, quiet
from headlab.engine.captures import capture
from headlab.engine.model import Lab, ModelError
from headlab.engine.recall import recalling
from headlab.heads import Head, Heads
from headlab.looking import effect, head_scores, heatmap
from headlab.looking.given import pair_of_text
from headlab.looking.grids import estimates
from headlab.looking.lens import Parts, direct_look, direct_parts
from headlab.looking.texts import drawn_of, read
from headlab.looking.written import above_mean
from headlab.prompts import Alignment, EncodedPair, PromptError, PromptSet, encode, prompts_of, spacing
from headlab.prompts.tokens import token_text
from headlab.reading import expected_one_of
from headlab.stats.intervals import bootstrap_means
from headlab.store.records import Plain
from headlab.trials.document import Document
from headlab.trials.eligibility import CLEAN_AT_LEAST, CORRUPTED_AT_MOST
from headlab.trials.lending import alignment
from headlab.trials.loading import load
from headlab.trials.prompts import split
from headlab.trials.starting import starting
from headlab.view.asked import Asked
from headlab.view.looks import Looks
from headlab.view.worker import Job

WRITES = ("zero", "mean", "resample", "patch")
EFFECTS = ("attribution", *WRITES)
SCORES = ("previous", "sink", "induction", "duplicate", "successor", "copying", "norm", "probe")


@dataclass
class Bench:
    """What lies on the table.  ``chosen`` and ``write`` are what the draft is about; ``test`` is sealed
    until a claim is registered; ``seen`` prompts were left out of it, because they were looked at on another bench of this model.
    ``parts``: what each part of the model writes into the answer directly, of as many prompts as were read for it.
    ``align``: how a patch finds what goes where; ``trying``: the trial that was asked for last."""

    key: str
    asked: Asked
    lab: Lab
    selection: PromptSet
    test: PromptSet
    folder: Path
    file: Path | None
    looks: Looks
    encoded: list[EncodedPair] = field(default_factory=list, repr=False)
    grids: dict[str, Plain] = field(default_factory=dict, repr=False)
    parts: list[Parts] = field(default_factory=list, repr=False)
    chosen: list[Head] = field(default_factory=list)
    write: str = ""
    words: str = ""
    lends: dict[str, bool] = field(default_factory=dict)
    align: Alignment = "role"
    seen: int = 0
    trying: Job | None = field(default=None, repr=False)

    @property
    def contrast(self) -> bool:
        """Whether every prompt has a wrong answer, over which the right one leads."""
        return all(p.wrong for p in [*self.selection, *self.test])

    @property
    def paired(self) -> bool:
        return all(p.partner for p in [*self.selection, *self.test])

    @property
    def writes(self) -> list[str]:
        return [w for w in WRITES if self.paired or w != "patch"]

    @property
    def parted(self) -> str:
        """What came of the numbers that were asked for, where it is something else, and which prompts were left out."""
        got, asked = (len(self.selection), len(self.test)), (self.asked.looked_at, self.asked.pairs)
        said = []
        if sum(got) + self.seen < sum(asked):
            said.append(
                f"{asked[0]} to look at and {asked[1]} sealed were asked for, and there are {sum(got) + self.seen}: parted "
                "as these numbers are, at most a quarter to look at."
            )
        if self.seen:
            said.append(f"{self.seen} that were looked at on another bench are left out of the sealed ones.")
        if self.align == "end":
            said.append("Pairs are of different length and name no roles that match: a patch aligns them from the end.")
        if self.file is not None and (line := spacing(self.selection.pairs)):
            said.append(f"Note: {line}.")
        return " ".join(said)

    def plain(self) -> Plain:
        """What the page shows before anything is measured."""
        both = [(p, p.corrupted.text if p.partner else "") for p in self.selection]
        prompts = [{"clean": p.clean.text, "corrupted": c, "answer": p.answer, "wrong": p.wrong} for p, c in both]
        return {
            "model": self.lab.name,
            "source": self.asked.task or "own prompts",
            "layers": sorted(self.lab.attentions),
            "heads": self.lab.grid.n_heads,
            "paired": self.paired,
            "prompts": prompts,
            "sealed": len(self.test),
            "effects": [e for e in EFFECTS if self.paired or e not in {"patch", "attribution"}],
            "direct": ["direct"] if self.contrast else [],
            "trying": self.trying.id if self.trying is not None and not self.trying.ended.done() else None,
            "begun": self.looks.begun,
            "writes": self.writes,
            "scores": [s for s in SCORES if self.paired or s != "probe"],
            "chosen": [str(h) for h in self.chosen],
            "write": self.write,
            "eligible": [CLEAN_AT_LEAST, CORRUPTED_AT_MOST],
        }


def opened(asked: Asked, folder: Path, looks: dict[tuple[str, str], Looks], progress: Progress = quiet) -> Bench:
    """Load the model, draw the prompts, part test from selection; the model reads none of them yet.

    Raises ModelError, PromptError or ClaimError, each with one sentence.
    """
    progress("loading the model", 0, 1)
    lab = load(asked.model)
    progress("drawing prompts", 0, 1)
    file, key = None, secrets.token_hex(6)
    if asked.text:
        file = folder / f"prompts-{key}{asked.suffix}"
        file.write_text(asked.text, encoding="utf-8")
        try:
            PromptSet.from_file(file)
        except PromptError as error:
            raise PromptError(str(error).replace(file.name, "your prompts")) from error
    draft = starting(
        "L0H0", prompts=file, task=asked.task, pairs=asked.pairs, selection_pairs=asked.looked_at, seed=asked.seed
    )
    every, selection = split(Document.from_text(draft, name="the draft"), lab.tokenizer, None, folder)
    before = {t for (model, _), some in looks.items() if model == lab.fingerprint for t in some.prompts}
    test = every.subset(p for p in every if prompts_of(p)[0] not in before)
    if not len(selection) or not len(test):
        raise PromptError(
            f"{len(every) + len(selection)} pair(s), of which {len(every) - len(test)} were looked at on another bench, "
            "cannot be parted into some to look at and some to try; give more that share no cluster"
        )
    mine = looks.setdefault((lab.fingerprint, selection.content_hash()), Looks())
    bench = Bench(key, asked, lab, selection, test, folder, file, mine)
    bench.encoded = [encode(p, lab.tokenizer) for p in selection]
    bench.seen = len(every) - len(test)
    if bench.paired:
        bench.align = alignment([*bench.encoded, *[encode(p, lab.tokenizer) for p in test]])
    bench.write = "patch" if bench.paired else "zero"
    return bench


def grid(bench: Bench, name: str, progress: Progress = quiet) -> Plain:
    """A number for each head: an effect, a score of attention, or ``direct``; kept after the first time."""
    if name not in bench.grids:
        progress(f"{name}, every head", 0, 1)
        if name in EFFECTS:
            look = heatmap(bench.lab, bench.encoded, name, align=bench.align, progress=progress)
        elif name == "direct":
            look = direct_look(bench.lab, bench.encoded, _parts(bench, progress))
        elif name in SCORES:
            look = head_scores(bench.lab, name, bench.encoded)
        else:
            raise ValueError(f"no score {name!r}; {expected_one_of(name, (*EFFECTS, *SCORES, 'direct'))}")
        rows: Any = look.table if "part" not in look.table else look.table[look.table["part"] == "head"]
        columns = [c for c in ("layer", "head", "value", "low", "high", "n") if c in rows]
        bench.grids[name] = {"name": name, "unit": look.unit, "rows": rows[columns].to_dict("records")}
        heads = [Head(layer, h) for layer in sorted(bench.lab.attentions) for h in range(bench.lab.grid.n_heads)]
        bench.looks.grid(name, heads, bench.selection)
    return bench.grids[name]


def pattern(bench: Bench, head: Head, prompt: int, run: str, progress: Progress = quiet, text: str = "") -> Plain:
    """The pattern of a head over one prompt, or over a ``text`` of one's own (``next``: what the model expects after it): tokens,
    the row of weights of each query, where the answer is read; ``writes``: the three tokens that the head's weights write toward
    most for each token alone, or ``why`` there are none.

    Raises ValueError for a head, prompt or run that is not there, PromptError for a prompt that is too long to be drawn.
    """
    bench.lab.grid.check(Heads([head]))
    if text and prompts_of(pair_of_text(bench.lab, text).pair)[0] in {t for p in bench.test for t in prompts_of(p)}:
        raise PromptError(
            "this is one of the sealed prompts, which nobody looks at before a claim is registered; write another"
        )
    own = read(bench.lab, text) if text else None
    if not 0 <= prompt < len(bench.encoded) or run not in {"clean", "corrupted"}:
        raise ValueError(f"no prompt {prompt} ({run}); expected 0 to {len(bench.encoded) - 1}, clean or corrupted")
    pair = bench.encoded[prompt]
    one = pair.clean if run == "clean" else pair.corrupted
    ids = one.ids if own is None else own.ids
    drawn_of(ids)
    progress("reading the prompt", 0, 1)
    if own is None:
        with recalling(bench.lab):
            kept = capture(bench.lab, [one], [(head.layer, "pattern")])[head.layer, "pattern"][0]
    else:
        kept = own["pattern", head.layer]
    weights = kept[:, head.index].float()
    bench.looks.pattern(head, None if own else pair.pair)
    try:
        best, why = above_mean(bench.lab, head, ids).topk(3).indices.tolist(), ""
    except ModelError as error:
        best, why = [], str(error)
    return {
        "head": str(head),
        "prompt": prompt,
        "run": run,
        "tokens": [token_text(bench.lab.tokenizer, i) for i in ids],
        "next": own.next(3).to_dict("records") if own else [],
        "weights": [[round(float(w), 4) for w in row[: q + 1]] for q, row in enumerate(weights)],
        "read": len(ids) - 1,
        "writes": [[token_text(bench.lab.tokenizer, i) for i in row] for row in best],
        "why": why,
    }


def _parts(bench: Bench, progress: Progress) -> list[Parts]:
    """The parts of every selection prompt, each read once: what is cancelled goes on where it stopped."""
    for n, pair in enumerate(bench.encoded[len(bench.parts) :], len(bench.parts)):
        progress("direct effects, prompt", n + 1, len(bench.encoded))
        bench.parts.append(direct_parts(bench.lab, pair.clean))
    return bench.parts


def direct(bench: Bench, head: Head, progress: Progress = quiet) -> Plain:
    """What a head writes straight into the answer's lead on each clean selection prompt (``values``) and in the mean, as
    :func:`headlab.looking.direct_effects` has it; or ``why`` this model or these prompts have none.

    The first head costs two passes of every prompt, all others none.
    """
    bench.lab.grid.check(Heads([head]))
    try:
        made = _parts(bench, progress)
    except ModelError as error:
        return {"head": str(head), "why": str(error)}
    column = made[0][0].index(("head", head.layer, head.index))
    values = [float(v[column]) for _, v in made]
    bench.looks.seen([head], bench.selection)
    (mean,) = estimates(np.array(values)[:, None], bench.encoded, 0)
    return {"head": str(head), "unit": "logits", "values": [round(v, 4) for v in values], "mean": mean, "why": ""}


def edit(bench: Bench, heads: Sequence[Head], write: str, progress: Progress = quiet) -> Plain:
    """Edit some heads together and read every selection prompt: the answer's lead before and after, the other run's, and the
    mean change with its interval.

    ``patch``: the corrupted run is edited, z comes from the clean one; else the clean run is edited.
    """
    if write not in bench.writes:
        raise ValueError(f"no write {write!r} on these prompts; {expected_one_of(write, bench.writes)}")
    named = Heads(heads)
    if not len(named):
        raise ValueError("no heads chosen; click some")
    bench.lab.grid.check(named)
    progress(f"{write} {named}", 0, 1)
    table: Any = effect(bench.lab, bench.encoded, named, write, align=bench.align, progress=progress).table
    (mean,) = bootstrap_means(table[["value"]].to_numpy(), table["cluster"].tolist(), unit="pairs", seed=0)
    bench.chosen, bench.write = sorted(named), write
    bench.looks.edit(named, bench.selection)
    value = float(table["value"].mean())  # of one prompt, too, which has no interval
    gap = float((table["other"] - table["before"]).mean())
    return {
        "heads": str(named),
        "write": write,
        "unit": "logits" if bench.contrast else "nats",
        "edited": "corrupted" if write == "patch" else "clean",
        "rows": table[["before", "after", "other"]].astype(float).round(4).to_dict("records"),
        "mean": {"value": value, "low": mean.low, "high": mean.high, "n": mean.n},
        "share": value / gap if bench.paired and gap else None,
        "right": [int((table[c] > 0).sum()) for c in ("before", "after")] if bench.contrast else None,
    }
