"""Inputs that go wrong, made by the thousand: each file that headlab reads, mutated by a seed.

Three ways: a file's data with hostile values put in, taken out, nested and repeated; its text cut, doubled, flipped and
re-encoded; and texts made to be too deep, too wide or too long.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    -0.0,
    2**31,
    2**63,
    2**64,
    -(2**70),
    10**40,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "é",
    "\ud800",
    "\x00",
    "\x1b[31m",
    "\u2028",
    "[/x]",
    "../../etc/passwd",
    "1e999",
    "010",
    "yes",
    "2:00",
    "null",
    "auto",
    "x" * 3000,
    "=cmd()",
    [],
    {},
    [[]],
    {"": {}},
    {"a": 1},
    [1, 2, 3],
    [None],
    ["x"] * 300,
    {"k" * 400: 1},
    [[[[1]]]],
]
TOKENS = [
    b"\xff",
    b"\x00",
    b"\r",
    b"\n",
    b"\t",
    b'"',
    b"'",
    b"[",
    b"]",
    b"{",
    b"}",
    b":",
    b",",
    b"#",
    b"&a ",
    b"*a",
    b"!!int ",
    b"<<: ",
    b"---\n",
    b"...",
    b"? ",
    b"- ",
    b"| ",
    b"> ",
    b"%YAML 9\n",
    b"010",
    b"0x1F",
    b"1_0",
    b"2:00",
    b"yes",
    b"~",
    b".nan",
    b"inf",
    b"1e5",
    b"NaN",
    b"Infinity",
    b"\\ud800",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    b"\xc3\x28",
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 600,
    b"a." * 500,
    b"'''",
    b'"""',
    b"=",
    b"\\",
    b"\\x",
    b"\\U0011FFFF",
    b"2020-02-30",
    b"\x85",
    b"\x1b[2J",
    b"<<9*2=18>>",
    b"||",
    b"####",
]


def places(data: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of plain data that is not too deep to be of interest."""
    found = [here]
    if len(here) > 60:
        return found
    if isinstance(data, dict):
        for k, v in data.items():
            found += places(v, (*here, k))
    elif isinstance(data, list):
        for i, v in enumerate(data):
            found += places(v, (*here, i))
    return found


def structural(data: Any, rng: random.Random) -> Any:
    """The data with one to three things wrong."""
    data = json.loads(json.dumps(data))
    for _ in range(rng.randint(1, 3)):
        place = rng.choice(places(data))
        if not place:
            if rng.random() < 0.05:
                return copy.deepcopy(rng.choice(HOSTILE))
            continue
        inner = data
        for step in place[:-1]:
            inner = inner[step]
        key, how = place[-1], rng.randrange(7)
        if how == 0:
            del inner[key]
        elif how == 1 and isinstance(inner, dict):
            inner[rng.choice(["", str(key) + "s", "x" * 500, "é", str(key).upper(), "\ud800"])] = inner.pop(key)
        elif how == 2:
            for _ in range(rng.choice([2, 40, 1200])):
                inner[key] = [inner[key]] if rng.random() < 0.5 else {"a": inner[key]}
                if rng.random() < 0.1:
                    break
            else:
                return data  # too deep to walk again
        elif how == 3 and isinstance(inner[key], list):
            inner[key] = inner[key] * rng.choice([2, 30, 2000])
        else:
            inner[key] = copy.deepcopy(rng.choice(HOSTILE))
    return data


def textual(text: bytes, rng: random.Random) -> bytes:
    """The text with one to four things wrong."""
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + 60)
        how = rng.randrange(9)
        if how == 0:
            text = text[:a] + text[b:]
        elif how == 1:
            text = text[:b] + text[a:]
        elif how in {2, 3, 4}:
            text = text[:a] + rng.choice(TOKENS) + text[a:]
        elif how == 5:
            text = text[:a] + bytes([rng.randrange(256)]) + text[a + 1 :]
        elif how == 6:
            text = text[:a]
        elif how == 7:
            lines = text.split(b"\n")
            rng.shuffle(lines) if rng.random() < 0.3 else lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            text = b"\n".join(lines)
        else:
            said = text.decode("utf-8", "replace")
            text = said.encode(rng.choice(["utf-16", "utf-32", "latin-1", "utf-8-sig", "cp1252"]), "replace")
    return text


def bomb(kind: str, rng: random.Random) -> bytes:
    """A text that is too deep, too wide, too long, or all of them."""
    n = rng.choice([40, 500, 5000, 60_000])
    deep, word = rng.choice([b"[", b'{"a":', b"{a: ", b"- ", b"? ", b"[[", b"(", b"a.", b"&a [*a,", b"[a."]), b"k%d" % n
    forms: list[bytes] = [
        deep * n,
        deep * n + b"]" * n,
        b"a: " + deep * n,
        b"a = " + b"[" * n + b"]" * n,
        b"a = " + b"{b=" * n + b"1" + b"}" * n,
        b".".join([b"a"] * n) + b" = 1",
        b"[" + b".".join([b"a"] * n) + b"]",
        b"\n".join(b"a%d.b.c = 1" % i for i in range(n)),
        b"\n".join(b"k%d: 1" % i for i in range(n)),
        b"p: [" + b"{s: x}, " * n + b"]",
        b"x" * n,
        word + b": " + b"9" * n,
        b'{"a": ' + b"9" * n + b"}",
        b"[" + b"{}," * n + b"{}]",
        b'"' + b"\\ud83d" * n + b'"',
        b"\n" * n,
        b"#" * n,
        b" " * n + b"a",
        b"a: |\n" + b" x\n" * n,
        b"'" * n,
        b'"' * n,
        b"%" * n,
        b"a: !!binary " + b"A" * n,
        b"---\n" * n,
        b"- a\n" * n,
        b"a,b,c,d\n" * n,
        b'clean,corrupted,answer,wrong\n"' + b"x" * n,
        b"clean,corrupted,answer,wrong\n" + b"a,b,c,d\n" * n,
        b"," * n,
        b"clean,corrupted,answer,wrong\n" + b"\n".join(b"a%d,b,c,d" % i for i in range(n)),
        b"blocks,success\n" + b"1,1\n" * n,
        b"blocks,success\n" + b" ".join(b"%d" % i for i in range(n)) + b",1\n2,0\n",
        b"q||" + b"<<" * n + b"#### 1",
        b"a: &a\n" * n,
        b"a: &x {k: *x}\n" * 3,
        b"\n".join(b"a%d: &a%d [*a%d, *a%d]" % (i, i, i - 1, i - 1) for i in range(1, min(n, 99))),
    ]
    return rng.choice(forms)


def mutated(data: Any, write: Callable[[Any], str], kind: str, n: int) -> bytes:
    """Input ``n`` of a kind: the same bytes for the same number, always."""
    rng = random.Random(f"{kind} {n}")
    how = rng.random()
    if how < 0.08:
        return bomb(kind, rng)
    try:
        plain = write(structural(data, rng)) if how < 0.55 else write(data)
    except RecursionError:  # too deep to be written; brackets are not
        plain = "[" * 3000 + "]" * 3000
    text = plain.encode("utf-8", "surrogatepass")
    return textual(text, rng) if how > 0.45 else text


# -- plain data as text ---------------------------------------------------------------------------------------------


def as_json(data: Any) -> str:
    """JSON, half characters and all; what is too deep to write is written as brackets."""
    try:
        return json.dumps(data, ensure_ascii=False, indent=1)
    except RecursionError:
        return "[" * 3000 + "]" * 3000


def as_yaml(data: Any) -> str:
    """A block mapping over flow values; strings mostly unquoted, as people write them."""
    if not isinstance(data, dict):
        return as_json(data)
    return "".join(f"{k}: {_flow(v)}\n" for k, v in data.items())


def _flow(value: Any) -> str:
    if isinstance(value, str):
        plain = value and value.replace(" ", "").replace("-", "").replace(":", "").isalnum()
        return value if plain and ": " not in value else json.dumps(value)
    if isinstance(value, list) and len(value) < 50 and all(isinstance(v, str | int | float) for v in value):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return as_json(value).replace("\n", " ")


def as_toml(data: Any) -> str:
    """Keys, inline tables and lists."""
    if not isinstance(data, dict):
        return as_json(data)
    return "".join(f"{json.dumps(str(k))} = {_inline(v)}\n" for k, v in data.items())


def _inline(value: Any, depth: int = 0) -> str:
    if depth > 200:
        return "[" * 300 + "]" * 300
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_inline(v, depth + 1)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(v, depth + 1) for v in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def as_csv(rows: Any) -> str:
    """The rows of a table, with the columns of the first."""
    import csv
    import io

    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        return as_json(rows)
    out = io.StringIO(newline="")
    columns = list(rows[0])
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([row.get(c, "") for c in columns] if isinstance(row, dict) else [row])
    return out.getvalue()


def as_json_lines(rows: Any) -> str:
    return "\n".join(as_json(r).replace("\n", "") for r in rows) if isinstance(rows, list) else as_json(rows)
