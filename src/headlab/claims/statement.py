"""What a claim says: its predictions, controls and protocol; plain data, read from YAML or TOML, and hashed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_serializer, model_validator

from headlab import reading
from headlab.reading import MOST_BYTES, Lines, OneLine, plain_or_why, read_document, text_of
from headlab.reading.problems import Form

Outcome = Literal["upheld", "refuted", "undecided", "void", "untestable"]
ProtocolName = Literal["standard", "published"]
Decide = Literal["sequential", "fixed"]
"""Whether ranks stop drawing alternatives once no more could change what they decide, or draw as many as were asked for."""
MOST = 100_000
"""Pairs, and random sets, that a claim may ask for."""


class ClaimError(OneLine, ValueError):
    """A claim that cannot be read or tried; the message says where and what was expected."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Given(Frozen):
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
            return f"share of the null at least as {'harmless' if self.tail == 'less' else 'extreme'}, p, below {self.limit:g}"
        return f"whole interval {'above' if self.op == '>' else 'below'} {self.limit:g}"


_LATER = {"tail": "greater", "where": ""}


class Protocol(Frozen):
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
    ``decide``: ``sequential`` stops drawing sets once no more could change what a rank decides; ``fixed`` runs them all.
    """

    id: str
    words: str
    source: str
    published: str = ""
    experiment: Annotated[str, Form(r"^[a-z][a-z0-9-]*$", "a name of small letters, digits and -, a letter first")]
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
    decide: Decide = "sequential"

    @model_serializer(mode="wrap")
    def _without_decide(self, handler: Any) -> dict[str, Any]:
        """Left out at its default, so that hashes of older claims stay."""
        return {k: v for k, v in handler(self).items() if (k, v) != ("decide", "sequential")}

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
            raise ClaimError(f"{name} is not a claim: {reading.problems(error, lines, cls)}") from error


def read_file(path: str | Path) -> tuple[Any, Lines, str]:
    """The data of a claim file, the line of each key, and what errors call it.  Raises ClaimError."""
    path = Path(path)
    if not path.is_file():
        raise ClaimError(f"no such claim file: {path}; expected a .yaml or .toml file, or a built-in claim's name")
    return *read_text(text_of(path, most=MOST_BYTES["yaml"], error=ClaimError), path.suffix, str(path)), str(path)


def read_text(text: str, suffix: str, name: str) -> tuple[Any, Lines]:
    """The data of a claim's text, and the line of each key.  Raises ClaimError."""
    if suffix not in {".toml", ".yaml", ".yml"}:
        raise ClaimError(f"{name}: expected a .yaml or .toml file, given {suffix or 'no suffix'}")
    data, lines = read_document(text, "toml" if suffix == ".toml" else "yaml", name=name, error=ClaimError)
    if not isinstance(data, dict):
        raise ClaimError(f"{name}: expected keys and values, given {type(data).__name__}")
    return data, lines
