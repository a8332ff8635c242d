"""A document to start from: named heads, their prompts, and every default written out with what it means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headlab.claims import ClaimError
from headlab.heads import Heads
from headlab.reading import expected_one_of
from headlab.stats.figures import exact_percent
from headlab.trials.fields import ABLATIONS, THINKING

LOST, LEVEL = 0.2, 0.05
READS = {
    "margin": "logit of the right answer minus the wrong one",
    "logprob": "log probability of the right answer: some prompt has no wrong one",
}


def starting(
    heads: str,
    *,
    prompts: Path | None = None,
    task: str = "",
    write: str = "",
    edit: str = "clean",
    paired: bool = True,
    chosen_on: str = "other",
    words: str = "",
    at_read: bool = False,
    one_answer: bool = False,
    pairs: int = 200,
    selection_pairs: int = 60,
    seed: int = 0,
    source: str = "a hunch",
    selection: Path | None = None,
    worlds: Mapping[str, str] | None = None,
    alternatives: str = "",
    readout: str = "margin",
    align: str = "role",
) -> str:
    """The YAML of a document about ``heads``.

    ``prompts``: a file of pairs (named as it lies beside the document), else ``task``; ``write``: one ablation instead of
    all three; ``paired``: whether there are corrupted prompts to measure the loss against; ``at_read``: heads are written
    at the token where the answer is read, and nowhere else; ``one_answer``: every prompt has the same right answer, which a
    mean or another prompt's output would say, too: without ``write`` what the other run has is written (zero, if there is
    none).  ``source``: where the hunch is from; ``selection``: a file of the prompts that it was found on; ``worlds``: what is
    written instead (a write in YAML by name, the last of which is read); ``alternatives``: what sets that
    nobody named have in common with it (``match: [layer], among: …``); ``readout``: margin or logprob; ``align``: how a
    patch finds what goes where.

    Raises ClaimError for heads that cannot be read, or neither prompts nor a task.
    """
    try:
        named = Heads.parse(heads)
    except ValueError as error:
        raise ClaimError(str(error)) from error
    if not len(named):
        raise ClaimError("no heads given; expected names such as 'L3H1 L5H0'")
    if prompts is None and not task:
        raise ClaimError("a claim needs prompts: a file of pairs (--prompts pairs.csv), or a task (--task ioi)")
    if write and write not in (*ABLATIONS, "patch"):
        raise ClaimError(f"no write {write!r} here; {expected_one_of(write, (*ABLATIONS, 'patch'))}")
    patched, asked = write == "patch" or edit == "corrupted", bool(write)
    if one_answer and not write:
        write = "patch" if paired else "zero"
    looked = f", selection: {_quoted(selection.name)}" if selection is not None else ""
    taken = f"{{file: {_quoted(prompts.name)}{looked}}}" if prompts is not None else f"{{name: {task}}}"
    one = len(named) == 1
    does = ("gives" if one else "give") + " the answer back"
    said = words or f"{named} {does if patched else ('is' if one else 'are') + ' needed for the answer'}."
    # a lone head has few alternatives in its layer: it is ranked among all heads of the model
    alternatives = alternatives or f"match: {'[]' if len(named) == 1 else '[layer, sharing]'}"
    thinks = task == THINKING
    paired = paired and not thinks
    cell = "patch" if patched else write or "{each: [mean, zero, resample]}"
    word = "recovery" if edit == "corrupted" else "lost" if paired else "drop"
    least = 0 if word == "drop" else LOST
    where = "roles: [read], " if at_read and not patched else ""
    acts = worlds or {"edited": f"{{heads: named, {where}write: {cell}}}"}
    *_, read = acts
    lines = [
        "language: 1",
        f"id: claim-{str(named).replace(' ', '-').lower()}",
        f"words: {_quoted(said)}",
        f"source: {_quoted(source)}",
        f"chosen_on: {chosen_on}  # where the heads were found: published | other | these (then nothing is upheld)",
        f"task: {taken}",
        f"edit: {edit}  # the run that is edited: clean (are they needed?) or corrupted (are they enough?)",
        *(
            [f"align: {align}  # prompts of different length that name no roles, from the last token backwards"]
            if align != "role" and cell == "patch"
            else []
        ),
        f"pairs: {pairs}  # at most; of a file, what there is",
        f"selection_pairs: {selection_pairs}  # kept apart: means and donors come from them, never from the test",
        *([f"seed: {seed}"] if seed else []),
        "sets:",
        f"  named: {named}",
        "worlds:",
        *(
            ["  # where the answer is read: these prompts have too few tokens in common to lend a mean to every one"]
            if where
            else []
        ),
        *(
            ["  # every prompt has the same answer: a mean, or what another prompt has, would say it, too"]
            if one_answer and not asked
            else []
        ),
        *(f"  {name}: {text}" for name, text in acts.items()),
        *(_only(write, asked) if write in ABLATIONS and not worlds else []),
        "readout: text  # greedy; the answer is read as a number"
        if thinks
        else f"readout: {readout}  # {READS[readout]}",
        "reference:  # what the effect is ranked among: sets of the same size that nobody named",
        f"  {{redraw: named, {alternatives}, n: 999}}",
        "predictions:",
        f'  - {{statistic: "{word}:{read}", op: ">", threshold: {least}, words: {_quoted(_effect(word, least))}}}',
        f'  - {{statistic: "rank:{word}:{read}", op: "rank<", threshold: {LEVEL}, words: more than other sets of heads}}',
    ]
    return "\n".join(lines) + "\n"


def _only(write: str, asked: bool) -> list[str]:
    reason = f"{write} was asked for" if asked else "every prompt has the same answer, and there is no other run"
    return [f"only_because: {reason}"]


def _effect(word: str, least: float) -> str:
    return {
        "lost": f"more than {exact_percent(least)} of the lead is lost",
        "recovery": f"more than {exact_percent(least)} of the lead comes back",
        "drop": "the answer gets worse",
    }[word]


def _quoted(text: str) -> str:
    """A YAML scalar that can only be read as this text."""
    import json

    return json.dumps(text, ensure_ascii=False)


def saved(text: str, folder: Path, name: str, suffix: str = ".yaml") -> Path:
    """Write a document into a folder under a name that is free, or that holds the same text already."""
    for number in range(1, 1000):
        path = folder / (f"{name}{suffix}" if number == 1 else f"{name}-{number}{suffix}")
        if path.exists() and (not path.is_file() or path.read_bytes() != text.encode()):
            continue
        path.write_bytes(text.encode())
        return path
    raise ClaimError(f"{folder} holds a thousand claims called {name}; give another name")
