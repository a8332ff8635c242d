"""The docket: one short module for each experiment, and the way in."""

from headlab.experiments.base import Result
from headlab.experiments.demo import demo
from headlab.experiments.docket import catalogue, run, slugs
from headlab.experiments.trial import builtin_claims, find_claim, load, plan, repeat, trial

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
