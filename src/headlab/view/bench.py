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

from headlab.effects import Progress, quiet
from headlab.engine.captures import capture
from headlab.engine.model import Lab, ModelError
from headlab.engine.recall import recalling
from headlab.heads import Head, Heads
from headlab.looking import direct_effects, effect, head_scores, heatmap
from headlab.looking.texts import MOST_SHOWN, said
from headlab.looking.written import above_mean
from headlab.prompts import EncodedPair, PromptError, PromptSet, encode
from headlab.stats.intervals import bootstrap_means
from headlab.store.records import Plain
from headlab.trials.document import Document
from headlab.trials.loading import load
from headlab.trials.prompts import split
from headlab.trials.starting import starting
from headlab.view.asked import Asked
from headlab.view.looks import Looks

WRITES = ("zero", "mean", "resample", "patch")
EFFECTS = ("attribution", *WRITES)
SCORES = ("previous", "sink", "induction", "duplicate", "successor", "copying", "norm", "probe")


@dataclass
class Bench:
    """What lies on the table.  ``chosen`` and ``write`` are what the draft is about; ``test`` is sealed
    until a claim is registered."""

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
    chosen: list[Head] = field(default_factory=list)
    write: str = ""
    words: str = ""
    lends: dict[str, bool] = field(default_factory=dict)

    @property
    def paired(self) -> bool:
        return all(p.partner for p in [*self.selection, *self.test])

    @property
    def writes(self) -> list[str]:
        return [w for w in WRITES if self.paired or w != "patch"]

    @property
    def ids(self) -> list[str]:
        return [p.id for p in self.selection]

    def plain(self) -> Plain:
        """What the page shows before anything is measured."""
        prompts = [
            {
                "clean": p.clean.text,
                "corrupted": p.corrupted.text if p.partner else "",
                "answer": p.answer,
                "wrong": p.wrong,
            }
            for p in self.selection
        ]
        return {
            "model": self.lab.name,
            "source": self.asked.task or "own prompts",
            "layers": sorted(self.lab.attentions),
            "heads": self.lab.grid.n_heads,
            "paired": self.paired,
            "prompts": prompts,
            "sealed": len(self.test),
            "effects": [e for e in EFFECTS if self.paired or e not in {"patch", "attribution"}],
            "writes": self.writes,
            "scores": list(SCORES),
            "chosen": [str(h) for h in self.chosen],
            "write": self.write,
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
        PromptSet.from_file(file)
    draft = starting(
        "L0H0", prompts=file, task=asked.task, pairs=asked.pairs, selection_pairs=asked.looked_at, seed=asked.seed
    )
    test, selection = split(Document.from_text(draft, name="the draft"), lab.tokenizer, None, folder)
    if not len(selection) or not len(test):
        raise PromptError(
            f"{len(test) + len(selection)} pair(s) that share clusters cannot be parted into some to look at and some to try; "
            "give more"
        )
    mine = looks.setdefault((lab.fingerprint, selection.content_hash()), Looks())
    bench = Bench(key, asked, lab, selection, test, folder, file, mine)
    bench.encoded = [encode(p, lab.tokenizer) for p in selection]
    bench.write = "patch" if bench.paired else "zero"
    return bench


def grid(bench: Bench, name: str, progress: Progress = quiet) -> Plain:
    """A number for each head: an effect, a score of attention, or ``direct``; kept after the first time."""
    if name not in bench.grids:
        progress(f"{name}, every head", 0, 1)
        if name in EFFECTS:
            look = heatmap(bench.lab, bench.encoded, name, progress=progress)
        elif name == "direct":
            look = direct_effects(bench.lab, bench.encoded)
        elif name in SCORES:
            look = head_scores(bench.lab, name, bench.encoded)
        else:
            raise ValueError(f"no score {name!r}; expected one of {', '.join((*EFFECTS, *SCORES, 'direct'))}")
        rows: Any = look.table if "part" not in look.table else look.table[look.table["part"] == "head"]
        columns = [c for c in ("layer", "head", "value", "low", "high", "n") if c in rows]
        bench.grids[name] = {"name": name, "unit": look.unit, "rows": rows[columns].to_dict("records")}
        heads = [Head(layer, h) for layer in sorted(bench.lab.attentions) for h in range(bench.lab.grid.n_heads)]
        bench.looks.grid(name, heads, bench.ids)
    return bench.grids[name]


def pattern(bench: Bench, head: Head, prompt: int, run: str, progress: Progress = quiet) -> Plain:
    """The pattern of a head over one prompt: tokens, the row of weights of each query, where the answer is read; ``writes``: the
    three tokens that the head's weights write toward most for each token alone, or ``why`` there are none.

    Raises ValueError for a head, prompt or run that is not there, PromptError for a prompt that is too long to be drawn.
    """
    bench.lab.grid.check(Heads([head]))
    if not 0 <= prompt < len(bench.encoded) or run not in {"clean", "corrupted"}:
        raise ValueError(f"no prompt {prompt} ({run}); expected 0 to {len(bench.encoded) - 1}, clean or corrupted")
    pair = bench.encoded[prompt]
    one = pair.clean if run == "clean" else pair.corrupted
    if len(one.ids) > MOST_SHOWN:
        raise PromptError(f"the prompt has {len(one.ids)} tokens; a pattern is drawn of at most {MOST_SHOWN}")
    progress("reading the prompt", 0, 1)
    with recalling(bench.lab):
        kept = capture(bench.lab, [one], [(head.layer, "pattern")])
    weights = kept[head.layer, "pattern"][0][:, head.index].float()
    bench.looks.pattern(head, pair.pair.id)
    writes, why = [], ""
    try:
        for row in above_mean(bench.lab, head, one.ids).topk(3).indices.tolist():
            writes.append([said(bench.lab, i) for i in row])
    except ModelError as error:
        why = str(error)
    return {
        "head": str(head),
        "prompt": prompt,
        "run": run,
        "tokens": [said(bench.lab, i) for i in one.ids],
        "weights": [[round(float(w), 4) for w in row[: q + 1]] for q, row in enumerate(weights)],
        "read": len(one.ids) - 1,
        "writes": writes,
        "why": why,
    }


def edit(bench: Bench, heads: Sequence[Head], write: str, progress: Progress = quiet) -> Plain:
    """Edit some heads together and read every selection prompt: the answer's lead before and after, the other run's, and the
    mean change with its interval.

    ``patch``: the corrupted run is edited, z comes from the clean one; else the clean run is edited.
    """
    if write not in bench.writes:
        raise ValueError(f"no write {write!r} on these prompts; expected one of {', '.join(bench.writes)}")
    named = Heads(heads)
    if not len(named):
        raise ValueError("no heads chosen; click some")
    bench.lab.grid.check(named)
    progress(f"{write} {named}", 0, 1)
    table: Any = effect(bench.lab, bench.encoded, named, write, progress=progress).table
    (mean,) = bootstrap_means(table[["value"]].to_numpy(), table["cluster"].tolist(), unit="pairs", seed=0)
    bench.chosen, bench.write = sorted(named), write
    bench.looks.edit(named, bench.ids)
    gap = float((table["other"] - table["before"]).mean())
    return {
        "heads": str(named),
        "write": write,
        "edited": "corrupted" if write == "patch" else "clean",
        "rows": table[["before", "after", "other"]].astype(float).round(4).to_dict("records"),
        "mean": {"value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n},
        "share": mean.value / gap if bench.paired and gap and mean.value is not None else None,
        "right": [int((table[c] > 0).sum()) for c in ("before", "after")],
    }
