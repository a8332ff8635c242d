"""Generated problems: what the words say is what the steps say; splits share no chain; two encoders, one answer."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

import headlab.prompts
from headlab.prompts import PromptError
from headlab.tasks.word_problems import (
    EOS,
    Problem,
    ProblemSet,
    answer_text,
    build_word_tokenizer,
    cot,
    encode_words,
    in_test,
    parse_answer,
    vocabulary,
    word_ids,
    word_problems,
)

MANY = 2_003
TWO = Problem("p", "How many ?", ("2*3=6", "6+4=10"), "10")


@pytest.fixture(scope="module")
def train() -> ProblemSet:
    return word_problems(MANY, seed=11)


@pytest.fixture(scope="module")
def held_out() -> ProblemSet:
    return word_problems(499, split="test", seed=7)


def told(question: str) -> list[str]:
    """The steps that a question's sentences ask for, read off the words alone, one sentence at a time."""
    sentences = [s.split() for s in question.split(" . ")]
    numbers = [[int(w) for w in s if w.isdigit()] for s in sentences]
    first, steps = numbers[0], []
    total = first[0]
    if "boxes" in sentences[0]:
        total = first[0] * first[1]
        steps.append(f"{first[0]}*{first[1]}={total}")
    for words, found in zip(sentences[1:-1], numbers[1:-1], strict=True):
        (k,) = found
        more = {"buys", "finds", "picks", "brings"} & set(words)
        less = {"loses", "sells", "gives", "takes"} & set(words)
        times = {"times", "multiplies"} & set(words)
        parts = {"parts", "part"} & set(words)
        assert sum(map(bool, (more, less, times, parts))) == 1, words
        sign = "+" if more else "-" if less else "*" if times else "/"
        after = total + k if more else total - k if less else total * k if times else total // k
        steps.append(f"{total}{sign}{k}={after}")
        total = after
    assert not numbers[-1] and sentences[-1][:2] == ["How", "many"] and sentences[-1][-1] == "?"
    return steps


def test_the_words_ask_for_the_steps(train: ProblemSet, held_out: ProblemSet) -> None:
    for problem in [*train, *held_out]:
        assert told(problem.question) == list(problem.steps)
        assert problem.answer == problem.results[-1]


def test_every_step_is_true_and_within_the_range(train: ProblemSet) -> None:
    operands: dict[str, set[int]] = {sign: set() for sign in "+-*/"}
    for problem in train:
        before = None
        for i, step in enumerate(problem.steps):
            a, sign, b, c = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", step).groups()  # type: ignore[union-attr]
            x, y = Fraction(a), Fraction(b)
            assert {"+": x + y, "-": x - y, "*": x * y, "/": x / y}[sign] == int(c)
            assert all(1 <= int(v) <= 20 for v in (a, b, c))
            assert before in (None, a)
            if i or "boxes" not in problem.question:
                operands[sign].add(int(b))
            before = c
    assert operands == {"+": {2, 3, 4, 5, 6}, "-": {2, 3, 4, 5, 6}, "*": {2, 3}, "/": {2, 3}}


def test_lengths_are_equally_frequent_and_questions_short(train: ProblemSet) -> None:
    assert Counter(p.n_steps for p in train) == {2: 668, 3: 668, 4: 667}
    start = Counter(p.n_steps for p in train[:509])  # in random order: neither sorted nor in turn
    assert min(start.values()) > 120 and len({tuple(p.n_steps for p in train[i : i + 3]) for i in range(99)}) > 9
    ids = word_ids()
    lengths = [len(encode_words(p.question, ids)) for p in train]
    assert 17 <= min(lengths) <= 19 and 38 <= max(lengths) <= 43


def test_the_value_range_is_obeyed_and_used() -> None:
    wide = word_problems(997, values=41, seed=3)
    numbers = {int(n) for p in wide for step in p.steps for n in re.findall(r"\d+", step)}
    assert max(numbers) == 41 and min(numbers) == 1
    assert {p.n_steps for p in word_problems(53, steps=(1, 5), seed=3)} == {1, 5}


def test_the_same_arguments_give_the_same_problems_and_another_seed_others() -> None:
    a, b, c = word_problems(211, seed=5), word_problems(211, seed=5), word_problems(211, seed=6)
    assert a.content_hash() == b.content_hash() != c.content_hash()
    shared = {p.question for p in a} & {p.question for p in c}
    assert len(shared) < 10
    assert len({p.question for p in a}) == len(a) == 211


def test_problems_do_not_change_between_versions() -> None:
    """The hash of this generator's own output when the organisms were made: cards and records rest on it."""
    assert word_problems(101, split="test", seed=0).content_hash()[:16] == PINNED


PINNED = "8b89609941fffaf6"


def test_no_chain_is_in_both_splits_whatever_the_seed(train: ProblemSet, held_out: ProblemSet) -> None:
    assert not {p.cluster for p in train} & {p.cluster for p in held_out}
    assert not {p.steps for p in train} & {p.steps for p in held_out}
    for problem in held_out:
        assert int(hashlib.md5(" ".join(problem.steps).encode()).hexdigest(), 16) % 10 == 0
    everything = {p.steps for seed in (1, 2, 3) for p in word_problems(1_009, seed=seed)}
    assert not any(in_test(steps) for steps in everything)


def test_a_tenth_of_the_chains_is_held_out() -> None:
    chains = [
        (f"{a}+{k}={a + k}", f"{a + k}*{m}={(a + k) * m}") for a in range(1, 101) for k in range(2, 32) for m in (2, 3)
    ]
    share = sum(map(in_test, chains)) / len(chains)
    assert abs(share - 0.1) < 4 * (0.09 / len(chains)) ** 0.5  # binomial, four standard errors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "dev"}, "'train' or 'test'"),
        ({"n": 0}, "at least 1"),
        ({"steps": ()}, "from 1 to 12"),
        ({"steps": (2, 2)}, "different numbers"),
        ({"steps": (0,)}, "from 1 to 12"),
        ({"values": 5}, "at least 6"),
        ({"values": 6, "steps": (1,), "n": 3_001, "split": "test"}, "fewer problems or a wider range"),
    ],
)
def test_what_cannot_be_generated_is_one_clear_error(change: dict, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        word_problems(**{"n": 7, **change})


# -- problems and sets --------------------------------------------------------------------------------------


def test_a_problem_knows_its_chain() -> None:
    assert (TWO.n_steps, TWO.kind, TWO.results) == (2, "+*", ("6", "10"))
    assert Problem("q", "x", ("16-3-4=9", "-5+9/(2-1)=4"), "4").kind == "+-/"
    assert Problem("q", "x", ("-5=-5",), "-5").kind == ""  # a sign is no operation
    assert Problem("q", "other words", TWO.steps, "10").cluster == TWO.cluster
    assert Problem("q", "How many ?", ("2*3=6", "6+3=9"), "9").cluster != TWO.cluster
    assert Problem("q", "x", (), "1").cluster != Problem("q", "y", (), "1").cluster


def test_the_chain_of_thought_leaves_out_its_last_step() -> None:
    assert cot(TWO) == "<<2*3=6>>"
    assert cot(TWO, drop_last=False) == "<<2*3=6>> <<6+4=10>>"
    assert cot(Problem("q", "x", ("1+1=2",), "2")) == ""
    assert answer_text("-2.5") == "The answer is: -2.5"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "10."}, "canonical"),
        ({"answer": "1,000"}, "canonical"),
        ({"answer": "ten"}, "canonical"),
        ({"question": " "}, "question is empty"),
        ({"steps": ("2*3",)}, "calculation=result"),
        ({"steps": ("=3",)}, "calculation=result"),
        ({"steps": ("",)}, "calculation=result"),
    ],
)
def test_a_problem_that_cannot_be_is_an_error(change: dict, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        Problem(**{"id": "p", "question": "x", "steps": ("2*3=6",), "answer": "6", **change})


def test_a_set_is_a_sequence_that_keeps_its_content(train: ProblemSet) -> None:
    some = train[3:20]
    assert isinstance(some, ProblemSet) and len(some) == 17 and some[0] == train[3]
    again = ProblemSet.from_plain(some.plain())
    assert again == some and again.content_hash() == some.content_hash()
    changed = some.plain()
    changed["problems"][5]["answer"] = "19" if some[5].answer == "20" else "20"
    assert ProblemSet.from_plain(changed).content_hash() != some.content_hash()
    assert some.sample(5, 1) == some.sample(5, 1) != some.sample(5, 2)
    assert set(some.sample(5, 1)) <= set(some) and some.sample(99, 1) is some
    with pytest.raises(PromptError, match="unique"):
        some.subset([some[0], some[0]])


def test_a_split_shares_no_chain(train: ProblemSet) -> None:
    first, rest = train.split(0.3, seed=2)
    assert len(first) + len(rest) == len(train)
    assert not {p.cluster for p in first} & {p.cluster for p in rest}
    chains = len({p.cluster for p in train})
    assert len({p.cluster for p in first}) == round(0.3 * chains) and chains < len(train)


def test_the_commonest_answer() -> None:
    made = ProblemSet(tuple(Problem(str(i), "x", (), a) for i, a in enumerate(("7", "5", "7", "2", "7"))))
    assert made.majority() == ("7", 0.6)
    with pytest.raises(PromptError, match="empty"):
        ProblemSet(()).majority()


# -- words and ids ------------------------------------------------------------------------------------------


def test_two_encoders_agree_on_two_thousand_problems(train: ProblemSet) -> None:
    tokenizer, ids = build_word_tokenizer(), word_ids()
    texts = [f"{p.question} {cot(p, False)} {answer_text(p.answer)}{EOS}" for p in train]
    slow = tokenizer(texts)["input_ids"]
    assert [encode_words(t, ids) for t in texts] == slow
    assert len(slow) == MANY and {i for row in slow for i in row} > set(range(1, len(ids) - 21))


@pytest.mark.parametrize(
    "text", ["", "  \t\n", "<<2*3=6>>", "<<<", "The answer is:12.", "12?\n3 <eos>7", "<eos><eos> Tom", ">>>=<<"]
)
def test_two_encoders_agree_on_odd_spacing(text: str) -> None:
    def pieces(t: str) -> list[int] | str:
        try:
            return encode_words(t, word_ids())
        except PromptError:
            return "unknown"

    try:
        slow: list[int] | str = list(build_word_tokenizer()(text)["input_ids"])
    except Exception as error:
        assert "UNK" in str(error)
        slow = "unknown"
    assert pieces(text) == slow


def test_a_known_sentence_by_hand() -> None:
    words, ids = vocabulary(20), word_ids(20)
    row = encode_words("Tom has 3 boxes . <<3*4=12>> The answer is: 12", ids)
    assert [words[i] for i in row] == (
        ["Tom", "has", "3", "boxes", ".", "<<", "3", "*", "4", "=", "12", ">>", "The", "answer", "is", ":", "12"]
    )


def test_the_vocabulary_is_small_closed_and_only_grows_at_its_end() -> None:
    small, large = vocabulary(20), vocabulary(40)
    assert len(small) == len(set(small)) == 96
    assert small[0] == EOS and small[-21:] == [str(k) for k in range(21)]
    assert large[: len(small)] == small and large[-1] == "40"


def test_the_tokenizer_survives_saving(tmp_path: Path, train: ProblemSet) -> None:
    from transformers import AutoTokenizer

    made = build_word_tokenizer(20)
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.is_fast and len(again) == len(made) == 96
    assert (again.eos_token, again.eos_token_id, again.unk_token, again.pad_token) == (EOS, 0, None, None)
    for problem in train[:101]:
        ids = again(problem.question)["input_ids"]
        assert ids == encode_words(problem.question, word_ids())
        assert again.decode(ids) == problem.question  # the words are parted by spaces already


def test_decoded_answers_can_be_read() -> None:
    tokenizer = build_word_tokenizer()
    for answer in map(str, range(21)):
        ids = encode_words(answer_text(answer) + EOS, word_ids())
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
        assert text == f"The answer is : {answer}" and parse_answer(text) == answer
    beyond = [len(tokenizer) + j for j in range(3)]  # pad, bot, eot of a CODI model
    assert tokenizer.decode([*beyond, *encode_words("The answer is: 7", word_ids())]) == "The answer is : 7"


@pytest.mark.parametrize("text", ["Tom has 21 apples .", "Zoe", "3.5 _", "tom", "Tom’s"])
def test_a_word_outside_the_vocabulary_is_an_error(text: str) -> None:
    with pytest.raises(PromptError, match="not in the vocabulary"):
        encode_words(text, word_ids(20))
    with pytest.raises(Exception, match="UNK"):
        build_word_tokenizer(20)(text)


@pytest.mark.accept
def test_sixty_thousand_problems_take_less_than_five_seconds() -> None:
    """In an interpreter of its own, where signatures are not checked."""
    code = (
        "import time\nfrom headlab.tasks.word_problems import encode_words, word_ids, word_problems\n"
        "start = time.process_time()\nmade = word_problems(60_000, seed=1)\nmiddle, ids = time.process_time(), word_ids()\n"
        "assert sum(len(encode_words(p.question, ids)) for p in made) > 60_000 * 17\n"
        "print(middle - start, time.process_time() - middle)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(headlab.prompts.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    generated, encoded = map(float, done.stdout.split())
    assert generated < 5 and encoded < 5, f"seconds of processor time: {generated:.1f}, {encoded:.1f}"
