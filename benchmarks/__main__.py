"""The command: ``python -m benchmarks`` (see ``--help``)."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks import envs, page, results
from benchmarks.driver import Client, Failed, Settings, measure
from benchmarks.jobs import JOBS
from benchmarks.models import MODELS
from benchmarks.peers import METHODS, REFERENCE

RESULTS = envs.ROOT / "benchmarks" / "results"


def _names(known: Collection[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(x for x in text.replace(",", " ").split() if x)
        if unknown := [x for x in chosen if x not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; expected some of {', '.join(known)}")
        return tuple(k for k in known if k in chosen)

    return parse


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure headlab beside its peers: the same model, the same interventions, in turn, round by round.",
    )
    parser.add_argument("--models", type=_names(MODELS), default=tuple(MODELS), help="comma-separated; see --list")
    parser.add_argument("--jobs", type=_names(JOBS), default=tuple(JOBS))
    parser.add_argument("--methods", type=_names(METHODS), default=tuple(METHODS), help=f"{REFERENCE} is always run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="rows of a batched call (default: the job's: 32, many: 256)")
    parser.add_argument("--interventions", type=int, default=512, help="of the jobs Z, P and last (default 512)")
    parser.add_argument("--seconds", type=float, default=1.0, help="least length of one measurement (default 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32, cuda bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="make no environments: what this one can import")
    parser.add_argument("--envs", type=Path, default=envs.ENVS, help="where the peers' environments are kept")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory measurements")
    parser.add_argument("--out", type=Path, help="result file (default benchmarks/results/DEVICE.json)")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md from every result file")
    parser.add_argument("--docs-only", action="store_true", help="the same, without measuring")
    parser.add_argument("--list", action="store_true", help="list models, jobs and methods")
    return parser


def listing() -> str:
    lines = ["models"]
    lines += [f"  {n:18} {m.about}{' (only on a GPU)' if m.cuda_only else ''}" for n, m in MODELS.items()]
    lines += ["jobs", *(f"  {n:18} {about}" for n, about in JOBS.items()), "methods"]
    return "\n".join([*lines, *(f"  {n:18} {m.about} ({', '.join(m.jobs)})" for n, m in METHODS.items())])


def _gpu(device: str) -> str | None:
    """The accelerator's name, asked of a process of its own; ends the program where there is none."""
    if device == "cpu":
        return None
    with tempfile.TemporaryDirectory() as folder, Client("hf", sys.executable, 1, Path(folder) / "log") as client:
        name = client.ask("device")["name"]
    if name is None:
        raise SystemExit("--device cuda: torch finds no GPU in this environment")
    return name


def _started(out: Path, settings: Settings) -> dict[str, Any]:
    """A new account, or the file's own when it is of this machine and this commit: then jobs are added to it."""
    made = results.fresh(settings.plain(), results.machine(settings.threads, _gpu(settings.device)), envs.ROOT)
    if not out.is_file():
        return made
    old = json.loads(out.read_text(encoding="utf-8"))
    same = all(old["machine"].get(k) == made["machine"][k] for k in ("cpu", "gpu", "cores", "threads"))
    if same and old["commit"] == made["commit"] and old["settings"] == made["settings"]:
        return {**made, "entries": old["entries"], "versions": old["versions"]}
    print(f"{out.name} is of another machine, commit or setting: it is replaced", flush=True)
    return made


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers end and the temporary models go
    args = arguments().parse_args()
    if args.list:
        print(listing())
        return
    if not args.docs_only:
        out = args.out or RESULTS / f"{args.device}.json"
        dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
        settings = Settings(
            args.models, args.jobs, tuple(dict.fromkeys((REFERENCE, *args.methods))), args.rounds, args.rows,
            args.interventions, args.seconds, args.device, dtype, args.threads, args.here, not args.no_memory,
            args.envs.resolve(),
        )  # fmt: skip
        try:
            measure(settings, _started(out, settings), out)
        except Failed as error:
            raise SystemExit(f"a worker failed: {error}") from error
        print(f"written: {out}")
    if args.docs or args.docs_only:
        files: list[Path] = sorted(
            {*RESULTS.glob("*.json"), *([args.out.resolve()] if args.out and args.out.is_file() else [])}
        )
        target = envs.ROOT / "docs" / "benchmarks.md"
        made = page.page([json.loads(f.read_text(encoding="utf-8")) for f in files])
        before = target.read_text(encoding="utf-8") if target.is_file() else ""
        target.write_text(page.merged(made, before), encoding="utf-8")
        print(f"written: {target.relative_to(envs.ROOT)}")


if __name__ == "__main__":
    main()
