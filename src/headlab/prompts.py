"""Prompts, pairs of prompts, and what their tokens are.

A :class:`Pair` is the unit of analysis: a *clean* prompt, a *corrupted* prompt, the right answer and the wrong
one.  :func:`encode` turns it into token ids, finds which tokens play which role (from character spans, never from
substring matching), appends the start that both answers share ("9." of 9.8 and 9.11) and names the two tokens at
which they part: that is where the logit difference is read.

:func:`align` says which clean position lends its activation to which corrupted position.  No torch here.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Alignment = Literal["role", "end", "left"]
COLUMNS = ("clean", "corrupted", "answer", "wrong")


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
                    f"span {s.role!r} is {s.start}:{s.end} but the prompt has {len(self.text)} characters: {self.text!r}"
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
        if twice := sorted(set(self.answers) & set(self.wrongs) - {self.answer}):
            raise PromptError(f"pair {self.id}: {twice[0]!r} is both a right and a wrong answer")
        if self.answer and self.answer == self.wrong:
            raise PromptError(f"pair {self.id}: answer and wrong answer are both {self.answer!r}; they must differ")

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
                raise PromptError(f"two pairs have the id {p.id!r}; ids must be unique")
            seen.add(p.id)

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

    def content_hash(self) -> str:
        """SHA-256 of every text, span and answer."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], *, name: str, first_row: int = 1) -> PromptSet:
        """From mappings with ``clean``, ``corrupted``, ``answer``, ``wrong`` and optionally ``id``, ``cluster``,
        ``category``, ``clean_spans``, ``corrupted_spans`` (``{"role": [start, end]}``, characters).

        Raises PromptError with the row number and the reason.
        """
        pairs: list[Pair] = []
        seen: dict[str, int] = {}
        for number, row in enumerate(rows, start=first_row):
            try:
                pair = _pair_from_row(row, number)
                if pair.id in seen:
                    raise PromptError(f"its id {pair.id!r} is that of row {seen[pair.id]} too; ids must be unique")
            except (PromptError, TypeError, ValueError) as error:
                raise PromptError(f"{name}, row {number}: {error}") from error
            seen[pair.id] = number
            pairs.append(pair)
        if not pairs:
            raise PromptError(f"{name} has no rows; expected at least one with columns {', '.join(COLUMNS)}")
        return cls(tuple(pairs), name)

    @classmethod
    def from_frame(cls, frame: Any, *, name: str = "DataFrame") -> PromptSet:
        """From a pandas DataFrame (row numbers in errors count from 0, as pandas does)."""
        return cls.from_rows(frame.to_dict("records"), name=name, first_row=0)

    @classmethod
    def from_file(cls, path: str | Path) -> PromptSet:
        """From a ``.csv`` or ``.jsonl`` file."""
        import csv

        path = Path(path)
        if not path.is_file():
            raise PromptError(f"no such prompt file: {path}; expected a .csv or .jsonl with {', '.join(COLUMNS)}")
        if path.suffix == ".csv":
            reader = csv.DictReader(io.StringIO(_text_of(path), newline=""), strict=True)
            try:
                missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
                if missing:
                    raise PromptError(f"{path} lacks the column(s) {', '.join(missing)}; it has {reader.fieldnames}")
                return cls.from_rows(reader, name=path.name, first_row=2)
            except csv.Error as error:
                raise PromptError(f"{path.name}, line {reader.line_num}: not CSV ({error})") from error
        if path.suffix == ".jsonl":
            return cls.from_rows(_json_lines(path), name=path.name)
        raise PromptError(f"{path}: expected a .csv or .jsonl file, given {path.suffix or 'no suffix'}")


def _text_of(path: Path) -> str:
    """A file's text, with or without the mark that spreadsheets put before UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise PromptError(f"{path.name}, line {row}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptError(f"{path.name}, row {number}: not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(row, dict):
            raise PromptError(f"{path.name}, row {number}: expected an object, given {type(row).__name__}")
        yield row


def _pair_from_row(row: Mapping[str, Any], number: int) -> Pair:
    for column in COLUMNS:
        if not isinstance(row.get(column), str) or not row[column].strip():
            raise PromptError(f"column {column!r} is {row.get(column)!r}; expected text")
    surplus: Any = dict(row).get(None)  # type: ignore[call-overload]
    if surplus is not None:
        raise PromptError(f"has more fields than the header: {surplus!r}")

    def spans(column: str) -> tuple[Span, ...]:
        value = row.get(column)
        if value is None or value == "" or value != value:
            return ()
        try:
            data = json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError as error:
            raise PromptError(f"{column} is not JSON ({error.msg}): {value!r}") from error
        if not isinstance(data, Mapping):
            raise PromptError(f"{column} must be an object of role: [start, end], given {value!r}")
        for role, ends in data.items():
            if not (isinstance(ends, list | tuple) and len(ends) == 2 and all(isinstance(e, int) for e in ends)):
                raise PromptError(f"{column}: role {role!r} is {ends!r}; expected [start, end] in characters")
        return tuple(Span(str(r), *ends) for r, ends in data.items())

    def optional(column: str, default: str) -> str:
        value = row.get(column)
        return default if value is None or value == "" or value != value else str(value)

    name = optional("id", str(number))
    return Pair(
        id=name,
        clean=Prompt(row["clean"], spans("clean_spans")),
        corrupted=Prompt(row["corrupted"], spans("corrupted_spans")),
        answer=row["answer"],
        wrong=row["wrong"],
        cluster=optional("cluster", name),
        category=optional("category", ""),
    )


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
        roles = {"last": (len(prompt.ids) - 1,)}
        return Encoded(prompt.ids, len(prompt.ids), roles, frozenset(), -1, -1, "", scored=prompt.scored)
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError("this tokenizer gives no character offsets; headlab needs a fast tokenizer (tokenizer.json)")
    alone, offsets = _tokens(prompt, prompt.text, tokenizer)
    right = [_continued(prompt, alone, text, tokenizer) for text in (answer, *more[0])]
    false = [_continued(prompt, alone, text, tokenizer) for text in (wrong, *more[1])] if wrong else []
    shared = _parting(right, false, len(alone), (answer, wrong))
    if shared == 0:
        raise PromptError(f"no token comes before the answers {answer!r} / {wrong!r}: the prompt is empty")
    full = right[0]
    forced_text = tokenizer.decode(full[len(alone) : shared], clean_up_tokenization_spaces=False)
    roles, optional = _roles(prompt, offsets)
    good, bad = (list(dict.fromkeys(ids[shared] for ids in some)) for some in (right, false))
    return Encoded(
        tuple(full[:shared]), len(alone), roles, optional, good[0], bad[0] if bad else -1, forced_text,
        tuple(good[1:]), tuple(bad[1:]),
    )  # fmt: skip


def _tokens(prompt: Prompt, text: str, tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character offsets, without an end token: some tokenizers append one, which would end the prompt."""
    out = tokenizer(text, add_special_tokens=prompt.special, return_offsets_mapping=True)
    ids, offsets = list(out["input_ids"]), list(out["offset_mapping"])
    eos = getattr(tokenizer, "eos_token_id", None)
    while prompt.special and ids and ids[-1] == eos and offsets[-1][0] == offsets[-1][1]:
        ids.pop()
        offsets.pop()
    return ids, offsets


def _continued(prompt: Prompt, alone: list[int], text: str, tokenizer: Any) -> list[int]:
    """The prompt's tokens with those of an answer after them."""
    ids, _ = _tokens(prompt, prompt.text + prompt.lead + text, tokenizer)
    if ids[: len(alone)] == alone:
        return ids
    if not (prompt.text.endswith("\n") and not prompt.lead):
        raise PromptError(
            f"the answer {prompt.lead + text!r} merges with the end of the prompt {prompt.text[-20:]!r} in this "
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
            raise PromptError(f"the answer {named[0]!r} holds no token after the prompt; give a longer one")
        raise PromptError(
            f"the answers {named[0]!r} and {named[1]!r} start with the same tokens and one ends inside the other, so no "
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
            raise PromptError(f"role {span.role!r} ({prompt.text[span.start : span.end]!r}) covers no token")
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
                f"pair {name}: role {role!r} has {len(source)} token(s) in the clean and {len(target)} in the "
                "corrupted prompt, so role alignment is undefined; use prompts that match, or align by end"
            )
        lent = dict(zip(target, source, strict=True))
        clash = [t for t, s in lent.items() if mapping.get(t, s) != s]
        if clash and role in optional:  # a cue that stands elsewhere gives way to the roles that must match
            continue
        if clash:
            raise PromptError(
                f"pair {name}: corrupted position {clash[0]} would take two clean positions (role {role!r})"
            )
        mapping |= lent
    return mapping
