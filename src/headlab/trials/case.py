"""A claim of the docket before a language model, with its pairs drawn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from headlab.claims import Claim, Protocol
from headlab.effects import Progress, Table, quiet
from headlab.engine.decode import generate
from headlab.engine.model import Lab
from headlab.engine.plan import pair_hash
from headlab.engine.run import Engine, sweep
from headlab.interventions import World
from headlab.prompts import EncodedPair, PromptError, PromptSet, encode, prompts_of
from headlab.reading import brief
from headlab.store import Run, content_hash
from headlab.tasks.decimals import capacity, decimals
from headlab.tasks.grading import grade

if TYPE_CHECKING:
    from headlab.trials.experiment import Entry

MOST_DRAWN = 32
_DRAWN: WeakKeyDictionary[Any, dict[object, PromptSet]] = WeakKeyDictionary()


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

    def option(self, name: str, experiment: Entry) -> Any:
        """A setting of the experiment's own: the claim's, or its default."""
        return self.claim.options.get(name, experiment.options[name])

    @cached_property
    def encoded(self) -> list[EncodedPair]:
        return [encode(p, self.lab.tokenizer) for p in self.test]

    def sweep(self, pairs: Sequence[EncodedPair], worlds: Sequence[World], what: str) -> Table:
        """A sweep whose shards are stored in the run."""
        return sweep(
            self.lab,
            pairs,
            worlds,
            keep=self.run,
            engine=self.engine,
            progress=self.progress,
            what=what,
            memory=self.memory,
        )

    def texts(self, pairs: Sequence[EncodedPair], worlds: Sequence[World], protocol: Protocol, what: str) -> Table:
        """Greedy text graded: ``pair, world, text, parsed, right``; stored in the run."""

        most = 8 if protocol.decode_from == "shared start" else 20

        def compute() -> Table:
            made = generate(
                self.lab,
                pairs,
                worlds,
                start=protocol.decode_from,
                memory=self.memory,
                engine=self.engine,
                max_new_tokens=most,
                progress=self.progress,
                what=what,
            )
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
    """Pairs of the task; those drawn before with the same tokenizer are handed on (a scorecard asks for them every time)."""
    t = claim.task
    known: dict[object, PromptSet] = {}
    with suppress(TypeError):  # what cannot be kept by a tokenizer is drawn each time
        known = _DRAWN.setdefault(tokenizer, known)
    template = repr(getattr(tokenizer, "chat_template", None))
    key = (n, claim.seed, t.model_dump_json(), template, len(tokenizer) if hasattr(tokenizer, "__len__") else 0)
    if key not in known:
        if len(known) == MOST_DRAWN:
            known.clear()
        known[key] = decimals(
            min(n, capacity(t.category, t.split, tokenizer) // 2),  # type: ignore[arg-type]
            clean=t.clean,
            corrupted=t.corrupted,
            category=t.category,  # type: ignore[arg-type]
            wording=t.wording,  # type: ignore[arg-type]
            corruption=t.corruption,
            split=t.split,
            seed=claim.seed,
            tokenizer=tokenizer,
        )
    return known[key]
