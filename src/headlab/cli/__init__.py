"""The ``headlab`` command: parse, call, print.  ``--help`` loads none of the rooms below.

    tree       the command tree, and what its commands share
    trial      demo, trial
    claims     check, new, schema
    reanalysis  reanalyse, simulate
    cross_model  cross-model
    emergence  emergence
    null_rates  null-rates
    calibrate  calibrate
    records    list, show, compare, repeat, export, query
    view       view
    models     models, organism list | card | train | relabel
    options    options that several commands share
    errors     exceptions as one line on stderr, with the exit code
    progress   bars on a terminal, sparse lines elsewhere
    show       a record on a terminal
    organisms  the shipped organisms in words

Exit codes: 0 the trial ran, whatever the verdict; 2 bad input; 1 another failure; 3 a repeat that differs;
130 Ctrl-C, SIGTERM or SIGHUP; 141 whoever read the output has gone (`| head`).
"""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from contextlib import suppress
from typing import TextIO

from headlab.cli import (
    calibrate,
    claims,
    cross_model,
    emergence,
    interrupt,
    models,
    null_rates,
    reanalysis,
    records,
    trial,
    view,
)
from headlab.cli.errors import UNREAD, explain
from headlab.cli.tree import app
from headlab.reading.shown import clean

__all__ = [
    "app",
    "calibrate",
    "claims",
    "cross_model",
    "emergence",
    "main",
    "models",
    "null_rates",
    "reanalysis",
    "records",
    "trial",
    "view",
]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.  Errors become one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("HEADLAB_DEBUG", "") not in {"", "0"}
    given = [word for word in given if word != "--debug"]
    _hush(debug)
    _show_all()
    out = sys.stdout
    try:
        with interrupt.listening():
            code = app(given or ["--help"], prog_name="headlab", standalone_mode=False)
            out.flush()
        return code if isinstance(code, int) else 0
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError):
            return _unread(out)
        try:
            if debug:
                print(clean(traceback.format_exc()), file=sys.stderr)
            line, code = explain(error)
            print(f"headlab: {clean(line)}", file=sys.stderr)
        except BrokenPipeError:
            return _unread(out)
        return code
    except SystemExit as stop:  # how the libraries end when they meet a broken pipe
        if isinstance(stop.__context__, BrokenPipeError):
            return _unread(out)
        raise


def _show_all() -> None:
    """What a terminal's encoding has no sign for is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _unread(*streams: TextIO) -> int:
    """Nobody reads on: what is left goes nowhere, so that the interpreter's own flush at the end is quiet too."""
    for stream in filter(None, (*streams, sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    return UNREAD


def _hush(debug: bool) -> None:
    """Libraries' own notices would drown the one line that counts; ``--debug`` brings them back."""
    if debug:
        return
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
