"""Structured text of strangers: what is read, what is refused, and on which line things stand.

Looked for of each kind: every word and number that YAML 1.1 (as written), PyYAML, YAML 1.2 or a reader of numbers takes for
something else than text; every escape that makes no character (surrogates, NUL) in all three languages; depth by sequences,
mappings, inline tables, dotted keys and table headers; width by items, keys and documents; byte-order marks, Latin-1, UTF-16.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from headlab.reading import ReadingError, brief, nearest, read_document, some


def yaml(text: str) -> Any:
    return read_document(text, "yaml", name="c.yaml")[0]


# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("10", 10),
        ("-3", -3),
        ("0", 0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("-.1", -0.1),
        ("5.", 5.0),
        ("1.5e3", 1500.0),
        ("1.5e-3", 0.0015),
        ("'010'", "010"),
        ('"yes"', "yes"),
        ("'2:00'", "2:00"),
        ("1.2.3", "1.2.3"),
        ("L9H6", "L9H6"),
        ("0,2,4", "0,2,4"),
        ("1 of 2", "1 of 2"),
        ("arXiv 2211.00593", "arXiv 2211.00593"),
        ("recovery:even - recovery:odd", "recovery:even - recovery:odd"),
    ],
)
def test_yaml_values_that_every_reader_takes_alike(text: str, value: Any) -> None:
    found = yaml(f"key: {text}")["key"]
    assert found == value and type(found) is type(value)


GUESSES = [
    "010",
    "-07",
    "0x10",
    "0b11",
    "0o17",
    "1_000",
    "2:00",
    "190:20:30.15",
    "1e3",
    "1E5",
    "00",
    "01.5",
    "1_0.5",
    "+.inf",
    "-.INF",
    ".inf",
    ".nan",
    ".NaN",
    "yes",
    "No",
    "on",
    "OFF",
    "True",
    "FALSE",
    "Null",
    "NULL",
    "y",
    "N",
    "2001-01-01",
    "2001-12-14t21:59:43.10-05:00",
    "2001-02-30",
    "2001-12-14 21:59:43.10 -5",
    "=",
    "<<",
]


@pytest.mark.parametrize("text", GUESSES)
def test_what_yaml_would_guess_at_is_refused_with_its_line(text: str) -> None:
    for place, line in ((f"a: 1\nkey: {text}\n", 2), (f"- x\n- - b\n  - {text}\n", 3), (f"k: [1, {text}]\n", 1)):
        with pytest.raises(ReadingError, match=f"c.yaml: line {line}: .*quote it"):
            yaml(place)
    assert yaml(f"key: '{text}'") == {"key": text}


def test_every_word_that_pyyaml_would_turn_into_something_is_text_or_refused_or_the_same() -> None:
    """Against PyYAML itself: all words of up to three characters of the alphabet in which its guesses are written, and
    longer ones made of such: a value that it reads as other than text is refused here, or read as the same."""
    import itertools

    import yaml as pyyaml

    loader = pyyaml.SafeLoader("")
    parts = [*"01_:.e-79+xboyn~=<", "on", "yes", "true"]
    tried = refused = 0
    for n in (1, 2, 3):
        for made in itertools.product(parts if n < 3 else parts[:13], repeat=n):
            word = "".join(made)
            tag = loader.resolve(pyyaml.ScalarNode, word, (True, False))
            try:
                theirs = pyyaml.safe_load(f"k: {word}")
                if not isinstance(theirs, dict) or set(theirs) != {"k"}:
                    continue
                theirs = theirs["k"]
            except (pyyaml.YAMLError, ValueError):
                if tag == "tag:yaml.org,2002:str":
                    continue
                theirs = ReadingError
            tried += 1
            try:
                ours = yaml(f"k: {word}")["k"]
            except ReadingError:
                refused += 1
                continue
            if not isinstance(theirs, str):
                assert ours == theirs and type(ours) is type(theirs), word
            elif not isinstance(ours, str):  # -.1 and 1.5e3: with a point, text to PyYAML alone
                assert isinstance(ours, float) and "." in word, word
    assert tried > 1500 and refused > 100


def test_lines_of_yaml_and_toml() -> None:
    """By hand.  A multi-line string that looks like TOML moves nothing; lists of tables, inline and in headers, count."""
    text = "id: a\npredictions:\n  - {statistic: x,\n     op: '>'}\n  - op: '<'\n'n': [1,\n  2]\n"
    data, lines = read_document(text, "yaml")
    assert data == {"id": "a", "predictions": [{"statistic": "x", "op": ">"}, {"op": "<"}], "n": [1, 2]}
    assert lines == {
        ("id",): 1,
        ("predictions",): 2,
        ("predictions", 0): 3,
        ("predictions", 0, "statistic"): 3,
        ("predictions", 0, "op"): 4,
        ("predictions", 1): 5,
        ("predictions", 1, "op"): 5,
        ("n",): 6,
        ("n", 0): 6,
        ("n", 1): 7,
    }
    text = (
        'id = "a" # x = 1\nwords = """\npairs = 3\n[task]\n"""\n"odd key" = 3.25\npools = [\n  [0, 1], # even\n'
        '  {a = 1, b.c = [2]},\n]\n[task]\nfile = \'x\'\n[[predictions]]\nop = ">"\n[[predictions]]\nop = "<"\n'
        "[predictions.more]\nx = 1\n"
    )
    data, lines = read_document(text, "toml")
    assert data["pools"] == [[0, 1], {"a": 1, "b": {"c": [2]}}] and data["predictions"][1]["more"] == {"x": 1}
    assert lines == {
        ("id",): 1,
        ("words",): 2,
        ("odd key",): 6,
        ("pools",): 7,
        ("pools", 0): 8,
        ("pools", 0, 0): 8,
        ("pools", 0, 1): 8,
        ("pools", 1): 9,
        ("pools", 1, "a"): 9,
        ("pools", 1, "b", "c"): 9,
        ("pools", 1, "b", "c", 0): 9,
        ("task",): 11,
        ("task", "file"): 12,
        ("predictions",): 13,
        ("predictions", 0): 13,
        ("predictions", 0, "op"): 14,
        ("predictions", 1): 15,
        ("predictions", 1, "op"): 16,
        ("predictions", 1, "more"): 17,
        ("predictions", 1, "more", "x"): 18,
    }
    assert nearest(lines, ("predictions", 0, "threshold")) == 13 and nearest(lines, ("colour",)) is None


def test_files_with_marks_and_other_encodings(tmp_path: Path) -> None:
    def made(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    for name, data in (("a.yaml", b"id: x\n"), ("a.toml", b'id = "x"\n'), ("a.json", b'{"id": "x"}')):
        assert read_document(made(name, b"\xef\xbb\xbf" + data))[0] == {"id": "x"}
        assert read_document("\ufeff" + data.decode(), name[2:])[0] == {"id": "x"}  # type: ignore[arg-type]
    with pytest.raises(ReadingError, match=r"b.yaml, line 2: not UTF-8 .*save the file as UTF-8"):
        read_document(made("b.yaml", b"id: x\nwords: caf\xe9\n"))
    with pytest.raises(ReadingError, match=r"b.toml, line 1: not UTF-8"):
        read_document(made("b.toml", 'id = "x"'.encode("utf-16")))
    with pytest.raises(ReadingError, match=r"expected one of .yaml, .yml, .toml, .json"):
        read_document(made("b.txt", b""))
    for missing in (tmp_path / "none.yaml", tmp_path, Path("/dev/null"), tmp_path / ("x" * 400 + ".yaml")):
        with pytest.raises(ReadingError, match=r"no such file|cannot be read"):
            read_document(missing, "yaml")


# -- what is refused ---------------------------------------------------------------------------------------------------

ANCHORS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(b)}: &{chr(b)} [{', '.join(['*' + chr(b - 1)] * 9)}]\n" for b in range(ord("b"), ord("k"))
)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("yaml", ANCHORS, "line 1: an anchor or alias .'a'."),
        ("yaml", "a: &a\n  b: *a\n", "line 1: an anchor or alias"),
        ("yaml", "b: *a\n", "line 1: an anchor or alias"),
        ("yaml", "a: 1\nb: !!bool maybe\n", "line 2: the tag 'tag:yaml.org,2002:bool'"),
        ("yaml", "a: !!python/object/apply:os.system [ls]\n", "line 1: the tag"),
        ("yaml", "a: !x 1\n", "line 1: the tag '!x'"),
        ("yaml", "a: 1\n1: b\n", "line 2: the key 1 is no text"),
        ("yaml", "yes: b\n", "line 1: 'yes' is read as"),
        ("yaml", "? [a, b]\n: c\n", "line 1: the key .* is no text"),
        ("yaml", "~: c\n", "line 1: the key None is no text"),
        ("yaml", "<<: {a: 1}\n", "line 1: '<<' is read as"),
        ("yaml", "a: 1\n--- \nb: 2\n", "line 2: a second document"),
        ("yaml", "a: 1\nb: 2\na: 3\n", "line 3: 'a' stands twice"),
        ("yaml", "a: " + "[" * 500 + "]" * 500, "line 1: nested more than 32 deep"),
        ("yaml", "".join(f"{' ' * n}a:\n" for n in range(300)), "line 33: nested more than 32 deep"),
        ("yaml", "- " * 500 + "a", "line 1: nested more than 32 deep"),
        ("yaml", "p:\n" + "- {a: 1}\n" * 20_000, "larger than 131,072 bytes"),
        ("yaml", "p: [" + "1," * 20_000 + "]", "line 1: more than 10,000 values"),
        ("yaml", "a: " + "9" * 5000, "line 1: a whole number beyond 64 bits"),
        ("yaml", "a: 99999999999999999999", "line 1: 99999999999999999999 is beyond 64 bits"),
        ("yaml", "a: 1.5e999", "line 1: inf is no finite number"),
        ("yaml", 'a: 1\nb: "\\ud800"', "line 2: .*half a surrogate pair"),
        ("yaml", 'a: "x\\0y"', "line 1: .*NUL"),
        ("yaml", 'a: "\\UFFFFFFFF"', "is not YAML"),
        ("yaml", "a: 1\nb: \x07", "is not YAML: line 2: special characters are not allowed"),
        ("yaml", "a: [1\n", "is not YAML: line 2"),
        ("yaml", "%YAML 2.0\n---\na: 1", "is not YAML: line 1"),
        ("toml", "a = inf", "line 1: inf is no finite number"),
        ("toml", "b = 1\na = -nan", "line 2: nan is no finite number"),
        ("toml", "a = 2001-01-01", "line 1: '2001-01-01' is a date or a time"),
        ("toml", "a = 07:32:00", "line 1: '07:32:00' is a date or a time"),
        ("toml", "a = 99999999999999999999", "line 1: 99999999999999999999 is beyond 64 bits"),
        ("toml", "a = " + "9" * 5000, "is not TOML"),
        ("toml", "a = 1\na = 2", "is not TOML: Cannot overwrite a value .at end"),
        ("toml", "b = 1\n" + ".".join("a" * 60_000) + " = 1", "line 2: a key of more than 32 parts"),
        ("toml", "[" + " . ".join(["'a'"] * 100) + "]", "line 1: a key of more than 32 parts"),
        ("toml", "".join(f"a{n}.b.c = 1\n" for n in range(100_000)), "larger than 131,072 bytes"),
        ("toml", "a = " + "[" * 5000 + "]" * 5000, "nested more than 32 deep"),
        ("toml", "a = " + "{b=" * 500 + "1" + "}" * 500, "nested more than 32 deep"),
        ("toml", 'a = "\\ud800"', "is not TOML"),
        ("toml", 'b = 1\na = "\\u0000"', "line 2: .*NUL"),
        ("json", "[" * 100_000 + "]" * 100_000, "nested more than 32 deep"),
        ("json", '{"a":' * 100_000, "nested more than 32 deep"),
        ("json", "[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("json", '{"a": NaN}', "NaN is no finite number"),
        ("json", '{"a": -Infinity}', "-Infinity is no finite number"),
        ("json", '{"a": 1e999}', "inf is no finite number"),
        ("json", '{"a": ' + "9" * 5000 + "}", "is not JSON"),
        ("json", '{"a": "\\ud800"}', "half a surrogate pair"),
        ("json", '{"\\udfff": 1}', "half a surrogate pair"),
        ("json", '{"a": 1, "a": 2}', "'a' stands twice in one object"),
        ("json", "", "is not JSON"),
        ("json", '{"a": 1} x', "is not JSON: Extra data"),
        ("json", '{"a": "x\ny"}', "is not JSON"),
    ],
)
def test_what_no_document_may_hold(kind: Any, text: str, words: str) -> None:
    """One line of at most 500 characters, within a second, whatever the size of what was given."""
    start = time.process_time()
    with pytest.raises(ReadingError, match=words) as refused:
        read_document(text, kind, name="some/file")
    assert time.process_time() - start < 2
    assert len(str(refused.value)) <= 500 and "\n" not in str(refused.value)
    assert str(refused.value).startswith("some/file")


def test_surrogate_pairs_are_characters() -> None:
    assert read_document('{"a": "\\ud83d\\ude00"}', "json")[0] == {"a": "😀"}


def test_the_callers_error_is_raised() -> None:
    class Mine(ValueError):
        pass

    for source, kind in (("a: 010", "yaml"), ("a = inf", "toml"), ("[", "json"), (Path("none.json"), None)):
        with pytest.raises(Mine):
            read_document(source, kind, error=Mine)  # type: ignore[arg-type]


def test_values_in_messages_are_short_whatever_they_are() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    looped: list[Any] = []
    looped.append(looped)
    for value in ("x" * 10**6, "\n" * 10**6, deep, looped, 10**5000, {"a": "y" * 10**6}, list(range(10**5)), {1: deep}):
        assert len(brief(value)) <= 80 and "\n" not in brief(value)
    assert brief("short") == "'short'" and brief([1, 2]) == "[1, 2]"
    assert some(range(9)) == "0, 1, 2, 3, 4, 5 and 3 more" and len(some(["x" * 999] * 99)) < 400


def test_json_is_read_in_bounded_memory() -> None:
    """The widest JSON of the largest size, by peak of the interpreter's own allocations."""
    import tracemalloc

    text = "[" + ",".join(["{}"] * 20_000) + "]"
    tracemalloc.start()
    assert len(read_document(text, "json")[0]) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * len(text)
    assert json.loads("[]") == []


def test_time_grows_with_the_size_of_a_text_and_not_with_its_square(tmp_path: Path) -> None:
    """Long words, many columns and many quotes: what a fuzzer found to take minutes, and others of the kind."""
    from headlab.reading import csv_rows

    start = time.process_time()
    wide = tmp_path / "wide.csv"
    wide.write_text(",".join(f"c{n}" for n in range(60_000)) + "\n")
    assert len(csv_rows(wide)[0]) == 60_000
    wide.write_text("," * 60_000 + "\n")
    with pytest.raises(ReadingError, match="the column '' stands twice"):
        csv_rows(wide)
    for word in ("x", "_", "9", "'", '"', "a.", ". ", "a ", "[", "{", "-", "#", "0_", "1:", "\t", "\n", "=", "\\", "é"):
        for kind in ("yaml", "toml", "json"):
            for text in (word * 20_000, f"a: {word * 20_000}", f"a = {word * 20_000}"):
                try:
                    read_document(text, kind)  # type: ignore[arg-type]
                except ReadingError as error:
                    assert len(str(error)) <= 500
    assert time.process_time() - start < 30


@pytest.mark.parametrize("key", ["word\ng", "a\x1b[31mb", "x\u2028y"])
def test_a_key_that_would_break_a_line_is_escaped(key: str) -> None:
    """In claims, documents and lists of what is known: a key is somebody's text."""
    from headlab.claims import Claim, ClaimError
    from headlab.trials.document import Document

    claims: list[Any] = [
        lambda: Claim.from_data({"experiment": "parity", "id": "x", "words": "w", "source": "s", key: 1}, "it", {}),
        lambda: Document.from_data({"id": "x", "words": "w", "source": "s", "worlds": {}, "task": {key: 1}, key: 1}),
    ]
    for made in claims:
        with pytest.raises(ClaimError) as error:
            made()
        assert "\n" not in str(error.value) and str(error.value).isprintable(), str(error.value)
