"""What is measured on attention without intervening: shares, routes, entropy, similarity, edges, and the machine itself.

Every table is tidy and raw: rows for single prompts, nothing averaged over prompts.  Averages, intervals and tests
belong to :mod:`headlab.stats`.
"""

from __future__ import annotations

from headlab.measures.attention import bandwidth, entropy, routing
from headlab.measures.classes import DECIMALS, PublishedClasses, TokenClasses
from headlab.measures.edges import gradient_edges
from headlab.measures.machine import architecture
from headlab.measures.outputs import output_bandwidth
from headlab.measures.similarities import Moments, moments, similarity

__all__ = [
    "DECIMALS",
    "Moments",
    "PublishedClasses",
    "TokenClasses",
    "architecture",
    "bandwidth",
    "entropy",
    "gradient_edges",
    "moments",
    "output_bandwidth",
    "routing",
    "similarity",
]
