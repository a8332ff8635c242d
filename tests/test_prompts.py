"""Prompts as tokens: roles by character span, the shared start of the answers, alignment, and files of one's own."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from headlab.prompts import (
    EncodedPair,
    Pair,
    Prompt,
    PromptError,
    PromptSet,
    Span,
    align,
    encode,
    encode_prompt,
    remarks,
)

WORDS = ("The", "cat", "sat", "dog", "on", "mat", "in", "rain", ".", "yes", "no", "not", "now")


@pytest.fixture(scope="module")
def words() -> Any:
    """One token for each word or mark; ids in the order of WORDS; ``<s>`` (13) is put in front."""
    from tokenizers import processors

    vocabulary = {w: i for i, w in enumerate((*WORDS, "<s>", "<unk>"))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 13)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")


def spans(text: str, **roles: str) -> tuple[Span, ...]:
    return tuple(Span(r, text.index(t), text.index(t) + len(t)) for r, t in roles.items())


def prompt(text: str, **roles: str) -> Prompt:
    return Prompt(text, spans(text, **roles), lead=" ")


# -- tokens, roles, answers ------------------------------------------------------------------------------------------


def test_roles_are_the_tokens_under_their_characters(words: Any) -> None:
    """<s> The cat sat on the mat: by hand, positions 0 to 6."""
    made = encode_prompt(prompt("The cat sat on The mat", who="cat", did="sat on", where="mat"), "yes", "no", words)
    assert made.ids == (13, 0, 1, 2, 4, 0, 5) and made.n_prompt == 7
    assert made.roles == {"bos": (0,), "who": (2,), "did": (3, 4), "where": (6,), "last": (6,)}
    assert (made.answer_id, made.wrong_id, made.forced, made.forced_text) == (9, 10, (), "")


def test_a_word_that_stands_twice_is_told_apart_by_its_place(words: Any) -> None:
    text = "cat sat on cat"
    made = encode_prompt(Prompt(text, (Span("second", 11, 14),), " "), "yes", "no", words)
    assert made.roles["second"] == (4,)


def test_the_shared_start_is_forced_and_the_answers_are_read_where_they_part(words: Any) -> None:
    made = encode_prompt(prompt("The cat sat", who="cat"), "not in rain .", "not in mat .", words)
    assert made.ids == (13, 0, 1, 2, 11, 6) and made.n_prompt == 4 and made.forced == (11, 6)
    assert (made.answer_id, made.wrong_id, made.forced_text) == (7, 5, "not in")


def test_special_tokens_are_not_added_twice(words: Any) -> None:
    made = encode_prompt(Prompt("<s> The cat", (), " ", special=False), "yes", "no", words)
    assert made.ids == (13, 0, 1)


@pytest.mark.parametrize(
    ("answer", "wrong", "reason"),
    [
        ("not", "not in", "one ends inside the other.*end both with a mark such as"),
        ("not in rain", "not in", "no token tells them apart"),
    ],
)
def test_answers_that_no_token_tells_apart(words: Any, answer: str, wrong: str, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        encode_prompt(prompt("The cat sat"), answer, wrong, words)


def test_an_answer_that_merges_with_the_prompt_has_no_position() -> None:
    """A tokenizer that reads "no" + "t" as one token: the prompt's last token is gone once the answer follows."""
    vocabulary = {"n": 0, "o": 1, "t": 2, "w": 3, "not": 4, "no": 5, "now": 6, "ow": 7}
    backend = Tokenizer(models.BPE(vocabulary, [("n", "o"), ("no", "t"), ("no", "w")]))
    merging = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(
        PromptError, match=r"answer 't' merges with the end of the prompt 'no' .*no answer position exists"
    ):
        encode_prompt(Prompt("no"), "t", "w", merging)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(
        PromptError, match=r"gives no character offsets; headlab needs a fast tokenizer \(tokenizer.json\)"
    ):
        encode_prompt(Prompt("a"), "b", "c", Slow())


def test_an_empty_prompt_leaves_nothing_to_read_from() -> None:
    backend = Tokenizer(models.WordLevel({"yes": 0, "no": 1}, unk_token="no"))
    with pytest.raises(PromptError, match="no token comes before the answers 'yes' / 'no': the prompt is empty"):
        encode_prompt(Prompt(""), "yes", "no", PreTrainedTokenizerFast(tokenizer_object=backend))


def test_errors_name_the_pair(words: Any) -> None:
    with pytest.raises(PromptError, match=r"^pair 17: the answers"):
        encode(Pair("17", Prompt("The", (), " "), Prompt("cat", (), " "), "not", "not in"), words)


def test_a_span_outside_the_text() -> None:
    for start, end in ((0, 4), (2, 2), (-1, 2)):
        with pytest.raises(PromptError, match=f"span 'who' is {start}:{end} but the prompt has 3 characters: 'cat'"):
            Prompt("cat", (Span("who", start, end),))


# -- alignment -----------------------------------------------------------------------------------------------------------


def encoded(words: Any, clean: Prompt, corrupted: Prompt, answer: str = "yes", wrong: str = "no") -> EncodedPair:
    return encode(Pair("p", clean, corrupted, answer, wrong), words)


def test_role_alignment_by_hand(words: Any) -> None:
    """Clean: <s> The cat sat on mat (0-5); corrupted: <s> in rain The dog sat mat (0-6); then the start "not in"."""
    pair = encoded(
        words,
        prompt("The cat sat on mat", who="cat", did="sat"),
        prompt("in rain The dog sat mat", who="dog", did="sat"),
        "not in rain .",
        "not in mat .",
    )
    assert align(pair, "role") == ((0, 0), (4, 2), (5, 3), (6, 5), (7, 6), (8, 7))
    assert align(pair, "end") == ((1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5), (7, 6), (8, 7))
    assert align(pair, "left") == ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5))


def test_optional_roles_are_left_out_where_they_do_not_match(words: Any) -> None:
    """A cue of other length, or one whose place is the other prompt's last token, gives way; other roles stay."""

    def made(text: str, cue: str) -> Prompt:
        start = text.index(cue)
        return Prompt(text, (*spans(text, who="cat"), Span("cue", start, start + len(cue), optional=True)), " ")

    longer = encoded(words, made("cat sat on . mat", "sat on"), made("rain cat . mat", "."))
    assert align(longer, "role") == ((0, 0), (2, 1), (4, 5))
    elsewhere = encoded(words, made("sat cat mat", "sat"), made("rain cat sat", "sat"))
    assert align(elsewhere, "role") == ((0, 0), (2, 2), (3, 3))


def test_a_role_that_must_match_and_does_not_is_an_error(words: Any) -> None:
    longer = encoded(words, prompt("The cat sat", who="cat"), prompt("The cat dog sat", who="cat dog"))
    with pytest.raises(PromptError, match=r"pair p: role 'who' has 1 token\(s\) in the clean and 2 in the corrupted"):
        align(longer, "role")
    missing = encoded(words, prompt("The cat sat", who="cat"), prompt("The cat sat", did="The"))
    with pytest.raises(PromptError, match=r"role 'did' has 0 token\(s\) in the clean and 1"):
        align(missing, "role")
    last = encoded(words, prompt("The cat sat", who="cat"), prompt("sat The cat", who="cat"))
    with pytest.raises(PromptError, match=r"corrupted position 3 would take two clean positions \(role 'who'\)"):
        align(last, "role")


def test_prompts_without_roles_align_only_at_equal_length(words: Any) -> None:
    same = encoded(words, Prompt("The cat sat", (), " "), Prompt("in rain sat", (), " "))
    assert align(same, "role") == ((0, 0), (1, 1), (2, 2), (3, 3))
    with pytest.raises(PromptError, match="4 and 3 tokens and name no spans; give clean_spans and corrupted_spans"):
        align(encoded(words, Prompt("The cat sat", (), " "), Prompt("in rain", (), " ")), "role")


# -- sets of pairs ---------------------------------------------------------------------------------------------------------


def a_set(n: int = 30) -> PromptSet:
    return PromptSet(
        tuple(
            Pair(f"{i}", prompt(f"The cat {i}"), Prompt(f"dog {i}"), "yes", "no", cluster=f"c{i % 7}") for i in range(n)
        )
    )


def test_a_set_is_plain_data_and_back() -> None:
    one = a_set()
    back = PromptSet.from_plain(json.loads(json.dumps(one.plain())))
    assert back == one and back.content_hash() == one.content_hash()


def test_the_hash_follows_every_text_span_and_answer() -> None:
    pair = Pair("p", prompt("The cat sat", who="cat"), Prompt("The dog"), "yes", "no", "c", "k", (("a", "b"),))
    changes: list[dict[str, Any]] = [
        {"id": "q"}, {"clean": prompt("The cat sat", who="sat")}, {"clean": prompt("The cat sat", it="cat")},
        {"clean": replace(pair.clean, lead="")}, {"clean": replace(pair.clean, special=False)}, {"corrupted": Prompt("The dog.")},
        {"answer": "now"}, {"wrong": "now"}, {"cluster": "d"}, {"category": "l"}, {"labels": (("a", "c"),)},
    ]  # fmt: skip
    hashes = {PromptSet((replace(pair, **c),)).content_hash() for c in changes}
    assert len(hashes | {PromptSet((pair,)).content_hash()}) == len(changes) + 1


def test_a_split_shares_no_cluster_and_follows_its_seed() -> None:
    one = a_set()
    first, second = one.split(0.4, seed=1)
    assert len(first) + len(second) == 30 and {p.cluster for p in first}.isdisjoint({p.cluster for p in second})
    assert len({p.cluster for p in first}) == 3  # 40 % of 7 clusters
    assert (first, second) == one.split(0.4, seed=1)
    assert len({one.split(0.4, seed=s)[0].content_hash() for s in range(6)}) > 1


def test_a_sample_keeps_its_order_and_follows_its_seed() -> None:
    some = a_set().sample(8, seed=2)
    numbers = [int(p.id) for p in some]
    assert len(set(numbers)) == 8 and numbers == sorted(numbers)
    assert some == a_set().sample(8, seed=2) != a_set().sample(8, seed=3)
    assert a_set().sample(99, seed=0) == a_set()


def test_pairs_that_cannot_be_used() -> None:
    with pytest.raises(PromptError, match="pair p: answer and wrong answer must not be empty"):
        Pair("p", Prompt("a"), Prompt("b"), "yes", " ")
    with pytest.raises(PromptError, match="pair p: answer and wrong answer are both 'yes'; they must differ"):
        Pair("p", Prompt("a"), Prompt("b"), "yes", "yes")
    with pytest.raises(PromptError, match="two pairs have the id '3'; ids must be unique"):
        PromptSet((*a_set().pairs, a_set()[3]))


# -- files of one's own ------------------------------------------------------------------------------------------------------

HEADER = "clean,corrupted,answer,wrong,clean_spans,corrupted_spans,cluster\n"
GOOD = 'The cat,The dog,yes,no,"{""who"": [4, 7]}","{""who"": [4, 7]}",a\n'


def file(folder: Path, text: str | bytes, name: str = "p.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_csv_file(tmp_path: Path) -> None:
    one = PromptSet.from_file(file(tmp_path, HEADER + GOOD + "in rain,on mat,now,not,,,\n"))
    assert [p.id for p in one] == ["1", "2"] and [p.cluster for p in one] == ["a", "2"] and one.grader == "prefix"
    assert one[0].clean.spans == (Span("who", 4, 7),) and one[1].clean.spans == ()
    assert (one[1].clean.text, one[1].corrupted.text, one[1].answer, one[1].wrong) == (
        "in rain",
        "on mat",
        "now",
        "not",
    )


def test_a_spreadsheets_mark_and_line_ends_are_no_matter(tmp_path: Path) -> None:
    plain = PromptSet.from_file(file(tmp_path, HEADER + GOOD))
    marked = PromptSet.from_file(file(tmp_path, b"\xef\xbb\xbf" + (HEADER + GOOD).replace("\n", "\r\n").encode()))
    assert marked == plain


def test_a_jsonl_file(tmp_path: Path) -> None:
    row = {"clean": "The\u2028cat", "corrupted": "dog", "answer": "yes", "wrong": "no", "clean_spans": {"who": [4, 7]}}
    text = json.dumps(row, ensure_ascii=False) + "\n\n" + json.dumps({**row, "id": "b", "answer": "now"}) + "\n"
    one = PromptSet.from_file(file(tmp_path, text, "p.jsonl"))
    assert [p.id for p in one] == ["1", "b"] and one[0].clean.text == "The\u2028cat"


def test_a_data_frame_with_gaps() -> None:
    """Gaps in optional columns are gaps: every row is its own cluster, not all of them one named nan."""
    import pandas as pd

    rows = {"clean": ["a", "b", "c"], "corrupted": ["x", "y", "z"], "answer": ["1"] * 3, "wrong": ["2"] * 3}
    one = PromptSet.from_frame(pd.DataFrame({**rows, "cluster": ["g", None, float("nan")], "id": ["i", None, None]}))
    assert [(p.id, p.cluster) for p in one] == [("i", "g"), ("2", "2"), ("3", "3")]
    with pytest.raises(PromptError, match="DataFrame, row 1: column 'answer' is nan; expected text"):
        PromptSet.from_frame(pd.DataFrame({**rows, "answer": ["1", float("nan"), "1"]}))


def test_the_same_pairs_are_the_same_wherever_they_come_from(tmp_path: Path) -> None:
    """What is drawn by a pair's id does not hang on where rows were kept: a file, a frame, mappings."""
    import pandas as pd

    one = PromptSet.from_file(file(tmp_path, HEADER + GOOD + "in rain,on mat,now,not,,,\n"))
    frame = pd.read_csv(tmp_path / "p.csv")
    rows = [{k: v for k, v in row.items() if v == v} for row in frame.to_dict("records")]
    (tmp_path / "p.jsonl").write_text("\n" + "\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    made = [PromptSet.from_frame(frame), PromptSet.from_rows(rows, name="r"), PromptSet.from_file(tmp_path / "p.jsonl")]
    assert [m.pairs for m in made] == [one.pairs] * 3


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("The cat,The dog,yes,,,,\n", "p.csv, row 3: column 'wrong' is ''; expected text"),
        ("The cat,The dog\n", "p.csv, row 3: column 'answer' is None; expected text"),
        ("The cat,The dog,yes,no,,,a,extra\n", r"p.csv, row 3: has more fields than the header: \['extra'\]"),
        ("The cat,The dog,yes,yes,,,\n", "p.csv, row 3: pair 2: answer and wrong answer are both 'yes'"),
        (
            'The cat,The dog,yes,no,"{""who"": [4, 9]}",,\n',
            "p.csv, row 3: span 'who' is 4:9 but the prompt has 7 characters",
        ),
        (
            'The cat,The dog,yes,no,"{""who"": [4]}",,\n',
            r"p.csv, row 3: clean_spans: role 'who' is \[4\]; expected \[start, end\]",
        ),
        ("The cat,The dog,yes,no,,who 4 7,\n", "p.csv, row 3: corrupted_spans is not JSON: .*given 'who 4 7'"),
        ('The cat,The dog,yes,no,"[4, 7]",,\n', "p.csv, row 3: clean_spans must be an object of role"),
        ('"The cat,The dog,yes,no,,,\n', "p.csv, line .*: not CSV"),
    ],
)
def test_a_bad_row_is_named_with_its_reason(tmp_path: Path, rows: str, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        PromptSet.from_file(file(tmp_path, HEADER + GOOD + rows + GOOD))


def test_ids_that_repeat_name_both_rows(tmp_path: Path) -> None:
    text = "id,clean,corrupted,answer,wrong\na,x,y,1,2\nb,x,y,1,3\na,x,y,1,4\n"
    with pytest.raises(PromptError, match=r"p.csv, row 4: its id 'a' is that of row 2 too"):
        PromptSet.from_file(file(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("p.csv", "clean,corrupted,answer\na,b,c\n", "lacks the column.s. wrong; it has .*'answer'"),
        ("p.csv", "clean;corrupted;answer;wrong\na;b;c;d\n", "parted by ';': write commas"),
        ("p.csv", "Clean, corrupted,Answer,wrong\na,b,c,d\n", "names in small letters, without spaces"),
        ("p.csv", "The cat,The dog, sat, ran\n", "its first line must name the columns: clean, corrupted"),
        ("p.csv", ",clean,corrupted,answer,wrong\n0,a,b,c,d\n", "index that pandas wrote .* index=False"),
        ("p.csv", "", "lacks the column.s. clean, corrupted, answer, wrong"),
        ("p.csv", HEADER, "p.csv has no rows; expected at least one with columns clean, corrupted, answer, wrong"),
        ("p.csv", HEADER.encode() + b"caf\xe9,b,c,d\n", "p.csv, line 2: not UTF-8"),
        ("p.jsonl", "{}\n", "p.jsonl, row 1: column 'clean' is None; expected text"),
        ("p.jsonl", '{"clean": 1}\n', "p.jsonl, row 1: column 'clean' is 1; expected text"),
        ("p.jsonl", "\n[1]\n", "p.jsonl, row 2: expected an object, given list"),
        ("p.jsonl", "{clean}\n", "p.jsonl, row 1 is not JSON"),
        ("p.txt", "x", "expected a .csv or .jsonl file, given .txt"),
    ],
)
def test_a_file_that_is_no_prompt_file(tmp_path: Path, name: str, text: str | bytes, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        PromptSet.from_file(file(tmp_path, text, name))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"no such prompt file: .*none.csv; expected a .csv or .jsonl with clean"):
        PromptSet.from_file(tmp_path / "none.csv")


PLAIN = "clean,corrupted,answer,wrong\n"


def eight_pairs() -> list[str]:
    return [f"The cat {n},The dog {n},yes,no\n" for n in range(8)]


def test_a_row_that_stands_again_is_refused_with_both_numbers(tmp_path: Path) -> None:
    """Copies do not make pairs.  Looked for: equal rows in CSV, JSONL, frames and rows in memory; copies with ids, clusters
    or categories of their own; copies of prompts with other answers, spaces, capitals or forms of a character (next test);
    word problems; test and selection prompts given apart."""
    import pandas as pd

    with pytest.raises(PromptError, match=r"p.csv, row 10: it repeats row 2 \(prompts and answers are the same\)"):
        PromptSet.from_file(file(tmp_path, PLAIN + "".join(eight_pairs() * 15)))
    row = {"clean": "a", "corrupted": "b", "answer": "c", "wrong": "d"}
    rows = [row, {**row, "id": "other", "cluster": "k", "category": "z"}]
    with pytest.raises(PromptError, match=r"p.jsonl, row 2: it repeats row 1"):
        PromptSet.from_file(file(tmp_path, "\n".join(map(json.dumps, rows)), "p.jsonl"))
    with pytest.raises(PromptError, match="mine, row 2: it repeats row 1"):
        PromptSet.from_rows(rows, name="mine")
    with pytest.raises(PromptError, match="DataFrame, row 1: it repeats row 0"):
        PromptSet.from_frame(pd.DataFrame([row, row]))


def test_pairs_with_equal_prompts_share_a_cluster_and_no_split_parts_them(tmp_path: Path, words: Any) -> None:
    """By hand: eight prompts, each with three wrong answers; clusters declared apart are joined, and what they held with
    them.  All seeds: no prompt stands on both sides."""
    wrongs = ("no", "not", "now")
    rows = [f"The cat {n}{' ' * k},the DOG {n},yes,{w}\n" for n in range(8) for k, w in enumerate(wrongs)]
    one = PromptSet.from_file(file(tmp_path, PLAIN + "".join(rows)))
    assert len(one) == 24 and len({p.cluster for p in one}) == 8
    assert [p.cluster for p in one][:6] == ["1", "1", "1", "4", "4", "4"]
    for seed in range(40):
        first, second = one.split(0.4, seed)
        assert len(first) + len(second) == 24
        assert {p.clean.text.strip() for p in first}.isdisjoint({p.clean.text.strip() for p in second})
    texts = ["a/k", "b/l", "a/m", "c/m", "d/l", "é/", "e\u0301/"]
    made = [
        Pair(str(i), Prompt(t.split("/")[0]), Prompt("x"), "yes", "no" * (i + 1), t.split("/")[1])
        for i, t in enumerate(texts)
    ]
    assert [p.cluster for p in PromptSet(tuple(made))] == ["k", "l", "k", "k", "l", "", "5"]
    (said,) = remarks(one.pairs, words)
    assert said.startswith("16 of 24 pairs have the prompts of another one")
    assert remarks(one.pairs[::3], words) == []


def test_many_rows_take_time_in_proportion():
    """Looked for: rows of their own, rows that all share a prompt, clusters that a chain of prompts joins one by one (a walk
    along the chain for each of its rows took minutes)."""

    def spent(n: int, chained: bool) -> float:
        rows = [
            {"clean": f"a{i // 2 if chained else i}", "corrupted": "b", "answer": f"c{i}", "wrong": "d",
             "cluster": f"k{i // 2 + 1 - i % 2}" if chained else ""}
            for i in range(n)
        ]  # fmt: skip
        start = time.process_time()
        made = PromptSet.from_rows(rows, name="rows")
        assert len({p.cluster for p in made}) == (1 if chained else n)
        return time.process_time() - start

    for chained in (False, True):
        assert spent(16_000, chained) < 12 * max(spent(4_000, chained), 0.02)


def test_a_row_without_a_cluster_stands_in_nobody_elses(tmp_path: Path) -> None:
    """Row 4 and the cluster named 4; an id that is a cluster's name; the same in sets made in Python."""
    rows = [
        "a,b,yes,no,,4\n",
        "c,d,yes,no,,\n",
        "e,f,yes,no,,4\n",
        "g,h,yes,no,,\n",
        "i,j,yes,no,k,\n",
        "l,m,yes,no,,k\n",
    ]
    one = PromptSet.from_file(file(tmp_path, PLAIN.replace("\n", ",id,cluster\n") + "".join(rows)))
    assert [p.id for p in one] == ["1", "2", "3", "4", "k", "6"]
    assert [p.cluster for p in one] == ["4", "2", "4", "4 (no cluster)", "k (no cluster)", "k"]
    made = PromptSet(
        (Pair("a", Prompt("x"), Prompt("y"), "1", "2", "b"), Pair("b", Prompt("z"), Prompt("y"), "1", "2"))
    )
    assert len({p.cluster or p.id for p in made}) == 2


def test_cells_as_spreadsheets_write_them(tmp_path: Path) -> None:
    """A quote after a space is refused, not read into the answer; line ends within cells are one newline.  Looked for: each
    column; spaces, tabs; quotes around commas; \\r\\n, \\r and \\n between rows and within cells."""
    for row in ('a,b, "c",d\n', 'a,b,c,\t"d"\n', 'a,b, "c",d\n', 'a, "b",c,d\n', 'a,b, "c,e",d\n'):
        with pytest.raises(PromptError, match=r"p.csv, row 3: column .* holds a quote after a space"):
            PromptSet.from_file(file(tmp_path, PLAIN + "x,y,1,2\n" + row))
    assert PromptSet.from_file(file(tmp_path, PLAIN + 'a,b," c","say ""d"""\n'))[0].wrong == 'say "d"'
    for end in ("\n", "\r\n", "\r"):
        one = PromptSet.from_file(file(tmp_path, (PLAIN + '"a\nb",c,d,e\n').replace("\n", end)))
        assert one[0].clean.text == "a\nb"


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("clean_span", "did you mean clean_spans"),
        ("Cluster", "did you mean cluster"),
        (" corrupted_spans", "did you mean corrupted_spans"),
        ("notes", "the columns are clean, corrupted"),
        ("", "the columns are"),
    ],
)
def test_a_column_that_nobody_reads_is_refused(tmp_path: Path, column: str, hint: str) -> None:
    """In files of both kinds, frames and rows; a column of one's own begins with an underscore; none stands twice."""
    import pandas as pd

    row = {"clean": "a", "corrupted": "b", "answer": "c", "wrong": "d"}
    message = rf"the column '{column}' is not read; {hint}"
    with pytest.raises(PromptError, match="p.csv: " + message):
        PromptSet.from_file(file(tmp_path, f"clean,corrupted,answer,wrong,{column}\na,b,c,d,1\n"))
    with pytest.raises(PromptError, match="p.jsonl, row 1: it: " + message):
        PromptSet.from_file(file(tmp_path, json.dumps({**row, column: 1}), "p.jsonl"))
    with pytest.raises(PromptError, match=message):
        PromptSet.from_frame(pd.DataFrame([{**row, column: 1}]))
    own = PromptSet.from_file(file(tmp_path, "clean,corrupted,answer,wrong,_mine\na,b,c,d,1\n"))
    assert own == PromptSet.from_file(file(tmp_path, PLAIN + "a,b,c,d\n"))
    with pytest.raises(PromptError, match="the column 'clean' stands twice"):
        PromptSet.from_file(file(tmp_path, "clean,clean,corrupted,answer,wrong\na,b,c,d,1\n"))


def test_a_text_that_begins_with_the_first_token_gets_no_second_one(words: Any) -> None:
    """A rendered chat template: the ids are those of the text without special tokens, and the record says so.  Looked for:
    clean and corrupted prompts, prompts with spans, answers after them, tokenizers without a first token of their own."""
    for text in ("<s> The cat", "<s>The cat"):
        begun = encode_prompt(prompt(text, who="cat"), "yes", "no", words)
        bare = encode_prompt(prompt("The cat", who="cat"), "yes", "no", words)
        assert begun.ids == bare.ids == (13, 0, 1) and begun.n_prompt == 3 and begun.roles["who"] == (2,)
    pair = Pair("p", Prompt("<s> The cat", (), " "), Prompt("The dog", (), " "), "yes", "no")
    (said,) = remarks([pair], words)
    assert said == "1 of 2 prompts begin with the tokenizer's own '<s>': no second one was put before them"
    twice = encode_prompt(Prompt("<s> <s> The", (), " "), "yes", "no", words)
    assert twice.ids == (13, 13, 0), "what the text says twice stays"


def test_hostile_cells_are_told_in_one_short_line(tmp_path: Path) -> None:
    """Depth, size, half characters and numbers of every cell that is more than text."""
    row: dict[str, Any] = {"clean": "The cat", "corrupted": "b", "answer": "c", "wrong": "d"}
    deep = "[" * 100_000 + "]" * 100_000
    for change in (
        {"clean_spans": deep},
        {"clean_spans": {"who": [0, True]}},
        {"clean_spans": {"who": [0.0, 3]}},
        {"clean_spans": {"x" * 10**6: [4, 1]}},
        {"clean_spans": [deep]},
        {"id": "x" * 10**6},
        {"id": ["a"]},
        {"cluster": {"a": 1}},
        {"category": True},
        {"clean": "x" * 10**6, "clean_spans": {"a": [0, 10**7]}},
        {"answer": 5},
        {"wrong": "c"},
        {"clean": ""},
        {"id": "\ud800"},
        {"k" * 10**6: 1},
    ):
        path = file(tmp_path, json.dumps({**row, **change}), "p.jsonl")
        with pytest.raises(PromptError) as refused:
            PromptSet.from_file(path)
        assert len(str(refused.value)) <= 500 and "\n" not in str(refused.value), change
    with pytest.raises(PromptError, match="nested more than 32 deep"):
        PromptSet.from_file(file(tmp_path, deep, "p.jsonl"))
    for name in ("\x00" * 99, "\x1b;" * 99, "x\u200b" * 99, "answer\u2028" * 99):  # names of columns, too
        with pytest.raises(PromptError, match="lacks the column") as refused:
            PromptSet.from_file(file(tmp_path, ",".join(f"{n}{name}" for n in range(99)) + "\na\n", "pairs.csv"))
        assert len(str(refused.value)) <= 500 and "\n" not in str(refused.value), name


def test_lists_of_answers_and_prompts_that_stand_alone(tmp_path: Path) -> None:
    """By hand, the same from CSV, JSONL and a frame.  A text that only begins with a bracket is a text."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {"clean": "The cat", "corrupted": "The dog", "answer": ["yes", "now"], "wrong": ["no"]},
        {"clean": "in rain", "corrupted": "", "answer": "yes", "wrong": ""},
        {"clean": "on mat", "corrupted": "", "answer": "[sic]", "wrong": ["no", "not"]},
    ]
    text = 'clean,corrupted,answer,wrong\nThe cat,The dog,"[""yes"", ""now""]","[""no""]"\nin rain,,yes,\n'
    text += 'on mat,,[sic],"[""no"", ""not""]"\n'
    sets = [
        PromptSet.from_file(file(tmp_path, text)),
        PromptSet.from_file(file(tmp_path, "\n".join(map(json.dumps, rows)), "p.jsonl")),
        PromptSet.from_frame(pd.DataFrame(rows)),
    ]
    for one in sets:
        assert [p.answers for p in one] == [("yes", "now"), ("yes",), ("[sic]",)]
        assert [p.wrongs for p in one] == [("no",), (), ("no", "not")]
        assert [p.partner for p in one] == [True, False, False] and one[1].corrupted == one[1].clean
        assert PromptSet.from_plain(json.loads(json.dumps(one.plain()))) == one
    alone = PromptSet.from_file(file(tmp_path, "clean,answer\nThe cat,yes\n"))
    assert not alone[0].partner and alone[0].wrongs == ()
    row = {"clean": "a", "corrupted": "b", "answer": "c", "wrong": "d"}
    for change, words in (
        ({"answer": []}, "column 'answer' is ..; expected text"),
        ({"answer": ["x", 1]}, "expected text"),
        ({"wrong": ["d", "d"]}, "holds one text twice"),
        ({"wrong": ["d", "c"], "answer": ["c"]}, "both a right and a wrong"),
        ({"corrupted": "", "corrupted_spans": {"a": [0, 1]}}, "'corrupted_spans' is given and 'corrupted' is not"),
        ({"wrong": ""}, "column 'wrong' is ''; expected text"),
        ({"corrupted": 5}, "column 'corrupted' is 5"),
    ):
        with pytest.raises(PromptError, match=words):
            PromptSet.from_rows([{**row, **change}], name="x")


@pytest.mark.parametrize(
    ("clean", "answer", "said"),
    [
        ("She had a ball.", "She", "no space stands between .*ball.She"),
        ("She had a ball. ", "She", "ends with a space before"),
        ("She had a ball.", " She", ""),
        ("Which is bigger, 9.8 or 9.11? Answer:", "9.8", ""),
        ("Q: Who?\nA:\n", "She", ""),
        ("Paris", "ian", ""),
    ],
)
def test_where_prompt_and_answer_meet_is_said(clean: str, answer: str, said: str) -> None:
    from headlab.prompts import spacing

    found = spacing([Pair("a", Prompt(clean), Prompt(clean), answer, "zz", partner=False)])
    assert bool(found) == bool(said) and re.search(said, found)
