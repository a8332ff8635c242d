"""What kind of number each prediction of a claim is, and over how many rows: all that a generator has to know.

1. ``rate`` of rows that share clusters · ``count`` of independent ones · ``subsets``, a rate over pairs × drawn subsets ·
   ``difference`` of two rates on the same rows · ``mean`` · ``ratio`` of two means.
2. ``rank`` of a set among drawn sets, all measured on the same rows · ``walk``, the same decided from as few as it takes
   (:mod:`headlab.stats.sequential`) · ``shuffles``, a number among shuffles of the data.
3. A document's kinds follow from its expressions; an entry of the docket has them here, in the order of its predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headlab.claims import Claim, Prediction
from headlab.stats.sequential import enough
from headlab.trials import expressions
from headlab.trials.cells import is_over
from headlab.trials.document import Document
from headlab.trials.expressions import CURVES, RATIOS, Expression
from headlab.trials.measured import kind_of
from headlab.trials.statistics import cells

KINDS: dict[str, str] = {
    "parity": "rate rate walk",
    "head-count": "subsets subsets subsets",
    "bandwidth": "mean mean rank",
    "bandwidth-dose": "rate rate difference walk",
    "bandwidth-repair": "rate difference walk",
    "format-masking": "rate difference walk",
    "bug-rate": "rate rate rate",
    "subset-sweep": "count",
    "routing": "mean rank",
    "critical-paths": "ratio rank",
    "position-sensitivity": "ratio rank",
    "head-similarity": "mean rank",
    "pattern-swap": "rate rate walk",
    "head-exchange": "mean mean walk walk",
    "architecture": "walk walk",
    "mechanism": "shuffles rank",
    "cluster-behaviour": "shuffles shuffles",
    "reindexing": "count count",
    "head-ablation": "difference rank",
    "position-patching": "difference mean mean",
    "forced-patterns": "ratio ratio ratio",
    "hub-rerouting": "ratio ratio ratio ratio ratio ratio",
    "transplant": "ratio difference mean",
    "thought-attention": "mean mean mean",
    "hubs": "mean shuffles mean",
    "head-metrics": "mean mean shuffles",
    "compare-models": "mean mean mean mean",
    "layer-probes": "mean mean rank",
    "attribution": "mean shuffles mean",
    "difficulty": "difference difference shuffles",
    "null-rates": "count",
}
"""By claim; rows are pairs or problems, sets ``matched_sets``."""
ROWS = {"subset-sweep": 320, "reindexing": 20, "null-rates": 1000}
"""Where rows are neither: subsets, re-indexings, decided trials."""
CANNOT = {
    "layer-scan": "its largest of several layers is no number of the generator's",
    "spatial-patterns": "its regression over sets is no number of the generator's",
    "pattern-threshold": "its logistic curves are no numbers of the generator's",
    "format-injection": "its regressions over prompts are no numbers of the generator's",
    "robustness": "every cell of its grid is counted: nothing is sampled",
    "training-dynamics": "its change points of one training run are no numbers of the generator's",
    "weight-clusters": "one of its predictions counts the heads of one model: nothing is sampled",
    "cross-model": "its unit is the model, and a scorecard of models is no number of the generator's",
}
"""Why no numbers are drawn for a claim."""


@dataclass(frozen=True, order=True)
class Asked:
    """One prediction as a generator sees it."""

    kind: str
    op: str
    threshold: float


@dataclass(frozen=True)
class Shape:
    """What a claim's rule depends on: its predictions by kind, rows, clusters (0: each row its own), alternatives."""

    asked: tuple[Asked, ...]
    rows: int
    clusters: int
    sets: int

    @property
    def cost(self) -> int:
        """Roughly how much a trial takes."""
        return self.rows * sum(
            {"rank": self.sets, "walk": 50, "count": 0, "shuffles": 1, "rate": 1}.get(a.kind, 300) for a in self.asked
        )


def of(claim: Claim | Document) -> Shape | str:
    """The shape of a claim, or why it has none."""
    if claim.id in CANNOT:
        return CANNOT[claim.id]
    if isinstance(claim, Document):
        return _of_document(claim)
    if claim.experiment not in KINDS:
        return f"the generator does not know the numbers of {claim.experiment}"
    kinds = KINDS[claim.experiment].split()
    asked = tuple(_asked(k, p) for k, p in zip(kinds, claim.predictions, strict=True))
    rows = ROWS.get(claim.experiment, claim.pairs)
    return _shape(asked, rows, _clusters(claim.task.name, rows), claim.matched_sets)


def _shape(asked: Sequence[Asked], rows: int, clusters: int, sets: int) -> Shape:
    """In one order, so that rules that are the same but for it are one."""
    ranks = [a.threshold for a in asked if a.kind == "walk"]
    sets = enough(sets, ranks) if ranks else sets if any(a.op == "rank<" for a in asked) else 0
    independent = all(a.kind in {"count", "shuffles"} for a in asked)
    return Shape(tuple(sorted(asked)), rows, 0 if independent else clusters, sets)


def _clusters(task: str, rows: int) -> int:
    """Decimals share their fractions, about three pairs each; elsewhere a row is its own cluster."""
    return rows // 3 if task == "decimals" else 0


def _asked(kind: str, p: Prediction) -> Asked:
    """Means and ratios are shifted and turned to lie above 0, which changes nothing: their unit is a row's standard
    deviation.  Of a prediction that something lies within two bounds, the nearer one is asked."""
    if kind in {"mean", "ratio"}:
        return Asked(kind, ">", 0.0)
    return Asked(kind, "<" if p.op == "within" else p.op, p.limit if p.op != "within" else max(p.threshold))  # type: ignore[type-var]


def _of_document(doc: Document) -> Shape | str:
    asked: list[Asked] = []
    if is_over(doc):
        return f"it is tried over {is_over(doc)}, several trials of which the generator draws one"
    if doc.reference is not None and doc.reference.labels:
        return "it is ranked among exchanged labels, of which the generator draws none"
    for p in doc.predictions:
        read = expressions.parse(p.statistic.removeprefix("pooled:"))
        for one in cells(doc, read):
            kind = ("walk" if doc.decide == "sequential" else "rank") if one.rank else _kind(doc, one)
            if kind not in {"walk", "rank", "rate", "subsets", "difference", "mean", "ratio"}:
                return kind
            asked.append(_asked(kind, p))
    name = str(doc.task.get("name", ""))
    return _shape(asked, doc.pairs, _clusters(name, doc.pairs), doc.reference.n if doc.reference else 0)


def _kind(doc: Document, read: Expression) -> str:
    """What estimates an expression, as :meth:`headlab.trials.statistics.Statistics.estimate` chooses; or why none here."""
    words = {t.word for t in read.terms}
    if words & CURVES or "spearman" in words:
        return f"{', '.join(sorted(words & {*CURVES, 'spearman'}))} is no number of the generator's"
    if read.family in {"least", "most", "share"}:
        return f"the {read.family} of a family is no number of the generator's"
    if read.family == "mean" and words == {"repair"}:
        return "subsets"
    if read.bottom:
        return "ratio"
    term = read.single
    if term is None or read.family:
        return "mean"
    if term.word in RATIOS:
        return "ratio"
    said = kind_of(doc, term.readout) in {"text", "accuracy"}
    return "rate" if term.word == "repair" or (said and term.word == "value") else "difference" if said else "mean"


def shared(claims: Sequence[Claim | Document]) -> dict[Shape, list[str]]:
    """Claims by their shape: those of one shape have one rule, which is measured once."""
    out: dict[Shape, list[str]] = {}
    for claim in claims:
        if isinstance(shape := of(claim), Shape):
            out.setdefault(shape, []).append(claim.id)
    return out
