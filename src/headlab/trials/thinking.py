"""Thinking models as what a document is tried on: word problems, answers read as numbers, means and donors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headlab.claims import ClaimError, Control
from headlab.effects import Progress, Table, quiet
from headlab.engine.model import Lab
from headlab.engine.run import Engine
from headlab.heads import Grid, Head, Heads
from headlab.heads import layer as whole_layer
from headlab.prompts import PromptError
from headlab.stats import Estimate, clustered_rate
from headlab.stats.figures import percent
from headlab.store import Run
from headlab.tasks.word_problems import Problem, ProblemSet, grade_problem, read_gsm8k, read_gsm8k_aug, word_problems
from headlab.thoughts import metrics
from headlab.thoughts.attention import attention
from headlab.thoughts.forcing import cut
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import BATCH, Lenders, think, touched_by
from headlab.thoughts.scores import norms
from headlab.thoughts.worlds import ThoughtWorld
from headlab.trials import thought_worlds as worlds_
from headlab.trials.document import Document
from headlab.trials.eligibility import PROBLEMS_AT_LEAST, Eligibility
from headlab.trials.measured import Measured
from headlab.trials.worlds import Arm

if TYPE_CHECKING:
    import pandas as pd

BASE = ThoughtWorld("baseline")
PARSED_AT_LEAST = 0.95
FEW = 64
"""Problems on which the exact controls are run."""
SCORES = ("composite", "norm")


def read_problems(path: str | Path) -> ProblemSet:
    """GSM8K (``.jsonl``) or GSM8K-Aug (``.txt``).  Raises PromptError."""
    path = Path(path)
    if not path.is_file():
        raise PromptError(f"no such file of problems: {path}; expected GSM8K .jsonl or GSM8K-Aug .txt")
    if path.suffix not in {".jsonl", ".txt"}:
        raise PromptError(f"{path} has suffix {path.suffix!r}; expected GSM8K .jsonl or GSM8K-Aug .txt")
    return read_gsm8k(path) if path.suffix == ".jsonl" else read_gsm8k_aug(path)


def drawn(
    pairs: int, selection_pairs: int, seed: int, thinker: Thinker, given: ProblemSet | None
) -> tuple[ProblemSet, ProblemSet]:
    """Test problems and selection problems that share no chain of steps.

    Given ones, or the generator's with the steps and values that the model was trained on (``codi.json`` may name them;
    2 to 4 steps and values to 20 otherwise).
    """
    wanted, whole = pairs + selection_pairs, given
    if whole is None:
        whole = word_problems(3 * wanted, split="test", seed=seed, **thinker.lab.info.get("problems", {}))
    share = selection_pairs / wanted if len(whole) >= wanted else min(selection_pairs / wanted, 0.25)
    selection, test = whole.split(share, seed)
    if not len(test):
        raise PromptError(f"{whole.name} has no problem left for the test")
    chosen = selection.sample(min(selection_pairs, len(selection)), seed)
    return test.sample(min(pairs, len(test)), seed), chosen


def shortcomings(right: Estimate, parsed: Estimate, problems: ProblemSet) -> list[str]:
    """Why a thinking model cannot be asked: it does no better than the commonest answer, or its answers hold no number."""
    _, majority = problems.majority()
    out = []
    if (n := len({p.question for p in problems})) < PROBLEMS_AT_LEAST:
        out.append(f"at least {PROBLEMS_AT_LEAST} problems are needed, given {n}")
    if right.above(majority) != "yes":
        out.append(f"accuracy {right} is not surely above the share of the commonest answer, {percent(majority)}")
    if parsed.value is None or parsed.value < PARSED_AT_LEAST:
        out.append(f"only {parsed} of the answers hold a number (at least {PARSED_AT_LEAST:.0%} needed)")
    return out


def in_flight(lab: Lab, memory: int | None) -> int:
    """Rows in flight: the default, or what fits the memory asked for (keys and values of 512 tokens a row)."""
    if memory is None:
        return BATCH
    grid = lab.grid
    row = 2 * 512 * grid.n_layers * grid.n_kv_heads * lab.head_dim * 4
    return max(1, min(BATCH, memory // (2 * row)))


def marked(table: pd.DataFrame, problems: ProblemSet) -> Table:
    """The answers of :func:`headlab.thoughts.loop.think` with problems and marks beside them."""
    chosen = [problems[int(i)] for i in table["problem"]]
    marks = [grade_problem(text, p) for text, p in zip(table["text"], chosen, strict=True)]
    return table.assign(
        problem_id=[p.id for p in chosen],
        cluster=[p.cluster for p in chosen],
        steps=[p.n_steps for p in chosen],
        parsed=[m.parsed is not None for m in marks],
        right=[m.right for m in marks],
    )


def apart(base: pd.DataFrame, edited: pd.DataFrame) -> tuple[int, float]:
    """How many answers of two tables differ, and the largest difference of an answer's log probability, in nats."""
    texts = int((base["text"].to_numpy() != edited["text"].to_numpy()).sum())
    return texts, float(np.abs(base["logprob"].to_numpy() - edited["logprob"].to_numpy()).max())


@dataclass
class Thinking:
    """A thinking model on word problems (see :class:`headlab.trials.subject.Subject`)."""

    thinker: Thinker
    doc: Document
    test: ProblemSet
    selection: ProblemSet
    run: Run
    progress: Progress = quiet
    memory: int | None = None
    engine: Engine | None = None
    unit: str = "problems"
    spoken: dict[str, Any] = field(default_factory=dict)

    @property
    def lab(self) -> Lab:
        return self.thinker.lab

    @property
    def grid(self) -> Grid:
        return self.lab.grid

    @property
    def tolerance(self) -> float:
        return 0.0

    @property
    def items(self) -> list[Problem]:
        """The test problems, with ids and clusters."""
        return list(self.test)

    def measure(
        self, worlds: Sequence[Any], readouts: Mapping[str, Mapping[str, Any]], what: str, *, selection: bool = False
    ) -> Measured:
        """Every world on every problem, 1 where the answer is right; the baseline runs through the same kernels."""
        problems, several = self.selection if selection else self.test, list({w.name: w for w in worlds}.values())
        touched, out = touched_by(several), Measured({}, {}, {}, {}, [p.cluster for p in problems], self.unit)
        for name, spec in readouts.items():
            tokens = int(spec.get("tokens", 12))
            base = self.graded([BASE], problems, f"{what} {name}, unedited", tokens, touched)
            edited = self.graded(several or [BASE], problems, f"{what} {name}", tokens, touched)
            self.spoken |= {f"{what} {name}, unedited": base, f"{what} {name}": edited}
            names = [w.name for w in several] or [BASE.name]
            right = edited.pivot(index="world", columns="problem", values="right").loc[names].to_numpy(float)
            unedited = base.sort_values("problem")["right"].to_numpy(float)
            place = {w: i for i, w in enumerate(names)}
            more = Measured({name: unedited}, {name: unedited}, {name: right}, {name: place}, out.clusters, self.unit)
            out = out.joined(more)
        return out

    def graded(
        self,
        worlds: Sequence[ThoughtWorld],
        problems: ProblemSet,
        what: str,
        tokens: int = 12,
        touched: frozenset[tuple[int, str]] = frozenset(),
    ) -> Any:
        """Answers of every problem in every world with ``parsed`` and ``right``, in the order problem, world."""
        table = think(
            self.thinker,
            [p.question for p in problems],
            [p.id for p in problems],
            worlds,
            max_new_tokens=tokens,
            batch=in_flight(self.lab, self.memory),
            touched=touched,
            keep=self.run,
            engine=self.engine,
            progress=self.progress,
            what=what,
            lenders=self.lenders(problems),
        )
        return marked(table, problems)

    @property
    def borrows_from_test(self) -> bool:
        """Whether the document takes means and donors from the problems that are tried."""
        writes = (w.at(c) for ws in self.doc.world_axes().values() for w in ws for c in w.cells())
        return any(w.mean.over == "test" for w in writes)

    def lenders(self, borrowers: ProblemSet) -> Lenders | None:
        """Selection problems, of which each problem borrows from one with another answer; None where the document takes
        means and donors from the problems that are tried."""
        if self.borrows_from_test or borrowers is self.selection:
            return None
        lending = list(self.selection)

        def choose(borrower: int, seed: int) -> int:
            one = borrowers[borrower]
            order = [hashlib.sha256(f"{seed} {one.id} {p.id}".encode()).digest() for p in lending]
            return min(range(len(lending)), key=lambda i: (lending[i].answer == one.answer, order[i]))

        return Lenders(tuple(p.question for p in lending), tuple(p.id for p in lending), choose)

    # -- scores, eligibility, controls --------------------------------------------------------------------------

    def score(self, name: str) -> Mapping[Head, float]:
        """``norm``: what a head writes; ``composite``: the published score of hub, flow and skip, on its published view."""
        if name == "norm":
            return norms(self.thinker, self.selection, in_flight(self.lab, self.memory), self.progress)
        if name != "composite":
            raise ClaimError(f"a thinking model has no score {name!r}; expected {', '.join(SCORES)}, or an expression")
        found = attention(
            self.thinker,
            [p.question for p in self.selection],
            [p.id for p in self.selection],
            batch=in_flight(self.lab, self.memory),
            keep=self.run.shard,
            progress=self.progress,
            what="composite",
        )
        among = found.among.mean(0)  # [layer, head, thought, key]
        view = metrics.published_view(among.reshape(-1, *among.shape[-2:]))
        score = metrics.composite_of(view).score
        heads = [Head(at, i) for at in range(self.grid.n_layers) for i in range(self.grid.n_heads)]
        return dict(zip(heads, map(float, score), strict=True))

    def able(self) -> Eligibility:
        """Whether the model can be asked, by the document's own readout."""
        doc, told = self.doc, {"unit": "problems", "clusters": [p.cluster for p in self.test]}
        spec = next(iter(doc.readouts.values()))
        table = self.graded([BASE], self.test, "baseline", int(spec.get("tokens", 12)))
        right, parsed = (clustered_rate(table[k].to_numpy(bool), **told) for k in ("right", "parsed"))
        asked, why = doc.eligible, shortcomings(right, parsed, self.test)
        if asked.pairs is not None:
            why = [w for w in why if "problems are needed" not in w]
            why += [f"at least {asked.pairs} problems are needed"] if len(self.test) < asked.pairs else []
        if asked.clean is not None:
            why = [w for w in why if not w.startswith("accuracy")]
            why += [f"it answers only {right}"] if (right.value or 0.0) < asked.clean else []
        reason = "the model is not eligible: " + "; ".join(why) if why else ""
        rule = f"accuracy surely above the commonest answer's share, parse rate ≥ {PARSED_AT_LEAST:.0%}"
        return Eligibility(reason, right, None, np.ones(len(self.test), dtype=bool), None, rule)

    def wholes(self, arms: Sequence[Arm]) -> dict[tuple[str, Any], tuple[ThoughtWorld, tuple[int, ...]]]:
        """For each world and cell the same at every head of the touched layers, at every thought; in place of a forced
        pattern, attention to the thoughts removed."""
        from headlab.trials.worlds import interventions

        layers: dict[str, set[int]] = {}
        for arm in arms:
            layers.setdefault(arm.world, set()).update(*(worlds_.layers_of(w) for w in arm.draws))  # type: ignore[arg-type]
        n, out = self.thinker.spec.n_thoughts, {}
        for arm in arms:
            if (arm.world, arm.cell) in out:
                continue
            every = Heads(h for at in sorted(layers[arm.world]) for h in whole_layer(self.grid, at))
            ones: list[Any] = []
            for write in self.doc.world_axes()[arm.world]:
                spec = write.at({k: v for k, v in dict(arm.cell).items() if k in write.axes})
                if spec.write == "noop":
                    continue
                if spec.site == "thought":
                    ones.append(worlds_.replaced(spec.model_copy(update={"roles": None}), n, self.doc.seed * 1000))
                elif spec.shape:
                    ones += cut(self.grid, n, worlds_.forced(spec, every))
                else:
                    ones += interventions(self.doc, self.grid, spec, every)
            if ones:
                out[arm.world, arm.cell] = (worlds_.world(ones), tuple(sorted(layers[arm.world])))
        return out

    def no_op(self, arms: Sequence[Arm]) -> Control:
        """What was there written back: every answer the same, every log probability bit for bit."""
        worlds: list[Any] = [w for a in arms for w in a.draws]
        few, texts, gap = self.test[: min(FEW, len(self.test))], 0, 0.0
        for one in worlds_.no_ops(self.grid, self.thinker.spec.n_thoughts, worlds):
            touched = touched_by([one])
            base = self.graded([BASE], few, f"no-op {one.name}: unedited", touched=touched)
            same = self.graded([one], few, f"no-op {one.name}", touched=touched)
            more, largest = apart(base, same)
            texts, gap = texts + more, max(gap, largest)
        words = (
            f"writing back what was there changes {texts} of {len(few)} answers; largest change of an answer's log "
            f"probability {gap:.2g}"
        )
        return Control(name="no-op", kind="negative", passed=texts == 0 and gap == 0, value=gap, words=words)
