"""Prompts, pairs of prompts, and what their tokens are.

A :class:`Pair` is the unit of analysis: a *clean* prompt, a *corrupted* prompt, the right answer and the wrong
one.  :func:`encode` turns it into token ids, finds which tokens play which role (from character spans, never from
substring matching), appends the start that both answers share ("9." of 9.8 and 9.11) and names the two tokens at
which they part: that is where the logit difference is read.

:func:`align` says which clean position lends its activation to which corrupted position.  No torch here.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from headlab.reading import ReadingError, brief, check_columns, csv_rows, json_rows, read_document
from headlab.reading.bounds import many_objects

Alignment = Literal["role", "end", "left"]
COLUMNS = ("clean", "corrupted", "answer", "wrong")
OPTIONAL_COLUMNS = ("id", "cluster", "category", "clean_spans", "corrupted_spans")
MOST_PAIRS = 100_000


class PromptError(ValueError):
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

    def plain(self) -> dict[str, Any]:
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


@dataclass(frozen=True)
class PromptSet:
    """Pairs in a fixed order.  ``grader`` names how generated text is graded: ``number`` or ``prefix``."""

    pairs: tuple[Pair, ...]
    name: str = "prompts"
    grader: Literal["number", "prefix"] = "prefix"
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for p in self.pairs:
            if p.id in seen:
                raise PromptError(f"two pairs have the id {brief(p.id)}; ids must be unique")
            seen.add(p.id)
        own = zip(self.pairs, _clusters(self.pairs), strict=True)
        object.__setattr__(
            self, "pairs", tuple(p if c == (p.cluster or p.id) else replace(p, cluster=c) for p, c in own)
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __getitem__(self, i: int) -> Pair:
        return self.pairs[i]

    def subset(self, pairs: Iterable[Pair]) -> PromptSet:
        return replace(self, pairs=tuple(pairs))

    def sample(self, n: int, seed: int) -> PromptSet:
        """``n`` pairs drawn without replacement, in their old order (all of them when there are fewer)."""
        if n >= len(self.pairs):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.pairs)), n))
        return self.subset(self.pairs[i] for i in chosen)

    def split(self, share: float, seed: int) -> tuple[PromptSet, PromptSet]:
        """Two disjoint sets of pairs that share no cluster; the first holds about ``share`` of the clusters."""
        clusters = sorted({p.cluster or p.id for p in self.pairs})
        random.Random(seed).shuffle(clusters)
        first = set(clusters[: round(share * len(clusters))])
        return (
            self.subset(p for p in self.pairs if (p.cluster or p.id) in first),
            self.subset(p for p in self.pairs if (p.cluster or p.id) not in first),
        )

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "grader": self.grader, "pairs": [p.plain() for p in self.pairs]}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> PromptSet:
        return cls(tuple(Pair.from_plain(p) for p in data["pairs"]), data["name"], data["grader"])

    def rows(self) -> list[dict[str, str]]:
        """Rows that :meth:`from_rows` and a CSV file take: what stands between prompt and answer goes to the answers,
        spans that a partner may lack are left out.  Raises PromptError for prompts that are no plain text."""

        def cell(texts: Sequence[str], lead: str) -> str:
            return lead + texts[0] if len(texts) == 1 else json.dumps([lead + t for t in texts], ensure_ascii=False)

        made = []
        for p in self.pairs:
            both = {"clean": p.clean, **({"corrupted": p.corrupted} if p.partner else {})}
            if any(q.ids or not q.special for q in both.values()) or len({q.lead for q in both.values()}) > 1:
                raise PromptError(
                    f"pair {p.id}: tokens, special tokens or two ways to begin an answer do not fit into a row"
                )
            row = {"id": p.id, **{c: q.text for c, q in both.items()}, "answer": cell(p.answers, p.clean.lead)}
            row |= {"wrong": cell(p.wrongs, p.clean.lead)} if p.wrong else {}
            for c, q in both.items():
                spans: dict[str, list[list[int]]] = {}
                for s in q.spans:
                    if not s.optional:
                        spans.setdefault(s.role, []).append([s.start, s.end])
                row |= {f"{c}_spans": json.dumps(spans)} if spans else {}
            made.append({**row, "cluster": p.cluster, "category": p.category})
        return made

    def content_hash(self) -> str:
        """SHA-256 of every text, span and answer."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], *, name: str, first_row: int = 1) -> PromptSet:
        """From mappings with ``clean``, ``corrupted``, ``answer``, ``wrong`` and optionally ``id``, ``cluster``,
        ``category``, ``clean_spans``, ``corrupted_spans`` (``{"role": [start, end]}``, characters; a role that stands in
        several places is a list of such).

        ``answer`` and ``wrong`` may each be a list of accepted texts, or a JSON list of strings in a cell.  Without
        ``corrupted`` a prompt has no partner, and may have no ``wrong``.

        Raises PromptError with the row number and the reason: a key that is none of these and does not begin with ``_``,
        two rows that are equal in prompts and answers.
        """
        return cls._from_numbered(enumerate(rows, start=first_row), name)

    @classmethod
    def _from_numbered(cls, rows: Iterable[tuple[int, Mapping[str, Any]]], name: str) -> PromptSet:
        with many_objects():
            return cls._read(rows, name)

    @classmethod
    def _read(cls, rows: Iterable[tuple[int, Mapping[str, Any]]], name: str) -> PromptSet:
        pairs: list[Pair] = []
        ids: dict[str, int] = {}
        texts: dict[tuple[Any, ...], int] = {}
        columns: list[Any] = []
        for number, row in rows:
            try:
                if columns != (columns := list(row)):
                    check_columns(columns, (*COLUMNS, *OPTIONAL_COLUMNS), (), "it", PromptError)
                pair = _pair_from_row(row, number)
                if (first := ids.setdefault(pair.id, number)) != number:
                    raise PromptError(f"its id {brief(pair.id)} is that of row {first} too; ids must be unique")
                said = (pair.clean.text, pair.corrupted.text, pair.answers, pair.wrongs, pair.partner)
                if (first := texts.setdefault(said, number)) != number:
                    raise PromptError(f"it repeats row {first} (prompts and answers are the same); give each pair once")
                if len(pairs) == MOST_PAIRS:
                    raise PromptError(f"more than {MOST_PAIRS:,} pairs")
            except (PromptError, TypeError, ValueError) as error:
                raise PromptError(f"{name}, row {number}: {error}") from error
            pairs.append(pair)
        if not pairs:
            raise PromptError(f"{name} has no rows; expected at least one with columns {', '.join(COLUMNS)}")
        for pair, cluster in zip(pairs, _clusters(pairs), strict=True):
            object.__setattr__(
                pair, "cluster", cluster
            )  # nobody has it yet, and a copy of each costs as much as reading it
        return cls(tuple(pairs), name)

    @classmethod
    def from_frame(cls, frame: Any, *, name: str = "DataFrame") -> PromptSet:
        """From a pandas DataFrame (row numbers in errors count from 0, as pandas does)."""
        columns = list(frame.columns)
        check_columns(columns, (*COLUMNS, *OPTIONAL_COLUMNS), _needed(columns), name, PromptError)
        return cls.from_rows(frame.to_dict("records"), name=name, first_row=0)

    @classmethod
    def from_file(cls, path: str | Path) -> PromptSet:
        """From a ``.csv`` or ``.jsonl`` file."""
        path = Path(path)
        if path.suffix not in {".csv", ".jsonl"}:
            raise PromptError(f"{path}: expected a .csv or .jsonl file, given {path.suffix or 'no suffix'}")
        if not path.is_file():
            raise PromptError(f"no such prompt file: {path}; expected a .csv or .jsonl with {', '.join(COLUMNS)}")
        if path.suffix == ".jsonl":
            return cls._from_numbered(json_rows(path, error=PromptError), path.name)
        columns, rows = csv_rows(path, error=PromptError)
        check_columns(columns, (*COLUMNS, *OPTIONAL_COLUMNS), _needed(columns), path.name, PromptError)
        return cls.from_rows(rows, name=path.name, first_row=2)


def _same(prompt: Prompt) -> str:
    """What two prompts share that differ in nothing but spaces, capitals and ways to write a character (windows: tokens)."""
    if prompt.ids:
        return " ".join(map(str, prompt.ids))
    return " ".join(unicodedata.normalize("NFKC", prompt.text).casefold().split())


def prompts_of(pair: Pair) -> tuple[str, str]:
    """What tells the prompts of a pair from those of every other: both texts without regard to spaces and capitals."""
    return _same(pair.clean), _same(pair.corrupted)


def _clusters(pairs: Sequence[Pair]) -> list[str]:
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


def remarks(pairs: Sequence[Pair], tokenizer: Any) -> list[str]:
    """What a reader of a record should know of its prompts: prompts that stand in several pairs, and prompts that begin
    with the tokenizer's own first token, to which no second one is added."""
    again = len(pairs) - len({prompts_of(p) for p in pairs})
    prompts = [q for p in pairs for q in (p.clean, p.corrupted)]
    begun = sum(q.special and not q.ids and _begun(tokenizer(q.text)["input_ids"], tokenizer) > 0 for q in prompts)
    said = []
    if again:
        said.append(
            f"{again} of {len(pairs)} pairs have the prompts of another one (with other answers, spaces or capitals): they "
            "share a cluster, and count once towards the pairs that eligibility asks for"
        )
    if begun:
        said.append(
            f"{begun} of {len(prompts)} prompts begin with the tokenizer's own {tokenizer.bos_token!r}: no second one was put "
            "before them"
        )
    return said


def _begun(ids: Sequence[int], tokenizer: Any) -> int:
    """1 where the tokenizer put its first token before a text that begins with it, else 0."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return int(bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos)


def _needed(columns: Sequence[Any]) -> tuple[str, ...]:
    """The columns that a table of these must have: prompts alone need only a right answer."""
    return COLUMNS if not columns or {"corrupted", "wrong"} & set(columns) else ("clean", "answer")


def _texts(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The accepted texts of a cell: one, or a list.  Raises PromptError for anything else."""
    value = row.get(column)
    if isinstance(value, str) and value.strip() and not value.startswith("["):
        return (value,)
    if isinstance(value, str) and value.startswith("["):
        try:
            data = read_document(value, "json", name=column)[0]
        except ReadingError:
            data = None  # a text that begins with a bracket
        value = data if isinstance(data, list) and data and all(isinstance(d, str) for d in data) else value
    every: tuple[Any, ...] = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not every or not all(isinstance(v, str) and v.strip() for v in every):
        raise PromptError(f"column {column!r} is {brief(value)}; expected text")
    if len(set(every)) < len(every):
        raise PromptError(f"column {column!r} holds one text twice: {brief(value)}")
    return every


def _pair_from_row(row: Mapping[str, Any], number: int) -> Pair:
    partner = not _blank(row.get("corrupted"))
    for column in ("clean", "corrupted") if partner else ("clean",):
        if not isinstance(row.get(column), str) or not row[column].strip():
            raise PromptError(f"column {column!r} is {brief(row.get(column))}; expected text")
    answers = _texts(row, "answer")
    wrongs = _texts(row, "wrong") if partner or not _blank(row.get("wrong")) else ("",)
    if not partner and not _blank(row.get("corrupted_spans")):
        raise PromptError("column 'corrupted_spans' is given and 'corrupted' is not")

    def spans(column: str) -> tuple[Span, ...]:
        value = row.get(column)
        if value is None or _blank(value):
            return ()
        data = value
        if isinstance(value, str):
            try:
                data = read_document(value, "json", name=column)[0]
            except ReadingError as error:
                raise PromptError(f"{error} (given {brief(value)})") from error
        if not isinstance(data, Mapping):
            raise PromptError(f"{column} must be an object of role: [start, end], given {brief(value)}")
        made = []
        for role, ends in data.items():
            several = (
                ends
                if isinstance(ends, list | tuple) and ends and all(isinstance(e, list | tuple) for e in ends)
                else [ends]
            )
            for each in several:
                if not (isinstance(each, list | tuple) and len(each) == 2 and all(_whole(e) for e in each)):
                    raise PromptError(
                        f"{column}: role {brief(role)} is {brief(ends)}; expected [start, end] in characters"
                    )
                made.append(Span(str(role), int(each[0]), int(each[1])))
        return tuple(made)

    def optional(column: str) -> str:
        value = row.get(column)
        if value is None or _blank(value):
            return ""
        if not isinstance(value, str | Real) or isinstance(value, bool) or len(str(value)) > 200:
            raise PromptError(f"column {column!r} is {brief(value)}; expected a name of at most 200 characters")
        return str(value)

    clean = Prompt(row["clean"], spans("clean_spans"))
    return Pair(
        id=optional("id") or str(number),
        clean=clean,
        corrupted=Prompt(row["corrupted"], spans("corrupted_spans")) if partner else clean,
        answer=answers[0],
        wrong=wrongs[0],
        cluster=optional("cluster"),
        category=optional("category"),
        more_answers=answers[1:],
        more_wrongs=wrongs[1:],
        partner=partner,
    )


def _blank(value: Any) -> bool:
    """An empty cell, as a file or a frame has it."""
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)
    )


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class Encoded:
    """A prompt as tokens, up to and including the start that both answers share.

    ``ids`` [position]; the first ``n_prompt`` are the prompt, the rest the teacher-forced shared start of the
    answer.  ``roles`` maps a role to its positions.  ``answer_id`` and ``wrong_id`` are the tokens that may follow (−1:
    none), ``more_answer_ids`` and ``more_wrong_ids`` those of further answers.  A loss is read from token ``scored`` on.
    """

    ids: tuple[int, ...]
    n_prompt: int
    roles: Mapping[str, tuple[int, ...]]
    optional: frozenset[str]
    answer_id: int
    wrong_id: int
    forced_text: str
    more_answer_ids: tuple[int, ...] = ()
    more_wrong_ids: tuple[int, ...] = ()
    scored: int = 1

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Tokens of the right answers (none for a window of a corpus)."""
        return (self.answer_id, *self.more_answer_ids) if self.answer_id >= 0 else ()

    @property
    def wrong_ids(self) -> tuple[int, ...]:
        """Tokens of the wrong answers (none where nothing is compared)."""
        return (self.wrong_id, *self.more_wrong_ids) if self.wrong_id >= 0 else ()

    @property
    def forced(self) -> tuple[int, ...]:
        return self.ids[self.n_prompt :]


@dataclass(frozen=True)
class EncodedPair:
    """Both prompts of a pair as tokens."""

    pair: Pair
    clean: Encoded
    corrupted: Encoded

    def swapped(self) -> EncodedPair:
        """The same pair with the other run edited; answer and wrong stay what they are."""
        return replace(self, clean=self.corrupted, corrupted=self.clean)


def encode_prompt(
    prompt: Prompt, answer: str, wrong: str, tokenizer: Any, more: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> Encoded:
    """Token ids, roles and the token at which right answers part from wrong ones; ``more``: further right and wrong.

    Raises PromptError when the tokenizer is slow (no character offsets), when an answer's first token swallows the end
    of the prompt, or when the answers do not all part at one token after what they share.
    """
    if prompt.ids:
        roles = {"bos": (0,), "last": (len(prompt.ids) - 1,)}
        return Encoded(prompt.ids, len(prompt.ids), roles, frozenset(), -1, -1, "", scored=prompt.scored)
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError("this tokenizer gives no character offsets; headlab needs a fast tokenizer (tokenizer.json)")
    alone, offsets = _tokens(prompt, prompt.text, tokenizer)
    right = [_continued(prompt, alone, text, tokenizer) for text in (answer, *more[0])]
    false = [_continued(prompt, alone, text, tokenizer) for text in (wrong, *more[1])] if wrong else []
    shared = _parting(right, false, len(alone), (answer, wrong))
    if shared == 0:
        raise PromptError(f"no token comes before the answers {brief(answer)} / {brief(wrong)}: the prompt is empty")
    full = right[0]
    forced_text = tokenizer.decode(full[len(alone) : shared], clean_up_tokenization_spaces=False)
    roles, optional = _roles(prompt, offsets)
    good, bad = (list(dict.fromkeys(ids[shared] for ids in some)) for some in (right, false))
    return Encoded(
        tuple(full[:shared]), len(alone), roles, optional, good[0], bad[0] if bad else -1, forced_text,
        tuple(good[1:]), tuple(bad[1:]),
    )  # fmt: skip


def token_ids(prompt: Prompt, tokenizer: Any) -> list[int]:
    """The ids of a prompt alone.  Raises PromptError when the tokenizer is slow (no character offsets)."""
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError("this tokenizer gives no character offsets; headlab needs a fast tokenizer (tokenizer.json)")
    return list(prompt.ids) or _tokens(prompt, prompt.text, tokenizer)[0]


def _tokens(prompt: Prompt, text: str, tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character offsets, without an end token: some tokenizers append one, which would end the prompt."""
    out = tokenizer(text, add_special_tokens=prompt.special, return_offsets_mapping=True)
    ids, offsets = list(out["input_ids"]), list(out["offset_mapping"])
    eos = getattr(tokenizer, "eos_token_id", None)
    while prompt.special and ids and ids[-1] == eos and offsets[-1][0] == offsets[-1][1]:
        ids.pop()
        offsets.pop()
    doubled = _begun(ids, tokenizer) if prompt.special else 0
    return ids[doubled:], offsets[doubled:]


def _continued(prompt: Prompt, alone: list[int], text: str, tokenizer: Any) -> list[int]:
    """The prompt's tokens with those of an answer after them."""
    ids, _ = _tokens(prompt, prompt.text + prompt.lead + text, tokenizer)
    if ids[: len(alone)] == alone:
        return ids
    if not (prompt.text.endswith("\n") and not prompt.lead):
        raise PromptError(
            f"the answer {brief(prompt.lead + text)} merges with the end of the prompt {prompt.text[-20:]!r} in this "
            "tokenizer, so no answer position exists; move the space between prompt and answer"
        )
    # "\n\n" is one token alone and two before a digit in GPT-2-like tokenizers; a model that continues the
    # prompt sees it alone
    return alone + list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _parting(right: Sequence[list[int]], false: Sequence[list[int]], start: int, named: tuple[str, str]) -> int:
    """The position at which right answers part from wrong ones: where the tokens that all share end."""
    every = [*right, *false]
    shared = start
    while len(every) > 1 and all(len(ids) > shared and ids[shared] == every[0][shared] for ids in every):
        shared += 1
    if len(every) == 1 or all(ids == right[0] for ids in every):
        shared = start
    if not false and min(map(len, every)) > start:
        shared = min(shared, min(map(len, every)) - 1)  # one right answer begins another: what they share is read
    if any(len(ids) <= shared for ids in every):
        if not false:
            raise PromptError(f"the answer {brief(named[0])} holds no token after the prompt; give a longer one")
        raise PromptError(
            f"the answers {brief(named[0])} and {brief(named[1])} start with the same tokens and one ends inside the other, so no "
            "token tells them apart; end both with a mark such as '.'"
        )
    if both := {ids[shared] for ids in right} & {ids[shared] for ids in false}:
        raise PromptError(
            f"a right and a wrong answer go on with the same token ({sorted(both)[0]}) after what all answers share, so one "
            "token does not tell them apart; leave out answers that share a beginning"
        )
    return shared


def _roles(prompt: Prompt, offsets: Sequence[tuple[int, int]]) -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
    roles: dict[str, tuple[int, ...]] = {}
    special = tuple(i for i, (a, b) in enumerate(offsets) if a == b)
    if special and special[0] == 0:
        roles["bos"] = (0,)
    for span in prompt.spans:
        inside = [
            i for i, (a, b) in enumerate(offsets) if a < span.end and b > span.start and prompt.text[a:b].strip(" ")
        ]
        if not inside:  # a span of spaces only
            inside = [i for i, (a, b) in enumerate(offsets) if a < span.end and b > span.start]
        if not inside:
            raise PromptError(f"role {brief(span.role)} ({brief(prompt.text[span.start : span.end])}) covers no token")
        roles[span.role] = (*roles.get(span.role, ()), *inside)
    roles["last"] = (len(offsets) - 1,)
    return roles, frozenset({s.role for s in prompt.spans if s.optional} | {"bos"})


def encode(pair: Pair, tokenizer: Any) -> EncodedPair:
    """Both prompts of a pair as tokens.  Raises PromptError naming the pair."""
    try:
        prompts = (pair.clean, pair.corrupted) if pair.partner else (pair.clean,)
        more = (pair.more_answers, pair.more_wrongs)
        clean, *other = (encode_prompt(p, pair.answer, pair.wrong, tokenizer, more) for p in prompts)
    except PromptError as error:
        raise PromptError(f"pair {pair.id}: {error}") from error
    return EncodedPair(pair, clean, other[0] if other else clean)


def align(pair: EncodedPair, how: Alignment) -> tuple[tuple[int, int], ...]:
    """``(corrupted position, clean position)`` in order: which clean activation goes where.

    ``role``: same-named spans token by token, the last prompt token, and the shared start of the answer (matched
    from its end).  Prompts of equal length and without any span are matched position by position.
    ``end``: from the last token backwards.  ``left``: the first ``min(len)`` positions, which compares different
    words as soon as one prompt is longer; it exists to repeat published scripts.

    Raises PromptError when ``role`` is undefined.
    """
    clean, corrupted = pair.clean, pair.corrupted
    if how == "left":
        n = min(clean.n_prompt, corrupted.n_prompt)
        return tuple((i, i) for i in range(n))
    if how == "end":
        n = min(len(clean.ids), len(corrupted.ids))
        lengths = len(corrupted.ids) - n, len(clean.ids) - n
        return tuple((lengths[0] + i, lengths[1] + i) for i in range(n))
    if how != "role":
        raise PromptError(f"unknown alignment {how!r}; expected role, end or left")
    mapping = _align_spans(pair)
    for back in range(1, min(len(clean.forced), len(corrupted.forced)) + 1):
        if clean.forced[-back] != corrupted.forced[-back]:
            break
        mapping[len(corrupted.ids) - back] = len(clean.ids) - back
    return tuple(sorted(mapping.items()))


def _align_spans(pair: EncodedPair) -> dict[int, int]:
    clean, corrupted, name = pair.clean, pair.corrupted, pair.pair.id
    if not pair.pair.clean.spans and not pair.pair.corrupted.spans:
        if clean.n_prompt != corrupted.n_prompt:
            raise PromptError(
                f"pair {name}: role alignment is undefined: the prompts have {clean.n_prompt} and "
                f"{corrupted.n_prompt} tokens and name no spans; give clean_spans and corrupted_spans, or align by end"
            )
        return {i: i for i in range(clean.n_prompt)}
    mapping: dict[int, int] = {}
    optional = clean.optional | corrupted.optional
    for role in sorted(set(clean.roles) | set(corrupted.roles), key=lambda r: (r in optional, r)):
        source, target = clean.roles.get(role, ()), corrupted.roles.get(role, ())
        if len(source) != len(target):
            if role in optional:
                continue
            raise PromptError(
                f"pair {name}: role {brief(role)} has {len(source)} token(s) in the clean and {len(target)} in the "
                "corrupted prompt, so role alignment is undefined; use prompts that match, or align by end"
            )
        lent = dict(zip(target, source, strict=True))
        clash = [t for t, s in lent.items() if mapping.get(t, s) != s]
        if clash and role in optional:  # a cue that stands elsewhere gives way to the roles that must match
            continue
        if clash:
            raise PromptError(
                f"pair {name}: corrupted position {clash[0]} would take two clean positions (role {brief(role)})"
            )
        mapping |= lent
    return mapping
