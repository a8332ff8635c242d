"""What somebody else wrote reaches terminals, pages, charts and spreadsheets as text, and ends nothing there."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import headlab
from headlab import report
from headlab.claims import Claim, Control, Prediction, decide
from headlab.cli import interrupt, main, show
from headlab.cli.progress import PATIENCE, Meter
from headlab.effects import Figure
from headlab.reading.shown import clean, clean_json, csv_text
from headlab.report import figures
from headlab.stats import clopper_pearson
from headlab.store import NamedEstimate, Reading, Record, Store, StoreError, StoreLookupError
from headlab.store.export import zipped
from headlab.store.outward import write_out
from headlab.trials.starting import saved

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(headlab.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
NASTY = "[/x] [link=http://a.example]y[/link] :smile: \x1b[31m\x9b2J\x07\x00\r\u202eabc\u2066\ufeff\U000e0041"
SEEN = r"[/x] [link=http://a.example]y[/link] :smile: \x1b[31m\x9b2J\x07\x00\r\u202eabc\u2066\ufeff" + r"\U000e0041"
CLAIM = Claim(
    id="c", words=NASTY, source=NASTY, experiment="parity",
    predictions=(Prediction(statistic="repair:even", op=">", threshold=0.5, words=NASTY),), controls=("no-op",),
)  # fmt: skip


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def acting(text: str) -> set[str]:
    """The characters of a text that would act instead of being read."""
    return {c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs"}} - set("\n\t\u200c\u200d")


def nasty_record() -> Record:
    value = clopper_pearson(90, 100, unit="pairs")
    control = Control(name="no-op", kind="negative", passed=True, words=NASTY, value=0.0)
    reading = Reading(
        protocol="standard", words=NASTY, verdict=decide(CLAIM, {"repair:even": value}, [control]),
        estimates=(NamedEstimate(name="repair:even", label=NASTY, arm=NASTY, estimate=value.to_dict()),),
    )  # fmt: skip
    figure = nasty_figure("estimates")
    return Record(
        id="parity-0123abcd", kind="trial", slug="parity", title=NASTY, status="complete",
        created="2025-01-02T03:04:05+00:00", key="ab" * 32, claim=CLAIM.model_dump(mode="json"),
        claim_hash=CLAIM.content_hash(), model={"name": NASTY}, readings=[reading], figures=[figure.plain()],
        sections=[{"heading": NASTY, "text": NASTY}], warnings=[NASTY], notes=[NASTY], error=NASTY,
        call={"command": NASTY, "python": NASTY}, settings={NASTY: NASTY}, versions={"torch": NASTY},
    )  # fmt: skip


def nasty_figure(kind: str) -> Figure:
    rows: dict[str, list[dict[str, object]]] = {
        "null": [{"value": 0.1}, {"value": 0.2}],
        "curve": [{"x": i, "y": 0.5, "low": 0.4, "high": 0.6, "series": NASTY} for i in range(2)],
        "estimates": [{"label": NASTY, "value": 0.5, "low": 0.4, "high": 0.6, "group": NASTY}],
        "pairs": [{"pair": NASTY, "world": NASTY, "value": 1.0}],
        "heatmap": [{"x": NASTY, "y": NASTY, "value": 0.5, "panel": NASTY}],
        "scatter": [{"x": 0.1, "y": 0.2, "label": NASTY, "group": NASTY}],
        "timeline": [{"x": i, "y": 0.5, "low": 0.4, "high": 0.6, "series": NASTY} for i in range(2)],
    }
    options: dict[str, object] = {"x_title": NASTY, "y_title": NASTY}
    if kind == "null":
        options |= {"observed": 0.3, "low": 0.2, "high": 0.4, "label": NASTY, "unit": NASTY}
    if kind == "timeline":
        options |= {"looks": [0, 1], "onsets": [{"x": 1, "label": NASTY}], "bands": []}
    if kind == "scatter":
        options["named"] = True
    return Figure(kind, "f", NASTY, NASTY, tuple(rows[kind]), options)  # type: ignore[arg-type]


def test_hidden_characters_are_shown_and_what_scripts_need_stays() -> None:
    """Looked for: C0, C1, DEL, bidi overrides and isolates, BOM, tags, half surrogates, U+FFFE; kept: line ends, tabs,
    the joiners, accents, other scripts, emoji with their joiner."""
    assert clean(NASTY) == SEEN and clean("\x7f\ud800\ufffe") == r"\x7f\ud800\ufffe"
    kept = "à\t−\n\u200cنامه‌ای 👩\u200d🔬 日本 \u00a0"
    assert clean(kept) == kept
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert not acting(clean(every))
    said = clean_json(json.dumps({"a": NASTY + "\ud800\x7f"}, ensure_ascii=False))
    assert json.loads(said) == {"a": NASTY + "\ud800\x7f"} and not acting(said)


@pytest.mark.parametrize("kind", ["null", "curve", "estimates", "pairs", "heatmap", "scatter", "timeline"])
def test_a_chart_draws_every_text(kind: str) -> None:
    """One control character in a chart's text ended the whole process (abort in the drawing library).

    Looked for: title, caption, labels, series, worlds, panels, groups, axis titles, onsets, of every kind of figure;
    titles that end in a backslash.
    """
    drawn = figures.svg(figures.spec(nasty_figure(kind)))
    assert not acting(drawn) and "x1b" in drawn and "abc" in drawn
    figures.svg(
        figures.spec(replace(nasty_figure(kind), options=dict.fromkeys(("x_title", "y_title", "label"), "a\\")))
    )


def test_a_page_shows_every_text() -> None:
    """Looked for: title, claim, predictions, controls, readings, sections, notes, warnings, settings, calls, figures,
    the chart's data in the page, children.  Markup of the page's own is not touched."""
    record = nasty_record()
    effects = pd.DataFrame(
        {"pair": [0, 1], "world": "even", "clean": 1.0, "edited": 2.0, "clean_text": NASTY, "edited_text": NASTY}
    )
    page = report.page(record, {"effects": effects}, [record])
    assert not acting(page) and page.count(r"\x1b[31m") > 10 and "<h1>[/x]" in page


def test_a_terminal_shows_every_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``[/x]`` in an arm's name was a MarkupError, ``[link=…]`` a link, ESC reached the terminal.

    Looked for: title, error, verdict, readings side by side and below each other, controls, children, sections,
    warnings, places; a table's headings and cells; plain lines.
    """
    record = nasty_record()
    for columns in ("200", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        stream = Screen() if columns == "80" else io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        for kind in ("trial", "demo"):
            shown = record.model_copy(update={"kind": kind})
            show.show_record(show.console(), shown, Store(tmp_path), Path(NASTY), [record])
        show.show_frame(show.console(), pd.DataFrame({NASTY: [NASTY], "[/x]": ["[bold]"]}), "")
        show.show_frame(show.console(), pd.DataFrame(), NASTY)
        show.console().print(NASTY, style="bold")
        text = stream.getvalue()
        monkeypatch.undo()
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)  # rich's own colours, on the screen only
        assert not acting(plain) and "\x1b[31m\x9b" not in text and "[/x]" in text and ":smile:" in text, columns


def test_lines_on_stderr_and_answers_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looked for: the one error line (a claim's, a run's, a column's name), ``query`` as table, JSON and CSV, progress on
    a terminal and beside one."""
    monkeypatch.setenv("HEADLAB_STORE", str(tmp_path / "runs"))
    assert main(["trial", NASTY.replace("\0", ""), "--model", "x"]) == 2
    out = capsys.readouterr()
    assert out.out == "" and not acting(out.err) and r"\x1b[31m" in out.err and out.err.count("\n") == 1
    for more in ([], ["--json"]):
        assert main(["query", "select '\x1b[31m\u202e' as \"[/x]\", '[bold]' as b", *more]) == 0
        out = capsys.readouterr()
        assert not acting(out.out) and "[/x]" in out.out and "[bold]" in out.out
    assert main(["query", "select '=1+1' as \"@a\", -1.5 as b, '-2' as c", "--csv"]) == 0
    assert capsys.readouterr().out == "'@a,b,c\n'=1+1,-1.5,-2\n"

    stream = Screen()
    monkeypatch.setenv("TERM", "xterm")
    with Meter(stream) as meter:
        meter._start -= 2 * PATIENCE
        meter("[/x]\x07\u202e", 1, 3)
    assert "[/x]" in stream.getvalue() and "\x07" not in stream.getvalue() and "\u202e" not in stream.getvalue()


def test_the_readme_of_a_zip_shows_every_text_in_its_line() -> None:
    """And no text passes for a line of the list of checksums below; half a surrogate, which UTF-8 cannot hold, is an escape."""
    forged = f"{NASTY}\n{'0' * 64}  runs/parity-0123abcd/record.json\ud800"
    record = nasty_record()
    for broken in (
        record,
        record.updated({"title": forged, "call": {"command": forged, "python": forged}, "readings": []}),
    ):
        with zipfile.ZipFile(io.BytesIO(zipped([broken], {broken.id: {}}, b"page"))) as archive:
            text = archive.read("README.txt").decode()
        assert not acting(text) and SEEN in text
        assert len(re.findall(r"^[0-9a-f]{64}  ", text, re.M)) == 3  # the page, the record, and all above the last line


def test_a_spreadsheet_takes_no_cell_for_a_formula(tmp_path: Path) -> None:
    """Looked for: text, categories, other string types, headings, missing cells; signs, white space that a spreadsheet
    skips, the wide forms; numbers (as numbers and as text) stay.  Every file and link: tables and figures of
    ``report.save``, the page's links, the export's tables, ``query --csv``."""
    cells = ["=1+1", "+a", "-a", "@SUM(A1)", "\t=1", "＝1", "- 1", "-1+cmd|' /C calc'!A0", "--1"]
    same = ["-1", "+1.5", "-.5e-3", "-inf", " =1", "a=1", "", "−1"]
    frame = pd.DataFrame({"=h": [*cells, *same, None]})
    for dtype in (object, "string", "category"):
        back = pd.read_csv(io.StringIO(csv_text(frame.astype(dtype))), keep_default_na=False, dtype=str)
        assert list(back.columns) == ["'=h"] and list(back["'=h"]) == [*(f"'{c}" for c in cells), *same, ""]
    numbers = pd.DataFrame({"a": [-1.5, float("-inf")], "b": [-2, 3]})
    assert csv_text(numbers) == numbers.to_csv(index=False, lineterminator="\n")
    assert csv_text(pd.DataFrame({"a": ["\ud800"]}, dtype=object)) == "a\n\\ud800\n"
    assert csv_text(pd.DataFrame({"a": ["\r=1"]})) == '"a"\n"\'\r=1"\n'
    assert csv_text(pd.DataFrame({"a": ["x\r=1"], "b": [-1.5]})) == '"a","b"\n"x\r=1",-1.5\n'
    two = pd.DataFrame([["=1", "-2"]], columns=["a", "a"])
    assert csv_text(two) == "a,a\n'=1,-2\n"

    rows = ({"label": "=evil()", "value": 0.5, "low": 0.4, "high": 0.6, "group": "@g"},)
    figure = Figure("estimates", "f", "t", "c", rows, {})
    record = nasty_record().model_copy(update={"figures": [figure.plain()]})
    tables = {"effects": pd.DataFrame({"text": ["=evil()"], "n": [-1]})}
    paths = report.save(record, tables, tmp_path, formats=("csv",))
    assert {p.name for p in paths} == {"effects.csv", "figure-f.csv"}
    assert (tmp_path / "effects.csv").read_text() == "text,n\n'=evil(),-1\n"
    assert "'=evil(),0.5,0.4,0.6,'@g" in (tmp_path / "figure-f.csv").read_text()


# -- how a command ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["models", "--help", "query 'select 1' --json"])
def test_a_reader_that_goes_ends_a_command_quietly(words: str, tmp_path: Path) -> None:
    """``| head -1``, here with nobody reading at all.  Looked for: tables, JSON, plain lines, the help, one short line
    (met only in the last flush), and an error line nobody reads."""
    runs = ["--store", str(tmp_path)] if words.startswith("query") else []
    code = "import shlex, sys; from headlab.cli import main; sys.exit(main(shlex.split(sys.argv[1]) + sys.argv[2:]))"
    end, start = os.pipe()
    os.close(end)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, words, *runs],
            stdout=start,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            timeout=120,
        )
    finally:
        os.close(start)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_that_lacks_a_sign_gets_its_escape(encoding: str, tmp_path: Path) -> None:
    """``models`` ended with code 2 under Latin-1.  Looked for: tables, plain lines, a record shown, the error line."""
    with Store(tmp_path).open(kind="run", slug="said", title="9.8 → 9.11", inputs={}, draft={"notes": ["→"]}) as made:
        run = made.finish().id
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "headlab"]
    done = subprocess.run([*command, "models"], capture_output=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"") and b"decimals-planted-even" in done.stdout
    assert b"\\u2026" in done.stdout  # the ellipsis in the last sentence
    done = subprocess.run(
        [*command, "show", run, "--store", str(tmp_path)], capture_output=True, env=environment, timeout=120
    )
    assert done.returncode == 0 and b"\\u2192" in done.stdout and b"Traceback" not in done.stderr
    done = subprocess.run([*command, "list", "→"], capture_output=True, env=environment, timeout=120)
    assert done.returncode == 2 and b"\\u2192" in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_signal_that_asks_for_the_end_is_remembered(name: str) -> None:
    """Looked for: Ctrl-C, a job's end, a terminal that goes away; one that is ignored (nohup) stays so; handlers are put
    back afterwards."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    try:
        with interrupt.listening():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            with pytest.raises(KeyboardInterrupt):
                interrupt.check()
        assert signal.getsignal(number) is (signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
        interrupt.check()
        signal.signal(number, signal.SIG_IGN)
        with interrupt.listening():
            signal.raise_signal(number)
            interrupt.check()
            assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_command_that_is_ended_says_so_in_one_line(name: str) -> None:
    """The whole way through parser and handlers, in a process of its own."""
    code = (
        "import signal, sys, os\n"
        "from headlab.cli import main, tree\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "@tree.app.command('stop')\n"
        "def stop() -> None:\n"
        f"    signal.raise_signal(signal.{name})\n"
        "sys.exit(main(['stop']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr == "headlab: interrupted; what was computed is kept, and the same command takes it up again\n"


# -- files that a user named --------------------------------------------------------------------------------


def test_output_replaces_nothing_but_an_ordinary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``export -o`` onto a device replaced it.  Looked for: ordinary files, links (whole, dangling, in a ring), pipes with
    and without a reader, sockets, folders; a file that cannot be replaced; ``export``, ``report.save``, a draft's name
    (``show --html`` and ``new -o`` go the same way)."""
    plain, link, dangling = tmp_path / "a.zip", tmp_path / "l.zip", tmp_path / "d.zip"
    link.symlink_to(plain)
    dangling.symlink_to(tmp_path / "new.zip")
    write_out(link, b"1")
    write_out(dangling, b"2")
    assert link.is_symlink() and plain.read_bytes() == b"1" and (tmp_path / "new.zip").read_bytes() == b"2"
    ring = tmp_path / "ring"
    ring.symlink_to(ring)
    pipe, plug = tmp_path / "pipe", tmp_path / "plug"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as taken:
        monkeypatch.chdir(tmp_path)
        taken.bind("plug")
        for place in (pipe, plug, ring, tmp_path, tmp_path / "none" / "x"):
            with pytest.raises(StoreLookupError, match="cannot write"):
                write_out(place, b"3")
    assert pipe.is_fifo() and plug.is_socket() and ring.is_symlink()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_out(pipe, b"4")
    assert os.read(reader, 9) == b"4" and pipe.is_fifo()
    os.close(reader)

    os.mkfifo(tmp_path / "effects.csv")
    tables = {"effects": pd.DataFrame({"a": [1]})}
    with pytest.raises(StoreLookupError, match=r"effects\.csv"):
        report.save(nasty_record(), tables, tmp_path, formats=("csv",))
    assert (tmp_path / "effects.csv").is_fifo()
    os.mkfifo(tmp_path / "c.yaml")
    (tmp_path / "c-2.yaml").write_bytes(b"\xff, which is no text")
    assert saved("id: c", tmp_path, "c") == tmp_path / "c-3.yaml" == saved("id: c", tmp_path, "c")
    record = nasty_record().model_copy(update={"title": "t"})
    with pytest.raises(StoreLookupError, match="pipe"):
        write_out(pipe, zipped([record], {record.id: {}}, b""))
    assert pipe.is_fifo() and not list(tmp_path.glob(".*.tmp"))


def test_clearing_up_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one ``finally: unlink`` of the source: a read-only disk refuses the clearing up as well."""

    def refuse(self: Path, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StoreError, match="disk full"):
        write_out(tmp_path / "a", b"1")
