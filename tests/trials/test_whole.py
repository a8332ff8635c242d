"""The control ``whole`` on numbers made by hand: could the test have shown what is claimed?

Each case is one prediction and what every head of the layers does; what must come out is said by hand.  Looked for: every
word, both runs, every kind of readout, differences, doses, and the writes that take from elsewhere than the other run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headlab
from headlab.interventions import World
from headlab.trials import controls, expressions
from headlab.trials.document import Document
from headlab.trials.measured import Measured
from headlab.trials.statistics import Statistics, cells
from headlab.trials.worlds import Arm, axes_of, interventions

N = 40
DOSES = (0.0, 0.5, 1.0)


def passes(
    statistic: str, op: str, threshold: Any, base: float, other: float, does: dict[str, Any],
    *, kind: str = "margin", edit: str = "clean", write: str = "zero", **predicted: Any,
) -> bool:  # fmt: skip
    """``does``: for each world what its readout is under every head (a list: at each dose)."""
    worlds: dict[str, Any] = {w: {"heads": "named", "write": write} for w in does}
    for w, x in does.items():
        if isinstance(x, list):
            worlds[w]["amount"] = {"each": list(DOSES[-len(x) :] if len(x) == 3 else DOSES[: len(x)])}
    data = {
        "id": "d", "words": "w", "source": "s", "chosen_on": "other", "task": {"name": "decimals"}, "edit": edit,
        "sets": {"named": "L0H0"}, "worlds": worlds, "readout": {"r": kind}, "only_because": "a test",
        "reference": {"redraw": "named", "n": 99},
        "predictions": [{"statistic": statistic, "op": op, "threshold": threshold, **predicted}],
    }  # fmt: skip
    doc = Document.from_data({k: v for k, v in data.items() if k != "reference" or op == "rank<"})
    rng, found, rows, place = np.random.default_rng(0), [], [], {}
    noise = rng.normal(0, 0.01, N) * (kind not in {"accuracy", "text"})

    def spread(mean: float) -> Any:
        if kind in {"accuracy", "text"}:
            return (np.arange(N) < round(mean * N)).astype(float)
        return mean + noise + rng.normal(0, 0.01, N)

    for world, numbers in does.items():
        each = numbers if isinstance(numbers, list) else [numbers]
        values = [()] if not isinstance(numbers, list) else [(d,) for d in axes_of(doc, world)["amount"]]
        for number, cell in zip(each, values, strict=True):
            named = dict(zip(axes_of(doc, world), cell, strict=True))
            spec = doc.world_axes()[world][0].at(named)
            ones = interventions(doc, headlab.heads.Grid(1, 4, 4), spec, headlab.Heads.parse("L0H0 L0H1 L0H2 L0H3"))
            place[f"{world}{cell}"] = len(rows)
            rows.append(spread(number))
            arm = Arm(world, tuple(named.items()), -1, (World(f"{world}{cell}", tuple(ones)),))
            found.append(controls.Whole(world, arm, (0,)))
    seen = Measured(
        {"r": spread(base)}, {"r": spread(other)}, {"r": np.array(rows)}, {"r": place}, [str(i) for i in range(N)], "pairs",
        eligible=np.ones(N, bool),
    )  # fmt: skip
    stats = Statistics(doc, seen, lambda _: {})
    read = expressions.parse(statistic)
    return controls.whole(doc, stats, found, [(doc.predictions[0], one) for one in cells(doc, read)]).passed


CASES: list[tuple[bool, tuple[Any, ...], dict[str, Any]]] = [
    # an ablation takes away more than half of the readout, or not
    (True, ("lost:w", ">", 0.2, 4, -4, {"w": 1.0}), {}),
    (False, ("lost:w", ">", 0.2, 4, -4, {"w": 3.0}), {}),
    # so does knocking attention out: it cannot turn the answer round either
    (True, ("lost:w", ">", 0.2, 4, -4, {"w": 0.1}), {"write": "noise"}),
    # what the other run lends must do half of the gap
    (False, ("lost:w", ">", 0.2, 4, -4, {"w": 0.5}), {"write": "patch"}),
    (True, ("lost:w", ">", 0.2, 4, -4, {"w": -1.0}), {"write": "patch"}),
    (True, ("recovery:w", ">", 0.2, -4, 4, {"w": 1.0}), {"write": "patch", "edit": "corrupted"}),
    # a logarithm has no least value: half of the probability
    (True, ("drop:w", ">", 0, -0.2, -3, {"w": -2.0}), {"kind": "logprob"}),
    (False, ("drop:w", ">", 0, -0.2, -3, {"w": -0.6}), {"kind": "logprob"}),
    (True, ("drop:w", ">", 0, 0.9, 0.1, {"w": 0.3}), {"kind": "probability"}),
    (True, ("drop:w", ">", 0, 2, 3, {"w": 2.5}), {"kind": "loss"}),
    (False, ("drop:w", ">", 0, 2, 3, {"w": 1.5}), {"kind": "loss"}),
    # little is said to happen: everything must do more
    (True, ("drop:w", "<", 0.5, 4, -4, {"w": 3.0}), {}),
    (False, ("drop:w", "<", 0.5, 4, -4, {"w": 3.8}), {}),
    (False, ("drop:w", "within", [-0.5, 0.5], 4, -4, {"w": 4.2}), {}),
    (True, ("value:w", ">", 0.8, 1, 0, {"w": 0.5}), {"kind": "accuracy"}),
    (False, ("value:w", ">", 0.3, 1, 0, {"w": 0.6}), {"kind": "accuracy"}),
    # much is said to happen, by a small number: everything need not stay above it
    (True, ("value:w", "<", 0.8, 1, 0, {"w": 0.5}), {"kind": "accuracy"}),
    (True, ("value:w", "<", 1, 4, -4, {"w": 0.0}), {}),
    (False, ("value:w", "<", 3, 4, -4, {"w": 3.9}), {}),
    # between two bounds, neither of which is nothing: everything may do as much
    (True, ("lost:w", "within", [0.2, 0.4], 4, -4, {"w": 1.4}), {}),
    # "less than nothing" is not "little"
    (False, ("lost:w", "<", -0.1, 4, -4, {"w": 3.9}), {}),
    # a difference: what it is compared with need not be able to do anything
    (True, ("drop:w - drop:v", ">", 0, 4, -4, {"w": 0.5, "v": 4.0}), {}),
    (False, ("drop:w - drop:v", ">", 0, 4, -4, {"w": 4.0, "v": 0.5}), {}),
    (True, ("drop:v - drop:w", "<", 0, 4, -4, {"w": 0.5, "v": 4.0}), {}),
    (False, ("drop:w - drop:v", "within", [-1, 1], 4, -4, {"w": 0.5, "v": 4.0}), {}),
    (True, ("rank:drop:w - drop:v", "rank<", 0.05, 4, -4, {"w": 0.5, "v": 4.0}), {}),
    (False, ("rank:drop:w - drop:v", "rank<", 0.05, 4, -4, {"w": 0.5, "v": 4.0}), {"tail": "less"}),
    (False, ("lost:v / lost:w", ">", 0.5, 4, -4, {"w": 3.9, "v": 0.5}), {}),
    # doses: at the largest; a small one need not do half
    (True, ("slope:w", ">", 1, -4, 4, {"w": [-4.0, 0.0, 3.0]}), {"write": "patch", "edit": "corrupted"}),
    (False, ("slope:w", ">", 1, -4, 4, {"w": [-4.0, -3.8, -3.5]}), {"write": "patch", "edit": "corrupted"}),
    (True, ("slope:w", ">", 1, -4, 4, {"w": [-4.0, -1.0]}), {"write": "patch", "edit": "corrupted"}),
    (False, ("dose50:w", "<", 1, -4, 4, {"w": [-4.0, -3.8, -3.5]}), {"write": "patch", "edit": "corrupted"}),
    (True, ("slope:w", "<", 0.5, -4, 4, {"w": [-4.0, 0.0, 3.0]}), {"write": "patch", "edit": "corrupted"}),
    (False, ("slope:w", "<", 0.5, -4, 4, {"w": [-4.0, -4.0, -3.9]}), {"write": "patch", "edit": "corrupted"}),
    (True, ("slope:w", ">", 1, 4, -4, {"w": [0.5, 2.0, 4.0]}), {"write": "rescale"}),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "given", "more"), CASES)
def test_everything_must_be_able_to_show_it(expected: bool, given: tuple[Any, ...], more: dict[str, Any]) -> None:
    assert passes(*given, **more) is expected


def test_heads_exchanged_with_each_other_have_a_whole_too(tmp_path: Path) -> None:
    """Every head has the next one's output; until now nothing was written, so that such a trial was always void."""
    found = headlab.trial(
        {
            "id": "exchanged", "words": "Two heads cannot stand in for each other.", "source": "a test", "chosen_on": "other",
            "task": {"name": "decimals"}, "edit": "clean", "pairs": 16, "selection_pairs": 8,
            "sets": {"two": "L1H0 L1H1"}, "worlds": {"w": {"heads": "two", "write": "exchange", "donors": [1, 0]}},
            "predictions": [{"statistic": "drop:w", "op": ">", "threshold": -100}],
        },
        "decimals-planted-even", store=tmp_path,
    )  # fmt: skip
    control = next(c for c in found.verdict.controls if c.name == "takes-hold")
    assert control.passed, control.words
