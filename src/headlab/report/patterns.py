"""What heads attend to, on a page: a small picture for each head and prompt, whose pixels are the weights, and the words for it."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headlab.effects import Table
from headlab.stats.figures import percent

from .nulls import parsed
from .read import tones

COLUMNS = {"pair_id", "run", "head", "query", "key", "weight", "token", "role"}
STRONGEST = 3
"""Tokens that are named of what a head attends to."""


@dataclass(frozen=True)
class Attending:
    """One head on one prompt: its picture, where its attention goes from the last token, and the largest share of that."""

    picture: str
    said: str
    most: float


@dataclass(frozen=True)
class Attended:
    """Prompts (pair, run, tokens with their roles and tones), what each head does on each of them, and the tones of roles."""

    prompts: list[dict[str, object]]
    heads: dict[str, list[Attending]]
    roles: dict[str, int]


def shown(tables: Mapping[str, Table], roles: Mapping[str, int]) -> Attended | None:
    """The table ``attended`` of a record for its page, or None where it has none.  ``roles``: the tones that roles have elsewhere
    on the page."""
    table = tables.get("attended")
    if table is None or table.empty or not {*table} >= COLUMNS:
        return None
    if not (named := parsed(table["head"].unique())):
        return None
    there = [r for r in table["role"].unique() if r]
    every = tones(there, roles)
    heads: dict[str, list[Attending]] = {str(h): [] for h in sorted(one for s in named for one in s)}
    made = Attended([], heads, {r: t for r, t in every.items() if r in there})
    for (id, run), rows in table.groupby(["pair_id", "run"], sort=False):
        n = rows["query"].max() + 1
        first = rows[(rows["head"] == rows["head"].iloc[0]) & (rows["query"] == n - 1)].sort_values("key")
        texts = first["token"].tolist()
        tokens = [{"text": t, "role": r, "tone": every.get(r)} for t, r in zip(texts, first["role"], strict=True)]
        made.prompts.append({"id": id, "run": run, "tokens": tokens})
        for head, own in rows.groupby("head"):
            weights = np.zeros((n, n))
            weights[own["query"], own["key"]] = own["weight"]
            heads[head].append(Attending(picture(weights), said(weights[-1], texts), float(weights[-1].max())))
    return made


def said(row: NDArray[np.float64], tokens: list[str]) -> str:
    """Where one query's attention goes, the strongest first: ``54.1% to “9” (token 3), …``."""
    order = [int(k) for k in np.argsort(-row, kind="stable")[:STRONGEST] if row[k] >= 0.005]
    return ", ".join(f"{percent(row[k])} to “{visible(tokens[k])}” ({k})" for k in order) or "nothing above .5 %"


def visible(token: str) -> str:
    """A token as one can see it: spaces and line ends have signs."""
    return token.replace(" ", "·").replace("\n", "↵") or "∅"


def picture(weights: NDArray[np.float64]) -> str:
    """Weights [query, key] in 0 … 1 as a grey picture (PNG) inside an address: white is 0, black is 1."""
    grey = (255 - np.rint(255 * np.clip(weights, 0, 1))).astype(np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in grey)
    head = struct.pack(">2I5B", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    made = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + made).decode()
