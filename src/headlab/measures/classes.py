"""Which class each token of a prompt belongs to: by role, never by what its text contains."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from headlab.prompts import Encoded, PromptError

SINK, OTHER, ANSWER = "sink", "other", "answer"


@runtime_checkable
class Classes(Protocol):
    """Anything that sorts the tokens of a prompt into named classes."""

    @property
    def names(self) -> tuple[str, ...]:
        """All classes, in the order of tables."""
        ...

    def of(self, encoded: Encoded) -> tuple[str, ...]:
        """The class of each position; every position has exactly one."""
        ...


@dataclass(frozen=True)
class TokenClasses:
    """Token classes from roles.

    ``roles``: role → class.  A token with roles of two classes belongs to the class that ``roles`` names first; a
    token without a role to ``other``.  Three classes need no role: ``sink``, the beginning-of-sequence token and,
    with ``first_is_sink``, whatever token stands first (heads rest there in models without such a token too);
    ``answer``, the teacher-forced shared start of the answer; ``other``.  ``last`` is a place, not a kind of token,
    and is passed over unless ``roles`` names it.

    When it misleads: where no special token stands first, ``first_is_sink`` takes a word of the prompt out of its
    class, possibly a digit; the column ``tokens`` of every table shows it.  A token that a tokenizer makes of the end
    of one span and the start of the next has one class here and stands in both roles.
    """

    roles: Mapping[str, str] = field(hash=False)
    first_is_sink: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((SINK, *self.roles.values(), OTHER, ANSWER)))

    def of(self, encoded: Encoded) -> tuple[str, ...]:
        """The class of each position.  Raises PromptError for a role that no class claims."""
        known = {"bos": SINK, **self.roles}
        unknown = sorted(set(encoded.roles) - set(known) - {"last"})
        if unknown:
            raise PromptError(
                f"no token class claims the role(s) {', '.join(unknown)}; this mapping knows {', '.join(known)}; "
                "pass TokenClasses({role: class, …}) that names every role, with 'other' for those of no interest"
            )
        rank = {name: n for n, name in enumerate(self.names)}
        found = [OTHER] * encoded.n_prompt + [ANSWER] * len(encoded.forced)
        for role, positions in encoded.roles.items():
            if role not in known:
                continue
            name = known[role]
            for position in positions:
                if found[position] in {OTHER, ANSWER} or rank[name] < rank[found[position]]:
                    found[position] = name
        if self.first_is_sink:
            found[0] = SINK
        return tuple(found)


DECIMALS = TokenClasses(
    {
        "a_int": "numeric",
        "a_dot": "numeric",
        "a_frac": "numeric",
        "b_int": "numeric",
        "b_dot": "numeric",
        "b_frac": "numeric",
        "marker": "format",
        "ask": "format",
        "word": "format",
        "colon": "format",
        "or": "format",
        "question": "format",
        "comma": "format",
        "cue": "format",
    }
)
"""The roles of the decimals task: integers, points and fractions are ``numeric``, the template's words ``format``."""


@dataclass(frozen=True)
class PublishedClasses:
    """The published sorting by substring, kept to repeat published numbers.

    A token is ``format`` if its text contains Q, :, A, Which, is, bigger, ?, user, assistant or a header mark, else
    ``numeric`` if it contains a digit 0 to 9 or a point, else ``other``.  There is no sink: the first token is
    ``format`` or ``other`` like any other.

    Source: GusSand/MATS, the script that compares attention weights with outputs (2025-09-26), and its framework §1.1.
    When it misleads: "is" stands in "this", "A" in "Answer" and in every capitalised word with one, ":" in any token
    that ends a line; a chat template's dates are ``numeric``.
    """

    tokenizer: Any = field(hash=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        return ("numeric", "format", OTHER, ANSWER)

    def of(self, encoded: Encoded) -> tuple[str, ...]:
        """The class of each position."""
        marks = ("Q", ":", "A", "Which", "is", "bigger", "?", "<|start_header_id|>", "<|end_header_id|>")
        texts = [t.replace("▁", "").strip() for t in self.tokenizer.convert_ids_to_tokens(list(encoded.ids))]

        def kind(text: str) -> str:
            if any(mark in text for mark in (*marks, "user", "assistant")):
                return "format"
            return "numeric" if any(c in text for c in ".0123456789") else OTHER

        return (*map(kind, texts[: encoded.n_prompt]), *[ANSWER] * len(encoded.forced))


@dataclass(frozen=True)
class Shuffled:
    """The classes of a prompt's tokens dealt out again at random; the sink stays where it is."""

    classes: Classes
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        return self.classes.names

    def of(self, encoded: Encoded) -> tuple[str, ...]:
        kinds = list(self.classes.of(encoded))
        places = [i for i, kind in enumerate(kinds[: encoded.n_prompt]) if kind != SINK]
        dealt = [kinds[i] for i in places]
        random.Random(f"{self.seed} {encoded.ids}").shuffle(dealt)
        for i, kind in zip(places, dealt, strict=True):
            kinds[i] = kind
        return tuple(kinds)
