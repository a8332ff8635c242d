"""What every experiment shares: a claim and a model made ready, eligibility, the layer, the passes, the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from headlab.claims import Claim, ClaimError, Control, Protocol
from headlab.effects import Figure, Progress, of_world, quiet, recovery, repair
from headlab.engine.decode import generate
from headlab.engine.model import Lab
from headlab.engine.plan import pair_hash
from headlab.engine.run import Engine, sweep
from headlab.engine.selfcheck import TOLERANCE
from headlab.heads import Grid, Heads
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair, PromptError, PromptSet, encode, prompts_of
from headlab.reading import brief, some
from headlab.stats import Estimate, clustered_rate, paired_difference
from headlab.store import NamedEstimate, Record, Run, Store, content_hash
from headlab.tasks.decimals import capacity, decimals
from headlab.tasks.grading import grade
from headlab.trials.findings import Findings as Outcome

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("no-op", "patch-all")
CLEAN_AT_LEAST, CORRUPTED_AT_MOST, PAIRS_AT_LEAST = 0.9, 0.5, 100


@dataclass(frozen=True)
class Result:
    """A finished run: its record and its tables.  Renders itself in a notebook."""

    record: Record
    tables: Mapping[str, Any]
    children: tuple[Record, ...] = ()

    @property
    def verdict(self) -> Any:
        """The binding verdict, or None."""
        return self.record.readings[0].verdict if self.record.readings else None

    @property
    def figures(self) -> list[Figure]:
        return [Figure.from_plain(f) for f in self.record.figures]

    @property
    def effects(self) -> pd.DataFrame:
        """The central table."""
        return self.tables["effects"]

    def __repr__(self) -> str:
        said = self.verdict.sentence if self.verdict else "no verdict"
        return f"Result({self.record.id}: {said})"

    def _repr_html_(self) -> str:
        """The report in a frame, where a page maker is known (``import headlab`` gives one)."""
        if not _PAGE:
            return f"<pre>{escape(repr(self))}</pre>"
        whole = _PAGE[0](self.record, dict(self.tables), list(self.children))
        return f'<iframe srcdoc="{escape(whole)}" width="100%" height="900" title="{escape(repr(self))}"></iframe>'


_PAGE: list[Callable[..., str]] = []


def render_with(page: Callable[..., str]) -> None:
    """Let notebooks show results by ``page(record, tables, children)`` (the report room stands above this one)."""
    _PAGE[:] = [page]


@dataclass
class Bench:
    """A claim before a model, with its pairs drawn: what an experiment works on."""

    lab: Lab
    claim: Claim
    test: PromptSet
    selection: PromptSet
    run: Run
    progress: Progress = quiet
    memory: int | None = None
    engine: Engine | None = None

    @property
    def seed(self) -> int:
        return self.claim.seed

    def option(self, name: str, experiment: Experiment) -> Any:
        """A setting of the experiment's own: the claim's, or its default."""
        return self.claim.options.get(name, experiment.options[name])

    @cached_property
    def encoded(self) -> list[EncodedPair]:
        return [encode(p, self.lab.tokenizer) for p in self.test]

    def sweep(self, pairs: Sequence[EncodedPair], worlds: Sequence[World], what: str) -> pd.DataFrame:
        """A sweep whose shards are stored in the run."""
        return sweep(
            self.lab, pairs, worlds, keep=self.run, engine=self.engine, progress=self.progress, what=what,
            memory=self.memory,
        )  # fmt: skip

    def texts(
        self, pairs: Sequence[EncodedPair], worlds: Sequence[World], protocol: Protocol, what: str
    ) -> pd.DataFrame:
        """Greedy text graded: ``pair, world, text, parsed, right``; stored in the run."""

        most = 8 if protocol.decode_from == "shared start" else 20

        def compute() -> pd.DataFrame:
            made = generate(
                self.lab, pairs, worlds, start=protocol.decode_from, memory=self.memory,
                max_new_tokens=most, progress=self.progress, what=what,
            )  # fmt: skip
            marks = [
                grade(text, pairs[i].pair, self.test.grader, protocol.grading)
                for i, text in zip(made["pair"], made["text"], strict=True)
            ]
            made["parsed"] = [m.parsed is not None for m in marks]
            made["right"] = [m.right for m in marks]
            return made

        asked = [[pair_hash(p) for p in pairs], [[w.name, w.content_hash()] for w in worlds]]
        how = [protocol.decode_from, protocol.grading, self.test.grader, most, self.memory, self.lab.fingerprint]
        return self.run.shard(f"text-{what}-{content_hash([asked, how])[:16]}", compute)


def draw(
    claim: Claim, tokenizer: Any, prompts: PromptSet | tuple[PromptSet, PromptSet] | None
) -> tuple[PromptSet, PromptSet]:
    """Test pairs and selection pairs that share no cluster (``prompts`` may be both, already parted)."""
    if isinstance(prompts, tuple):
        given = [{prompts_of(p) for p in part} for part in prompts]
        if both := given[0] & given[1]:
            raise PromptError(
                f"test and selection share {len(both)} prompt pair(s), first {brief(min(both)[0])}; part them"
            )
        return prompts
    n_selection = claim.selection_pairs if claim.layer == "auto" else 0
    wanted = claim.pairs + n_selection
    own = prompts is not None or claim.task.name == "file"
    if prompts is None:
        if own and not claim.task.file:
            raise PromptError(
                "the claim's task is a file and names none; write task: {name: file, file: pairs.csv}, or give --prompts"
            )
        prompts = PromptSet.from_file(claim.task.file or "") if own else _decimals(claim, 2 * wanted, tokenizer)
    share = n_selection / wanted if len(prompts) >= wanted else min(n_selection / wanted, 0.25)
    selection, test = prompts.split(share, claim.seed)
    if not own and len(test) < claim.pairs:
        raise PromptError(
            f"{claim.pairs} test pairs asked for; the task has {len(test)} that share no fraction pair with the "
            f"{len(selection)} kept for choosing the layer; ask for fewer"
        )
    if n_selection and not len(selection):
        raise PromptError(
            f"{len(prompts)} pair(s) are too few to choose a layer on pairs that the test never sees; name the layer "
            "(--layer N), or give more pairs that share no cluster"
        )
    return test.sample(claim.pairs, claim.seed), selection.sample(max(n_selection, 1), claim.seed)


def _decimals(claim: Claim, n: int, tokenizer: Any) -> PromptSet:
    t = claim.task
    return decimals(
        min(n, capacity(t.category, t.split) // 2),  # type: ignore[arg-type]
        clean=t.clean, corrupted=t.corrupted, category=t.category, wording=t.wording,  # type: ignore[arg-type]
        corruption=t.corruption, split=t.split, seed=claim.seed, tokenizer=tokenizer,
    )  # fmt: skip


@dataclass(frozen=True)
class Eligibility:
    """Whether the model shows what is to be explained, and the pairs on which it does."""

    ok: bool
    reason: str
    clean: Estimate
    corrupted: Estimate
    parsed: Estimate
    pairs: tuple[EncodedPair, ...]

    def usable(self, bench: Bench) -> list[EncodedPair]:
        """Eligible pairs; every pair when there are too few to say anything (the verdict is then untestable)."""
        return list(self.pairs) if len(self.pairs) >= 2 else bench.encoded

    def plain(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "reason": self.reason,
            "clean": self.clean.to_dict(),
            "corrupted": self.corrupted.to_dict(),
            "parsed": self.parsed.to_dict(),
            "eligible_pairs": len(self.pairs),
            "rule": f"clean accuracy ≥ {CLEAN_AT_LEAST:.0%}, corrupted ≤ {CORRUPTED_AT_MOST:.0%}, on ≥ {PAIRS_AT_LEAST} pairs",
        }


def distinct(pairs: Sequence[EncodedPair]) -> int:
    """Pairs that differ in their prompts: what eligibility counts."""
    return len({prompts_of(p.pair) for p in pairs})


def eligibility(bench: Bench, protocol: Protocol) -> Eligibility:
    """Clean and corrupted accuracy under the protocol's own decoding and grading; eligible pairs are answered rightly
    from the clean prompt and wrongly from the corrupted one."""
    pairs = bench.encoded
    base = [World("unedited")]
    clean = bench.texts(
        [replace(p, corrupted=p.clean) for p in pairs], base, protocol, f"clean prompts ({protocol.name})"
    )
    corrupted = bench.texts(pairs, base, protocol, f"corrupted prompts ({protocol.name})")
    clusters = [p.pair.cluster or p.pair.id for p in pairs]

    def rate(values: Any) -> Estimate:
        return clustered_rate(values, clusters=clusters, unit="pairs")

    right, bug = clean["right"].to_numpy(bool), ~corrupted["right"].to_numpy(bool)
    kept = tuple(p for p, a, b in zip(pairs, right, bug, strict=True) if a and b)
    problems = []
    if (n := distinct(pairs)) < PAIRS_AT_LEAST:
        problems.append(f"eligibility needs at least {PAIRS_AT_LEAST} pairs, given {n}")
    if right.mean() < CLEAN_AT_LEAST:
        problems.append(
            f"it answers only {right.mean():.0%} of the clean prompts (at least {CLEAN_AT_LEAST:.0%} needed)"
        )
    if 1 - bug.mean() > CORRUPTED_AT_MOST:
        problems.append(f"it has no bug to repair: {1 - bug.mean():.0%} of the corrupted prompts are answered rightly")
    parsed = clustered_rate([*clean["parsed"], *corrupted["parsed"]], clusters=clusters * 2, unit="answers")
    reason = "the model is not eligible: " + "; ".join(problems) if problems else ""
    return Eligibility(not problems, reason, rate(right), rate(~bug), parsed, kept)


def protocol_patch(protocol: Protocol, name: str, heads: Heads, *, site: str | None = None, **fields: Any) -> World:
    """A world that patches ``heads`` from the clean run as the protocol says."""
    one = Intervention(
        heads, site or protocol.site, fields.pop("write", "patch"), align=protocol.align, when=protocol.when,  # type: ignore[arg-type]
        beyond="first" if protocol.when == "every_step" else None, **fields,
    )  # fmt: skip
    return World(name, (one,))


def no_op_world(protocol: Protocol, whole: Heads, site: str | None = None) -> World:
    """The no-op: every head's own activation written back.  At generated tokens nothing was captured to write back,
    so a protocol that edits every step is held against the unedited run instead."""
    if protocol.when == "every_step":
        return World("noop")
    return protocol_patch(protocol, "noop", whole, site=site, write="noop")


def choose_layer(bench: Bench, pairs: Sequence[EncodedPair]) -> tuple[int, list[dict[str, Any]]]:
    """The layer by ``claim.layer_rule``, on selection pairs: patch every head of each layer, count repaired pairs.

    A pair counts as repaired when its logit difference is positive.
    """
    lab, grid = bench.lab, bench.lab.grid
    layers = [s.layer for s in lab.slots]
    if isinstance(bench.claim.layer, int):
        grid.check_layer(bench.claim.layer)
        return bench.claim.layer, []
    worlds = [World(f"L{at}", (Intervention(all_heads(grid, at)),)) for at in layers]
    table = bench.sweep(pairs, worlds, "choosing a layer")
    share = {w.name: float((of_world(table, w.name)["edited"] > 0).mean()) for w in worlds}
    best = max(layers, key=lambda at: (share[f"L{at}"], -at))
    return best, [{"layer": at, "repaired": share[f"L{at}"], "pairs": len(pairs)} for at in layers]


def with_texts(effects: pd.DataFrame, texts: pd.DataFrame, **labels: str) -> pd.DataFrame:
    """The effects table with graded text beside the logit differences, and constant label columns."""
    merged = effects.merge(texts.rename(columns={"text": "edited_text"}), on=["pair", "world"], how="left")
    for n, (key, value) in enumerate(labels.items()):
        merged.insert(n, key, value)
    return merged


def named(name: str, label: str, estimate: Estimate, arm: str = "z") -> NamedEstimate:
    return NamedEstimate(name=name, label=label, arm=arm, estimate=estimate.to_dict())


def no_op_control(effects: pd.DataFrame, lab: Lab) -> Control:
    """A patch by nothing (amount 0), the no-op world and the unedited run must agree pair by pair: the same text, and
    the same logit difference to the tolerance of the dtype."""
    base, same = (of_world(effects, w).sort_values("pair") for w in ("baseline", "noop"))
    gap = float(abs(base["edited"].to_numpy() - same["edited"].to_numpy()).max())
    drift = float((base["edited"] - base["corrupted"]).abs().max())
    scale = max(1.0, float(base["corrupted"].abs().max()))
    texts = bool((base["edited_text"].to_numpy() == same["edited_text"].to_numpy()).all())
    return Control(
        name="no-op",
        kind="negative",
        passed=texts and max(gap, drift) <= TOLERANCE[lab.dtype] * scale,
        words=(
            f"an edit that writes nothing new changes {'no' if texts else 'an'} answer of {len(base)} pairs; largest "
            f"change of a logit difference {max(gap, drift):.2g}"
        ),
        value=max(gap, drift),
    )


def patch_all_control(effects: pd.DataFrame, seed: int, label: str = "every head of the layer") -> Control:
    """Patching everything must repair: the lower bound of the repair rate above one half."""
    found = repair(effects, "all")
    return Control(
        name="patch-all",
        kind="positive",
        passed=found.above(0.5) == "yes",
        words=f"patching {label} repairs {found}",
        value=found.value,
    )


def standard_estimates(effects: pd.DataFrame, worlds: Mapping[str, str], seed: int, arm: str) -> dict[str, Any]:
    """``repair:NAME`` and ``recovery:NAME`` of each named world."""
    out: dict[str, Any] = {}
    for world, label in worlds.items():
        out[f"repair:{world}"] = named(f"repair:{world}", f"{label}: pairs repaired", repair(effects, world), arm)
        out[f"recovery:{world}"] = named(
            f"recovery:{world}", f"{label}: logit difference recovered", recovery(effects, world, seed=seed), arm
        )
    return out


def contrast(effects: pd.DataFrame, a: str, b: str, seed: int) -> Estimate:
    """Repair rate of world ``a`` minus that of ``b``, paired by prompt pair."""
    rows = [of_world(effects, w).sort_values("pair") for w in (a, b)]
    return paired_difference(
        rows[0]["right"].to_numpy(bool), rows[1]["right"].to_numpy(bool),
        clusters=rows[0]["cluster"].to_numpy(), unit="pairs", seed=seed,
    )  # fmt: skip


def handed_on(home: Store, record: Record) -> Result:
    """The result of a run that was complete, but not settled, when the same was asked again: nothing runs twice."""
    return Result(record, home.tables(record.id), tuple(home.record(child) for child in record.children))


@dataclass(frozen=True)
class Experiment:
    """An entry of the docket: its name, its question, and what runs.

    ``statistics`` and ``controls`` are what a claim may predict and ask for (a trailing ``*`` stands for the rest of a
    name).  ``options`` are the settings of its own that a claim may give, with their defaults.  ``design(grid, claim,
    layer)`` lists the worlds that most of the time goes to, for ``--dry-run``.  ``needs``: "numbers" where every prompt must
    name the two numbers that it compares by their roles.
    """

    slug: str
    question: str
    run: Callable[[Any], Outcome]
    statistics: tuple[str, ...]
    controls: tuple[str, ...] = CONTROLS
    options: Mapping[str, Any] = field(default_factory=dict)
    design: Callable[[Grid, Claim, int], list[World]] | None = None
    needs: str = ""

    def check(self, claim: Claim) -> None:
        """Refuse a claim that predicts what nobody measures, before anything runs.  Raises ClaimError."""
        for p in claim.predictions:
            if not any(fnmatchcase(p.statistic, known) for known in self.statistics):
                raise ClaimError(
                    f"{self.slug} measures no {brief(p.statistic)}; expected one of {some(self.statistics, 12)}"
                )
            if (p.op == "rank<") != p.statistic.startswith("rank:"):
                raise ClaimError(
                    f"{brief(p.statistic)} with {p.op!r}: ranks, and only ranks, are predicted with 'rank<'"
                )
        if unknown := [c for c in claim.controls if c not in self.controls]:
            raise ClaimError(f"no control {brief(unknown[0])}; expected {', '.join(self.controls)}")
        for key, value in claim.options.items():
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise ClaimError(f"{self.slug} has no option {brief(key)}; it has {known}")
            default = self.options[key]
            if isinstance(default, bool) != isinstance(value, bool) or not isinstance(value, _like(default)):
                raise ClaimError(
                    f"option {key!r} of {self.slug}: given {brief(value)}, expected something like {default!r}"
                )


def _like(default: Any) -> tuple[type, ...]:
    """Types that may stand for a default."""
    return (
        (int, float)
        if isinstance(default, float)
        else (list, tuple)
        if isinstance(default, list | tuple)
        else (type(default),)
    )
