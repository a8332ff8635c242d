"""Claims and verdicts: what is said, what it predicts, which controls it needs, and the one rule that decides.

A claim is plain data, read from YAML or TOML or written in Python, and hashed before the first forward pass.
:func:`decide` is a pure function from findings to a verdict; nothing else in headlab says "upheld".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, runtime_checkable
from typing import Protocol as Protocol_

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_serializer, model_validator

from headlab import reading
from headlab.reading import MOST_BYTES, Lines, plain_or_why, read_document, text_of
from headlab.stats import Estimate, Rank

Outcome = Literal["upheld", "refuted", "undecided", "void", "untestable"]
ProtocolName = Literal["standard", "published"]
REFUTES_AT = 0.025
"""The one-sided level of a 95 % interval: how often one prediction that holds just so is refuted, and all of a claim's
together."""
MOST = 100_000
"""Pairs, and random sets, that a claim may ask for."""


class ClaimError(ValueError):
    """A claim that cannot be read or tried; the message says where and what was expected."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Given(_Frozen):
    """What is read from a file: its numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class TaskSpec(_Given):
    """Where the prompt pairs come from: a built-in task, or a file of the user's own.

    ``word-problems`` are for thinking models: the generator's, or a ``file``'s (GSM8K .jsonl, GSM8K-Aug .txt).
    """

    name: Literal["decimals", "file", "word-problems"] = "decimals"
    clean: str = "simple"
    corrupted: str = "qa"
    category: str = "conflict"
    wording: Literal["bigger", "smaller"] = "bigger"
    corruption: Literal["format", "fraction"] = "format"
    split: Literal["held-out", "train", "all"] = "held-out"
    file: str | None = None


class Prediction(_Given):
    """One statistic and the side of a threshold on which it must lie.

    ``>`` and ``<``: the whole interval beyond the threshold upholds, the whole interval on the other side refutes.
    ``within``: the whole interval inside ``threshold: [low, high]`` upholds, an interval wholly outside refutes.
    ``rank<``: the share of matched random sets at least as extreme must be under the threshold (α); ``tail: less`` asks
    that the set matter *less* than random ones.  ``where`` (``"> 0.5"``) is what ``share:`` counts.
    """

    statistic: str = Field(max_length=400)
    op: Literal[">", "<", "rank<", "within"]
    threshold: Annotated[float, Field(allow_inf_nan=False)] | tuple[float, float]
    words: str = ""
    tail: Literal["greater", "less"] = "greater"
    where: Annotated[str, Field(pattern=r"^([<>] ?-?\d+(\.\d+)?)?$")] = ""

    @field_validator("threshold", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in value)
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _fits(self) -> Prediction:
        pair = isinstance(self.threshold, tuple)
        if pair != (self.op == "within"):
            raise ValueError(f"op {self.op!r} takes {'[low, high]' if self.op == 'within' else 'one number'}")
        if isinstance(self.threshold, tuple) and not self.threshold[0] < self.threshold[1]:
            raise ValueError(f"within [low, high] needs low < high, given {list(self.threshold)}")
        if self.op == "rank<" and not pair and not 0 < self.limit < 1:
            raise ValueError(f"the threshold of a rank is its level, between 0 and 1; given {self.threshold!r}")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Any) -> dict[str, Any]:
        """Fields that came later are left out at their default, so that hashes of older claims stay."""
        out: dict[str, Any] = handler(self)
        return {k: v for k, v in out.items() if not (k in {"tail", "where"} and v == _LATER[k])}

    @property
    def limit(self) -> float:
        """The one threshold.  Raises TypeError for ``within``, which has two."""
        if isinstance(self.threshold, tuple):
            raise TypeError("within has two thresholds")
        return self.threshold

    @property
    def brief(self) -> str:
        """``> 0.5``, ``p < 0.05``, ``within [-0.1, 0.1]``."""
        if isinstance(self.threshold, tuple):
            return f"within [{self.threshold[0]:g}, {self.threshold[1]:g}]"
        return f"{'p <' if self.op == 'rank<' else self.op} {self.limit:g}"

    @property
    def asked(self) -> str:
        """What the whole interval must do, in words."""
        if isinstance(self.threshold, tuple):
            return f"whole interval within [{self.threshold[0]:g}, {self.threshold[1]:g}]"
        if self.op == "rank<":
            return f"share of matched sets at least as {'harmless' if self.tail == 'less' else 'extreme'}, p, below {self.limit:g}"
        return f"whole interval {'above' if self.op == '>' else 'below'} {self.limit:g}"


_LATER = {"tail": "greater", "where": ""}


class Protocol(_Frozen):
    """How a claim is measured.  ``standard`` and ``published`` are the presets of :data:`PROTOCOLS`."""

    name: str
    site: Literal["z", "out_block"]
    align: Literal["role", "end", "left"]
    when: Literal["prefill", "every_step"]
    grading: Literal["answer", "published strings"]
    decode_from: Literal["shared start", "prompt"]


PROTOCOLS: dict[str, Protocol] = {
    "standard": Protocol(
        name="standard", site="z", align="role", when="prefill", grading="answer", decode_from="shared start"
    ),
    "published": Protocol(
        name="published",
        site="out_block",
        align="left",
        when="every_step",
        grading="published strings",
        decode_from="prompt",
    ),
}


class Claim(_Given):
    """Words, source, task, predictions with thresholds, controls.

    ``layer`` is a number, or "auto": chosen by ``layer_rule`` on pairs that the test never sees.
    ``readings``: the protocols that are run; ``published``, the published scripts' own, only where it is asked for.
    ``pairs`` counts test pairs (problems, for thinking models); ``selection_pairs`` those on which a choice is made.
    ``options`` are the settings of its experiment's own (``headlab list`` names the experiments, their pages the options).
    """

    id: str
    words: str
    source: str
    published: str = ""
    experiment: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    task: TaskSpec = TaskSpec()
    layer: int | Literal["auto"] = "auto"
    layer_rule: str = "the layer at which patching every head repairs most selection pairs; the lowest of equals"
    pairs: int = Field(200, ge=2, le=MOST)
    selection_pairs: int = Field(60, ge=2, le=MOST)
    predictions: tuple[Prediction, ...] = Field(min_length=1)
    controls: tuple[str, ...] = Field(min_length=1)
    matched_sets: int = Field(999, ge=1, le=MOST)
    subsets_per_size: int = Field(50, ge=1, le=MOST)
    pool: str = "any"
    alpha: float = Field(0.05, gt=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**63)
    readings: tuple[ProtocolName, ...] = ("standard",)
    options: dict[str, object] = Field(default_factory=dict)

    @field_validator("controls", "predictions", "readings", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("readings")
    @classmethod
    def _standard_first(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("expected one or both of standard, published, each once")
        return value

    @field_validator("options")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        if why := plain_or_why(value):
            raise ValueError(why)
        return value

    def content_hash(self) -> str:
        """SHA-256 of the claim as canonical JSON."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_file(cls, path: str | Path) -> Claim:
        """From ``.yaml``/``.yml`` or ``.toml``.  Raises ClaimError with line numbers."""
        data, lines, name = read_file(path)
        return cls.from_data(data, name, lines)

    @classmethod
    def from_text(cls, text: str, suffix: str, name: str) -> Claim:
        """From YAML or TOML text; ``name`` is what error messages call it."""
        data, lines = read_text(text, suffix, name)
        return cls.from_data(data, name, lines)

    @classmethod
    def from_data(cls, data: object, name: str, lines: Lines) -> Claim:
        """From a mapping; ``lines`` says where each key stands.  Raises ClaimError."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ClaimError(f"{name} is not a claim: {problems(error, lines)}") from error


def read_file(path: str | Path) -> tuple[Any, Lines, str]:
    """The data of a claim file, the line of each key, and what errors call it.  Raises ClaimError."""
    path = Path(path)
    if not path.is_file():
        raise ClaimError(f"no such claim file: {path}; expected a .yaml or .toml file, or a built-in claim's name")
    return *read_text(text_of(path, most=MOST_BYTES["yaml"], error=ClaimError), path.suffix, str(path)), str(path)


def problems(error: ValidationError, lines: Lines) -> str:
    """What a validation found, each with its line; the first few of many."""
    return reading.problems(error.errors(include_url=False, include_context=False), lines)


def read_text(text: str, suffix: str, name: str) -> tuple[Any, Lines]:
    """The data of a claim's text, and the line of each key.  Raises ClaimError."""
    if suffix not in {".toml", ".yaml", ".yml"}:
        raise ClaimError(f"{name}: expected a .yaml or .toml file, given {suffix or 'no suffix'}")
    data, lines = read_document(text, "toml" if suffix == ".toml" else "yaml", name=name, error=ClaimError)
    if not isinstance(data, dict):
        raise ClaimError(f"{name}: expected keys and values, given {type(data).__name__}")
    return data, lines


class Control(_Frozen):
    """A control that was run.  ``negative`` must show nothing, ``positive`` must show something."""

    name: str
    kind: Literal["negative", "positive"]
    passed: bool
    words: str
    value: float | None = None

    @field_validator("passed", "value", mode="before")
    @classmethod
    def _of_numpy(cls, value: Any) -> Any:
        """numpy's booleans and numbers are booleans and numbers."""
        return value.item() if hasattr(value, "item") else value


class Ruling(_Frozen):
    """One prediction's outcome."""

    prediction: Prediction
    outcome: Outcome
    shown: str
    value: float | None
    low: float | None
    high: float | None


class Verdict(_Frozen):
    """The outcome of a claim with its reasons."""

    outcome: Outcome
    sentence: str
    rulings: tuple[Ruling, ...]
    controls: tuple[Control, ...]
    would_change: str
    refutes_at: float | None = None
    """The chance, at most, that any of the predictions is refuted when each holds just so (Holm over all of them)."""


def _shown(finding: Estimate | Rank) -> str:
    """A statistic as sentences say it: with interval, n and unit; its method stands beside it in the report."""
    if isinstance(finding, Rank):
        return str(finding)
    if not finding.defined:
        return str(finding)
    return f"{str(finding).split(' (')[0]}, n = {finding.n} {finding.unit}"


def rule(prediction: Prediction, finding: Estimate | Rank | None) -> Ruling:
    """One prediction against one statistic."""
    if finding is None:
        return Ruling(
            prediction=prediction, outcome="untestable", shown="not measured", value=None, low=None, high=None
        )
    if isinstance(finding, Rank):
        if prediction.op != "rank<":
            raise ClaimError(
                f"{prediction.statistic} is a rank; its prediction must use 'rank<', not {prediction.op!r}"
            )
        outcome: Outcome = finding.against(prediction.limit)
        return Ruling(
            prediction=prediction,
            outcome=outcome,
            shown=_shown(finding),
            value=finding.p,
            low=finding.low,
            high=finding.high,
        )
    if prediction.op == "rank<" and finding.defined:  # an undefined number has no rank
        raise ClaimError(f"{prediction.statistic} is an estimate; 'rank<' needs a rank among matched sets")
    answer = _answer(prediction, finding)
    outcomes: dict[str, Outcome] = {"yes": "upheld", "no": "refuted", "unsure": "undecided", "undefined": "untestable"}
    return Ruling(
        prediction=prediction,
        outcome=outcomes[answer],
        shown=_shown(finding),
        value=finding.value,
        low=finding.low,
        high=finding.high,
    )


def _answer(prediction: Prediction, finding: Estimate) -> str:
    """yes, no, unsure or undefined."""
    if not finding.defined:
        return "undefined"
    if isinstance(prediction.threshold, tuple):
        above, below = finding.above(prediction.threshold[0]), finding.below(prediction.threshold[1])
        if "undefined" in {above, below}:
            return "undefined"
        return "yes" if above == below == "yes" else "no" if "no" in {above, below} else "unsure"
    return (finding.above if prediction.op == ">" else finding.below)(prediction.threshold)


@runtime_checkable
class Decidable(Protocol_):
    """What is decided: a claim or a document."""

    @property
    def predictions(self) -> tuple[Prediction, ...]: ...

    @property
    def controls(self) -> tuple[str, ...]: ...


def decide(
    claim: Decidable,
    findings: Mapping[str, Estimate | Rank],
    controls: Sequence[Control],
    *,
    ineligible: str = "",
    impossible: str = "",
    idle: str = "",
) -> Verdict:
    """The verdict of a claim.  Pure: same findings, same verdict.

    ``untestable`` when the measurement cannot be made at all (``impossible`` says why; nothing was run, so no control
    was); ``void`` when a control that the claim names failed or is missing (others are shown and bind nothing);
    ``untestable`` when the model is not eligible (``ineligible`` says why) or a prediction cannot be decided by it, and
    when nothing could have shown that something matters (``idle`` says what can be cut at no cost), unless refuted;
    ``upheld`` when every prediction is; ``refuted`` when any is, at a level that Holm's rule adjusts for their number, so
    that all together refute falsely no oftener than one alone would (:data:`REFUTES_AT`); else ``undecided``.
    """
    rulings = _refuted_together([(p, findings.get(p.statistic)) for p in claim.predictions])
    by_name = {c.name: c for c in controls}
    missing = [name for name in claim.controls if name not in by_name]
    failed = [c for c in controls if not c.passed and c.name in claim.controls]
    outcome: Outcome
    if impossible:
        outcome, reason = "untestable", impossible
        change = "A model on which the measurement is defined."
    elif missing or failed:
        outcome = "void"
        reasons = [f"control {n!r} was not run" for n in missing] + [
            f"control {c.name!r} failed: {c.words}" for c in failed
        ]
        reason = "; ".join(reasons)
        change = "Nothing can be said until every control passes."
    elif ineligible:
        outcome, reason = "untestable", ineligible
        change = _what_was_short(ineligible)
    else:
        outcome, reason = _weigh(rulings)
        change = _would_change(rulings, outcome)
        if idle and outcome != "refuted":
            outcome, reason = "untestable", idle
            change = "A model in which cutting everything that the claim is about costs something."
    return Verdict(
        outcome=outcome,
        sentence=f"{outcome.capitalize()}: {reason}.",
        rulings=rulings,
        controls=tuple(controls),
        would_change=change,
        refutes_at=REFUTES_AT,
    )


def _refuted_together(asked: Sequence[tuple[Prediction, Estimate | Rank | None]]) -> tuple[Ruling, ...]:
    """The ruling of each prediction; one that is refuted alone, and not among so many (Holm), is undecided."""
    rulings = [rule(p, finding) for p, finding in asked]
    alone = [i for i, r in enumerate(rulings) if r.outcome == "refuted"]
    left, tail = set(alone), REFUTES_AT
    while left:
        tail = REFUTES_AT / (len(asked) - len(alone) + len(left))
        fell = {i for i in left if _refuted_at(*asked[i], tail)}
        if not fell:
            break
        left -= fell
    for i in left:
        why = f"{rulings[i].shown}; refuted alone, not at {tail:.2g} for {len(asked)} predictions"
        rulings[i] = rulings[i].model_copy(update={"outcome": "undecided", "shown": why})
    return tuple(rulings)


def _refuted_at(prediction: Prediction, finding: Estimate | Rank | None, tail: float) -> bool:
    """Whether a prediction that is refuted at its interval's own level is refuted at a chance of ``tail`` too."""
    if isinstance(finding, Rank):
        return finding.against(prediction.limit, 1 - 2 * tail) == "refuted"
    assert finding is not None
    return _answer(prediction, finding.widened(1 - 2 * tail)) == "no"


def _says(r: Ruling) -> str:
    return f"{r.prediction.words or r.prediction.statistic} ({r.shown})"


def _weigh(rulings: Sequence[Ruling]) -> tuple[Outcome, str]:
    def those(outcome: str) -> list[Ruling]:
        return [r for r in rulings if r.outcome == outcome]

    if against := those("refuted"):
        return "refuted", "it is not so that " + "; nor that ".join(map(_says, against))
    if len(those("upheld")) == len(rulings):
        return "upheld", "; ".join(map(_says, rulings))
    if cannot := those("untestable"):
        return "untestable", "this model cannot decide whether " + "; ".join(map(_says, cannot))
    return "undecided", "the interval straddles the threshold: " + "; ".join(map(_says, those("undecided")))


def _what_was_short(ineligible: str) -> str:
    """What would make a model eligible: more pairs, where they were short; another model, where the behaviour was."""
    model = "A model that shows the behaviour to be explained (clean prompts answered, corrupted ones missed)."
    short = re.search(r"at least (\d+ [\w ]+), given \d+", ineligible)
    if short is None:
        return model
    more = f"At least {short[1]} (pairs: or --pairs, or a task with as many)."
    return more if ";" not in ineligible else f"{more} And: {model[0].lower()}{model[1:]}"


def _would_change(rulings: Sequence[Ruling], outcome: Outcome) -> str:
    """Which numbers would have to come out otherwise, and where they are now."""
    sides = {
        ">": ("above", "below"),
        "<": ("below", "above"),
        "rank<": ("below", "above"),
        "within": ("within", "outside"),
    }
    parts = []
    for r in rulings:
        for_it, against = sides[r.prediction.op]
        if outcome == "upheld" or r.outcome != "upheld":
            side, bound = against if outcome == "upheld" else for_it, r.prediction.threshold
            text = f"[{bound[0]:g}, {bound[1]:g}]" if isinstance(bound, tuple) else f"{bound:g}"
            parts.append(f"{r.prediction.statistic} wholly {side} {text} (now {r.shown})")
    if outcome == "upheld":
        return "Any one of these would refute it: " + "; ".join(parts) + "."
    return "It would take " + " and ".join(parts) + "."
