"""One number with all that must travel with it: interval, n, unit, method, seed.

`Estimate` is what every other module of this room returns. A quantity that cannot be computed (too
few rows, an empty class, a denominator of zero) is *undefined*: value None and the reason in
`note`. It is never 0.0 and never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from statistics import NormalDist
from typing import Literal

from ._check import Number, open_unit, whole

Answer = Literal["yes", "no", "unsure", "undefined"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its interval, and what was counted.

    value, low, high: all finite, or all None (undefined, with the reason in `note`).
    n: number of `unit`s (rows) that the value is taken over; where rows are clustered, `note` says
        how many clusters carry them.
    method: how the interval was made. level: its two-sided level. seed: of its random draws, if any.

    Raises: ValueError on NaN or infinity, on low > high, on a value without an interval, and on an
    undefined value without a reason.
    When it misleads: an interval covers what was resampled (prompts) and nothing else. Prompts
    within one model say nothing about other models.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    method: str
    level: float = 0.95
    seed: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            object.__setattr__(self, name, _finite(getattr(self, name), name))
        object.__setattr__(self, "n", whole(self.n, "n"))
        object.__setattr__(self, "level", open_unit(self.level, "level"))
        if self.seed is not None:
            object.__setattr__(self, "seed", whole(self.seed, "seed"))
        missing = [name for name in ("value", "low", "high") if getattr(self, name) is None]
        if missing and len(missing) < 3:
            raise ValueError(
                f"an Estimate needs value, low and high together, got {missing} = None. "
                "Use Estimate.undefined(...) when the value cannot be computed."
            )
        if missing and not self.note:
            raise ValueError("an undefined Estimate needs its reason in note, got an empty note.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low must not exceed high, got low={self.low!r}, high={self.high!r}.")

    @classmethod
    def undefined(cls, unit: str, n: int, note: str, *, method: str = "none", level: float = 0.95) -> Estimate:
        """The estimate of something that these rows cannot give; `note` says why."""
        return cls(None, None, None, n=n, unit=unit, method=method, level=level, note=note)

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    def above(self, threshold: Number) -> Answer:
        """Is the quantity above `threshold`? The whole interval decides.

        "yes" when low > threshold, "no" when high < threshold, otherwise "unsure" (also when the
        interval only touches the threshold); "undefined" when there is no value.
        """
        limit = _finite(threshold, "threshold")
        if self.low is None or self.high is None:
            return "undefined"
        if limit is None:
            raise ValueError("threshold must be a finite number, got None.")
        return "yes" if self.low > limit else "no" if self.high < limit else "unsure"

    def below(self, threshold: Number) -> Answer:
        """Is the quantity below `threshold`? The mirror image of `above`."""
        mirrored: dict[Answer, Answer] = {"yes": "no", "no": "yes"}
        answer = self.above(threshold)
        return mirrored.get(answer, answer)

    def widened(self, level: float) -> Estimate:
        """About the same interval at a higher level: each side stretched as a normal's would be; itself where not higher.

        It misleads where draws have heavier tails than a normal; bounds of rates stay within theirs only as they are read.
        """
        if self.value is None or self.low is None or self.high is None or level <= self.level:
            return self
        stretch = NormalDist().inv_cdf((1 + level) / 2) / NormalDist().inv_cdf((1 + self.level) / 2)
        low, high = self.value - stretch * (self.value - self.low), self.value + stretch * (self.high - self.value)
        return replace(self, low=low, high=high, level=level)

    def complement(self) -> Estimate:
        """1 − the quantity, its interval turned round."""
        if self.value is None or self.low is None or self.high is None:
            return self
        return replace(self, value=1 - self.value, low=1 - self.high, high=1 - self.low)

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Plain data (JSON-ready); `from_dict` gives the same Estimate back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Estimate:
        """The Estimate that `to_dict` wrote. Raises ValueError on missing or unknown fields."""
        known = {f.name for f in fields(cls)}
        required = {"value", "low", "high", "n", "unit", "method"}
        unknown, missing = sorted(set(data) - known), sorted(required - set(data))
        if unknown or missing:
            raise ValueError(f"not an Estimate: unknown fields {unknown}, missing {missing}; expected {sorted(known)}.")
        return cls(**dict(data))  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return f"undefined (n={self.n} {self.unit}: {self.note})"
        ends = (self.value, self.low, self.high)
        places = _places(self.high - self.low, self.value)
        if 0 < max(map(abs, ends)) < 1e-6:
            value, low, high = (f"{x:.2g}" for x in ends)
        else:
            value, low, high = (f"{round(x, places) + 0.0:.{places}f}" for x in ends)
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{value} [{low}, {high}] (n={self.n} {self.unit}, {self.method} {100 * self.level:g}%{seed})"


def _finite(x: object, name: str) -> float | None:
    if x is None:
        return None
    if isinstance(x, bool):
        raise ValueError(f"{name} must be a number, got {x!r}.")
    try:
        number = float(x)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number or None, got {x!r}.") from error
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}. Use Estimate.undefined(...) when there is no value.")
    return number


def _places(width: float, value: float) -> int:
    """Decimals that show two figures of the interval's width (or of the value when it has none)."""
    scale = width or abs(value)
    if scale == 0.0:
        return 2
    return max(2, min(8, 1 - math.floor(math.log10(scale))))
