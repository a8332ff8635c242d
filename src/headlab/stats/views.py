"""Items in two dimensions, for the eye: principal coordinates, t-SNE, UMAP.

A picture proves nothing: t-SNE and UMAP draw islands from a single cloud. What is there is asked in `agreement`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ._check import Floats, Values, whole
from .clustering import LEAST, _distances, _nothing

Method = Literal["pca", "tsne", "umap"]


@dataclass(frozen=True, slots=True)
class View:
    """points [item] (x, y), the method with its setting, explained: the share of squared distance each axis carries
    (None where a method has no such thing); points are empty where `note` says why."""

    points: tuple[tuple[float, float], ...]
    method: str
    explained: tuple[float, ...] | None = None
    note: str = ""


def principal_coordinates(distances: Values) -> tuple[Floats, Floats]:
    """Points whose Euclidean distances are the given ones, as nearly as points can: classical scaling.

    Definition: eigenvectors of -1/2 J D^2 J (J centres rows and columns) times the root of their eigenvalue; axes with
    an eigenvalue not above zero are left out. For Euclidean distances these are the principal components.
    Shapes, units: distances [item, item] -> coordinates [item, axis] in their unit, shares [axis] of the sum of the
    positive eigenvalues, largest first.
    Range: shares in (0, 1], they sum to 1. No axis when all distances are zero.
    Mean over: nothing. The sign of an axis is fixed: its largest entry in size is positive.
    Raises: ValueError on NaN, a table that is not symmetric, negative distances.
    Source: Torgerson, Psychometrika 17:401 (1952); Gower, Biometrika 53:325 (1966).
    When it misleads: distances that no points have (negative eigenvalues) are bent to fit.
    """
    table = _distances(distances)
    n = len(table)
    if n == 0:
        return np.zeros((0, 0)), np.zeros(0)
    centred = table**2 - (table**2).mean(0)
    values, vectors = np.linalg.eigh(-(centred - centred.mean(1, keepdims=True)) / 2)
    order = np.argsort(values)[::-1]
    order = order[values[order] > 1e-10 * max(values.max(), 1e-300)]
    values, vectors = values[order], vectors[:, order]
    signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0))
    return vectors * signs * np.sqrt(values), values / values.sum() if len(values) else values


def view(distances: Values, method: Method = "pca", *, seed: int) -> View:
    """Two coordinates for each item.

    Definition: "pca": the first two principal coordinates; "tsne", "umap": points whose neighbours are the items'
    neighbours, by scikit-learn and umap-learn, started from them.
    Shapes, units: distances [item, item] -> points [item] (x, y); units mean something for "pca" only.
    Range: any; t-SNE's perplexity is min(30, (n - 1) / 3), UMAP's neighbours min(15, n - 1).
    Mean over: nothing. Undefined (no points): fewer than 4 items, all distances zero.
    Raises: ValueError on NaN, an unknown method; ImportError naming the extra when umap-learn is not installed.
    Source: Gower (1966); van der Maaten & Hinton, JMLR 9:2579 (2008); McInnes et al., arXiv 1802.03426 (2018).
    When it misleads: t-SNE and UMAP make islands of noise, and neither sizes nor gaps of islands mean anything.
    """
    table, seed = _distances(distances), whole(seed, "seed")
    if method not in ("pca", "tsne", "umap"):
        raise ValueError(f'method must be "pca", "tsne" or "umap", got {method!r}.')
    if why := _nothing(table):
        return View((), method, None, why)
    points, shares = principal_coordinates(table)
    flat = np.column_stack([points, np.zeros((len(points), 1))])[:, :2]
    if method == "pca":
        return View(_pairs(flat), "principal coordinates", tuple(shares[:2].tolist()))
    if method == "tsne":
        from sklearn import manifold

        kind: Any = manifold.TSNE  # its annotations take init for a string

        perplexity = min(30.0, (len(table) - 1) / 3)
        spread = max(float(flat[:, 0].std()), 1e-300)
        made = kind(
            perplexity=perplexity,
            metric="precomputed",
            init=(flat / spread * 1e-4).astype(np.float32),
            random_state=seed,
        ).fit_transform(table)
        return View(_pairs(made), f"t-SNE, perplexity {perplexity:g}")
    return _umap(table, seed)


def _umap(table: Floats, seed: int) -> View:
    with warnings.catch_warnings():  # of what umap could do with tensorflow, and cannot with given distances
        warnings.simplefilter("ignore")
        try:
            from umap import UMAP
        except ImportError as error:
            raise ImportError(
                "the UMAP view needs umap-learn, which is not installed; pip install 'headlab[views]', in a clone "
                'pip install -e \'.[views]\', or take the view "pca" or "tsne"'
            ) from error
        near = min(15, len(table) - 1)
        start = "random" if len(table) < 2 * LEAST else "spectral"
        made = UMAP(n_neighbors=near, metric="precomputed", init=start, random_state=seed, n_jobs=1).fit_transform(
            table
        )
    return View(_pairs(made), f"UMAP, {near} neighbours")


def _pairs(points: Any) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)
