"""A prompt with its roles, and a pair of prompts with the right and the wrong answer."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headlab.reading import OneLine, brief


class PromptError(OneLine, ValueError):
    """A prompt, pair or prompt file that cannot be used: says which, why, and what to do."""


@dataclass(frozen=True)
class Span:
    """Characters ``start … end-1`` of a prompt play ``role``.

    An ``optional`` span (template words such as "Answer:") may be missing or of another length in the partner
    prompt and is then left unaligned; any other span must match token for token.
    """

    role: str
    start: int
    end: int
    optional: bool = False


@dataclass(frozen=True)
class Prompt:
    """A prompt text with its role spans.

    ``lead`` stands between the prompt and the answer (a space, or nothing after a chat header).
    ``special`` is False when the text already holds the tokenizer's own special tokens (chat templates).
    ``ids``: the tokens themselves, where a text was cut by tokens (windows of a corpus); ``scored``: from which of them
    on a loss is read.
    """

    text: str
    spans: tuple[Span, ...] = ()
    lead: str = ""
    special: bool = True
    ids: tuple[int, ...] = ()
    scored: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise PromptError(f"a prompt is a text, given {brief(self.text)}")
        for s in self.spans:
            if not 0 <= s.start < s.end <= len(self.text):
                raise PromptError(
                    f"span {brief(s.role)} is {s.start}:{s.end} but the prompt has {len(self.text)} characters: {brief(self.text)}"
                )


@dataclass(frozen=True)
class Pair:
    """Clean and corrupted prompt with the right and the wrong answer; ``cluster`` groups pairs that are not independent.

    ``more_answers`` and ``more_wrongs``: further right and wrong ones.  ``partner``: whether there is a corrupted prompt;
    without one, ``corrupted`` is the clean one again, and there may be no wrong answer (empty).  A window of a corpus
    has no answers at all.
    """

    id: str
    clean: Prompt
    corrupted: Prompt
    answer: str
    wrong: str
    cluster: str = ""
    category: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    more_answers: tuple[str, ...] = ()
    more_wrongs: tuple[str, ...] = ()
    partner: bool = True

    @property
    def answers(self) -> tuple[str, ...]:
        """Every right answer; none for a window of a corpus."""
        return (self.answer, *self.more_answers) if self.answer else ()

    @property
    def wrongs(self) -> tuple[str, ...]:
        """Every wrong answer; none where nothing is compared."""
        return (self.wrong, *self.more_wrongs) if self.wrong else ()

    def __post_init__(self) -> None:
        if loose := [x for x in (self.clean, self.corrupted) if not isinstance(x, Prompt)]:
            raise PromptError(
                f"pair {self.id}: expected Prompt('…'), given {brief(loose[0])}; PromptSet.from_rows reads plain texts"
            )
        if not self.clean.ids and not self.answer.strip():
            raise PromptError(f"pair {self.id}: the answer must not be empty")
        if self.partner and not self.wrong.strip():
            raise PromptError(f"pair {self.id}: answer and wrong answer must not be empty")
        if self.answer and self.answer == self.wrong:
            raise PromptError(
                f"pair {self.id}: answer and wrong answer are both {brief(self.answer)}; they must differ"
            )
        several = self.more_answers or self.more_wrongs
        if several and (twice := sorted(set(self.answers) & set(self.wrongs))):
            raise PromptError(f"pair {self.id}: {brief(twice[0])} is both a right and a wrong answer")

    def plain(self) -> dict[str, object]:
        """As JSON-ready data."""

        def prompt(p: Prompt) -> dict[str, Any]:
            spans = [[s.role, s.start, s.end, s.optional] for s in p.spans]
            window = {"ids": list(p.ids), "scored": p.scored} if p.ids else {}
            return {"text": p.text, "spans": spans, "lead": p.lead, "special": p.special, **window}

        return {
            "id": self.id,
            "clean": prompt(self.clean),
            "corrupted": prompt(self.corrupted),
            "answer": self.answer,
            "wrong": self.wrong,
            "cluster": self.cluster,
            "category": self.category,
            "labels": dict(self.labels),
            **({"more_answers": list(self.more_answers)} if self.more_answers else {}),
            **({"more_wrongs": list(self.more_wrongs)} if self.more_wrongs else {}),
            **({} if self.partner else {"partner": False}),
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Pair:
        def prompt(p: Mapping[str, Any]) -> Prompt:
            spans = tuple(Span(str(r), int(a), int(b), bool(o)) for r, a, b, o in p["spans"])
            ids = tuple(int(i) for i in p.get("ids", ()))
            return Prompt(p["text"], spans, p["lead"], p["special"], ids, int(p.get("scored", 1)))

        return cls(
            data["id"],
            prompt(data["clean"]),
            prompt(data["corrupted"]),
            data["answer"],
            data["wrong"],
            data["cluster"],
            data["category"],
            tuple(sorted(data["labels"].items())),
            tuple(data.get("more_answers", ())),
            tuple(data.get("more_wrongs", ())),
            bool(data.get("partner", True)),
        )


def _same(prompt: Prompt) -> str:
    """What two prompts share that differ in nothing but spaces, capitals and ways to write a character (windows: tokens)."""
    if prompt.ids:
        return " ".join(map(str, prompt.ids))
    return " ".join(unicodedata.normalize("NFKC", prompt.text).casefold().split())


def spacing(pairs: Sequence[Pair]) -> str:
    """What is likely to be meant otherwise where prompts and answers meet, or empty: a word on which the prompt's last one runs on
    (``ball.She``), or a space at the prompt's end, which most tokenizers give to the next word."""
    met = [(p.clean.text + p.clean.lead, p.answer) for p in pairs if not p.clean.ids]
    glued = [(c, a) for c, a in met if " " in c and not c[-1].isspace() and a[:1].isascii() and a[:1].isalpha()]
    spaced = [(p.clean.text, p.answer) for p in pairs if p.clean.text[-1:] == " "]
    if not (some := glued or spaced):
        return ""
    clean, answer = some[0]
    way = "no space stands between" if glued else "the prompt ends with a space before"
    return (
        f"in {len(some)} of {len(pairs)} pairs {way} prompt and answer (first {clean[-12:] + answer!r}); where the answer is "
        "the next word, write the space at its beginning"
    )


def prompts_of(pair: Pair) -> tuple[str, str]:
    """What tells the prompts of a pair from those of every other: both texts without regard to spaces and capitals."""
    return _same(pair.clean), _same(pair.corrupted)


def clusters_of(pairs: Sequence[Pair]) -> list[str]:
    """The cluster of each: pairs with equal prompts share one, whatever was declared; a pair without a cluster of its own
    stands in nobody else's, whatever its id."""
    declared = {p.cluster for p in pairs if p.cluster}
    first: dict[tuple[str, str], str] = {}
    joined: dict[str, str] = {}

    def root(name: str) -> str:
        while name in joined:
            joined[name] = name = joined.get(joined[name], joined[name])  # long ways are halved each time
        return name

    names = []
    for p in pairs:
        name = p.cluster or (p.id if p.id not in declared else f"{p.id} (no cluster)")
        other = root(first.setdefault(prompts_of(p), name))
        if other != root(name):
            joined[root(name)] = other
        names.append(name)
    return [root(name) for name in names]
