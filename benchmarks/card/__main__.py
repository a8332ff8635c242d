"""The command: ``python -m benchmarks.card OUT.json`` (see ``--help``; ``bash benchmarks/gpu.sh`` finds a Python first)."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = time.monotonic()
SHARES = {"rate": 15, "plan": 30, "laws": 75, "model": 60, "waits": 35, "jobs": 130, "loss": 45, "thinking": 45,
          "memory": 25}  # fmt: skip
"""Seconds of each section where there are eight minutes; what one leaves over goes to those after it."""

NEEDS = """\
needs: Python 3.11 or newer with torch (a CUDA build) and what headlab needs (pyproject.toml: transformers, pandas, ...);
a card with 64 GB or more (of 16 GB three copies are made), 24 GB of main memory, no network, no model from a hub, nothing
on disk but OUT.json. nnsight is measured where it is installed and left out, with that reason, where it is not.
OUT.json is written anew after every finding, so that what was found is there whatever happens. Put it into the
documentation with: make bench ARGS="--docs-only --out OUT.json"
"""


class TimeUp(Exception):
    """A section's time is over."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raises TimeUp inside when the time is over (a call into a library first comes back)."""

    def ring(*_: Any) -> None:
        raise TimeUp(f"more than its {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def write(data: dict[str, Any], out: Path) -> None:
    """The file appears whole or not at all."""
    draft = out.with_name(out.name + ".part")
    draft.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
    draft.replace(out)


def section(
    data: dict[str, Any], out: Path, name: str, work: Callable[[], Iterator[tuple[str, Any]]], seconds: float
) -> None:
    """Run one, keep what it finds as it goes, and write down how it ended: ``status`` is ok, or why it is not."""
    from benchmarks.results import without_paths

    found = data["card"][name] = {"status": "begun", "seconds": 0.0, "found": {}}
    began, cpu = time.monotonic(), time.process_time()
    try:
        with alarm(seconds):
            for key, value in work():
                found["found"][key] = value
                found["seconds"] = round(time.monotonic() - began, 2)
                write(data, out)
        found["status"] = "ok"
    except TimeUp as error:
        found["status"] = f"out of time: {error}"
    except Exception as error:
        traceback.print_exc()
        found["status"] = f"failed: {type(error).__name__}: {without_paths(' '.join(str(error).split()))}"
    found["seconds"] = round(time.monotonic() - began, 2)
    print(f"{name}: {found['status']} ({found['seconds']} s, processor {time.process_time() - cpu:.1f} s)", flush=True)
    write(data, out)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bash benchmarks/gpu.sh", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog=NEEDS,
    )  # fmt: skip
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all sections together (default 8)")
    parser.add_argument("--tiny", action="store_true", help="small sizes everywhere: does the script run?")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: only with --tiny")
    parser.add_argument("--only", default=",".join(SHARES), help="sections, comma-separated (default: all)")
    args = parser.parse_args(given)
    if unknown := set(args.only.split(",")) - set(SHARES):
        parser.error(f"unknown section {', '.join(sorted(unknown))}; expected some of {', '.join(SHARES)}")
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu goes with --tiny: the 8B shape is for a card")
    if not args.minutes > 0:
        parser.error(f"--minutes is {args.minutes}; expected more than 0")
    return args


def head(args: argparse.Namespace) -> dict[str, Any]:
    """What ran where, in the form of the benchmarks' own files."""
    import torch

    from benchmarks import results
    from benchmarks.envs import ROOT

    name = torch.cuda.get_device_name() if args.device == "cuda" else None
    told = {"device": args.device, "tiny": args.tiny, "minutes": args.minutes, "rounds": 1 if args.tiny else 3}
    return {**results.fresh(told, results.machine(torch.get_num_threads(), name), ROOT), "card": {}}


def run(args: argparse.Namespace, begun: float | None = None) -> dict[str, Any]:
    """Every section that was asked for, in the minutes from ``begun`` (now); returns what was written."""
    import torch

    out: Path = args.out
    out.parent.mkdir(parents=True, exist_ok=True)
    if args.device == "cuda" and not torch.cuda.is_available():
        write({"settings": {"device": args.device}, "entries": [], "card": {}, "failed": "torch finds no GPU"}, out)
        raise SystemExit(
            f"torch {torch.__version__} finds no GPU here; --tiny --device cpu tries the script without one"
        )
    data, until = head(args), (begun or time.monotonic()) + 60 * args.minutes
    write(data, out)
    from benchmarks.card import measured, sections
    from benchmarks.card.room import Room

    room = Room(args.device, args.tiny, until)
    every: dict[str, Callable[[Room], Iterator[tuple[str, Any]]]] = {
        "rate": sections.rate, "plan": sections.plan, "laws": sections.laws, "model": sections.model,
        "waits": sections.waiting, "jobs": measured.jobs, "loss": measured.loss, "thinking": measured.thinking,
        "memory": sections.memory,
    }  # fmt: skip
    chosen, spare = args.only.split(","), 0.0
    for name, work in every.items():
        if name not in chosen:
            continue
        share = SHARES[name] * args.minutes / 8 + spare
        section(data, out, name, lambda work=work: work(room), min(share, room.left()))
        spare = max(0.0, share - data["card"][name]["seconds"])
        room.reset()
    found = data["card"].get("jobs", {}).get("found", {})
    data["versions"] = found.pop("versions", {})
    data["entries"] = [found.pop(name) for name in list(found)]
    write(data, out)
    return data


def main(given: list[str] | None = None) -> None:
    data = run(arguments(given), START)
    failed = [name for name, found in data["card"].items() if found["status"] != "ok"]
    print(f"done in {time.monotonic() - START:.0f} s; not whole: {', '.join(failed) or 'none'}", flush=True)
    sys.exit(3 if failed else 0)


if __name__ == "__main__":
    main()
