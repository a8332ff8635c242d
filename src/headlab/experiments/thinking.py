"""What every experiment on thinking models shares: problems drawn, worlds run and graded, eligibility, exact controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from headlab.claims import Claim, Control
from headlab.effects import Progress, quiet
from headlab.engine.identity import short
from headlab.engine.model import Lab
from headlab.stats import Estimate, clustered_rate, paired_difference
from headlab.stats.figures import percent
from headlab.stats.paired import McNemar, mcnemar
from headlab.store import Run
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import think, touched_by
from headlab.thoughts.worlds import ThoughtWorld
from headlab.trials.experiment import Entry
from headlab.trials.thinking import (
    BASE,
    PARSED_AT_LEAST,
    PROBLEMS_AT_LEAST,
    apart,
    drawn,
    in_flight,
    marked,
    read_problems,
    shortcomings,
)

if TYPE_CHECKING:
    import pandas as pd

TASK = "word-problems"


def draw_problems(claim: Claim, thinker: Thinker, given: ProblemSet | None) -> tuple[ProblemSet, ProblemSet]:
    """Test problems and selection problems that share no chain of steps: given ones, a file's, or the generator's."""
    whole = given if given is not None else read_problems(claim.task.file) if claim.task.file else None
    return drawn(claim.pairs, claim.selection_pairs, claim.seed, thinker, whole)


@dataclass(frozen=True)
class Able:
    """Whether the model can be asked: accuracy above the majority answer, answers that parse."""

    ok: bool
    reason: str
    accuracy: Estimate
    parsed: Estimate
    majority: float

    def plain(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "reason": self.reason,
            "accuracy": self.accuracy.to_dict(),
            "parsed": self.parsed.to_dict(),
            "majority": self.majority,
            "rule": (
                f"accuracy's lower bound over the share of the commonest answer ({percent(self.majority)}), parse rate ≥ "
                f"{PARSED_AT_LEAST:.0%}, on ≥ {PROBLEMS_AT_LEAST} problems"
            ),
        }


@dataclass
class ThoughtBench:
    """A claim before a thinking model, with its problems drawn: what a thought experiment works on."""

    thinker: Thinker
    claim: Claim
    test: ProblemSet
    selection: ProblemSet
    run: Run
    progress: Progress = quiet
    memory: int | None = None

    @property
    def lab(self) -> Lab:
        return self.thinker.lab

    @property
    def seed(self) -> int:
        return self.claim.seed

    @property
    def n_thoughts(self) -> int:
        return self.thinker.spec.n_thoughts

    @property
    def rows(self) -> int:
        """Rows in flight: the default, or what fits the memory asked for (keys and values of 512 tokens a row)."""
        return in_flight(self.lab, self.memory)

    def option(self, name: str, experiment: Entry) -> Any:
        """A setting of the experiment's own: the claim's, or its default."""
        return self.claim.options.get(name, experiment.options[name])

    def think(
        self,
        worlds: Sequence[ThoughtWorld],
        what: str,
        *,
        problems: ProblemSet | None = None,
        thinker: Thinker | None = None,
        touched: frozenset[tuple[int, str]] = frozenset(),
    ) -> pd.DataFrame:
        """Every problem in every world, graded and stored: ``problem`` (its place), ``problem_id``, ``cluster``, ``steps``,
        ``world``, ``text``, ``stopped``, ``logprob``, ``parsed``, ``right``; in the order problem, world.

        ``problems``: others than the test's; ``thinker``: another model (a twin), whose parts are stored under its name.
        """
        chosen = self.test if problems is None else problems
        who = self.thinker if thinker is None else thinker
        name = what if thinker is None else f"{what} ({who.name} {short(who.lab, who.model)})"
        table = think(
            who, [p.question for p in chosen], [p.id for p in chosen], worlds, batch=self.rows, touched=touched,
            max_new_tokens=self.claim.options.get("max_new_tokens", 12), keep=self.run.shard, progress=self.progress,
            what=name,
        )  # fmt: skip
        return marked(table, chosen)

    @cached_property
    def baseline(self) -> pd.DataFrame:
        """The unedited model on the test problems."""
        return self.think([BASE], "baseline")

    @cached_property
    def able(self) -> Able:
        """Eligibility, from the baseline."""
        return eligibility(self.baseline, self.test, self.seed)

    def exact(self, world: ThoughtWorld, name: str = "no-op", words: str = "") -> Control:
        """A negative control: this world must equal the baseline item by item and bit for bit, both run through the same
        kernels and batch shape."""
        touched = touched_by([world])
        few = self.test[: min(64, len(self.test))]
        base = self.think([BASE], f"{name}: baseline", problems=few, touched=touched)
        edited = self.think([world], f"{name}: {world.name}", problems=few, touched=touched)
        texts, gap = apart(base, edited)
        return Control(
            name=name,
            kind="negative",
            passed=texts == 0 and gap == 0,
            words=(
                f"{words or 'writing back what was there'} changes {texts} of {len(base)} answers; largest change of an "
                f"answer's log-probability {gap:.2g}"
            ),
            value=gap,
        )


def of_world(table: pd.DataFrame, world: str) -> Any:
    """A world's rows by problem.  Raises KeyError when it was not run."""
    found: Any = table[table["world"] == world]
    if found.empty:
        raise KeyError(f"world {world!r} is not in the table; it has {sorted(table['world'].unique())[:8]} …")
    return found.sort_values("problem")


def accuracy(table: pd.DataFrame, world: str) -> Estimate:
    """Share of problems answered rightly; an answer that does not parse is wrong.  Interval over chains of steps."""
    rows = of_world(table, world)
    return clustered_rate(rows["right"].to_numpy(bool), clusters=rows["cluster"].tolist(), unit="problems")


def parse_rate(table: pd.DataFrame, world: str) -> Estimate:
    """Share of answers in which a number was found."""
    rows = of_world(table, world)
    return clustered_rate(rows["parsed"].to_numpy(bool), clusters=rows["cluster"].tolist(), unit="problems")


def drop(base: pd.DataFrame, edited: pd.DataFrame, *, seed: int) -> Estimate:
    """Accuracy lost: baseline minus edited, paired by problem (tables of one world each, the same problems)."""
    a, b = (t.sort_values("problem") for t in (base, edited))
    if list(a["problem_id"]) != list(b["problem_id"]):
        raise ValueError("the two tables do not hold the same problems")
    return paired_difference(
        a["right"].to_numpy(bool),
        b["right"].to_numpy(bool),
        clusters=a["cluster"].to_numpy(),
        unit="problems",
        seed=seed,
    )


def exact_mcnemar(base: pd.DataFrame, edited: pd.DataFrame) -> McNemar:
    """Exact McNemar test over problems (the same ones in both tables), whole clusters of problems changing sides."""
    a, b = (t.sort_values("problem") for t in (base, edited))
    return mcnemar(a["right"].to_numpy(bool), b["right"].to_numpy(bool), a["cluster"].tolist())


def eligibility(base: pd.DataFrame, problems: ProblemSet, seed: int) -> Able:
    """Whether accuracy is surely above the commonest answer's share, and answers parse."""
    found, parsed = accuracy(base, "baseline"), parse_rate(base, "baseline")
    _, majority = problems.majority()
    reasons = shortcomings(found, parsed, problems)
    reason = "the model is not eligible: " + "; ".join(reasons) if reasons else ""
    return Able(not reasons, reason, found, parsed, majority)
