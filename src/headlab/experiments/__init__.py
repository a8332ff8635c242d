"""The docket: one short module for each experiment, and the way in."""

from typing import TYPE_CHECKING

from headlab.experiments.docket import catalogue, run, slugs
from headlab.experiments.known import builtin_claims, find_claim
from headlab.experiments.trial import load, plan, repeat
from headlab.store import Result

if TYPE_CHECKING:
    from headlab.experiments.demo import demo
    from headlab.experiments.trial import trial
else:  # modules that are called like their functions
    from headlab.experiments import demo, trial

__all__ = [
    "Result",
    "builtin_claims",
    "catalogue",
    "demo",
    "find_claim",
    "load",
    "plan",
    "repeat",
    "run",
    "slugs",
    "trial",
]
