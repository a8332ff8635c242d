"""The names of trials, for experiments that are not yet declared."""

from headlab.trials.case import Bench, draw
from headlab.trials.experiment import CONTROLS, Experiment
from headlab.trials.findings import Findings as Outcome
from headlab.trials.pairs import (
    CLEAN_AT_LEAST,
    CORRUPTED_AT_MOST,
    PAIRS_AT_LEAST,
    Eligibility,
    choose_layer,
    contrast,
    distinct,
    eligibility,
    named,
    no_op_control,
    no_op_world,
    patch_all_control,
    protocol_patch,
    standard_estimates,
    with_texts,
)
from headlab.trials.results import Result, handed_on

__all__ = [
    "CLEAN_AT_LEAST",
    "CONTROLS",
    "CORRUPTED_AT_MOST",
    "PAIRS_AT_LEAST",
    "Bench",
    "Eligibility",
    "Experiment",
    "Outcome",
    "Result",
    "choose_layer",
    "contrast",
    "distinct",
    "draw",
    "eligibility",
    "handed_on",
    "named",
    "no_op_control",
    "no_op_world",
    "patch_all_control",
    "protocol_patch",
    "standard_estimates",
    "with_texts",
]
