"""Prompts as tokens: roles, the start that the answers share, where they part; which position lends to which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from headlab.reading import brief

from .data import Pair, Prompt, PromptError, prompts_of

Tokenizer = Any
"""A tokenizer of transformers, or what behaves as one."""

Alignment = Literal["role", "end", "left"]


def remarks(pairs: Sequence[Pair], tokenizer: Tokenizer) -> list[str]:
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


def _begun(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """1 where the tokenizer put its first token before a text that begins with it, else 0."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return int(bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos)


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
    prompt: Prompt, answer: str, wrong: str, tokenizer: Tokenizer, more: tuple[Sequence[str], Sequence[str]] = ((), ())
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
        tuple(full[:shared]),
        len(alone),
        roles,
        optional,
        good[0],
        bad[0] if bad else -1,
        forced_text,
        tuple(good[1:]),
        tuple(bad[1:]),
    )


def token_ids(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt alone.  Raises PromptError when the tokenizer is slow (no character offsets)."""
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError("this tokenizer gives no character offsets; headlab needs a fast tokenizer (tokenizer.json)")
    return list(prompt.ids) or _tokens(prompt, prompt.text, tokenizer)[0]


def _tokens(prompt: Prompt, text: str, tokenizer: Tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character offsets, without an end token: some tokenizers append one, which would end the prompt."""
    out = tokenizer(text, add_special_tokens=prompt.special, return_offsets_mapping=True)
    ids, offsets = list(out["input_ids"]), list(out["offset_mapping"])
    eos = getattr(tokenizer, "eos_token_id", None)
    while prompt.special and ids and ids[-1] == eos and offsets[-1][0] == offsets[-1][1]:
        ids.pop()
        offsets.pop()
    doubled = _begun(ids, tokenizer) if prompt.special else 0
    return ids[doubled:], offsets[doubled:]


def _continued(prompt: Prompt, alone: list[int], text: str, tokenizer: Tokenizer) -> list[int]:
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


def each(given: Any, kind: type[Encoded] | type[EncodedPair]) -> list[Any]:
    """A list of encoded prompts (or pairs of such) as it is given.  Raises PromptError that says what to write instead."""
    one = "encode(pair, lab.tokenizer)"
    how = f"[{one} for pair in pairs]" if kind is EncodedPair else f"[{one}.clean]"
    more = "; headlab.read(lab, text) reads a text" if isinstance(given, str) else ""
    if isinstance(given, str | Encoded | EncodedPair | Pair | Prompt) or not isinstance(given, Iterable):
        raise PromptError(f"expected a list of {kind.__name__}, such as {how}, given {brief(given)} alone{more}")
    for n, x in enumerate(some := list(given)):
        if not isinstance(x, kind):
            more = "; headlab.read(lab, text) reads a text" if isinstance(x, str) else ""
            raise PromptError(f"expected a list of {kind.__name__}, such as {how}; number {n} is {brief(x)}{more}")
    return some


def encode(pair: Pair, tokenizer: Tokenizer) -> EncodedPair:
    """Both prompts of a pair as tokens.  Raises PromptError naming the pair."""
    if not isinstance(pair, Pair):
        raise PromptError(
            f"encode takes a pair of prompts, given {brief(pair)}; for many: [encode(p, lab.tokenizer) for p in pairs]; "
            "headlab.read(lab, text) reads a text"
        )
    if not callable(tokenizer):
        raise PromptError(f"encode takes a tokenizer, such as lab.tokenizer, given {brief(tokenizer)}")
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
