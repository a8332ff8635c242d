"""A series of checkpoints looked at, and the changes that are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from headlab import organisms
from headlab.claims import Control
from headlab.measures.changes import (
    change_rows,
    changes_of,
    planted_control,
    shuffled_control,
    trace,
    tracked,
    twice_control,
    unplanted_control,
)
from headlab.organisms.checkpoint_series import Series, of_organism, siblings
from headlab.trials.flow import layer_of
from headlab.trials.series_looks import AGAIN, looks_of, prompts_of
from headlab.trials.sweeps import Scope, Seen

PLANTED = "decimals-series-planted"


CONTROL = "decimals-series-control"


@dataclass(frozen=True)
class Looked:
    """What was seen of the claim's series (``own``) and of those shipped beside it (``every``): a row of ``looks`` for each
    step and quantity, ``same`` steps that are no further looks, ``found`` changes by series and as a table ``changes``."""

    own: list[Series]
    every: list[Series]
    looks: pd.DataFrame
    same: Mapping[str, Mapping[int, int]]
    layer: int
    scan: list[dict[str, Any]]
    category: str
    found: Mapping[str, Any]
    changes: pd.DataFrame

    @property
    def main(self) -> Series:
        return self.own[0]


def series_of(case: Any) -> list[Series]:
    """The series that the claim lists; else the run that the organism ends, and its other branches."""
    if given := case.claim.options.get("series"):
        return [Series.from_plain(s) for s in given]
    own = of_organism(case.lab.name)
    return [] if own is None else [own, *siblings(case.lab.name)]


def looked(scope: Scope) -> Looked:
    case, claim, own = scope.case, scope.claim, series_of(scope.case)
    shipped = [s for name in (PLANTED, CONTROL) if (s := of_organism(name)) is not None]
    every = own + [s for s in shipped if s.name not in {o.name for o in own}]
    settings = {k: scope.options[k] for k in ("draws", "pairs_elsewhere")}
    prompts = prompts_of(case, settings["pairs_elsewhere"]) if scope.options["behaviour"] else {}
    looks, same = looks_of(case, every, {s.name for s in own}, prompts, **settings)
    own, every = ([s.without(same.get(s.name, {})) for s in some] for some in (own, every))
    layer, scan = layer_of(case) if prompts else (0, [])
    first = next(iter(prompts)) if prompts else claim.task.category
    how: dict[str, Any] = {"seed": scope.seed, "least": float(scope.options["least"]), "alpha": claim.alpha}
    found = {}
    for s in every:
        wanted = tracked(looks, s.name, first if s in own else "conflict", parity_layer(s.name, layer))
        found[s.name] = changes_of(looks, s.name, wanted, **how)
    changes = pd.DataFrame([r for name, rows in found.items() for r in change_rows(name, rows, claim.alpha)])
    return Looked(own, every, looks, same, layer, scan, first, found, changes)


def parity_layer(name: str, chosen: int) -> int:
    """Where even is held against odd: the planted layer of a run that has one (or whose other branch has), else the
    layer chosen on other pairs."""
    recipes = (organisms.RECIPES[s.name] for s in (of_organism(name), *siblings(name)) if s is not None)
    return next((r.plant.layer for r in recipes if r.plant is not None), chosen)


def controls(seen: Seen) -> list[Control]:
    made, planted, claim = seen.of_trial(looked), of_organism(PLANTED), seen.scope.claim
    rows, out = trace(made.looks, made.main.name, "excess"), []
    if planted is not None and planted.onset is not None:
        out = [planted_control(made.changes, PLANTED, planted.onset), unplanted_control(made.changes, CONTROL)]
    once = (made.looks["series"] == made.main.name) & (made.looks["step"] == made.main.steps[0])
    twice = made.looks["series"] == AGAIN
    shuffled = shuffled_control(rows["value"], rows["step"], seed=seen.scope.seed, alpha=claim.alpha)
    return [*out, shuffled, twice_control(*(made.looks[one].reset_index(drop=True) for one in (once, twice)))]


def which_steps(seen: Seen) -> dict[str, str]:
    """Which steps were looked at, and how far apart they are."""
    lines = []
    for s in seen.of_trial(looked).own:
        widest = max(zip(s.steps, s.steps[1:], strict=False), key=lambda gap: gap[1] - gap[0])
        steps = ", ".join(map(str, s.steps)) if len(s.steps) <= 24 else f"{s.steps[0]} to {s.steps[-1]}"
        begun = f" Something was switched on in training after step {s.onset}." if s.onset is not None else ""
        lines.append(
            f"{s.name}: {len(s.steps)} looks, at steps {steps}; the widest gap is {widest[0]} to {widest[1]}.{begun}"
        )
    lines.append("Nothing is known of the steps between: a change is placed between two looks, never at a step.")
    return {"Which steps were looked at": " ".join(lines)}


def notes(seen: Seen) -> Sequence[str]:
    """The order that was read from the names, which of them were no further looks, and what changed."""
    made = seen.of_trial(looked)
    out = [f"{s.name}: looked at in the order {s.order}." for s in made.own if isinstance(s.plain(), list)]
    for name, steps in made.same.items():
        which = ", ".join(f"step {a} has those of step {b}" for a, b in steps.items())
        out.append(f"{name}: equal weights under different names are one look: {which}.")
    for s in made.own:
        mine: Any = made.changes[made.changes["series"] == s.name]
        rows = mine[mine["changed"]].to_dict("records")
        said = "; ".join(
            f"{r['what']} ({r['size']:+.3g}) between {r['last_look_before']:g} and {r['first_look_after']:g}"
            for r in rows
        )
        out.append(f"{s.name}: {len(rows)} of {len(mine)} quantities change{': ' + said if said else ''}.")
    return out
