"""Artefacts of clustering weights, detected: each speaks up by itself where the features alone make the finding.

1. ``repetition``: features that are the same in every head of a KV group make the groups clusters.
2. ``forced_mean``: features centred over heads have a mean cosine near -1/(n - 1), whatever they are.
3. ``singleton``: a cut in two that parts one block from all others may say only that its norm is larger.
4. ``self_counted``: a set predicted by likeness to its members, themselves included, predicts itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from headlab.stats.agreement import most_similar
from headlab.stats.clustering import LEAST, euclidean, hierarchical, silhouette
from headlab.stats.figures import percent, rounded

Array = NDArray[Any]

CENTRED = 1e-6
"""Columns whose mean is below this share of their root mean square are centred."""
LARGER = 1.5
"""A block whose norm is this many times the others' can be a cluster for its norm."""
LEFT = 0.5
"""A silhouette that keeps less than this share without norms was made by norms."""


@dataclass(frozen=True)
class Artefact:
    """What a detector says: its name, whether the artefact is there, the sentence for the page, and the number behind it
    (None where there is nothing to measure)."""

    name: str
    found: bool
    words: str
    value: float | None


def repetition(features: Float[Array, "head feature"], groups: Sequence[Hashable]) -> Artefact:
    """Do the features repeat what the heads of a KV group share?

    Definition: value = share of features that are equal in all heads of every group and differ between groups, among
        the features that differ at all.
    Shapes: features [head, feature]; groups [head], the KV group of each head.
    Units: none.  Range: 0 to 1; more = a larger part of every distance is zero inside groups by construction.
    Mean: over features.
    Raises: ValueError on unequal lengths or NaN.
    Source: the published features expand W_K and W_V to every query head.
    When it misleads: it looks at single features, so one that mixes own and shared parts passes (a product W_Q·W_Kᵀ
        does, and heads of a group are alike in it too: compare with untrained weights).  With one head to a group, or
        one group, there is nothing to repeat.
    """
    x = _features(features)
    names = list(dict.fromkeys(groups))
    if len(groups) != len(x):
        raise ValueError(f"groups must name the KV group of each of {len(x)} heads, got {len(groups)} names")
    codes = np.array([names.index(g) for g in groups])
    if len(names) in {1, len(x)}:
        return Artefact("repetition", False, "no two KV groups of several heads: nothing can be repeated", None)
    differs = np.ptp(x, axis=0) > 0
    same = np.all([np.ptp(x[codes == g], axis=0) == 0 for g in range(len(names))], axis=0)
    share = float((same & differs).sum() / max(1, differs.sum()))
    if share == 0:
        return Artefact("repetition", False, "no feature is the same in all heads of every KV group", 0.0)
    return Artefact(
        "repetition",
        True,
        f"{percent(share)} of the features are copies: equal in all heads of each of {len(names)} KV groups, so the groups are "
        "clusters of any weights, random ones too",
        share,
    )


def forced_mean(features: Float[Array, "head feature"]) -> Artefact:
    """Is the mean similarity of heads fixed beforehand?

    Definition: with every feature centred over the n heads, Σ_i x_i = 0, so Σ_{i≠j} x_i·x_j = -Σ_i |x_i|²: heads of
        equal norm have a mean cosine of -1/(n - 1) over pairs, exactly.  value = the mean cosine over pairs.
    Shapes: features [head, feature].
    Units: none.  Range: -1/(n - 1) to 1; found when every feature's mean over heads is zero to 1e-6 of its size.
    Mean: over pairs of heads.
    Raises: ValueError on NaN.
    Source: the published -0.0317 among 32 heads is -1/31 = -0.0323; arithmetic.
    When it misleads: centring is no fault where distances are compared (they do not change); it makes the *level* of
        similarity meaningless.  Heads of unequal norms move the mean cosine a little off the forced value.
    """
    x = _features(features)
    n, sizes = len(x), np.linalg.norm(x, axis=1)
    if n < 2 or not (sizes > 0).all():
        return Artefact("forced_mean", False, f"{n} heads, some without any feature: no mean cosine", None)
    rows = x / sizes[:, None]
    mean = float((np.square(rows.sum(0)).sum() - n) / (n * (n - 1)))
    centred = np.abs(x.mean(0)) <= CENTRED * np.sqrt((x**2).mean(0))
    if not centred.all():
        even = rounded(-1 / (n - 1))
        said = (
            f"features are not centred over heads; mean cosine {rounded(mean)}, and -1/{n - 1} = {even} is not forced"
        )
        return Artefact("forced_mean", False, said, mean)
    return Artefact(
        "forced_mean",
        True,
        f"features are centred over {n} heads, which forces the mean cosine to about -1/{n - 1} = {rounded(-1 / (n - 1))} "
        f"(here {rounded(mean)}): it says nothing of these heads",
        mean,
    )


def singleton_silhouette(ratio: float, n: int) -> float:
    """The silhouette of one block against n - 1 others, when only its norm differs.

    Definition: blocks at right angles (as random ones of many entries nearly are), n - 1 of norm 1 and one of norm r, lie
        √2 from one another and √(1 + r²) from the one.  The one scores 0 (alone in its cluster); the others
        (b - a) / max(a, b) with a = √2, b = √(1 + r²).  So s = (n - 1)/n · (1 - √2 / √(1 + r²)) for r ≥ 1, and
        (n - 1)/n · (√(1 + r²) / √2 - 1) below.
    Units: none.  Range: -(n - 1)/n · (1 - 1/√2) to (n - 1)/n, more with r.
    Mean: over the n blocks.
    Raises: ValueError for r < 0 or n < 3.
    Source: derived here from the definition of the silhouette; n = 12 gives the published numbers.
    When it misleads: blocks that share directions lie nearer to one another than √2.
    """
    if ratio < 0 or n < 3:
        raise ValueError(f"expected a norm ratio >= 0 and at least 3 blocks, got {ratio!r} and {n!r}")
    a, b = sqrt(2.0), sqrt(1.0 + ratio**2)
    return (n - 1) / n * (b - a) / max(a, b)


def singleton(features: Float[Array, "block feature"], labels: Sequence[Hashable] | None = None) -> Artefact:
    """Does a cut in two part one block from the rest for its norm alone?

    Definition: for a cut of the blocks into one and the others: r = the one's norm / root mean square norm of the
        others; s = the cut's silhouette; s' = the same cut's silhouette after every block is scaled to norm 1.
        Found when r ≥ 1.5, s > 0 and s' < s/2.  value = r, or None when the cut parts off no single block.
    Shapes: features [block, feature], not centred; labels [block] (None: the tree's cut in two, average linkage).
    Units: none.  Range: r from 0 up.
    Mean: over blocks.
    Raises: ValueError on NaN or unequal lengths.
    Source: the clusters published for Pythia-160m at 120k and 143k steps are one block against eleven.
    When it misleads: a block that has grown *and* turned away has an s' of its own and is not called an artefact.
        Centred features hide norms: give the weights themselves.
    """
    x = _features(features)
    sizes = np.linalg.norm(x, axis=1)
    if len(x) < LEAST or not (sizes > 0).all():
        return Artefact("singleton", False, f"{len(x)} blocks: no cut to speak of", None)
    table = euclidean(x)
    cut = list(hierarchical(table, 2).labels if labels is None else labels)
    if len(cut) != len(x):
        raise ValueError(f"labels must name a cluster for each of {len(x)} blocks, got {len(cut)}")
    counts = {name: cut.count(name) for name in cut}
    alone = [i for i, name in enumerate(cut) if counts[name] == 1]
    if len(counts) != 2 or not alone:
        return Artefact("singleton", False, "the cut does not part a single block from the others", None)
    one, s = alone[0], silhouette(table, cut) or 0.0
    others = np.delete(sizes, one)
    r, n = float(sizes[one] / np.sqrt((others**2).mean())), len(x)
    turned = silhouette(euclidean(x / sizes[:, None]), cut) or 0.0
    found = r >= LARGER and s > 0 and turned < LEFT * s
    said = (
        f"the cut parts block {one} from {n - 1} others: silhouette {rounded(s)}, its norm {rounded(r)} times theirs "
        f"(norm alone gives {rounded(singleton_silhouette(r, n))}), {rounded(turned)} with norms equal"
    )
    return Artefact("singleton", found, said + ("; one norm makes this cluster" if found else ""), r)


def self_counted(similarity: Float[Array, "head head"], members: Sequence[int], predicted: Sequence[int]) -> Artefact:
    """Was a set predicted by likeness to its members with each member's likeness to itself counted?

    Definition: two predictions of as many heads: by mean similarity to the members, and by mean similarity to the
        members *other than the head itself*.  Found when the given prediction is the first and not the second.
        value = share of the members in the given prediction minus that in the second.
    Shapes: similarity [head, head], the diagonal each head's likeness to itself; members, predicted: indices.
    Units: share of members.  Range: -1 to 1; found values are what the diagonal gave away.
    Mean: over members.
    Raises: ValueError on unknown or repeated indices.
    Source: the published "function-based prediction" returns exactly the set it started from.
    When it misleads: where both ways give one set nothing can be seen, and nothing was gained.
    """
    chosen, inside = tuple(sorted(predicted)), set(members)
    counted = most_similar(similarity, members, len(chosen), itself=True)
    honest = most_similar(similarity, members, len(chosen))
    share = [len(inside & set(made)) / len(inside) for made in (chosen, honest)]
    if chosen != counted or counted == honest:
        why = (
            "the prediction is the same without it" if counted == honest else "it is not what counting themselves gives"
        )
        return Artefact(
            "self_counted", False, f"members' likeness to themselves did not make this prediction: {why}", 0.0
        )
    return Artefact(
        "self_counted",
        True,
        f"the prediction holds {percent(share[0])} of the set it was made from because each member's likeness to itself counts; "
        f"without it {percent(share[1])}",
        share[0] - share[1],
    )


def _features(x: Any) -> Array:
    made = np.asarray(x, dtype=np.float64)
    if made.ndim != 2 or not np.isfinite(made).all():
        raise ValueError(f"features must be finite numbers [head, feature], got shape {made.shape}")
    return made
