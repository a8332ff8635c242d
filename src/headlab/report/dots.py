"""Numbers side by side as dots with intervals: where each stands on its row's axis, in percent of its width."""

from __future__ import annotations

from collections.abc import Sequence

from headlab.stats import Estimate

from . import marks, words


def lane(found: Sequence[Estimate | None]) -> dict[str, object] | None:
    """Value, low and high of a quantity by each reading that has it, and the ends of their axis; None where nothing is defined.

    Shares stand between 0 and 1, what lies within −1 … 1 there, anything else between round numbers about it and 0.
    """
    given = [e and [x for x in (e.value, e.low, e.high) if x is not None] for e in found]
    numbers = [x for three in given for x in three or ()]
    if not numbers:
        return None
    low, high = -1.0 if min(numbers) < 0 else 0.0, 1.0
    if min(numbers) < low or max(numbers) > high:
        low, high = marks.bins(marks.extent(0.0, *numbers), 8)[0]

    def at(x: float) -> float:
        return round(100 * (x - low) / (high - low), 2)

    places = [three and [at(x) for x in three] for three in given]
    return {"ends": (words.exact(low), words.exact(high)), "zero": at(0.0), "dots": places}
