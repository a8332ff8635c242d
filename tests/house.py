"""How large the house is: ``python tests/house.py`` prints it, ``test_architecture.py`` holds its ceilings.

Everything is counted in ``src/headlab`` as it stands, formatted.

- *lines*: every line of a .py file, blank lines and docstrings too; a room is a folder or file below ``src/headlab``.
- *functions over 60 lines*: ``def`` to last line, decorators not counted, nested ones asked of by themselves.
- *Any*: the name in code, also inside quoted annotations; imports of it are not counted.  1,661 before the first move.
- *pandas inside*: ``import pandas`` anywhere within a function.
- *alike*: maximal runs of at least 12 identical lines of code between two files, indentation aside.  Blank lines,
  comments, docstrings and imports are taken out first.
- *beside it*: lines of YAML, templates and the like that ship (no weights), and the scripts of ``benchmarks`` and ``docs``.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import tokenize
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src" / "headlab"
BESIDE = {".yaml", ".yml", ".toml", ".json", ".j2", ".html", ".css", ".js", ".sh"}
LONG, RUN = 60, 12


def code_lines(text: str, tree: ast.Module) -> list[str]:
    """The lines of code of a file, stripped: no blank lines, comments, docstrings, imports."""
    out: set[int] = set()
    for node in ast.walk(tree):
        prose = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if prose or isinstance(node, ast.Import | ast.ImportFrom):
            out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    return [line.strip() for n, line in enumerate(lines, 1) if line.strip() and n not in out]


def alike(files: dict[str, list[str]], least: int = RUN) -> list[tuple[str, str, str, int]]:
    """Two files, the first line and the length of every maximal run of identical lines of code that they share."""
    where: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, lines in files.items():
        for start in range(len(lines) - least + 1):
            where[tuple(lines[start : start + least])].append((name, start))
    found = []
    for places in where.values():
        for (a, i), (b, j) in combinations(places, 2):
            if a == b or (i and j and files[a][i - 1] == files[b][j - 1]):
                continue  # one file, or the middle of a longer run
            ends = zip(files[a][i:], files[b][j:], strict=False)
            length = next((n for n, (x, y) in enumerate(ends) if x != y), min(len(files[a]) - i, len(files[b]) - j))
            found.append((a, b, files[a][i], length))
    return sorted(found)


def uses_of_any(tree: ast.Module) -> int:
    """How often code says ``Any``, quoted annotations included."""
    count = 0
    for node in ast.walk(tree):
        count += getattr(node, "id", getattr(node, "attr", None)) == "Any"
        for note in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(note, ast.Constant) and isinstance(note.value, str):
                count += len(re.findall(r"\bAny\b", note.value))
    return count


def house(source: Path = SOURCE) -> dict[str, Any]:
    """Every figure, by the name under which it is printed."""
    sizes, long, code, rooms, figures, beside = {}, {}, {}, Counter(), Counter(), Counter()
    for path in sorted(source.rglob("*.py")):
        text = path.read_text("utf-8")
        tree = ast.parse(text)
        name = str(path.relative_to(source))
        sizes[name] = len(text.splitlines())
        rooms[name.split("/")[0]] += sizes[name]
        code[name] = code_lines(text, tree)
        figures["fmt: skip"] += text.count("# fmt: skip")
        figures["Any"] += uses_of_any(tree)
        inside = set()
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
            if (length := (function.end_lineno or 0) - function.lineno + 1) > LONG:
                long[f"{name}:{function.name}"] = length
            inside |= {n for n in ast.walk(function) if isinstance(n, ast.Import) and n.names[0].name == "pandas"}
        figures["pandas inside"] += len(inside)
    for path in source.rglob("*"):
        if path.suffix in BESIDE and "weights" not in path.parts:
            beside[path.suffix] += len(path.read_text("utf-8").splitlines())
    for path in [*(REPOSITORY / "benchmarks").rglob("*.py"), *(REPOSITORY / "docs").rglob("*.py")]:
        beside["scripts"] += len(path.read_text("utf-8").splitlines())
    return {
        "rooms": dict(rooms.most_common()),
        "lines": sum(sizes.values()),
        "files": len(sizes),
        "median file": statistics.median(sizes.values()),
        "over 200 in experiments": sum(n > 200 for name, n in sizes.items() if name.startswith("experiments/")),
        "over 300": sum(n > 300 for n in sizes.values()),
        "functions over 60": long,
        **figures,
        "alike": {f"{a} ~ {b}": f"{n} lines from {line[:60]!r}" for a, b, line, n in alike(code)},
        "beside it": dict(beside.most_common()),
    }


if __name__ == "__main__":
    for name, figure in house().items():
        rows = figure if isinstance(figure, dict) else {}
        print(f"{name}: {len(rows) or figure}", *(f"    {key}: {value}" for key, value in rows.items()), sep="\n")
