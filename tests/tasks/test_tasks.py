"""Every generator on the vocabularies that models have: enough independent items, aligned roles, answers that part."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from headlab.prompts import Pair, PromptError, PromptSet, align, encode
from headlab.tasks import TASKS, capitals, pronouns

ENOUGH = 500
SAMPLE = 24
OWN = tuple(t for t in TASKS if t != "decimals")
REAL = ("llama-3", "gpt-neox-20b", "gpt2")


@cache
def load(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), clean_up_tokenization_spaces=False)


@cache
def made(name: str, tokenizer: str, shared: Path, n: int = ENOUGH) -> PromptSet:
    return TASKS[name].pairs(n, seed=1, tokenizer=load(shared / "data" / "tokenizers" / tokenizer))


def bare(text: str) -> str:
    return "".join(text.split())


def check(pair: Pair, tokenizer: Any, roles: tuple[str, ...]) -> None:
    """The roles are the words they name, both runs align role by role, and the tokens read are those of the answers."""
    found = encode(pair, tokenizer)
    lent = dict(align(found, "role"))
    for prompt, one in ((pair.clean, found.clean), (pair.corrupted, found.corrupted)):
        spans = [s for s in prompt.spans if s.role != "text"]
        assert {s.role for s in spans} <= set(roles)
        for role in {s.role for s in spans}:
            said = "".join(prompt.text[s.start : s.end] for s in spans if s.role == role)
            assert bare(tokenizer.decode([one.ids[i] for i in one.roles[role]])).endswith(bare(said))
    for role in {s.role for s in pair.corrupted.spans if s.role != "text"}:
        assert tuple(lent[i] for i in found.corrupted.roles[role]) == found.clean.roles[role]
    assert lent[found.corrupted.n_prompt - 1] == found.clean.n_prompt - 1
    assert set(found.clean.answer_ids).isdisjoint(found.clean.wrong_ids)
    assert found.clean.answer_ids == found.corrupted.answer_ids
    full = tokenizer(pair.clean.text + pair.clean.lead + pair.answer)["input_ids"]
    assert tuple(full[: len(found.clean.ids) + 1]) == (*found.clean.ids, found.clean.answer_id)


@pytest.mark.parametrize("tokenizer", REAL)
@pytest.mark.parametrize("name", OWN)
def test_items_are_usable_on_real_vocabularies(name: str, tokenizer: str, shared: Path) -> None:
    """A sample of each; ``test_a_task_has_enough_items`` looks at every one."""
    for pair in made(name, tokenizer, shared, 4 if name == "greater-than" else SAMPLE):
        check(pair, load(shared / "data" / "tokenizers" / tokenizer), TASKS[name].roles)


@pytest.mark.accept
@pytest.mark.parametrize("tokenizer", REAL)
@pytest.mark.parametrize("name", OWN)
def test_a_task_has_enough_items(name: str, tokenizer: str, shared: Path) -> None:
    """Five hundred clusters and no two pairs of one."""
    pairs = made(name, tokenizer, shared)
    assert len(pairs) == len({p.cluster for p in pairs}) == ENOUGH
    for pair in pairs:
        check(pair, load(shared / "data" / "tokenizers" / tokenizer), TASKS[name].roles)


@pytest.mark.parametrize("name", OWN)
def test_a_task_follows_its_seed_alone(name: str, shared: Path) -> None:
    """The same seed gives the same texts, and fewer of them are the first of more; another seed gives others."""
    tokenizer = load(shared / "data" / "tokenizers" / "gpt2")
    few = TASKS[name].pairs(12, seed=1, tokenizer=tokenizer)
    more = made(name, "gpt2", shared, SAMPLE)
    assert few.content_hash() == more.subset(more.pairs[:12]).content_hash()
    assert few.content_hash() != TASKS[name].pairs(12, seed=2, tokenizer=tokenizer).content_hash()


@pytest.mark.parametrize("name", OWN)
def test_options_are_refused_by_name_and_by_value(name: str, shared: Path) -> None:
    tokenizer = load(shared / "data" / "tokenizers" / "gpt2")
    with pytest.raises(PromptError, match=f"{name}.*no option 'colour'"):
        TASKS[name].pairs(4, seed=0, tokenizer=tokenizer, colour="red")
    for option, default in TASKS[name].options.items():
        unheard = "unheard-of" if isinstance(default, str) else -7
        with pytest.raises(PromptError, match=f"{name}.*{option}.*{unheard}"):
            TASKS[name].pairs(4, seed=0, tokenizer=tokenizer, **{option: unheard})
    with pytest.raises(PromptError, match="expected at least 1"):
        TASKS[name].pairs(0, seed=0, tokenizer=tokenizer)


def organism(name: str) -> Any:
    return load(Path(str(files("headlab"))) / "organisms" / "weights" / name)


@pytest.mark.parametrize(("name", "model"), [("ioi", "ioi-small"), ("induction", "induction")])
def test_the_organism_of_a_task_knows_its_words(name: str, model: str) -> None:
    """Every word of the sentences is one token of the organism's, so nothing falls back to bytes."""
    tokenizer = organism(model)
    pairs = TASKS[name].pairs(SAMPLE, seed=0, tokenizer=tokenizer)
    assert len({p.cluster for p in pairs}) == SAMPLE
    for pair in pairs:
        check(pair, tokenizer, TASKS[name].roles)
        words = pair.clean.text.replace(",", " ,").replace(".", " .").split()
        assert len(tokenizer(pair.clean.text)["input_ids"]) == len(words) + 1


@pytest.mark.parametrize("order", ["abba", "baba"])
def test_ioi_stands_as_published(order: str, shared: Path) -> None:
    """By hand: who gives is named twice, the answer once; "abc" has neither name; the order is the one asked for."""
    tokenizer = load(shared / "data" / "tokenizers" / "gpt2")
    options = {"order": order, "templates": "0 6"}
    for corruption in ("swap", "abc"):
        for pair in TASKS["ioi"].pairs(30, seed=3, tokenizer=tokenizer, corruption=corruption, **options):
            said = bare(pair.clean.text)
            assert (said.count(pair.wrong), said.count(pair.answer)) == (2, 1)
            assert (pair.clean.text.index(pair.answer) < pair.clean.text.index(pair.wrong)) == (order == "abba")
            other = [pair.corrupted.text.count(x) for x in (pair.answer, pair.wrong)]
            assert other == ([2, 1] if corruption == "swap" else [0, 0])
            assert pair.clean.text.startswith(("Then,", "When"))


@pytest.mark.parametrize("kind", ["tokens", "words", "text"])
def test_what_followed_before_follows_again(kind: str, shared: Path) -> None:
    """By hand: the last word stood once before, and after it came the answer (in the corrupted run, the wrong one)."""
    tokenizer = load(shared / "data" / "tokenizers" / "gpt2")
    for pair in TASKS["induction"].pairs(12, seed=2, tokenizer=tokenizer, kind=kind, length=6):
        for prompt, follows in ((pair.clean, pair.answer), (pair.corrupted, pair.wrong)):
            words = prompt.text.replace("likes ", "").replace(".", "").removesuffix(" likes").split()
            assert words.count(words[-1]) == 2 and words[words.index(words[-1]) + 1] == follows


def test_a_vocabulary_of_too_few_words_is_named(shared: Path) -> None:
    with pytest.raises(PromptError, match=r"'ioi' needs at least 6 names .* this tokenizer has \d"):
        TASKS["ioi"].pairs(10, seed=0, tokenizer=load(shared / "data" / "models" / "stories260k"))


def test_every_kind_of_order_goes_on_by_one(shared: Path) -> None:
    """By hand, against the calendar and the code points: the wrong answer follows the corrupted prompt's item."""
    from datetime import date, timedelta

    kinds = set()
    for pair in made("successor", "gpt2", shared, SAMPLE):
        kinds.add(pair.category)
        for prompt, then in ((pair.clean, pair.answer), (pair.corrupted, pair.wrong)):
            item = prompt.text.split()[-4]
            if pair.category == "days":
                some = next(d for i in range(7) if (d := date(2024, 1, 1 + i)).strftime("%A") == item)
                assert then == (some + timedelta(1)).strftime("%A")
            elif pair.category == "months":
                month = next(m for m in range(1, 13) if date(2024, m, 1).strftime("%B") == item)
                assert then == date(2024, month % 12 + 1, 1).strftime("%B")
            else:
                assert int(then) == int(item) + 1 if item.isdecimal() else ord(then) == ord(item) + 1
    assert kinds == {"days", "months", "numbers", "letters"}


@pytest.mark.parametrize(("tokenizer", "digits"), [("gpt2", 2), ("llama-3", 1)])
def test_later_years_are_right(tokenizer: str, digits: int, shared: Path) -> None:
    """By hand: the prompt and any right answer give a later year than the first, any wrong one gives none."""
    for pair in made("greater-than", tokenizer, shared, 4):
        first, begun = pair.clean.text.split("from the year ")[1].split(" to the year ")
        assert all(int(begun + a) > int(first) for a in pair.answers)
        assert all(int(begun + a) <= int(first) for a in pair.wrongs)
        assert {len(a) for a in (*pair.answers, *pair.wrongs)} == {digits}
        assert int(pair.corrupted.text.split("from the year ")[1][:4]) < int(first)


@pytest.mark.parametrize("kind", ["stories", "names"])
def test_girls_are_she_and_boys_are_he(kind: str, shared: Path) -> None:
    """By hand, in both runs and both directions."""
    tokenizer = load(shared / "data" / "tokenizers" / "gpt2")
    pairs = TASKS["pronouns"].pairs(SAMPLE, seed=4, tokenizer=tokenizer, kind=kind)
    female = {"girl", "princess", "queen", "woman", "mom", *pronouns.WOMEN}
    for pair in pairs:
        check(pair, tokenizer, TASKS["pronouns"].roles)
        for prompt, says in ((pair.clean, pair.answer), (pair.corrupted, pair.wrong)):
            named = bool(female & set(prompt.text.split()))
            assert says.lower() == ("she" if named else "he")
    assert {p.category for p in pairs} == {"she", "he"}


def test_a_model_of_children_s_stories_has_its_pronouns(shared: Path) -> None:
    """Llama's kind of tokenizer, 512 tokens: girl and boy are three each, and hundreds of items stand."""
    tokenizer = load(shared / "data" / "models" / "stories260k")
    pairs = TASKS["pronouns"].pairs(300, seed=0, tokenizer=tokenizer)
    assert len({p.cluster for p in pairs}) == 300
    for pair in pairs.sample(20, 0):
        check(pair, tokenizer, TASKS["pronouns"].roles)


def test_capitals_belong_to_their_countries(shared: Path) -> None:
    """No capital twice, none a country's name; a few by hand."""
    facts = capitals.CAPITALS
    assert len(set(facts.values())) == len(facts) and not set(facts) & set(facts.values())
    assert (facts["France"], facts["Australia"], facts["Turkey"]) == ("Paris", "Canberra", "Ankara")
    for pair in made("capitals", "gpt2", shared, SAMPLE):
        assert facts[pair.clean.text.split()[3]] == pair.answer and facts[pair.corrupted.text.split()[3]] == pair.wrong


@pytest.mark.parametrize("attractor", ["opposite", "same"])
def test_verbs_follow_their_subject(attractor: str, shared: Path) -> None:
    """By hand: plural nouns here end in s; the corrupted prompt changes the subject's number and nothing else."""
    tokenizer = load(shared / "data" / "tokenizers" / "gpt2")
    for pair in TASKS["agreement"].pairs(SAMPLE, seed=0, tokenizer=tokenizer, attractor=attractor):
        clean, corrupted = (p.text.split() for p in (pair.clean, pair.corrupted))
        assert (
            clean[2:] == corrupted[2:] and clean[1].rstrip("s") == corrupted[1].rstrip("s") and clean[1] != corrupted[1]
        )
        assert pair.answers == (("are", "were", "have") if clean[1].endswith("s") else ("is", "was", "has"))
        assert (clean[-1].endswith("s") == clean[1].endswith("s")) == (attractor == "same")


@pytest.mark.parametrize("corruption", ["random-answer", "random-def", "random-doc"])
def test_the_next_argument_is_documented_next(corruption: str, shared: Path) -> None:
    """Against Python's own parser: the answer is the argument after the two that the docstring treats."""
    import ast

    tokenizer = load(shared / "data" / "tokenizers" / "gpt2")
    for pair in TASKS["docstring"].pairs(10, seed=0, tokenizer=tokenizer, corruption=corruption):
        (function,) = ast.parse(pair.clean.text + f' {pair.answer}: it\n    """').body
        assert isinstance(function, ast.FunctionDef)
        _, *arguments = (a.arg for a in function.args.args)
        treated = [x.split(":")[0] for x in (ast.get_docstring(function) or "").split(":param ")[1:]]
        k = arguments.index(pair.answer)
        assert treated == arguments[k - 2 : k + 1]
        assert sorted(pair.wrongs) == sorted(set(arguments) - {pair.answer})
        assert (pair.answer in pair.corrupted.text) == (corruption != "random-answer")


@pytest.mark.parametrize("name", ["ioi", "pronouns", "capitals", "successor", "agreement", "docstring", "greater-than"])
def test_the_rows_of_a_task_are_the_same_prompts(name: str, shared: Path) -> None:
    """Written as rows and read again: the same tokens, answers, roles (but optional ones) and clusters."""
    tokenizer = load(shared / "data" / "tokenizers" / "gpt2")
    made = TASKS[name].pairs(12, seed=3, tokenizer=tokenizer)
    for one, two in zip(made, PromptSet.from_rows(made.rows(), name="rows"), strict=True):
        a, b = encode(one, tokenizer), encode(two, tokenizer)
        for x, y in ((a.clean, b.clean), (a.corrupted, b.corrupted)):
            assert (x.ids, x.answer_ids, x.wrong_ids) == (y.ids, y.answer_ids, y.wrong_ids)
            assert {r: p for r, p in x.roles.items() if r not in x.optional} == dict(y.roles)
        assert one.cluster == two.cluster and one.partner == two.partner
