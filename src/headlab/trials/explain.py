"""What a document says, what will run, what cannot: without a forward pass, and without a model where it can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headlab.claims import ClaimError
from headlab.designs import Matched
from headlab.heads import Grid, Heads
from headlab.prompts import PromptError
from headlab.stats.power import detectable_mean, detectable_rate
from headlab.trials import words
from headlab.trials.alternatives import least_p, plan_of, planned, wanted
from headlab.trials.attainable import dead_end_of_document, of_document, out_of_reach, too_few
from headlab.trials.consistency import ablations_left_out
from headlab.trials.document import Document
from headlab.trials.eligibility import pairs_needed
from headlab.trials.fields import ALWAYS, needs_selection
from headlab.trials.lending import cannot_lend
from headlab.trials.prompts import split
from headlab.trials.references import Matching
from headlab.trials.relabelled import Relabelled, relabelled
from headlab.trials.sets import Family, Scene, SetError, everything, resolve


@dataclass(frozen=True)
class Explained:
    """Lines by heading, and what stands in the way (``faults``: the trial could only end untestable, or not run)."""

    lines: dict[str, list[str]]
    faults: list[str]

    def plain(self) -> dict[str, Any]:
        return {**self.lines, "faults": self.faults}


def grid_of(model: str, revision: str | None = None) -> Grid:
    """Layers, heads and KV heads as a model's config states them; no weight is read.  Raises ClaimError."""
    from transformers import AutoConfig

    from headlab import organisms

    shipped = {*organisms.names(), *organisms.names("thoughts")}
    where = str(organisms.path(model)) if model in shipped else model
    try:
        config = AutoConfig.from_pretrained(
            where, revision=revision or "main", trust_remote_code=False
        ).get_text_config()
    except Exception as error:
        raise ClaimError(
            f"{model}: its config cannot be read ({type(error).__name__}); check without --model"
        ) from error
    n = int(config.num_attention_heads)
    return Grid(int(config.num_hidden_layers), n, int(getattr(config, "num_key_value_heads", None) or n))


def explain(doc: Document, grid: Grid | None = None, folder: Path = Path("."), tokenizer: Any = None) -> Explained:
    """Everything that can be said of a document, for a model of this shape and with this tokenizer (None: of any)."""
    faults: list[str] = []
    if tokenizer is not None and (reason := cannot_lend(doc, tokenizer, folder)):
        faults.append(reason)
    sets_said = [f"{n}: {words.set_words(s)}" for n, s in doc.set_specs().items()]
    worlds = [f"{n}{_axes(doc, n)}" for n in doc.worlds]
    lines = {
        "claim": [doc.words],
        "method": [words.method(doc)],
        "sets": sets_said,
        "worlds": worlds,
        "predictions": [words.prediction_words(p) for p in doc.predictions],
        "controls": [*(f"{c} (waived: {doc.waive[c]})" if c in doc.waive else c for c in _run(doc)), *doc.controls],
        "can be seen": list(_seen(doc, folder)),
        "chosen": list(_chosen(doc)),
    }
    faults += filter(None, _reach(doc, folder, tokenizer))
    if grid is not None:
        lines["model"] = list(_on(doc, grid, folder, faults))
    return Explained(lines, faults)


def _run(doc: Document) -> list[str]:
    """The standing controls that this document runs."""
    text = any(r.get("kind") == "text" for r in doc.readouts.values())
    return [c for c in ALWAYS if text or c != "parse-rate"]


def _axes(doc: Document, world: str) -> str:
    said = words.axes_words(doc, world)
    return f" ({said})" if said else ""


def _chosen(doc: Document) -> Iterator[str]:
    if needs_selection(doc):
        yield f"on up to {doc.selection_pairs} selection prompts that share no cluster with the {doc.pairs} test prompts"
    else:
        yield f"nothing: all {doc.pairs} prompts are test prompts"
    if doc.chosen_on:
        yield {
            "published": "the heads are those of a publication",
            "other": "the heads were found on other prompts",
            "these": "the heads were found on these prompts: exploratory, at most undecided",
        }[doc.chosen_on]
    if left := ablations_left_out(doc):
        yield f"{' and '.join(left)} ablation is not tried, because {doc.only_because}"


def _reach(doc: Document, folder: Path, tokenizer: Any) -> list[str]:
    """What no outcome could uphold, or decide: by clusters, where the prompts are known; else as if each had one of its own."""
    if doc.thinking:
        return [too_few(doc.pairs, pairs_needed(doc, ()), "problems")]
    if tokenizer is None and "file" not in doc.task:
        return [too_few(doc.pairs, pairs_needed(doc, ())), *out_of_reach(doc.predictions, doc.pairs, None)]
    try:
        test = split(doc, tokenizer, None, folder)[0]
        return [dead_end_of_document(doc, tokenizer, folder, test), *of_document(doc, tokenizer, folder, test)]
    except (PromptError, ClaimError):
        return []  # what is wrong with the prompts is said where they are read


def _count(doc: Document, folder: Path) -> int:
    """How many prompts are tried: as many as asked for, or what a file has."""
    if "file" not in doc.task:
        return doc.pairs
    try:
        return len(split(doc, None, None, folder)[0])
    except (PromptError, ClaimError):
        return doc.pairs


def _seen(doc: Document, folder: Path) -> Iterator[str]:
    """The smallest effects that so many prompts are likely to show, prompts independent."""
    n = _count(doc, folder)
    means, rates = (
        False,
        dict.fromkeys(p.limit for p in doc.predictions if p.op == ">" and p.statistic.startswith("repair:")),
    )
    for p in doc.predictions:
        means = means or (p.op != "rank<" and not p.statistic.startswith(("repair:", "upheld:")))
    if means and (least := detectable_mean(n)) is not None:
        yield (
            f"a mean that lies {least:.2g} standard deviations (between the {n} prompts) or more beyond its threshold "
            "is told from it in four trials of five; correlated prompts show less"
        )
    for threshold in rates:
        if 0 < threshold < 1 and (rate := detectable_rate(n, threshold)) is not None:
            yield f"a share of repaired pairs that is {rate:.2g} or more is told from {threshold:g} in four trials of five"


def _on(doc: Document, grid: Grid, folder: Path, faults: list[str]) -> Iterator[str]:
    """What the document comes to on a model of this shape."""
    known = _resolved(doc, grid, folder, faults)
    for name, found in known.items():
        yield f"{name} = {f'{len(found)} sets' if isinstance(found, Family) else str(found) or 'no head'}"
    if doc.reference is None or not any(p.op == "rank<" for p in doc.predictions):
        return
    try:
        matched = _alternatives(doc, grid, known)
    except ValueError as error:
        faults.append(str(error))
        return
    if matched is None:
        yield "the alternatives depend on selection prompts; their number is known when it runs"
        return
    least = least_p(matched)
    how = "all there are" if matched.enumerated else f"drawn from {matched.total:,}"
    what = "alternatives" if isinstance(matched, Matched) else "exchanges of labels at most"
    yield f"{len(matched.sets):,} {what} ({how}); the least attainable p is {least:.3g}"
    at = plan_of(doc, len(matched.sets), matched.enumerated).at
    if len(at) > 1:
        yield f"looked at after {', '.join(f'{n:,}' for n in at)} of them; they stop once no more could change what ranks decide"
    cure = "match less, name more heads, or use a larger model"
    cure = cure if isinstance(matched, Matched) else "ask for more of them (n), or more selection_pairs"
    for p in doc.predictions:
        if p.op == "rank<" and least >= p.limit:
            faults.append(
                f"{p.statistic}: the least attainable p is {least:.3g}, not under {p.limit:g}, so it can only end "
                f"untestable; {cure}"
            )


def _alternatives(doc: Document, grid: Grid, known: Mapping[str, Any]) -> Matched | Relabelled | None:
    """The sets of the reference; None where they depend on selection prompts.  Raises ValueError where there are none."""
    ref = doc.reference
    if ref is not None and ref.labels:  # as many clusters as there are pairs, at most
        return relabelled([str(i) for i in range(doc.selection_pairs)], wanted(doc, ref.n), doc.seed)
    observed = None if ref is None else known.get(ref.redraw)
    if ref is None or not isinstance(observed, Heads) or "norm" in ref.match or ref.among != "all" or ref.exclude:
        return None
    return planned(doc, grid, observed, Matching(frozenset(ref.match)), ref.n)


def untestable_ranks(doc: Document, grid: Grid, folder: Path) -> frozenset[str]:
    """Ranks that no outcome could decide on a model of this shape: too few alternatives for their threshold."""
    ranks = [p for p in doc.predictions if p.op == "rank<"]
    try:
        matched = _alternatives(doc, grid, _resolved(doc, grid, folder, [])) if ranks else None
    except ValueError:
        return frozenset()  # said where they are drawn
    return frozenset(p.statistic for p in ranks if matched is not None and least_p(matched) >= p.limit)


def misfit(doc: Document, grid: Grid, folder: Path) -> str:
    """Why a model of this shape has not the heads or layers that a document names; empty where it has them."""
    why: list[str] = []
    known = _resolved(doc, grid, folder, why)
    try:
        for at in () if doc.layer == "auto" else doc.layer if isinstance(doc.layer, tuple) else (doc.layer,):
            grid.check_layer(int(at))
        for spec in (w.spec for writes in doc.world_axes().values() for w in writes if not why):
            if spec.names <= set(known):
                resolve(spec, _scene(doc, grid, folder, known), "a set in a world")
    except KeyError:
        pass  # a set by score, known once it is measured
    except (SetError, ValueError) as error:
        why.append(str(error))
    return why[0] if why else ""


def _scene(doc: Document, grid: Grid, folder: Path, known: dict[str, Any]) -> Scene:
    """What sets are resolved in, without any score."""
    at = (grid.n_layers // 2,) if doc.layer == "auto" else doc.layer if isinstance(doc.layer, tuple) else (doc.layer,)
    layers = tuple(range(grid.n_layers)) if doc.layer_rule == "every" else tuple(map(int, at))

    def score(_: str) -> Any:
        raise KeyError

    return Scene(grid, layers, {"all": everything(grid), **known}, score, doc.seed, folder)


def _resolved(doc: Document, grid: Grid, folder: Path, faults: list[str]) -> dict[str, Any]:
    """Sets that need no prompts."""
    known: dict[str, Any] = {}
    for _ in doc.sets:
        for name, spec in doc.set_specs().items():
            if name in known or not spec.names <= {"all", *known}:
                continue
            try:
                known[name] = resolve(spec, _scene(doc, grid, folder, known), name)
            except KeyError:
                continue
            except (SetError, ValueError) as error:
                faults.append(str(error))
                return known
    return known
