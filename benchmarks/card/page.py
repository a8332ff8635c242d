"""The part of docs/benchmarks.md that one run on a card makes beside the tables: what it checked, and the shares."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import spread

COMMAND = 'bash benchmarks/gpu.sh benchmarks/results/cuda.json && make bench ARGS="--docs-only"'
WORDS = {
    "rate": "the rate of a big matrix product", "plan": "the plan of the 8B shape", "laws": "laws 1 to 3 and 7",
    "model": "the 8B shape, proved", "waits": "no waiting in the loop of batches", "jobs": "the jobs",
    "loss": "loss and divergence", "thinking": "the latent loop", "memory": "halving when memory runs out",
}  # fmt: skip


def section(data: Mapping[str, Any]) -> list[str]:
    """Lines for a result file that has a run on a card; none for another."""
    card = data.get("card") or {}
    if not card:
        return []
    sizes = " **Tiny sizes: a try of the script, no measurement.**" if data["settings"].get("tiny") else ""
    out = [
        f"### One run on the card{sizes}",
        "",
        f"By `{COMMAND}`.",
        "",
        "| section | came of it | s |",
        "|---|---|---|",
    ]
    out += [f"| {WORDS[name]} | {_said(name, found)} | {found['seconds']:.0f} |" for name, found in card.items()]
    return [*out, "", *_shares(data), *_against(card, "loss", "headlab"), *_against(card, "thinking", "published loop")]


def _said(name: str, found: Mapping[str, Any]) -> str:
    got = found["found"]
    bad = [] if name not in {"laws"} else [key for key, one in got.items() if not one["holds"]]
    told = {
        "rate": lambda: ", ".join(f"{key} {value / 1e12:.3g} TF/s" for key, value in got.items()),
        "plan": lambda: "; ".join(f"{key}: {v['rows']} rows a batch, {v['bytes'] / 2**20:.0f} MB beside the model"
                                  for key, v in got.items() if isinstance(v, dict)),
        "laws": lambda: f"{len(got) - len(bad)} of {len(got)} models hold" + (f", not {', '.join(bad)}" if bad else ""),
        "model": lambda: ", ".join(f"{k} {v:.1e}" for k, v in got.items() if isinstance(v, float)),
        "waits": lambda: f"on {got['on']}: " + ", ".join(f"{k} {v} batches" for k, v in got.items() if k != "on"),
        "memory": lambda: f"{'held' if got['holds'] else '**did not hold**'} (difference {got['difference']:.0e}"
                          f"{', the refusal played' if got['played'] else ''})",
    }  # fmt: skip
    words = told[name]() if name in told and got and (found["status"] == "ok" or name != "memory") else ""
    return " ".join(filter(None, ["" if found["status"] == "ok" else f"**{found['status']}**", words])) or "measured"


def _shares(data: Mapping[str, Any]) -> list[str]:
    """Of the card's rate, what the floor's arithmetic takes at the speed that was measured."""
    rates = data["card"].get("rate", {}).get("found", {})
    out = []
    for entry in data["entries"]:
        rate = rates.get(entry["dtype"])
        for name, method in entry["methods"].items():
            if (rate and method["status"] == "ok" and method["rows"] > 1) or name == "headlab":
                each = statistics.median(method["wall"]) / 1000
                flops = entry["floor_flops"] / each
                out.append(
                    f"| {entry['job']} | {name} | {1 / each:.3g} | {flops / 1e12:.3g} | {100 * flops / rate:.1f} % |"
                )
    top = ["| job | method | interventions a second | TF/s of the floor's arithmetic | share of the card's rate |",
           "|---|---|---|---|---|"]  # fmt: skip
    return [*top, *out, ""] if out else []


def _against(card: Mapping[str, Any], name: str, first: str) -> list[str]:
    times: Mapping[str, Sequence[float]] = card.get(name, {}).get("found", {}).get("ms", {})
    if first not in times:
        return []
    label = "headlab is faster by" if first == "headlab" else f"× {first}"
    out = [f"| {WORDS[name]} | ms a row | {label} |", "|---|---|---|"]
    for method, some in times.items():
        pairs = zip(some, times[first], strict=True)
        s = spread([a / b if first == "headlab" else b / a for a, b in pairs])
        ratio = "" if method == first else f"{s['median']:.2f} ({s['min']:.2f}–{s['max']:.2f})"
        out.append(f"| {method} | {statistics.median(some):.3g} | {ratio} |")
    return [*out, ""]
