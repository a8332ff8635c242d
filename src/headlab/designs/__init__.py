"""What to try: the set a claim names, and the alternatives it does not name.  Pure; every draw is seeded.

sets         subsets, chains, matched sets, complements
exchanges    heads that change places
numberings   other names for the same heads
spacings     sets by how their heads lie in a pool
edges        attention from role to role: the strongest, and others as heavy
"""

from .sets import (
    Matched,
    chains,
    complement,
    divisions,
    leave_one_out,
    matched_sets,
    membership,
    random_masks,
    singles,
    subsets,
)

__all__ = [
    "Matched",
    "chains",
    "complement",
    "divisions",
    "leave_one_out",
    "matched_sets",
    "membership",
    "random_masks",
    "singles",
    "subsets",
]
