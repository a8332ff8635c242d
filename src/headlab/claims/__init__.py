"""Claims and verdicts: what is said, what it predicts, which controls it needs, and the one rule that decides.

A claim is plain data, read from YAML or TOML or written in Python, and hashed before the first forward pass.
:func:`decide` is a pure function from findings to a verdict; nothing else in headlab says "upheld".
"""

from .statement import (
    MOST,
    PROTOCOLS,
    Claim,
    ClaimError,
    Outcome,
    Prediction,
    Protocol,
    ProtocolName,
    TaskSpec,
    read_file,
    read_text,
)
from .verdict import REFUTES_AT, Control, Decidable, Ruled, Ruling, Verdict, decide, judged, rule

__all__ = [
    "MOST",
    "PROTOCOLS",
    "REFUTES_AT",
    "Claim",
    "ClaimError",
    "Control",
    "Decidable",
    "Outcome",
    "Prediction",
    "Protocol",
    "ProtocolName",
    "Ruled",
    "Ruling",
    "TaskSpec",
    "Verdict",
    "decide",
    "judged",
    "read_file",
    "read_text",
    "rule",
]
