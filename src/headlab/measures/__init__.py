"""What is measured on attention without intervening: shares, routes, entropy, similarity, edges, weights, the machine.

Every table is tidy and raw: rows for single prompts, nothing averaged over prompts.  Averages, intervals and tests
belong to :mod:`headlab.stats`.
"""

from __future__ import annotations

from headlab.measures.attention import bandwidth, entropy, routing
from headlab.measures.classes import DECIMALS, PublishedClasses, TokenClasses
from headlab.measures.edges import gradient_edges
from headlab.measures.head_features import distances, norms, spectra
from headlab.measures.machine import architecture
from headlab.measures.outputs import output_bandwidth
from headlab.measures.published_weights import published_features, reshape_artefact
from headlab.measures.similarities import Moments, moments, similarity
from headlab.measures.weights import HeadWeights, head_weights, norm_matched, read_weights

__all__ = [
    "DECIMALS",
    "HeadWeights",
    "Moments",
    "PublishedClasses",
    "TokenClasses",
    "architecture",
    "bandwidth",
    "distances",
    "entropy",
    "gradient_edges",
    "head_weights",
    "moments",
    "norm_matched",
    "norms",
    "output_bandwidth",
    "published_features",
    "read_weights",
    "reshape_artefact",
    "routing",
    "similarity",
    "spectra",
]
