"""One claim over any list of models: who can be asked at all, who shows the pattern, and how likely the table is by chance.

1. Every model (``NAME`` or ``NAME@REVISION``) is tried by ``parity`` as a trial of its own, eligibility first; where it
   can be tried and ``head-count`` is asked for, by that too.  A model that cannot be loaded is a row that says why.
2. The seed's summary table: architecture, training, bug rate, even, odd, pattern; beside it what was published for the
   same model, and ``untestable`` where there is nothing to explain.
3. Two references are tried along: an organism planted in the even heads must be found, one planted in heads that parity
   does not describe must not.
4. A model shows the pattern when even heads repair at least .5 more of the pairs than odd ones.  Its chance of doing so
   is the share of its own matched halves that do: how likely are as many yes or more?
5. Heterogeneity of the contrast between models; the share of models in which parity stands out among matched halves.
"""

from __future__ import annotations

from headlab.claims import decide
from headlab.store import Reading
from headlab.trials.case import Bench
from headlab.trials.experiment import Program
from headlab.trials.findings import Findings as Outcome

REFERENCES = {"planted": "decimals-planted-even", "unplanted": "decimals-planted-random"}
STATISTICS = ("chance:pattern", "upheld:models", "pattern:models", "agreement:published", "heterogeneity:*")
CONTROLS = tuple(REFERENCES)


def single(bench: Bench) -> Outcome:
    """On one model there is nothing to compare."""
    why = f"{bench.lab.name} alone is no table of models; name several: headlab cross-model MODEL MODEL …"
    verdict = decide(bench.claim, {}, [], impossible=why)
    readings = [Reading(protocol=p, words="a table of models", verdict=verdict) for p in bench.claim.readings]
    return Outcome(readings, [], {}, {"ok": True, "reason": ""})


SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "A model without the bug has nothing to repair: untestable is no refutation. Models were chosen by hand, share "
            "data and ancestors, and differ in architecture, tokenizer and training at once, so no difference between two of "
            "them has one cause. One or two heads often carry a layer, and then a contrast between even and odd is a coin "
            "toss in every model: read the number of models with the pattern against its chance, never against zero."
        ),
    },
    {
        "heading": "The published table",
        "text": (
            "Four models were scored by different rules, at layers chosen on even sets alone; in two the clean prompt itself "
            "was answered wrongly, so nothing correct could be carried over. Four outcomes being equally likely, two or more "
            "of four models show even-works, odd-fails with a chance of .26."
        ),
    },
]

EXPERIMENT = Program(
    slug="cross-model",
    question="Which models show the parity pattern, and would as many show it by chance?",
    run=single,
    statistics=STATISTICS,
    controls=CONTROLS,
)
