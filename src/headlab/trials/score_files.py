"""Scores of heads, and circuits, from files that other tools write.

``.csv`` with the columns layer, head, score; or ``.json``, of which these forms are known:

- an object ``{"L9H6": 0.3}``, or a list of ``{"layer", "head", "score"}``
- EAP-IG (``Graph.to_json``, github.com/hannamw/EAP-IG): ``nodes`` ``{"a9.h6": {"in_graph", "score"?}}`` and ``edges``
  ``{"a9.h6->m10": {"score", "in_graph"}}``.  Without scores of nodes a head's is the sum of the absolute scores of the
  edges that leave it.
- CircuitKIT (``CircuitScores.to_json``, github.com/Lexsi-Labs/CircuitKIT): ``node_scores`` ``{"A9.6": 0.3, "MLP 3": …}``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headlab.heads import Head
from headlab.reading import csv_rows, read_document

_NODE = re.compile(r"(?:[aA]|L|blocks?\.)?(\d+)\D{1,12}?(\d+)(?:<[qkv]>)?$")

MOST_SCORES = 64 * 2**20
"""Bytes of a file: a circuit of a large model has an edge for each pair of its parts."""


class ScoreError(ValueError):
    """A file without scores of heads: what was given, what was expected."""


def scores(path: Path) -> dict[Head, float]:
    """Scores by head; several of one head (its q, k and v) are added.  Raises ScoreError."""
    rows = _read(path)
    if isinstance(rows, Mapping) and rows.get("level") == "neuron":
        raise ScoreError(f"{path.name} scores neurons (level: neuron); expected scores of heads (level: node)")
    try:
        if isinstance(rows, Mapping) and isinstance(rows.get("edges"), Mapping) and not _scored(rows.get("nodes")):
            out = _added((str(n).partition("->")[0], abs(_number(v))) for n, v in rows["edges"].items())
        elif isinstance(rows, Mapping):
            named = next((rows[k] for k in ("node_scores", "nodes", "scores", "heads") if _many(rows.get(k))), rows)
            out = _named(named) if isinstance(named, Mapping) else _listed(named)
        else:
            out = _listed(rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ScoreError(
            f"{path.name} holds no scores of heads ({type(error).__name__}): expected {{'L9H6': 0.3}} or rows of layer, "
            "head, score"
        ) from error
    if not out:
        raise ScoreError(f"{path.name} names no head; expected names such as L9H6, a9.h6 or A9.6, each with a number")
    return out


def circuit(path: Path) -> list[Head]:
    """The heads that a file marks as members (EAP-IG's ``in_graph``).  Raises ScoreError where it marks none."""
    rows = _read(path)
    nodes = rows.get("nodes") if isinstance(rows, Mapping) else None
    marked = [n for n, v in (nodes or {}).items() if isinstance(v, Mapping) and v.get("in_graph") is True]
    found = sorted(head for head in map(_head, marked) if head is not None)
    if not found:
        raise ScoreError(f"{path.name} marks no head as a member (nodes: in_graph); say how many to take, top: 20")
    return found


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ScoreError(f"no such score file: {path.name}; expected a .json or .csv beside the claim")
    if path.suffix == ".csv":
        return list(csv_rows(path, error=ScoreError)[1])
    return read_document(path, "json", name=path.name, most=MOST_SCORES, error=ScoreError)[0]


def _many(found: Any) -> bool:
    return isinstance(found, list | dict)


def _scored(nodes: Any) -> bool:
    return isinstance(nodes, Mapping) and any(isinstance(v, Mapping) and "score" in v for v in nodes.values())


def _head(name: Any) -> Head | None:
    found = _NODE.match(str(name))
    return Head(int(found[1]), int(found[2])) if found else None


def _number(value: Any) -> float:
    found = value.get("score") if isinstance(value, Mapping) else value
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise TypeError(f"no number: {value!r}")
    return float(found)


def _added(pairs: Iterable[tuple[str, float]]) -> dict[Head, float]:
    out: dict[Head, float] = {}
    for name, value in pairs:
        if (head := _head(name)) is not None:
            out[head] = out.get(head, 0.0) + value
    return out


def _named(rows: Mapping[Any, Any]) -> dict[Head, float]:
    pairs = []
    for name, value in rows.items():
        try:
            pairs.append((str(name), _number(value)))
        except TypeError:  # what stands beside scores of heads (a version, an input node)
            continue
    return _added(pairs)


def _listed(rows: Iterable[Any]) -> dict[Head, float]:
    out: dict[Head, float] = {}
    for row in rows:
        head = Head(int(row["layer"]), int(row["head"]))
        out[head] = out.get(head, 0.0) + float(row["score"])
    return out
