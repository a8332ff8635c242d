"""What the statistics accept: every public function reads its input through one of these.

Each helper either returns a clean numpy array or raises one ValueError that says what was given,
what was expected and what to do. Nothing is dropped or imputed on the way.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Count = int | np.integer[Any]
Number = float | int | np.floating[Any] | np.integer[Any]


@runtime_checkable
class _Array(Protocol):
    """What numpy can read without copying item by item: arrays, columns of a table, tensors."""

    def __array__(self, *args: Any, **kwargs: Any) -> NDArray[Any]: ...


# Looser than numpy's ArrayLike, which a run-time check can only sample; the helpers below check all of it.
Values = Sequence[Any] | _Array
Clusters = Sequence[Hashable] | _Array | None


def floats(x: Values, name: str, ndim: int = 1) -> Floats:
    """`x` as finite float64 with `ndim` axes."""
    try:
        array = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, got {_short(x)}. Drop or count undefined rows first.") from error
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axis/axes, got shape {array.shape}.")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(
            f"{name} holds {bad} NaN or infinite value(s) among {array.size}; finite numbers expected. "
            "Drop those rows and report how many were dropped."
        )
    return array


def booleans(x: Values, name: str, ndim: int = 1) -> Bools:
    """`x` as booleans with `ndim` axes; the numbers 0 and 1 are accepted, nothing else is."""
    array = np.asarray(x)
    if array.dtype != np.bool_:
        array = floats(x, name, ndim)
        if not np.isin(array, (0.0, 1.0)).all():
            raise ValueError(f"{name} must be booleans (or 0 and 1), got {_short(x)}. Compare with a threshold first.")
        array = array.astype(np.bool_)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axis/axes, got shape {array.shape}.")
    return array


def same_length(**arrays: NDArray[Any]) -> int:
    """The common first length of the arrays."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"rows must be paired, got lengths {lengths}. Align both on the same rows.")
    return next(iter(lengths.values()))


def whole(x: object, name: str, minimum: int = 0) -> int:
    """`x` as a whole number of at least `minimum`."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer)) or int(x) < minimum:
        raise ValueError(f"{name} must be a whole number >= {minimum}, got {x!r}.")
    return int(x)


def open_unit(x: Number, name: str) -> float:
    """`x` strictly between 0 and 1."""
    if not 0.0 < x < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {x!r} (write 0.95 for 95 %).")
    return float(x)


def cluster_codes(clusters: Clusters, n: int) -> tuple[Ints, int]:
    """An integer per row and how many clusters there are; None means that each row is its own.

    Codes follow first appearance, so that renaming clusters cannot change a seeded result.
    """
    if clusters is None:
        return np.arange(n, dtype=np.int64), n
    labels: list[Any] = list(clusters) if isinstance(clusters, Sequence) else np.asarray(clusters).tolist()
    if len(labels) != n:
        raise ValueError(f"clusters must name one cluster per row: got {len(labels)} for {n} rows.")
    if any(label is None or label != label for label in labels):
        raise ValueError("clusters holds a missing label (None or NaN); give every row its prompt or problem.")
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(label, len(codes)) for label in labels], dtype=np.int64), len(codes)


def _short(x: object) -> str:
    text = repr(x).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."
