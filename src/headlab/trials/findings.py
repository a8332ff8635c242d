"""What a trial hands to the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headlab.effects import Figure
from headlab.store import Reading


@dataclass
class Findings:
    """Readings (the first is binding), figures, tables, eligibility, and what else the record keeps."""

    readings: list[Reading]
    figures: list[Figure]
    tables: dict[str, Any]
    eligibility: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    sections: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
