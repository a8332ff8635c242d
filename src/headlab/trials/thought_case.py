"""A claim of the docket before a thinking model: its problems drawn, worlds run and graded, its eligibility."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from headlab import organisms
from headlab.claims import Claim
from headlab.effects import Progress, Table, quiet
from headlab.engine.identity import short
from headlab.engine.model import Lab
from headlab.engine.run import Engine
from headlab.heads import Grid
from headlab.stats import Estimate
from headlab.stats.figures import percent
from headlab.store import Run
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.loading import Thinker, load
from headlab.thoughts.loop import think
from headlab.thoughts.worlds import ThoughtWorld
from headlab.trials.answers import accuracy, parse_rate
from headlab.trials.eligibility import PROBLEMS_AT_LEAST
from headlab.trials.thinking import BASE, PARSED_AT_LEAST, drawn, in_flight, marked, read_problems, shortcomings

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
    engine: Engine | None = None
    others: dict[str, Thinker] = field(default_factory=dict)

    @property
    def lab(self) -> Lab:
        return self.thinker.lab

    @property
    def grid(self) -> Grid:
        return self.thinker.lab.grid

    @property
    def seed(self) -> int:
        return self.claim.seed

    @property
    def n_thoughts(self) -> int:
        return self.thinker.spec.n_thoughts

    @property
    def clusters(self) -> list[str]:
        """The chain of steps of each test problem."""
        return [p.cluster for p in self.test]

    @property
    def tokens(self) -> int:
        """Tokens of an answer."""
        return int(self.claim.options.get("max_new_tokens", 12))  # type: ignore[call-overload]

    @property
    def rows(self) -> int:
        """Rows in flight: the default, or what fits the memory asked for (keys and values of 512 tokens a row)."""
        return in_flight(self.lab, self.memory)

    def opened(self, name: str) -> Thinker:
        """Another model, opened once: a shipped thought model by name, or a folder or hub id."""
        if name not in self.others:
            shipped = name in organisms.names("thoughts")
            self.others[name] = load(organisms.path(name), name=name) if shipped else load(name)
        return self.others[name]

    def think(
        self,
        worlds: Sequence[ThoughtWorld],
        what: str,
        *,
        problems: ProblemSet | None = None,
        thinker: Thinker | None = None,
        touched: frozenset[tuple[int, str]] = frozenset(),
    ) -> Table:
        """Every problem in every world, graded and stored: ``problem`` (its place), ``problem_id``, ``cluster``, ``steps``,
        ``world``, ``text``, ``stopped``, ``logprob``, ``parsed``, ``right``; in the order problem, world.

        ``problems``: others than the test's; ``thinker``: another model (a twin), whose parts are stored under its name.
        """
        chosen = self.test if problems is None else problems
        who = self.thinker if thinker is None else thinker
        table = think(
            who,
            [p.question for p in chosen],
            [p.id for p in chosen],
            worlds,
            batch=self.rows,
            touched=touched,
            max_new_tokens=self.tokens,
            keep=self.run,
            engine=self.engine,
            progress=self.progress,
            what=what if thinker is None else f"{what} ({who.name} {short(who.lab, who.model)})",
        )
        return marked(table, chosen)

    @cached_property
    def baseline(self) -> Table:
        """The unedited model on the test problems."""
        return self.think([BASE], "baseline")

    @cached_property
    def able(self) -> Able:
        """Whether accuracy is surely above the commonest answer's share, and answers parse."""
        found, parsed = accuracy(self.baseline, "baseline"), parse_rate(self.baseline, "baseline")
        reasons = shortcomings(found, parsed, self.test)
        reason = "the model is not eligible: " + "; ".join(reasons) if reasons else ""
        return Able(not reasons, reason, found, parsed, self.test.majority()[1])


def stem(name: str) -> str:
    """The family of a shipped thought model: ``thoughts-gpt2-plain`` → ``thoughts-gpt2``."""
    return "-".join(name.split("-")[:2])


def thoughts_at_least(least: int) -> Callable[[ThoughtBench], str]:
    """Why a model has too few thoughts to be asked; empty when it has enough."""

    def cannot(case: ThoughtBench) -> str:
        n = case.n_thoughts
        return "" if n >= least else f"{case.thinker.name} is fed {n} thoughts; at least {least} are needed"

    return cannot
