"""Where the shards of a sweep run: here, or in Ray workers on this machine or a cluster.  The only room that names Ray.

A plan is the same wherever it runs, and so is the table.  Each worker holds a replica of the driver's model, which must
prove itself as the driver's did and have its fingerprint, its software and its number of threads; so a shard's rows
are the same bits in any worker, and any number of workers makes the same table (on one kind of processor).

    choice    an engine by name
    ray       the workers, and which shard goes to whom
    replica   the model inside a worker

Importing this loads neither torch nor Ray.
"""

from .choice import ADDRESS, ENGINES, Choice, pick
from .ray import Ray
from .replica import ScaleError

__all__ = ["ADDRESS", "ENGINES", "Choice", "Ray", "ScaleError", "pick"]
