"""The record: the JSON part of a run, with everything that is needed to repeat it.

JSON knows no NaN. What is not a number is stored as null, and the record's ``warnings`` name the places.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from headlab.claims import Outcome, Verdict
from headlab.reading.bounds import brief
from headlab.reading.problems import problems

SCHEMA = 2
"""Number of the layout that this headlab writes, and the highest that it reads.  1 had no digest."""

RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,119}")
TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
RESERVED = frozenset({"runs", "readings", "estimates"})
"""Views of every query that are read from the records; no table may take their names."""

STORE_KEEPS = frozenset({"schema_version", "id", "kind", "slug", "key", "created", "status", "tables"})
"""Fields that only the store sets."""

Status = Literal["running", "interrupted", "failed", "complete"]
Kind = Literal["trial", "run", "demo"]

Plain = dict[str, Any]
"""JSON-ready data, as it stands in a record."""


class StoreError(RuntimeError):
    """A run that cannot be stored, found or read; the message says what was given, expected and to do."""


class Altered(StoreError):
    """A record that is not as it was written: its digest, or the hash of its claim, does not hold."""


class StoreLookupError(StoreError):
    """What was asked of a store is not there or not allowed: an id, a table, a statement."""


def _names(pattern: re.Pattern[str], value: Any) -> Any:
    """Ids and table names become file names: nothing in them may lead out of the store."""
    for name in [value] if isinstance(value, str) else value:
        if not pattern.fullmatch(name) or name in RESERVED:
            raise ValueError(f"{name!r} is not a name")
    return value


class NamedEstimate(BaseModel):
    """One number of a reading: ``name`` ("repair:even"), ``label`` ("even heads repair"), ``arm`` and the
    estimate.

    ``estimate`` is :meth:`headlab.stats.Estimate.to_dict`; a :class:`headlab.stats.Rank` gives its own as
    ``rank.estimate``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    label: str
    arm: str = ""
    estimate: Plain


class Reading(BaseModel):
    """What one protocol reads from the same claim: its verdict, and the numbers that it stands on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: str
    words: str
    verdict: Verdict
    estimates: tuple[NamedEstimate, ...] = ()


class TableInfo(BaseModel):
    """A stored table's row count and the SHA-256 of its Parquet file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    sha256: str


class Record(BaseModel):
    """A run: what was asked, of which model, under which settings, what came out, and how to repeat it.

    ``key`` is the content hash of everything that rules the numbers: same key, same table.  ``readings[0]``
    is the binding reading; the others stand beside it.  ``call`` holds a shell command and a line of Python.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    schema_version: int = SCHEMA
    id: str
    kind: Kind
    slug: str
    title: str
    status: Status = "running"
    error: str = ""
    created: str
    finished: str | None = None
    key: str
    claim: Plain | None = None
    claim_hash: str | None = None
    model: Plain = Field(default_factory=dict)
    prompts: Plain = Field(default_factory=dict)
    settings: Plain = Field(default_factory=dict)
    versions: Plain = Field(default_factory=dict)
    call: dict[str, str] = Field(default_factory=dict)
    eligibility: Plain = Field(default_factory=dict)
    readings: list[Reading] = Field(default_factory=list)
    figures: list[Plain] = Field(default_factory=list)
    sections: list[dict[str, str]] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    seconds: float | None = None
    children: list[str] = Field(default_factory=list)
    tables: dict[str, TableInfo] = Field(default_factory=dict)

    @field_validator("id", "children")
    @classmethod
    def _ids_are_ids(cls, value: Any) -> Any:
        return _names(RUN_ID, value)

    @field_validator("tables")
    @classmethod
    def _tables_are_names(cls, value: Any) -> Any:
        return _names(TABLE_NAME, value)

    @property
    def outcome(self) -> Outcome | None:
        """The binding verdict's outcome, or None when there is no verdict (yet)."""
        return self.readings[0].verdict.outcome if self.readings else None

    @property
    def tried_on(self) -> str:
        """The model as readers name it, ``NAME@REVISION`` where it has one, with the setting where it is one of several; the
        title where there is no model."""
        name, revision = str(self.model.get("name") or self.title), self.model.get("revision")
        at = f"{name}@{revision}" if revision else name
        return f"{at} {self.settings['setting']}" if self.settings.get("setting") else at

    def updated(self, fields: Mapping[str, object]) -> Record:
        """A copy with ``fields`` replaced and made JSON-ready.  Raises StoreError on what does not fit."""
        lost: list[str] = []
        data = {**self.model_dump(mode="json"), **plain(dict(fields), lost)}
        if lost:
            shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
            data["warnings"] = [*data["warnings"], f"not a number, stored as null: {shown}"]
        return _validated(json.dumps(data, allow_nan=False), f"run {self.id}")

    @property
    def sealed(self) -> bool:
        """Whether its file ends with a digest: records of schema 1 have none, so a change to one passes unseen."""
        return self.schema_version > 1

    @property
    def digest(self) -> str:
        """SHA-256 of the record's file up to its last two lines; those hold the digest itself.

        It is no signature: it shows what an accident, an editor or a bad disk changed, and whoever forges a record can
        forge it too.  Compare it with a copy kept elsewhere.
        """
        return hashlib.sha256(self._body().encode()).hexdigest()

    def _body(self) -> str:
        data = plain(self.model_dump(mode="json"), [])
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}") + ","

    def to_json(self) -> str:
        """The record as JSON text, without NaN, the digest last."""
        body = self._body()
        if not self.sealed:
            return body.removesuffix(",") + "\n}\n"
        return f"{body}{_SEAL}{hashlib.sha256(body.encode()).hexdigest()}{_END}"

    @staticmethod
    def digested(data: bytes) -> bytes | None:
        """The record's JSON without its digest, when that holds; None where there is none, or it does not."""
        body, mark, tail = data.rpartition(_SEAL.encode())
        held = tail.decode("ascii", "replace") == hashlib.sha256(body).hexdigest() + _END
        return body.removesuffix(b",") + b"\n}" if mark and held else None

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "record", id: str | None = None) -> Record:
        """The record that :meth:`to_json` wrote (of the run ``id``, if that is given).

        Raises StoreError when the text is no record, or one of a newer headlab; Altered when it is not as it was
        written; ``name`` is what the message calls it.
        """
        data = text.encode() if isinstance(text, str) else text
        whole = cls.digested(data)
        try:
            record = _validated(data if whole is None else whole, name)
        except StoreError:
            record = _validated(_reformatted(data, name), name)
        if record.schema_version > SCHEMA:
            _reformatted(data, name)
        if id is not None and record.id != id:
            raise StoreError(f"the folder of {id} holds the record of {record.id}; rename the folder to that")
        if whole is None and (record.sealed or _DIGEST.search(data)):
            raise Altered(f"{name} was changed after it was written: its digest does not hold; {_WHAT_NOW}")
        if record.claim is not None and record.claim_hash != content_hash(record.claim):
            raise Altered(f"{name} holds another claim than the one that was hashed before the trial; {_WHAT_NOW}")
        return record


_SEAL, _END = '\n "digest": "', '"\n}\n'
_DIGEST = re.compile(rb'"digest": ?"[^"]*"\s*}\s*\Z')
"""A record of schema 1 has none: one that says it is of schema 1 and has one was changed."""
_WHAT_NOW = "take it from a copy, or run it again (`headlab verify` says what else holds)"


def _reformatted(data: bytes, name: str) -> bytes:
    """The same text without its digest, wherever that stands.  Raises StoreError where it is no record at all, or one of
    a newer headlab."""
    try:
        held = json.loads(data)
        version = held["schema_version"]
        held.pop("digest", None)
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
        raise StoreError(f"{name} is damaged: not a headlab record ({type(error).__name__}: {error})") from error
    if not isinstance(version, int) or version > SCHEMA:
        raise StoreError(
            f"{name} was written by a newer headlab (schema {brief(version)}; this one reads up to {SCHEMA}); "
            "upgrade headlab to read it"
        )
    return json.dumps(held).encode()


def _validated(text: str | bytes, name: str) -> Record:
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(f"{name} is not a record: {problems(error, {}, Record)}") from error


def plain(value: Any, lost: list[str], place: str = "") -> Any:
    """``value`` as JSON-ready data: models and numpy scalars unpacked, NaN and infinity as None.

    The place of each None that was no number is appended to ``lost``.  Raises StoreError on what JSON cannot
    hold.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate has no place in JSON
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        lost.append(place or "value")
        return None
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="python"), lost, place)
    if isinstance(value, Mapping):
        return {str(k): plain(v, lost, f"{place}.{k}" if place else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, lost, f"{place}.{i}") for i, v in enumerate(value)]
    if isinstance(value, set | frozenset):
        return plain(sorted(value), lost, place)
    if isinstance(value, Path):
        return str(value)
    for unpack in ("to_dict", "plain", "tolist"):  # Estimate, Figure, numpy
        if hasattr(value, unpack):
            return plain(getattr(value, unpack)(), lost, place)
    raise StoreError(f"{place or 'value'} cannot be stored: {type(value).__name__} is not plain data")


def content_hash(data: Any) -> str:
    """SHA-256 of plain data as canonical JSON.  Raises StoreError on NaN: it would make different inputs
    alike.
    """
    lost: list[str] = []
    ready = plain(data, lost)
    if lost:
        raise StoreError(f"inputs must be numbers: {', '.join(lost[:5])} is NaN or infinite")
    return hashlib.sha256(json.dumps(ready, sort_keys=True).encode()).hexdigest()
