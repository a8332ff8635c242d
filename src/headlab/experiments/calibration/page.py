"""``docs/calibration.md`` and the file that ships, written from what ``headlab calibrate`` stored:
``python -m headlab.experiments.calibration.page STORE DOCS COMMIT``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from headlab.claims.error_rates import FILE, Calibration, Counted, OfClaim, Rates, shipped
from headlab.experiments.calibration.measured import calibrate, chosen
from headlab.experiments.calibration.rates import rates, scorecards

_HEAD = """# How often the rules are wrong

Of every claim that ships: how often its rule says *upheld* where the claim is false, *refuted* where it is just so true,
and *upheld* where it is true (power). Measured by `headlab calibrate` (`make calibration` goes on with it and writes this
page and the file that ships, from which every report and `headlab show` take the line beside a verdict). `headlab calibrate
my.yaml --model M` does it for a document of your own: sets of the same shape, drawn at random, stand in for the named ones.

**Null.** *Numbers drawn*: rows are drawn around a truth that is set and go through the same statistics and the same rule.
For false "upheld" each prediction in turn is false (a value lies at its threshold, a named set is one of the drawn ones)
and all others are clearly true, which gives a false claim its best chance; for false "refuted" every truth lies at its
threshold; power is at 1.25 times the threshold (1.5, 2): the odds of a rate times the square, means that many less one
standard deviations of a row beyond, a named set so many times as far above the mean of the drawn ones as its quantile.
Rows of one cluster correlate by .3, a row's noise is twice the spread between sets. Sets are drawn until the rank is
settled, where the claim's trial does so; where a trial lists all of them, the last p has no interval and more is decided.
*Heads numbered anew*: the whole experiment on null models whose heads were moved with all their weights, so that a claim
about heads by their numbers is about random ones; its power is on planted models. **Trials** are those of false claims;
*decided* are all but void and untestable ones, and the rates are of those. **Rule**: *holds* where false "upheld" is at most
5 % (or the claim's own level) and two standard errors.

"""
_COLUMNS = (
    *("claim", "null used", "trials", "decided", "false upheld", "undecided", "false refuted", "power"),
    *("rule", "date", "commit"),
)


def written(found: Calibration) -> str:
    """The page."""
    names = sorted(found.claims)
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    for name in names:
        lines += [_line(name, row) for row in found.claims[name].rows]
    without = [f"- `{n}`: not calibrated because {found.claims[n].why}" for n in names if not found.claims[n].rows]
    bad = [n for n in names if any(r.holds is False for r in found.claims[n].rows)]
    done = sum(bool(found.claims[n].rows) for n in names)
    tally = (
        f"Of {len(names)} claims {done} were measured; the rule errs oftener than it may in {', '.join(bad) or 'none'}."
    )
    if often := [n for n in names if any(r.refuted and r.refuted.within(0.05) is False for r in found.claims[n].rows)]:
        tally += f" Just so true, oftener than 5 % and two standard errors refuted: {', '.join(often)}."
    parts = [_HEAD + tally, "\n".join(lines)]
    parts += ["## Not calibrated\n\n" + "\n".join(without)] if without else []
    parts += ["## Whole scorecards\n\n" + _cards(found)]
    return "\n\n".join(parts) + "\n"


def _line(name: str, r: Rates) -> str:
    times = {"planted": r.effect}
    power = "<br>".join(f"{c} at {times.get(t, f'{t} ×')}" for t, c in r.power.items()) or "–"
    rule = {True: "holds", False: "**errs too often**", None: "none decided"}[r.holds]
    refuted = "–" if r.refuted is None else str(r.refuted)
    cells = (f"`{name}`", r.null, f"{r.trials:,}", f"{r.upheld.of:,}", str(r.upheld), str(r.undecided), refuted, power)
    return f"| {' | '.join((*cells, rule, r.date, r.commit))} |"


def _cards(found: Calibration) -> str:
    """How often any claim of a family is upheld on null models."""
    if not found.scorecards:
        return "Not measured: fewer than two claims were tried on the same numberings of null models."
    out = []
    for card in found.scorecards:
        n = Counted.model_validate(card["any"])
        how = "after Holm over the ranks of the family" if card["holm"] else "each claim by its own rule"
        out.append(f"- {how}: any of {', '.join(card['claims'])} upheld in {n} of {n.of:,} numberings")
    return "\n".join(out)


def dated(one: OfClaim, date: str, commit: str) -> OfClaim:
    """With when and of which source its rows were measured."""
    rows = tuple(r.model_copy(update={"date": date, "commit": commit}) for r in one.rows)
    return one.model_copy(update={"rows": rows})


def measured(store: Path, commit: str, **options: Any) -> Calibration:
    """What a store holds by now of the trials of all shipped claims; nothing is run.

    A claim of which the store holds nothing keeps the rows that ship, with their own date and commit, as long as it is the
    same claim.
    """
    every = calibrate((), budget=0, store=store, **options).tables["trials"]
    claims, date = chosen((), None), datetime.now(UTC).date().isoformat()
    found = {name: dated(one, date, commit) for name, one in rates(claims, every).items()}
    old = shipped()
    for name, one in found.items():
        kept = old.claims.get(name)
        if not one.rows and kept is not None and kept.rows and kept.hash == one.hash:
            found[name] = kept
    return Calibration(claims=found, scorecards=tuple(scorecards(every)) or old.scorecards)


def main(store: Path, docs: Path, commit: str) -> None:
    """Write both."""
    found = measured(store, commit)
    text = found.model_dump_json(indent=1, exclude_defaults=True)
    Path(str(resources.files("headlab.claims") / FILE)).write_text(f"{text}\n", encoding="utf-8")
    (docs / "calibration.md").write_text(written(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
