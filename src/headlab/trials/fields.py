"""The fields of a document: what may be written, before anything is asked of the whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from headlab.claims import Prediction
from headlab.claims.statement import Decide
from headlab.heads import near_names
from headlab.installed import Installed
from headlab.interventions import SITES, WRITES
from headlab.reading import expected_one_of
from headlab.reading.problems import Form
from headlab.trials import expressions, sets
from headlab.trials.expressions import NAME

ALWAYS = ("no-op", "takes-hold", "whole", "parse-rate")
"""Controls that every trial runs (``parse-rate`` where text is read)."""

NAMED_CONTROLS = ("opposite",)

WAIVABLE = ("whole", "eligible")

ABLATIONS = ("zero", "mean", "resample")

READOUTS = ("margin", "logprob", "probability", "probability-gap", "place", "accuracy", "loss", "kl", "text")

WORSE_WHEN_HIGHER = frozenset({"loss", "kl", "place"})

PER_TOKEN = frozenset({"loss", "kl"})

THINKING = "word-problems"
"""The task of thinking models."""

SCORES = (
    "composite",
    "previous",
    "induction",
    "duplicate",
    "sink",
    "norm",
    "attribution",
    "copying",
    "successor",
    "probe",
)

MORE_SCORES = Installed("headlab.scores")


def known_scores() -> tuple[str, ...]:
    """Scores by name: headlab's, then those of installed packages."""
    return (*SCORES, *(n for n in MORE_SCORES if n not in SCORES))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _pairs(value: Any) -> Any:
    """A mapping from a list of [name, value], as records keep one whose order means something."""
    if isinstance(value, list | tuple) and all(isinstance(p, list | tuple) and len(p) == 2 for p in value):
        return {p[0]: p[1] for p in value}
    return value


def _words(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _tuple(value)


Roles = Annotated[tuple[str, ...] | None, BeforeValidator(_words)]

Numbers = Annotated[tuple[int, ...], BeforeValidator(_tuple)]

Strings = Annotated[tuple[str, ...], BeforeValidator(_words)]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Donors(_Plain):
    """Whose activations ``mean`` and ``resample`` write: prompts of ``over`` (selection, a file, or a task with its options
    such as ``{name: ioi, corruption: abc}``), in their edited or their other ``run``, placed ``by``."""

    over: str | dict[str, Any] = "selection"
    run: Literal["edited", "other"] = "edited"
    by: Literal["auto", "role", "position"] = "auto"

    @property
    def name(self) -> str:
        """What this population is called among a sweep's material."""
        where = self.over if isinstance(self.over, str) else " ".join(f"{k}={v}" for k, v in sorted(self.over.items()))
        return where if self.run == "edited" else f"{where} (other run)"


class Write(_Plain):
    """One write of a world, every axis pinned: see :class:`headlab.interventions.Intervention` for the fields that
    have the same names."""

    heads: Any = "all"
    site: str = "z"
    write: str = "patch"
    amount: float = 1.0
    roles: Roles = None
    keys: Roles = None
    from_keys: Roles = None
    decoy: bool = False
    when: Literal["auto", "prefill", "every_step"] = "auto"
    beyond: Literal["first", "last"] | None = None
    donors: Numbers = ()
    mean: Donors = Donors()
    draws: int = Field(5, ge=1, le=100)
    direction: Any = None
    computed_in: str | None = None
    free: bool = False
    shape: Literal["identity", "hub", "uniform", "sequential", "self"] | None = None

    @field_validator("amount", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("site")
    @classmethod
    def _site(cls, value: str) -> str:
        return _one_of(value, (*SITES, "thought"), "site")

    @field_validator("write")
    @classmethod
    def _write(cls, value: str) -> str:
        return _one_of(value, WRITES, "write")


def _one_of(value: str, known: Sequence[str], what: str) -> str:
    if value not in known:
        raise ValueError(f"no {what} {value!r}; {expected_one_of(value, known)}")
    return value


def _range(axis: str, given: Mapping[str, Any]) -> tuple[int | float, ...]:
    """``{from: 0, to: 1, step: 0.05}``: equal steps, both ends included."""
    ends = [given.get(k) for k in ("from", "to", "step")]
    if set(given) != {"from", "to", "step"} or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e6 for x in ends
    ):
        raise ValueError(f"{axis}: each takes a list, or {{from: 0, to: 1, step: 0.05}}; given {dict(given)!r}")
    low, high, step = (float(x) for x in ends)  # type: ignore[arg-type]
    n = round((high - low) / step) if step > 0 else 0
    if not 1 <= n <= 1000 or abs(low + n * step - high) > 1e-9:
        raise ValueError(f"{axis}: from {low:g} to {high:g} are not 1 to 1,000 steps of {step:g}")
    found = (round(low + k * step, 9) for k in range(n + 1))
    return tuple(int(x) if x == int(x) else x for x in found)


class WriteAxes:
    """A write as the document has it: fields with one value, and axes (``{each: [...]}``) with several."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(
                f"a world is a write such as {{heads: movers, write: mean}}, or a list of them; given {value!r}"
            )
        if "heads" not in value and value.get("site") != "thought":
            raise ValueError("a write needs 'heads': the name of a set, or heads such as L9H6")
        self.axes: dict[str, tuple[Any, ...]] = {}
        fixed: dict[str, Any] = {}
        for key, one in value.items():
            if isinstance(one, Mapping) and set(one) == {"each"}:
                values = _range(key, one["each"]) if isinstance(one["each"], Mapping) else one["each"]
                if not isinstance(values, list | tuple) or not values or len(set(map(str, values))) != len(values):
                    raise ValueError(f"{key}: each takes a list of different values, given {values!r}")
                if key == "heads":
                    raise ValueError("heads: each is no axis; declare a family of sets (singles, draw …) instead")
                self.axes[key] = tuple(values)
            else:
                fixed[key] = one
        self.fixed = fixed
        self.spec = sets.parse(fixed.get("heads", "all"))
        for cell in self.cells():
            self.at(cell)

    def cells(self) -> Iterator[dict[str, Any]]:
        """Every combination of the axes' values."""
        for values in product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))

    def at(self, cell: Mapping[str, Any]) -> Write:
        """The write in a cell (values of other writes' axes are left out)."""
        return Write.model_validate({**self.fixed, **{k: v for k, v in cell.items() if k in self.axes}})


class Reference(_Plain):
    """Sets that nobody named: the whole document with the set ``redraw`` drawn anew, ``n`` times; or directions: those of the
    world ``labels`` under exchanged labels."""

    redraw: str = ""
    match: Strings = ("layer", "sharing")
    norm_within: float = Field(1.25, gt=1)
    n: int = Field(999, ge=1, le=100_000)
    among: Any = "all"
    exclude: Strings = ()
    labels: str | Literal[False] = False
    keys: bool = Field(False, json_schema_extra={"const": False})

    @field_validator("match")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from headlab.trials.references import MATCHES

        for word in value:
            _one_of(word, MATCHES, "match")
        return value


class Eligible(_Plain):
    """When the model shows what is claimed about: accuracies in the document's own default readout."""

    clean: float | None = Field(None, ge=0, le=1)
    corrupted: float | None = Field(None, ge=0, le=1)
    pairs: int | None = Field(None, ge=2)
    keep: Literal["all", "right"] | None = None

    @field_validator("clean", "corrupted", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


NAMED = Form(rf"^{NAME}$", "a name of small letters, digits and _, a letter first")


def _no_head(name: str) -> str:
    """Raises ValueError for the name of a head: in ``sets: {movers: L9H6, L9H9}`` the second is a key."""
    if name and name == near_names(name):
        raise ValueError(f"expected {NAMED.words}; several heads stand in one text or a list: 'L9H6 L9H9'")
    return name


Name = Annotated[str, Field(max_length=60), AfterValidator(_no_head), NAMED]

Text = Annotated[str, Field(max_length=4000)]


class Fields(_Plain):
    """What may stand in a document, and what it says; ``docs/claims.md`` says what each field means."""

    language: Literal[1] = 1
    id: Annotated[str, Field(max_length=80), Form(r"^[a-z0-9][a-z0-9-]*$", "a name of small letters, digits and -")]
    words: Text
    source: Text
    published: Text = ""
    model: Text = ""
    needs: Text = ""
    chosen_on: Literal["published", "other", "these"] | None = None
    task: dict[str, Any]
    edit: Literal["clean", "corrupted"]
    align: Literal["role", "end", "left"] = "role"
    pairs: int = Field(200, ge=2)
    selection_pairs: int = Field(60, ge=2)
    seed: int = Field(0, ge=0)
    layer: Annotated[int | tuple[int, ...] | Literal["auto"], BeforeValidator(_tuple)] = "auto"
    layer_rule: Literal["most", "every"] = "most"
    scores: dict[Name, Any] = Field(default_factory=dict)
    sets: dict[Name, Any] = Field(default_factory=dict)
    worlds: dict[Name, Any] = Field(min_length=1)
    readout: Annotated[str | dict[Name, Any], BeforeValidator(_pairs)] = "margin"
    reference: Reference | None = None
    decide: Decide = "sequential"
    predictions: Annotated[tuple[Prediction, ...], BeforeValidator(_tuple)] = Field(min_length=1, max_length=100)
    eligible: Eligible = Field(default_factory=lambda: Eligible.model_validate({}))
    controls: Strings = ()
    waive: dict[str, Text] = Field(default_factory=dict)
    only_because: Text = ""
    over: dict[str, Any] = Field(default_factory=dict)
    as_published: dict[str, Any] | None = None

    @field_validator("controls")
    @classmethod
    def _controls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            _one_of(word, (*ALWAYS, *NAMED_CONTROLS), "control")
        return value

    @field_validator("waive")
    @classmethod
    def _waive(cls, value: dict[str, str]) -> dict[str, str]:
        for word, reason in value.items():
            if word not in WAIVABLE:
                raise ValueError(f"{word!r} cannot be waived; {expected_one_of(word, WAIVABLE)}")
            if not reason.strip():
                raise ValueError(f"waiving {word!r} needs a reason; it stands in the verdict's sentence")
        return value

    # -- what is written, as the runner reads it --------------------------------------------------------------

    def set_specs(self) -> dict[str, sets.SetSpec]:
        """The declared sets."""
        return {name: sets.parse(value) for name, value in self.sets.items()}

    def world_axes(self) -> dict[str, tuple[WriteAxes, ...]]:
        """The declared worlds, each with its writes."""
        return {n: tuple(map(WriteAxes, w if isinstance(w, list | tuple) else [w])) for n, w in self.worlds.items()}

    @property
    def thinking(self) -> bool:
        """Whether the document is about a model that thinks in vectors before it answers."""
        return self.task.get("name") == THINKING

    @property
    def readouts(self) -> dict[str, dict[str, Any]]:
        """Readouts by name, each with its ``kind``; the first is the default."""
        if isinstance(self.readout, str):
            return {self.readout: {"kind": self.readout}}
        return {n: dict(s) if isinstance(s, Mapping) else {"kind": s} for n, s in self.readout.items()}

    @property
    def alpha(self) -> float:
        """The level of ranks, where a record wants one number."""
        ranks = [p.threshold for p in self.predictions if p.op == "rank<"]
        return float(ranks[0]) if ranks and isinstance(ranks[0], float | int) else 0.05

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data, without fields that stand at their default."""
        out = {"language": self.language, **self.model_dump(mode="json", exclude_defaults=True)}
        if isinstance(self.readout, dict):  # the first is the default: a hash of sorted keys must not lose the order
            out["readout"] = [[name, spec] for name, spec in self.readout.items()]
        return out

    def content_hash(self) -> str:
        """SHA-256 of the document as canonical JSON: fields that a later headlab adds leave it as it is."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()


def parsed(prediction: Prediction) -> expressions.Expression:
    """The expression of a prediction's statistic."""
    return expressions.parse(prediction.statistic)


def needs_layer(doc: Fields) -> bool:
    """Whether a pool leaves its layer to the document."""
    specs = [s for spec in doc.set_specs().values() for s in spec.walk()]
    specs += [s for ws in doc.world_axes().values() for w in ws for s in w.spec.walk()]
    return any(s.kind == "pool" and not s.layers for s in specs)


def needs_selection(doc: Fields) -> bool:
    """Whether anything is fitted on selection prompts."""
    specs = [s for spec in doc.set_specs().values() for s in spec.walk()]
    specs += [s for ws in doc.world_axes().values() for w in ws for s in w.spec.walk()]
    by_score = any(s.by for s in specs) or bool(doc.scores)
    fitted = any(
        w.at(c).write in {"mean", "resample", "add"} for ws in doc.world_axes().values() for w in ws for c in w.cells()
    )
    norm = doc.reference is not None and "norm" in doc.reference.match
    chosen = doc.layer == "auto" and doc.layer_rule == "most" and needs_layer(doc)
    return by_score or fitted or norm or chosen or doc.thinking
