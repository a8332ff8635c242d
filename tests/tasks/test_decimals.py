"""The decimals task: arithmetic, formats, splits, and its roles on real tokenizers."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headlab.prompts import PromptError, align, encode
from headlab.tasks import decimals as task
from headlab.tasks.decimals import FORMATS, NUMERIC_ROLES, decimals

CHAT = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[end]{% endfor %}[assistant]"
WRITTEN = tuple(f for f in FORMATS if f != "chat-template")


@pytest.fixture(scope="module", params=["llama-3", "gpt-neox-20b"])
def tokenizer(request: pytest.FixtureRequest, shared: Path) -> Any:
    """The real one; Llama 3 splits " 9" into a space and a digit, GPT-NeoX keeps it whole."""
    from transformers import PreTrainedTokenizerFast

    folder = shared / "data" / "tokenizers" / request.param
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), clean_up_tokenization_spaces=False)


def bare(text: str) -> str:
    return re.sub(r"\s", "", text)


def fraction(number: str) -> str:
    return number.split(".")[1]


# -- real tokenizers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITTEN)
def test_roles_cover_exactly_their_characters(tokenizer: Any, name: str) -> None:
    """Decoding the tokens of a role gives the words of its span, white space aside; no token plays two roles."""
    for pair in decimals(12, clean=name, corrupted="qa", seed=3):
        made = encode(pair, tokenizer).clean
        assert tokenizer.decode(made.ids[: made.n_prompt]) == pair.clean.text
        for span in pair.clean.spans:
            text = tokenizer.decode([made.ids[i] for i in made.roles[span.role]])
            assert bare(text) == bare(pair.clean.text[span.start : span.end]), span
        a, b = pair.id.split("|")
        for role, digits in zip(NUMERIC_ROLES, (*a.partition("."), *b.partition(".")), strict=True):
            assert bare(tokenizer.decode([made.ids[i] for i in made.roles[role]])) == digits
            assert len(made.roles[role]) == 1, "integer, dot and fraction are one token each"
        named = [i for role, positions in made.roles.items() if role not in {"last", "bos"} for i in positions]
        assert len(named) == len(set(named)) and named == sorted(named)
        assert made.roles["last"] == (made.n_prompt - 1,)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_answers_part_at_the_fraction(tokenizer: Any, name: str) -> None:
    """Integer and dot are forced; what is compared are the two fractions' tokens."""
    for pair in decimals(12, clean=name, corrupted="qa", seed=4):
        both = encode(pair, tokenizer)
        for made, prompt in ((both.clean, pair.clean), (both.corrupted, pair.corrupted)):
            assert made.forced_text == f"{prompt.lead}{pair.answer.split('.')[0]}."
            assert tokenizer.decode([made.answer_id]) == fraction(pair.answer)
            assert tokenizer.decode([made.wrong_id]) == fraction(pair.wrong)
            assert tokenizer.decode(made.ids) == prompt.text + made.forced_text


@pytest.mark.parametrize("corrupted", WRITTEN)
@pytest.mark.parametrize("clean", ["simple", "suffix", "chat"])
def test_role_alignment_maps_same_named_tokens(tokenizer: Any, clean: str, corrupted: str) -> None:
    """Numbers, last token and forced start always have their partner; an aligned token stands for the same text."""
    for pair in decimals(4, clean=clean, corrupted=corrupted, seed=5):
        both = encode(pair, tokenizer)
        lent = dict(align(both, "role"))
        for role in (*NUMERIC_ROLES, "last"):
            for target, source in zip(both.corrupted.roles[role], both.clean.roles[role], strict=True):
                assert lent[target] == source
                if role != "last":
                    assert bare(tokenizer.decode([both.corrupted.ids[target]])) == bare(
                        tokenizer.decode([both.clean.ids[source]])
                    )
        same = 0
        while both.clean.forced[::-1][same : same + 1] == both.corrupted.forced[::-1][same : same + 1] != ():
            same += 1
        alike = pair.clean.lead == pair.corrupted.lead or tokenizer.backend_tokenizer.token_to_id("Ġ9") is None
        assert same >= (2 if alike else 1)  # GPT-NeoX: " 9" after "Answer:" and "9" after a chat header differ
        for back in range(1, same + 1):
            assert lent[len(both.corrupted.ids) - back] == len(both.clean.ids) - back
        names = {i: r for r, p in both.clean.roles.items() if r != "last" for i in p}
        for target, source in lent.items():
            if target < both.corrupted.roles["last"][0] and source in names:
                assert target in both.corrupted.roles[names[source]]


def test_pairs_that_differ_in_the_fraction_align_whole(tokenizer: Any) -> None:
    for pair in decimals(20, corruption="fraction", seed=1):
        both = encode(pair, tokenizer)
        n = len(both.clean.ids)
        assert len(both.corrupted.ids) == n
        changed = [i for i in range(n) if both.clean.ids[i] != both.corrupted.ids[i]]
        assert len(changed) == 1 and changed[0] in (*both.clean.roles["a_frac"], *both.clean.roles["b_frac"])


def test_a_chat_template_is_located_by_its_content(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    try:
        for pair in decimals(5, clean="chat-template", corrupted="qa", tokenizer=tokenizer):
            a, b = pair.id.split("|")
            assert pair.clean.text == f"[user]Which is bigger: {a} or {b}?[end][assistant]" and not pair.clean.special
            made = encode(pair, tokenizer).clean
            for role, text in {
                "marker": "[user]",
                "a_int": a.split(".")[0],
                "b_frac": fraction(b),
                "cue": "[end][assistant]",
            }.items():
                covered = bare(tokenizer.decode([made.ids[i] for i in made.roles[role]]))
                # a template's brackets may share a token with the words beside them
                assert covered == text or (role in {"marker", "cue"} and text.strip("[]") in covered)
        tokenizer.chat_template = "{{ messages[0]['content'] }} {{ messages[0]['content'] }}"
        with pytest.raises(PromptError, match="does not hold the question exactly once"):
            decimals(5, clean="chat-template", tokenizer=tokenizer)
    finally:
        tokenizer.chat_template = None
    with pytest.raises(PromptError, match="needs a tokenizer with a chat template; this one has none"):
        decimals(5, clean="chat-template", tokenizer=tokenizer)


# -- arithmetic ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "category", "bigger", "version"),
    [
        ("9.8", "9.11", "conflict", "9.8", "9.11"),
        ("9.11", "9.8", "conflict", "9.8", "9.11"),
        ("9.1", "9.85", "congruent", "9.85", "9.85"),
        ("9.11", "9.85", "same-length", "9.85", "9.85"),
        ("9.3", "9.4", "same-length", "9.4", "9.4"),
        ("9.8", "10.11", "different-integers", "10.11", "10.11"),
    ],
)
def test_orders_by_hand(a: str, b: str, category: str, bigger: str, version: str) -> None:
    assert task.category_of(a, b) == category
    assert task.right_answer(a, b, "bigger") == bigger and task.version_answer(a, b, "bigger") == version
    assert {task.right_answer(a, b, "smaller"), bigger} == {a, b}
    assert {task.version_answer(a, b, "smaller"), version} == {a, b}


@pytest.mark.parametrize("category", task.CATEGORIES)
@pytest.mark.parametrize("wording", ["bigger", "smaller"])
def test_every_pair_is_what_it_says(category: Any, wording: Any) -> None:
    made = decimals(60, clean="paper-clean", category=category, wording=wording, seed=2)
    assert len({p.id for p in made}) == 60 and made.grader == "number"
    first = 0
    for pair in made:
        a, b = pair.id.split("|")
        assert task.category_of(a, b) == pair.category == category
        best = max(Decimal(a), Decimal(b)) if wording == "bigger" else min(Decimal(a), Decimal(b))
        assert Decimal(pair.answer) == best and {pair.answer, pair.wrong} == {a, b}
        assert f"{wording}: {a} or {b}?" in pair.clean.text and pair.clean.text != pair.corrupted.text
        first += pair.answer == a
        assert pair.cluster == "|".join(sorted((fraction(a), fraction(b)), key=int))
    assert 12 <= first <= 48, "the right answer stands first and second about equally often (5 sigma)"


def test_the_formats_are_spelled_as_published() -> None:
    """Written out by hand, byte for byte."""
    expected = {
        "simple": "9.8 or 9.11? Answer:",
        "qa": "Q: Which is bigger: 9.8 or 9.11? A:",
        "paper-clean": "Which is bigger: 9.8 or 9.11?\nAnswer:",
        "paper-qa": "Q: Which is bigger: 9.8 or 9.11?\nA:",
        "chat": "<|start_header_id|>user<|end_header_id|>\n\nWhich is bigger: 9.8 or 9.11?"
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "suffix": "Answer: 9.8 or 9.11?",
        "spaced": "Number 1: 9.8    Number 2: 9.11    Which is bigger?",
    }
    for name, text in expected.items():
        assert task.fill(FORMATS[name], "9.8", "9.11").text == text
    assert task.get_format("Heavy") is FORMATS["qa"] and task.get_format("q&a") is FORMATS["qa"]


def test_a_flipped_fraction_turns_the_answer_and_keeps_the_length() -> None:
    for pair in decimals(40, corruption="fraction", seed=6):
        before, after = (x.split("|") for x in pair.id.split("→"))
        assert task.right_answer(*before, "bigger") == pair.answer
        assert task.right_answer(*after, "bigger") == pair.wrong != pair.answer
        changed = [i for i in range(2) if before[i] != after[i]]
        assert len(changed) == 1 and len(before[changed[0]]) == len(after[changed[0]])
        assert pair.clean.text.replace("|".join(before), "") != pair.corrupted.text


# -- splits, seeds, bounds ------------------------------------------------------------------------------------------------------


def test_held_out_pairs_lie_at_least_eleven_hundredths_apart() -> None:
    def hundredths(f: int) -> int:
        return int(Decimal(f"0.{f}") * 100)

    held = task.held_out()
    assert held and all(abs(hundredths(f) - hundredths(g)) >= 11 for f, g in held)
    wide = sum(
        abs(hundredths(f) - hundredths(g)) >= 11 for i, f in enumerate(task.FRACTIONS) for g in task.FRACTIONS[i + 1 :]
    )
    assert len(held) == round(wide / 4)


@pytest.mark.parametrize("category", task.CATEGORIES)
def test_splits_share_no_cluster(category: Any) -> None:
    held, train, both = (set(task.fraction_pairs(category, s)) for s in ("held-out", "train", "all"))
    assert held and train and not held & train and held | train == both
    clusters = [{p.cluster for p in decimals(100, category=category, split=s, seed=1)} for s in ("held-out", "train")]
    assert not clusters[0] & clusters[1]


def test_the_same_seed_gives_the_same_pairs() -> None:
    assert decimals(30, seed=7).content_hash() == decimals(30, seed=7).content_hash()
    assert len({decimals(30, seed=s).content_hash() for s in range(5)}) == 5


@pytest.mark.parametrize("name", ["llama-3", "gpt-neox-20b", "gpt2"])
def test_real_tokenizers_have_hundreds_of_clusters_after_the_same_first_prompts(name: str, shared: Path) -> None:
    """Three decimals are new clusters of the same category, read with as many tokens; the first prompts of a seed are as
    without them.  Looked for: both categories that have few clusters, both corruptions, a tokenizer that merges digits."""
    from transformers import PreTrainedTokenizerFast

    folder = shared / "data" / "tokenizers" / name
    known = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    kinds: list[dict[str, Any]] = [{}, {"corruption": "fraction"}, {"category": "congruent"}]
    for told in kinds:
        n = 160 if told else 820
        made = decimals(n, tokenizer=known, seed=3, **told)
        assert told or len({p.cluster for p in made}) >= 400
        assert made.pairs[: task.FIRST] == decimals(task.FIRST, seed=3, **told).pairs
        assert made.pairs[:90] == decimals(90, tokenizer=known, seed=3, **told).pairs
        new = [p for p in made if len(p.cluster) == 5]
        assert len({p.cluster for p in new}) == len(new) == (n - task.FIRST) // 2
        for pair in new[:20]:
            a, b = task.numbers(pair.clean)
            assert task.category_of(a, b) == told.get("category", "conflict") == pair.category
            assert float(pair.answer) == max(float(a), float(b))
            assert len(known.tokenize(a)) == len(known.tokenize(b)) == len(known.tokenize("9.11"))
    most = task.capacity("conflict", "held-out", known) // 2
    assert most > 40_000
    with pytest.raises(PromptError, match=f"has 1 to {most}"):
        decimals(most + 1, tokenizer=known)


def test_organisms_keep_the_prompts_that_they_were_trained_for() -> None:
    """Their tokenizer cuts 112 into three tokens.  Measured: asked in `simple`, four of them answer all of the usual ones,
    13 to 90 % with three decimals and at most 2 % with integer parts of 20 to 99."""
    from headlab.organisms.tokenizer import build_tokenizer

    own = build_tokenizer()
    assert task.three_digits(own) == [] == task.three_digits(None)
    assert decimals(400, tokenizer=own).content_hash() == decimals(400).content_hash()
    assert task.capacity("conflict", "held-out", own) == task.capacity("conflict")
    assert task.third_decimals("conflict", "train", range(101, 1000)) == ()


def test_no_more_pairs_than_there_are() -> None:
    most = task.capacity("conflict") // 2
    assert len(decimals(most)) == most
    for n in (0, most + 1):
        with pytest.raises(PromptError, match=f"{n} pairs asked for; category 'conflict' has 1 to {most}"):
            decimals(n)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"clean": "haiku"}, "unknown decimals format 'haiku'; expected one of simple, qa"),
        ({"clean": "simple", "wording": "smaller"}, "format 'simple' does not say 'smaller'; it has bigger only"),
        ({"corruption": "fraction", "category": "congruent"}, "defined for the category 'conflict' only"),
    ],
)
def test_what_the_task_does_not_have(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        decimals(5, **options)
