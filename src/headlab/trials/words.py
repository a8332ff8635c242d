"""A document in words: what is edited, where, with what; what is read; against what; what would uphold and refute.

The same text stands in the report, in ``headlab check`` and in lists, so that none can say another thing than what runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headlab.claims import Prediction, Verdict
from headlab.heads import Heads
from headlab.stats.figures import exact, exact_percent
from headlab.thoughts.worlds import ThoughtWorld
from headlab.trials import expressions
from headlab.trials.consistency import axes_of
from headlab.trials.document import Document
from headlab.trials.expressions import Expression, Term
from headlab.trials.fields import WORSE_WHEN_HIGHER, Write, WriteAxes
from headlab.trials.sets import Family, Resolved, SetSpec
from headlab.trials.sources import partnerless
from headlab.trials.worlds import Arm

READOUT_WORDS: dict[str, str] = {
    "margin": "the logit of the right answer minus that of the best wrong one",
    "logprob": "the log probability of the right answer, in nats",
    "probability": "the probability of the right answers",
    "probability-gap": "the probability of the right answers minus that of the wrong ones",
    "place": "the vocabulary rank of the right answer (1 is the first)",
    "accuracy": "the share of prompts with a positive margin",
    "loss": "nats per token of the text itself",
    "kl": "the divergence of the edited run's predictions from the unedited ones', in nats per token",
    "text": "greedy text, graded",
}
WRITE_WORDS: dict[str, str] = {
    "patch": "replaced by what the other run has there",
    "noop": "written back as they are",
    "zero": "set to zero",
    "mean": "replaced by their mean over other prompts",
    "resample": "replaced by those of another prompt",
    "noise": "replaced by noise of the same norm",
    "rescale": "rescaled",
    "exchange": "exchanged among heads",
    "mask": "kept from attending to some tokens",
    "force": "made to attend to some tokens",
    "redistribute": "made to move attention between tokens",
    "add": "shifted along a direction",
}
FED_WORDS = {
    "noop": "itself",
    "zero": "nothing",
    "mean": "the mean over problems",
    "resample": "another problem's",
    "noise": "noise",
}
SITE_WORDS = {
    "z": "outputs (z)",
    "pattern": "attention patterns",
    "resid": "residual streams",
    "scores": "attention scores",
}


def set_words(spec: SetSpec) -> str:
    """A set as written, in words."""
    inner = set_words(spec.parts[0]) if spec.parts else ""
    among = f" among {set_words(spec.among)}" if spec.among else ""
    if spec.kind == "heads":
        return str(spec.heads)
    if spec.kind == "name":
        return "all heads" if spec.name == "all" else spec.name
    if spec.kind == "pool":
        where = f" of layer {', '.join(map(str, spec.layers))}" if spec.layers else " of the chosen layer"
        return f"{'' if spec.name == 'all' else 'the '}{spec.name} heads{where}"
    if spec.kind == "union":
        return " and ".join(set_words(p) for p in spec.parts)
    if spec.kind == "not":
        return f"every head that is not in {inner}{among}"
    if spec.kind == "file" and not spec.number:
        return f"the heads that {spec.name} marks as members{among}"
    if spec.kind in {"top", "bottom", "file"}:
        n = f"{exact_percent(spec.number)} of heads" if spec.number < 1 else f"{int(spec.number)} heads"
        return f"the {n} with the {'lowest' if spec.kind == 'bottom' else 'highest'} {spec.by or 'score in ' + spec.name}{among}"
    if spec.kind == "above":
        return f"the heads whose {spec.by} is above {spec.number:g}{among}"
    if spec.kind == "draw":
        size = f"{exact(spec.number)} of the heads" if spec.number < 1 else f"{int(spec.number)}"
        return f"{spec.n} random sets of {size}{f' less {spec.less}' if spec.less else ''} from {inner}"
    words = {"singles": "each head of", "leave_one_out": "one head less of", "chains": "longer and longer parts of"}
    return f"{words[spec.kind]} {inner}"


def _write_words(write: WriteAxes) -> str:
    cells = [write.at(c) for c in write.cells()]
    one: Write = cells[0]
    if one.site == "thought":
        which = ", ".join(one.roles or ("every thought",))
        return f"{which} is fed {' / '.join(dict.fromkeys(FED_WORDS[c.write] for c in cells))}"
    if one.shape:
        hub = f", {exact_percent(one.amount)} on {one.keys[0]}" if one.keys else f", {exact_percent(one.amount)}"
        rows = " and ".join(one.roles) if one.roles else "thoughts and the answer"
        shapes = " / ".join(dict.fromkeys(str(c.shape) for c in cells))
        return f"attention among thoughts of {set_words(write.spec)} is made {shapes}{hub}, in the rows of {rows}"
    site = SITE_WORDS.get(one.site, one.site)
    ways = " / ".join(dict.fromkeys(WRITE_WORDS[c.write] for c in cells))
    what = set_words(write.spec)
    text = f"the {site} of {what} are {ways}"
    if len({c.amount for c in cells}) > 1:
        text += f", by {listed([c.amount for c in cells])}"
    elif one.amount != 1.0:
        text += f", by {one.amount:g}"
    if one.roles:
        text += f", at the tokens of {', '.join(one.roles)}"
    if one.keys:
        text += f" (keys: {', '.join(one.keys)})"
    if one.computed_in:
        text += f", as computed in the world {one.computed_in}" + ("" if one.free else " with the heads between held")
    return text


def method(doc: Document) -> str:
    """What is done, in a few sentences."""
    run = {"clean": "the clean prompts run, and heads are taken from them", "corrupted": "the corrupted prompts run"}
    if partnerless(doc):
        run["clean"] = "the problems are thought through" if doc.thinking else "the prompts run"
    names = "; ".join(f"{n}: {READOUT_WORDS.get(str(s['kind']), s['kind'])}" for n, s in doc.readouts.items())
    worlds = "; ".join(
        f"{name}: {' and '.join(_write_words(w) for w in writes)}" for name, writes in doc.world_axes().items()
    )
    against = ""
    if doc.reference:
        r = doc.reference
        alike = f" with the same {' and '.join(r.match)}" if r.match else " of the same size"
        against = (
            f" Ranks: the direction of {r.labels} is made anew up to {r.n:,} times at its own norm, with the labels of whole "
            "clusters of selection prompts exchanged."
            if r.labels
            else f" Ranks: {r.redraw} is drawn anew up to {r.n:,} times{alike}, and all that follows from it is made anew."
        )
    return f"{run[doc.edit].capitalize()}. {worlds}. Read: {names}.{against}"


def prediction_words(p: Prediction) -> str:
    """What would uphold and refute one prediction."""
    try:
        read = said(expressions.parse(p.statistic.removeprefix("pooled:")))
    except ValueError:
        read = p.statistic
    pooled = " (pooled)" if p.statistic.startswith("pooled:") else ""
    return f"{p.words or read}{pooled}: upheld by the {p.asked}"


def said(read: Expression) -> str:
    """An expression in words."""
    head = {"mean": "mean of ", "least": "least of ", "most": "most of ", "share": "share of "}.get(read.family, "")
    body = _sum_words(read.top) + (f" over {_sum_words(read.bottom)}" if read.bottom else "")
    return ("rank of " if read.rank else "") + head + body


def _sum_words(terms: Sequence[Term]) -> str:
    names = {
        "value": "readout",
        "drop": "harm",
        "lost": "share lost",
        "recovery": "share recovered",
        "repair": "pairs repaired",
    }
    out = []
    for n, t in enumerate(terms):
        place = "/".join([t.world, *t.cell])
        word = f"{names.get(t.word, t.word)} by {place}" + (f" ({t.readout})" if t.readout else "")
        out.append(("minus " if t.sign < 0 else "plus " if n else "") + word)
    return " ".join(out)


def cell_of(read: Expression) -> str:
    """The cell of an expression whose bare worlds were pinned, in words."""
    return ", ".join(dict.fromkeys("/".join(t.cell) for t in read.terms if t.cell))


def shown_words(doc: Document, readout: str, paired: bool) -> Iterator[str]:
    """What is shown of every world, predicted or not."""
    kind = str(doc.readouts[readout]["kind"])
    if kind == "text" and doc.edit == "corrupted":
        yield "repair"
        return
    yield "drop"
    if paired and kind not in WORSE_WHEN_HIGHER | {"text", "accuracy"}:
        yield "lost" if doc.edit == "clean" else "recovery"


def does(arm: Arm) -> str:
    """What one arm writes."""
    first = arm.draws[0]
    said = [f"{o.write} at {o.site}" + (f" ×{o.amount:g}" if o.amount != 1 else "") for o in first.interventions]
    if isinstance(first, ThoughtWorld):
        said += [f"attention among thoughts: {f.shape}" for f in first.forces]
        said += [f"thought {', '.join(map(str, r.thoughts))} fed {r.by}" for r in first.replaced]
    return "; ".join(dict.fromkeys(said))


def split_by_write(asked: Sequence[Any], verdict: Verdict) -> str:
    """A clause where one prediction holds under some writes and not under others: the write decides."""
    by: dict[str, dict[str, list[str]]] = {}
    for a, r in zip(asked, verdict.rulings, strict=False):
        cells = {"/".join(t.cell) for t in a.read.terms if t.cell}
        if len(cells) == 1:
            by.setdefault(a.written, {}).setdefault(r.outcome, []).append(next(iter(cells)))
    for written, found in by.items():
        if "upheld" in found and len(found) > 1:
            rest = ", ".join(f"{o} under {' and '.join(c)}" for o, c in found.items() if o != "upheld")
            return f"the write decides: {written} is upheld under {' and '.join(found['upheld'])} and {rest}"
    return ""


def sections(doc: Document, resolved: Mapping[str, Resolved]) -> list[dict[str, str]]:
    """Text that the report shows under the numbers."""
    lines = []
    for name, spec in doc.set_specs().items():
        found = resolved[name]
        heads = f"{len(found)} sets" if isinstance(found, Family) else _heads(found)
        lines.append(f"{name}: {set_words(spec)} = {heads}.")
    out = [{"heading": "The heads", "text": " ".join(lines)}]
    out.append({"heading": "What was predicted", "text": "; ".join(prediction_words(p) for p in doc.predictions) + "."})
    text = (
        "A rank speaks of this model's heads and this task's prompts. An ablation says what is needed while the rest "
        "stays as it is: other heads may stand in (backup), and a write far from what the model ever sees (zero) can hurt "
        "where a mean does not. Read the writes beside each other."
    )
    out.append({"heading": "When this misleads", "text": text})
    return out


def _heads(heads: Heads) -> str:
    return str(heads) if len(heads) <= 12 else f"{len(heads)} heads"


def axes_words(doc: Document, world: str) -> str:
    """The axes of a world: ``write: mean, zero, resample``."""
    return "; ".join(f"{a}: {listed(v)}" for a, v in axes_of(doc, world).items())


def listed(values: Sequence[Any]) -> str:
    """Values of an axis; of many, the first, the last and how many."""
    said = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    return ", ".join(said) if len(said) <= 12 else f"{said[0]}, {said[1]} … {said[-1]} ({len(said)} values)"
