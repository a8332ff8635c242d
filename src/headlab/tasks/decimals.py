"""The 9.8-vs-9.11 task: which of two decimals is bigger (or smaller), in fifteen formats.

A *conflict* pair has one integer part, a one-digit and a two-digit fraction, and decimal order and "version" order
(8 < 11) disagree: 9.8 is the bigger number, 9.11 the later version.  The formats are spelled as the published
scripts spell them (arXiv 2508.19414 and its code; the framework document's §1.3 and §2.3).  Token roles are the
character spans of the template's parts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, Literal

from headlab.prompts import Pair, Prompt, PromptError, PromptSet, Span
from headlab.reading import expected_one_of

Wording = Literal["bigger", "smaller"]
Category = Literal["conflict", "congruent", "same-length", "different-integers"]
Split = Literal["held-out", "train", "all"]
CATEGORIES: tuple[Category, ...] = ("conflict", "congruent", "same-length", "different-integers")
WORDINGS: tuple[Wording, ...] = ("bigger", "smaller")
INTEGERS = tuple(range(1, 20))
FRACTIONS = (*range(1, 10), *(f for f in range(11, 100) if f % 10))
HELD_OUT_GAP = 11
HELD_OUT_SHARE = 0.25
FIRST = 60
"""After so many prompts every other one has three decimals, where the tokenizer takes a third as it took the second."""
_SPLIT_SEED = 20250826


@dataclass(frozen=True)
class Format:
    """A prompt template: parts ``(role, text)``; ``{a} {b} {word}`` are filled in; role "" names nothing."""

    name: str
    parts: tuple[tuple[str, str], ...]
    lead: str = " "
    source: str = ""
    chat_template: bool = False

    @property
    def asks(self) -> bool:
        """Whether the template says bigger or smaller (the others mean bigger)."""
        return any("{word}" in text for _, text in self.parts)

    @property
    def wordings(self) -> tuple[Wording, ...]:
        return WORDINGS if self.asks else ("bigger",)


def _parts(template: str) -> tuple[tuple[str, str], ...]:
    """``"⟨marker|Q:⟩ {a}"`` to parts: role and text parted by ``|`` inside ⟨ ⟩, everything else nameless."""
    out: list[tuple[str, str]] = []
    for piece in template.replace("⟩", "⟨").split("⟨"):
        role, bar, text = piece.partition("|")
        out.append((role, text) if bar else ("", piece))
    return tuple(p for p in out if p[1])


_NUMBERS = "⟨a|{a}⟩ ⟨or|or⟩ ⟨b|{b}⟩"
_WHICH = "⟨ask|Which is⟩ ⟨word|{word}⟩⟨colon|:⟩ " + _NUMBERS + "⟨question|?⟩"
_PAPER, _BANDWIDTH = "arXiv 2508.19414, code", "bandwidth framework §1.1"
_INJECTION, _POSITION = "bandwidth framework §1.3", "bandwidth framework §2.3"
_TABLE = (
    ("simple", _NUMBERS + "⟨question|?⟩ ⟨cue|Answer:⟩", " ", _BANDWIDTH + ' (and §2.3 "Original")'),
    ("qa", "⟨marker|Q:⟩ " + _WHICH + " ⟨cue|A:⟩", " ", _BANDWIDTH + ' (and §1.3 "Heavy")'),
    (
        "chat",
        "⟨marker|<|start_header_id|>user<|end_header_id|>\n\n⟩"
        + _WHICH
        + "⟨cue|<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟩",
        "",
        _PAPER,
    ),
    ("chat-template", _WHICH, "", "the tokenizer's own chat template"),
    ("paper-clean", _WHICH + "\n⟨cue|Answer:⟩", " ", _PAPER),
    ("paper-qa", "⟨marker|Q:⟩ " + _WHICH + "\n⟨cue|A:⟩", " ", _PAPER),
    ("minimal", _NUMBERS + "⟨question|?⟩", " ", _INJECTION),
    ("light", "⟨marker|Compare:⟩ " + _NUMBERS + "⟨question|?⟩", " ", _INJECTION),
    ("medium", "⟨marker|Q:⟩ " + _NUMBERS + "⟨question|?⟩", " ", _INJECTION),
    (
        "full",
        "⟨marker|User Question:⟩ ⟨ask|Which number is⟩ ⟨word|{word}⟩⟨colon|:⟩ "
        + _NUMBERS
        + "⟨question|?⟩ ⟨cue|Assistant Answer:⟩",
        " ",
        _INJECTION,
    ),
    ("prefix-short", "⟨marker|Compare:⟩ " + _NUMBERS + "⟨question|?⟩ ⟨cue|Answer:⟩", " ", _POSITION),
    (
        "prefix-long",
        "⟨marker|Please compare these numbers:⟩ " + _NUMBERS + "⟨question|?⟩ ⟨cue|Answer:⟩",
        " ",
        _POSITION,
    ),
    ("suffix", "⟨cue|Answer:⟩ " + _NUMBERS + "⟨question|?⟩", " ", _POSITION),
    (
        "wrapped",
        "⟨marker|The question is⟩ " + _NUMBERS + "⟨comma|,⟩ ⟨cue|what is the answer⟩⟨question|?⟩",
        " ",
        _POSITION,
    ),
    (
        "spaced",
        "⟨marker|Number 1:⟩ ⟨a|{a}⟩    ⟨or|Number 2:⟩ ⟨b|{b}⟩    ⟨ask|Which is⟩ ⟨word|{word}⟩⟨question|?⟩",
        " ",
        _POSITION,
    ),
)


def _format(row: tuple[str, str, str, str]) -> Format:
    # "<|…|>" holds bars of its own: protect them while the template is cut into parts
    name, template, lead, source = row
    parts = _parts(template.replace("<|", "\x00").replace("|>", "\x01"))
    clean = tuple((r, t.replace("\x00", "<|").replace("\x01", "|>")) for r, t in parts)
    return Format(name, clean, lead, source, name == "chat-template")


FORMATS: dict[str, Format] = {row[0]: _format(row) for row in _TABLE}
ALIASES = {"heavy": "qa", "original": "simple", "q&a": "qa"}
_OPTIONAL = {"marker", "ask", "word", "colon", "or", "question", "cue", "comma"}
NUMERIC_ROLES = ("a_int", "a_dot", "a_frac", "b_int", "b_dot", "b_frac")


def get_format(name: str) -> Format:
    """A format by name or alias.  Raises PromptError listing the names."""
    found = FORMATS.get(ALIASES.get(name.lower(), name.lower()))
    if found is None:
        raise PromptError(f"unknown decimals format {name!r}; {expected_one_of(name, FORMATS)}")
    return found


def fill(fmt: Format, a: str, b: str, wording: Wording = "bigger", tokenizer: Any = None) -> Prompt:
    """The prompt text of a format with its role spans."""
    if wording not in fmt.wordings:
        raise PromptError(f"format {fmt.name!r} does not say {wording!r}; it has {', '.join(fmt.wordings)} only")
    text, spans = "", []
    for role, part in fmt.parts:
        piece = part.format(a=a, b=b, word=wording)
        if role in {"a", "b"}:
            dot = len(text) + piece.index(".")
            spans += [
                Span(f"{role}_int", len(text), dot),
                Span(f"{role}_dot", dot, dot + 1),
                Span(f"{role}_frac", dot + 1, len(text) + len(piece)),
            ]
        elif role:
            spans.append(Span(role, len(text), len(text) + len(piece), role in _OPTIONAL))
        text += piece
    if not fmt.chat_template:
        return Prompt(text, tuple(spans), fmt.lead)
    return _in_chat_template(text, spans, fmt.lead, tokenizer)


def _in_chat_template(content: str, spans: Sequence[Span], lead: str, tokenizer: Any) -> Prompt:
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise PromptError("the format 'chat-template' needs a tokenizer with a chat template; this one has none")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    start = text.find(content)
    if start < 0 or text.find(content, start + 1) >= 0:
        raise PromptError("the chat template does not hold the question exactly once, so roles cannot be located")
    moved = [Span(s.role, s.start + start, s.end + start, s.optional) for s in spans]
    end = start + len(content)
    edges = [Span("marker", 0, start, True)] if start else []
    edges += [Span("cue", end, len(text), True)] if end < len(text) else []
    return Prompt(text, tuple(moved + edges), lead, special=False)


def numbers(prompt: Prompt) -> tuple[str, str]:
    """The two numbers that a prompt compares, in its order."""
    found = {}
    for letter in "ab":
        spans = [s for s in prompt.spans if s.role in {f"{letter}_int", f"{letter}_dot", f"{letter}_frac"}]
        found[letter] = prompt.text[min(s.start for s in spans) : max(s.end for s in spans)]
    return found["a"], found["b"]


def value(integer: int, fraction: int) -> Decimal:
    """The decimal number ``integer.fraction``."""
    return Decimal(f"{integer}.{fraction}")


def right_answer(a: str, b: str, wording: Wording) -> str:
    """The answer by decimal order."""
    bigger, smaller = (a, b) if Decimal(a) > Decimal(b) else (b, a)
    return bigger if wording == "bigger" else smaller


def version_answer(a: str, b: str, wording: Wording) -> str:
    """The answer by version order: integer parts, then fractions, read as whole numbers."""

    def key(x: str) -> tuple[int, ...]:
        return tuple(map(int, x.split(".")))

    bigger, smaller = (a, b) if key(a) > key(b) else (b, a)
    return bigger if wording == "bigger" else smaller


def category_of(a: str, b: str) -> Category:
    """Which kind of comparison ``a`` vs ``b`` is."""
    (ia, fa), (ib, fb) = (x.split(".") for x in (a, b))
    if ia != ib:
        return "different-integers"
    if len(fa) == len(fb):
        return "same-length"
    return "conflict" if right_answer(a, b, "bigger") != version_answer(a, b, "bigger") else "congruent"


@cache
def held_out() -> frozenset[tuple[int, int]]:
    """Fraction pairs (smaller index first) kept out of every organism's training: a quarter of those whose decimal
    gap is at least 11 hundredths, drawn once with a fixed seed.  Nearer pairs are never held out: models that know
    the rule still fail on unseen near ties."""

    def hundredths(f: int) -> int:
        return f * 10 if f < 10 else f

    wide = [
        (f, g)
        for i, f in enumerate(FRACTIONS)
        for g in FRACTIONS[i + 1 :]
        if abs(hundredths(f) - hundredths(g)) >= HELD_OUT_GAP
    ]
    return frozenset(random.Random(_SPLIT_SEED).sample(wide, round(HELD_OUT_SHARE * len(wide))))


@cache
def fraction_pairs(category: Category, split: Split = "held-out") -> tuple[tuple[int, int], ...]:
    """Unordered fraction pairs of a category with one integer part."""
    out = []
    for i, f in enumerate(FRACTIONS):
        for g in FRACTIONS[i + 1 :]:
            if category != "different-integers" and category_of(f"1.{f}", f"1.{g}") != category:
                continue
            if split == "all" or ((f, g) in held_out()) == (split == "held-out"):
                out.append((f, g))
    return tuple(out)


def three_digits(tokenizer: Any) -> list[int]:
    """Fractions of three digits of which the third costs no more tokens than the second did (the organisms' tokenizer has
    none: 11 is a token of it, 112 is three); none without a tokenizer."""
    if tokenizer is None:
        return []
    long = [g for g in range(101, 1000) if g % 10]
    texts = [f"9.{f}" for f in (8, 11, *long)]
    one, two, *three = (len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    return [g for g, n in zip(long, three, strict=True) if n - two <= two - one]


def third_decimals(category: Category, split: Split, long: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Fraction pairs of one and of three digits (8, 112; ``long``: those to take): each a cluster more, never trained on.

    Conflict and congruent pairs only, no nearer than held-out ones are; none where there are fewer than of two digits.
    """
    if split == "train" or category not in ("conflict", "congruent"):
        return ()
    sign = 1 if category == "conflict" else -1
    found = tuple((f, g) for f in range(1, 10) for g in long if sign * (100 * f - g) >= 10 * HELD_OUT_GAP)
    return found if len(found) > len(fraction_pairs(category, split)) else ()


def _items(category: Category, fractions: Sequence[tuple[int, int]], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Distinct ordered comparisons (a, b), both orders equally likely."""
    seen = set()
    while True:
        f, g = rng.choice(fractions)
        i = rng.choice(INTEGERS)
        j = i if category != "different-integers" else rng.choice([k for k in INTEGERS if k != i])
        a, b = f"{i}.{f}", f"{j}.{g}"
        a, b = (a, b) if rng.random() < 0.5 else (b, a)
        if (a, b) not in seen:
            seen.add((a, b))
            yield a, b


def _in_turn(fractions: Sequence[tuple[int, int]], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Comparisons that use every fraction pair once before any comes again."""
    turns = [(i, swap) for i in INTEGERS for swap in (False, True)]
    order = rng.sample(fractions, len(fractions))
    first = [rng.randrange(len(turns)) for _ in order]
    for again in range(len(turns)):
        for (f, g), start in zip(order, first, strict=True):
            i, swap = turns[(start + 7 * again) % len(turns)]
            yield (f"{i}.{g}", f"{i}.{f}") if swap else (f"{i}.{f}", f"{i}.{g}")


def capacity(category: Category, split: Split = "held-out", tokenizer: Any = None) -> int:
    """How many distinct ordered comparisons a category has, as a tokenizer reads them."""
    others = len(INTEGERS) - 1 if category == "different-integers" else 1
    pairs = len(fraction_pairs(category, split)) * others + len(
        third_decimals(category, split, three_digits(tokenizer))
    )
    return pairs * len(INTEGERS) * 2


def decimals(
    n: int = 200,
    *,
    clean: str = "simple",
    corrupted: str = "qa",
    category: Category = "conflict",
    wording: Wording = "bigger",
    corruption: Literal["format", "fraction"] = "format",
    split: Split = "held-out",
    seed: int = 0,
    tokenizer: Any = None,
) -> PromptSet:
    """Pairs of the decimals task.

    ``corruption="format"``: the same question in a clean and a corrupted format (simple vs Q&A).
    ``corruption="fraction"``: the same format, the two-digit fraction replaced so that the other number wins
    (9.8 vs 9.11 ↔ 9.8 vs 9.85): equal length, opposite answer.  A cluster is a fraction pair: 63 conflicts of one and
    two digits are held out, and from the 61st prompt on every other one has three decimals (:func:`third_decimals`), each
    a fraction pair of its own as long as there are any.

    Raises PromptError for an unknown format, a wording that a format lacks, or more pairs than there are.
    """
    if category not in CATEGORIES:
        raise PromptError(f"unknown category {category!r}; {expected_one_of(category, CATEGORIES)}")
    usual = capacity(category, split) // 2
    most = usual if 1 <= n <= usual else capacity(category, split, tokenizer) // 2  # which reads hundreds of numbers
    if n < 1 or n > most:
        raise PromptError(f"{n} pairs asked for; category {category!r} has 1 to {most}")
    wide = three_digits(tokenizer) if n > FIRST else []
    third = third_decimals(category, split, wide)
    rng, other_rng = random.Random(f"decimals {seed}"), random.Random(f"three decimals {seed}")
    two, three = _items(category, fraction_pairs(category, split), rng), _in_turn(third, other_rng)
    formats = get_format(clean), get_format(clean if corruption == "fraction" else corrupted)
    pairs: list[Pair] = []
    for k in range(n):
        long = bool(third) and k >= FIRST and ((k - FIRST) % 2 == 0 or usual == 0)
        usual -= not long
        a, b = next(three if long else two)
        answer = right_answer(a, b, wording)
        wrong = b if answer == a else a
        other, swap = (a, b), ""
        if corruption == "fraction":
            other, answer, wrong, swap = _flipped(a, b, wording, *((wide, other_rng) if long else (FRACTIONS, rng)))
        pairs.append(
            Pair(
                id=f"{a}|{b}{swap}",
                clean=fill(formats[0], a, b, wording, tokenizer),
                corrupted=fill(formats[1], *other, wording, tokenizer),
                answer=answer,
                wrong=wrong,
                cluster="|".join(sorted((a.split(".")[1], b.split(".")[1]), key=int)),
                category=category,
                labels=(("clean", formats[0].name), ("corrupted", formats[1].name), ("wording", wording)),
            )
        )
    return PromptSet(tuple(pairs), "decimals", "number")


def _flipped(
    a: str, b: str, wording: Wording, fractions: Sequence[int], rng: random.Random
) -> tuple[tuple[str, str], str, str, str]:
    """The comparison with its longer fraction replaced by one above the short fraction: the other number wins."""
    numbers = [a, b]
    if category_of(a, b) != "conflict":
        raise PromptError(
            "corruption='fraction' is defined for the category 'conflict' only (9.8 vs 9.11 ↔ 9.8 vs 9.85)"
        )
    long = 0 if len(a) > len(b) else 1
    integer, short = numbers[1 - long].split(".")
    least = int(short) * 10 ** (len(numbers[long].split(".")[1]) - 1)
    numbers[long] = f"{integer}.{rng.choice([f for f in fractions if f > least])}"
    answer, other = right_answer(a, b, wording), right_answer(numbers[0], numbers[1], wording)
    return (numbers[0], numbers[1]), answer, other, f"→{numbers[0]}|{numbers[1]}"


def task(n: int, *, seed: int, tokenizer: Any, **options: Any) -> PromptSet:
    """The task ``decimals`` of :data:`headlab.tasks.TASKS`: at most half of the pairs there are."""
    few = min(n, capacity(options["category"], options["split"], tokenizer) // 2)
    return decimals(few, seed=seed, tokenizer=tokenizer, **options)
