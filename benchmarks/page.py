"""docs/benchmarks.md, written from result files alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.card import page as card
from benchmarks.jobs import JOBS
from benchmarks.models import MODELS
from benchmarks.peers import METHODS, REFERENCE
from benchmarks.results import BOUND, best_other, clock, speedup

Entry = Mapping[str, Any]

_INTRO = """\
# Benchmarks

headlab beside plain hooks, TransformerLens, nnsight and pyvene: the same model, prompts and interventions, the same
processor, in turn. This page is generated; repeat it, figures included, with

```sh
make bench                       # or: python -m benchmarks --docs
```

**×** is the time of the usual paper code (a hook on the output projection, one forward pass for each intervention) over
the time of the method: above 1 the method is faster. Brackets are 95 % bootstrap intervals over rounds, parentheses the
smallest and the largest round."""

_METHOD = """\
## How it is measured

- **Job.** {jobs}
- **Answer.** The logit difference of two tokens at the last position. Every method first answers the same 32
  interventions (loops: 8 of them); these and those timed in common with the reference are compared, and the largest
  difference stands in the table. A method beyond the bound is marked **differs**. The bound is
  {bounds}, times the largest answer where that exceeds 1 logit. Under each table stands how far the
  answers themselves spread, so that agreement is not agreement about nothing.
- **Clock.** CPU seconds of the method's process on a CPU, wall seconds with the device synchronised on a GPU, for one
  intervention. Each library runs in a process and an environment of its own, on a model loaded from the same file. In
  every round each method runs once, in an order drawn anew; ratios are taken inside a round, then the median over rounds.
- **Share.** A loop is measured on as many interventions as fill the least time of a measurement, a batched method on as
  many whole batches; the column *measured* says how many. **headlab does its whole job every round.** Times of whole jobs
  are therefore extrapolated for every method but headlab.
- **Set-up.** headlab's captures, clean and corrupted runs, planning and table are inside its time. What the peers need
  from the clean run is captured outside theirs, in their favour.
- **Peers at their best.** Beside the documented loop, each library is measured in the fastest way that was found: batches
  of rows with another intervention in each, logits of the last position only (`logits_to_keep`), and for nnsight the
  layers below the edit skipped. pyvene 0.1.8 has no pattern component for Llama, and GPT-2's hooks a module that the current
  transformers does not call here; `many` was not written for pyvene. `hf-rows` and `hf-rows-cached` are what a careful
  person would write by hand.
- **Floor.** The multiply-adds that any exact method must do after the edit (see `benchmarks/floor.py`), at the rate at
  which the same matrix products run by themselves, one batch after another, each with its own weights, in the same
  rounds. It knows nothing of softmax, norms, activations or overhead.
- **Memory.** Growth of peak resident memory (on a GPU: of allocated memory) over the loaded model, in a fresh process,
  for one batch of the job's rows (32; many: 256). headlab's includes its captures. Loops are left out.
- **Weights** are random but for the organism: time does not depend on their values."""


def _ratio(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "–"
    return "{median:.2f} [{low:.2f}, {high:.2f}] ({min:.2f}–{max:.2f})".format(**found)


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _median(method: Mapping[str, Any], which: str) -> float:
    return statistics.median(method[which])


def _ok(entry: Entry) -> dict[str, Mapping[str, Any]]:
    return {name: entry["methods"][name] for name in METHODS if entry["methods"].get(name, {}).get("status") == "ok"}


def _row(entry: Entry, name: str, which: str) -> str:
    method = entry["methods"][name]
    rows = "own" if method["family"] == "headlab" else method["rows"]
    label = f"**{name}**" if name == "headlab" else name
    if method["status"] != "ok":
        return f"| {label} | {rows} | {method['status']} | | | | | |"
    ratio = "reference" if name == REFERENCE else _ratio(speedup(entry, name, REFERENCE, which))
    gap = "reference" if name == REFERENCE else f"{method['difference']:.0e}"
    gap += "" if method["agrees"] else " **differs**"
    memory = "–" if method["memory"] is None else f"{method['memory'] / 2**20:.0f} MB"
    cells = [label, rows, _ms(_median(method, "cpu")), _ms(_median(method, "wall")), ratio, gap, memory,
             method["measured"]]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _floor(entry: Entry, which: str) -> tuple[float, float] | None:
    """(floor in milliseconds, headlab over floor)."""
    ours = _ok(entry).get("headlab")
    if ours is None or not entry["gemm"][which]:
        return None
    least = 1000 * entry["floor_flops"] / statistics.median(entry["gemm"][which])
    return least, _median(ours, which) / least


def _under(entry: Entry, which: str) -> list[str]:
    """What stands below a table: rate, floor, spread, extrapolated totals."""
    rate = statistics.median(entry["gemm"][which])
    out = [f"- Matrix product: {rate / 1e9:.0f} GF/s. Floor: {entry['floor_flops'] / 1e9:.3g} GF an intervention"]
    if found := _floor(entry, which):
        out[0] += f" = {_ms(found[0])} ms; **headlab takes {found[1]:.2f} × the floor**"
    out[0] += "."
    factor = entry["answers_spread"] / entry["bound"]
    out.append(f"- The reference's answers span {entry['answers_spread']:.2g} logits, {factor:,.0f} × the bound.")
    total = {n: entry["interventions"] * _median(m, which) / 1000 for n, m in _ok(entry).items()}
    words = [f"{REFERENCE} {_duration(total[REFERENCE])} (extrapolated)"]
    if (peer := best_other(entry, which)) and peer != REFERENCE:
        words.append(f"{peer} {_duration(total[peer])} (extrapolated)")
    if "headlab" in total:
        words.append(f"headlab {_duration(total['headlab'])} (measured)")
    out.append(f"- The whole job, {entry['interventions']:,} interventions: {', '.join(words)}.")
    if entry["device"] != "cpu" and "headlab" in total:
        out.append(f"- headlab: {entry['interventions'] / total['headlab']:.0f} interventions a second.")
    return out


def _section(entry: Entry) -> list[str]:
    which = clock(entry["device"])
    low, high = entry["lengths"]
    length = f"{low}" if low == high else f"{low} to {high}"
    what = f"{entry['heads']} heads of layer {entry['layer']}" if entry["heads"] else f"layer {entry['layer']}"
    return [
        f"### {entry['job']} on {entry['model']}", "",
        f"{JOBS[entry['job']]}. {what}, {entry['pairs']} pair(s) of {length} tokens, {entry['interventions']:,}"
        f" interventions, {entry['dtype']}.", "",
        f"| method | rows | ms CPU | ms wall | × {REFERENCE}, by {which} | logit difference | memory | measured |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(entry, name, which) for name in METHODS if name in entry["methods"]), "", *_under(entry, which), "",
    ]  # fmt: skip


def _summary(entries: Sequence[Entry]) -> list[str]:
    out = ["| model | job | headlab × paper code | fastest other | headlab × fastest other | headlab / floor |",
           "|---|---|---|---|---|---|"]  # fmt: skip
    for entry in entries:
        which = clock(entry["device"])
        if "headlab" not in _ok(entry):
            continue
        peer, least = best_other(entry, which), _floor(entry, which)
        against = _ratio(speedup(entry, "headlab", peer, which)) if peer else "–"
        ratio = _ratio(speedup(entry, "headlab", REFERENCE, which))
        out.append(f"| {entry['model']} | {entry['job']} | {ratio} | {peer or 'none ran'} | {against} | "
                   f"{f'{least[1]:.2f}' if least else '–'} |")  # fmt: skip
    return [*out, ""]


def _losses(entries: Sequence[Entry]) -> list[str]:
    """Every method that headlab does not clearly beat in time, and every one that it does not beat in memory."""
    out = []
    for entry in entries:
        which, ok, place = clock(entry["device"]), _ok(entry), f"{entry['job']} on {entry['model']}"
        if "headlab" not in ok:
            continue
        for name in ok:
            found = None if ok[name]["family"] == "headlab" else speedup(entry, "headlab", name, which)
            if found and found["low"] <= 1:
                word = "is faster" if found["high"] < 1 else "is not told apart"
                out.append(f"- {place}: {name} {word}; headlab × {name} = {_ratio(found)}.")
        own = ok["headlab"]["memory"]
        less = [n for n, m in ok.items() if m["memory"] is not None and own is not None and m["memory"] < own]
        if own is not None and less:
            out.append(f"- {place}: less memory for one batch than headlab's {own / 2**20:.0f} MB: {', '.join(less)}.")
        single = ok.get("headlab-single")
        if single:
            cost = _median(single, which) / _median(ok[REFERENCE], which)
            out.append(f"- {place}: a sweep for each single intervention takes {cost:.2f} × the time of {REFERENCE}.")
    fixed = [
        "- Nothing here measures generation, gradients, training or sites other than z and the pattern.",
        "- headlab reads one number for each intervention; a peer that hands out every activation does more than is"
        " timed here.",
    ]
    return [*(out or ["- No method was as fast as headlab at any of these jobs."]), *fixed, ""]


def _machine(data: Mapping[str, Any]) -> list[str]:
    m, s = data["machine"], data["settings"]
    versions: dict[str, dict[str, None]] = {}
    for family in data["versions"].values():
        for package, number in family.items():
            versions.setdefault(package, {})[number] = None
    listed = ", ".join(f"{p} {'/'.join(n)}" for p, n in sorted(versions.items()))
    load = "" if m["load_at_start"] is None else f", load {m['load_at_start']:.1f} at the start"
    return [
        f"{m['gpu'] or 'No GPU'}; {m['cpu']}, {m['cores']} cores, {m['threads']} thread(s){load}; {m['system']}, Python"
        f" {m['python']}; {data['date']}, commit {data['commit'] or 'unknown'}; {s['rounds']} rounds. {listed}.", "",
    ]  # fmt: skip


def page(files: Sequence[Mapping[str, Any]]) -> str:
    """The whole page.  Results on a CPU come first; a GPU that was not run is said to be so."""
    out = [_INTRO, ""]
    order = {(m, j): n for n, (m, j) in enumerate((m, j) for m in MODELS for j in JOBS)}
    sections: list[str] = []
    for device, title in (("cpu", "On a CPU"), ("cuda", "On a GPU")):
        found = [f for f in files if f["settings"]["device"] == device and (f["entries"] or f.get("card"))]
        if not found:
            what = "GPU" if device == "cuda" else "CPU"
            command = card.COMMAND if device == "cuda" else "python -m benchmarks --docs"
            out += [f"## {title}", "", f"{what}: not run yet; command: `{command}`", ""]
            continue
        for data in found:
            entries = sorted(data["entries"], key=lambda e: order.get((e["model"], e["job"]), len(order)))
            out += [f"## {title}", "", *_machine(data), *card.section(data), *_summary(entries)]
            out += [f"### Where headlab does not win{' (GPU)' if device == 'cuda' else ''}", "", *_losses(entries)]
            sections += [f"## Every method, {title[0].lower()}{title[1:]}", ""]
            for entry in entries:
                sections += _section(entry)
    jobs = " ".join(f"`{n}`: {about}." for n, about in JOBS.items())
    bounds = [f"{BOUND[dtype]:g} logits in {dtype}" for dtype in ("float32", "bfloat16")]
    models = [f"- `{n}`: {m.about}{' (only on a GPU)' if m.cuda_only else ''}" for n, m in MODELS.items()]
    methods = [f"- `{n}`: {m.about}" for n, m in METHODS.items()]
    out += sections
    out += [_METHOD.format(jobs=jobs, bounds=", ".join(bounds)), "", "## Models", "", *models, ""]
    return "\n".join([*out, "## Methods", "", *methods, ""])


def merged(new: str, old: str) -> str:
    """The new page, with the old one's sections of a device where the new one has none of it."""
    mine, before = _by_heading(new), _by_heading(old)
    for title in ("## On a CPU", "## On a GPU"):
        many = f"## Every method, {title[3].lower()}{title[4:]}"
        if ": not run yet;" in mine.get(title, "") and ": not run yet;" not in before.get(title, ": not run yet;"):
            mine[title] = before[title]
            if many in before:
                place = list(mine).index("## How it is measured")
                some = list(mine.items())
                mine = dict([*some[:place], (many, before[many]), *some[place:]])
    return "".join(mine.values())


def _by_heading(text: str) -> dict[str, str]:
    """A page in its parts, by the line that heads each."""
    parts: dict[str, str] = {}
    title = ""
    for line in text.splitlines(keepends=True):
        title = line.strip() if line.startswith("## ") else title
        parts[title] = parts.get(title, "") + line
    return parts
