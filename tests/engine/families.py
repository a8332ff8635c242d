"""docs/families.md: every causal language model class of the installed transformers under headlab and under an oracle.

``python tests/engine/families.py --docs`` (or ``make families``) measures all and writes the page; names of families
after it measure those alone and leave the other rows.  Every model is measured in a process of its own, which ends
after :data:`SECONDS`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import warnings
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import against
import torch
import transformers
import zoo

from headlab.interventions import SITES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "families.md"
SECONDS, LIMIT = 300, 1e-4
STEPS = {
    "layers below an edit are skipped": "layers below",
    "rows run from the edited layer to the last position": "resuming",
    "positions before an edit are reused": "positions before",
    "linear edits are added after the output projection": "adding",
    "logits are computed only where they are read": "few logits",
    "norm and head run without the rest of the model": "ending",
    "decoding": "decoding",
}
_HEAD = """# Families

Every class of `AutoModelForCausalLM` in transformers {version}, and further configurations of some, each as a tiny random
model in float32 on a CPU ({date}; written by `make families`, and tests hold a sample of it). {count}

*Sites* are those of [engine.md](engine.md); *left out* are steps that save work there and change numbers here, so they are
not used, and *decoding* where text cannot be generated under interventions. The *largest difference* is that of a logit
difference, relative to the largest logit, between headlab's sweeps and `tests/engine/oracle.py`, which imports nothing of
headlab: plain hooks and a softmax of its own, held against the model's own logits first. Compared were the unedited
logits, and at every layer with heads z set to zero and patched, q and k and v (of KV heads) patched or zero, the
pattern patched or two keys of it masked, scores patched by half; in a middle layer z as a population's mean and with a
vector added, output blocks and subspaces zero, the residual stream patched by half; and paths from the first layer to
q, k, v and z of the last. More than {limit:.0e} would be a disagreement.

| family | class | loads | sites | left out | largest difference |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One model.  ``loads``: yes, no (refused), not built, or raises (which must not be); ``gap`` where it loads."""

    name: str
    made: str
    loads: str
    sites: str
    left_out: str = "–"
    gap: float | None = None

    def __str__(self) -> str:
        figure = "–" if self.gap is None else f"{self.gap:.1e}"
        return " | ".join(["| " + self.name, self.made, self.loads, self.sites, self.left_out, figure + " |"])

    @classmethod
    def read(cls, line: str) -> Row:
        *cells, figure = [c.strip() for c in line.strip().strip("|").split(" | ")]
        return cls(*cells, gap=None if figure == "–" else float(figure))

    @property
    def told(self) -> str:
        """What of it must not change between machines."""
        return re.sub(r"\d[\d.e+-]*", "#", " | ".join([self.name, self.made, self.loads, self.sites, self.left_out]))


def measured(family: str, variant: str = "") -> Row:
    """One row, in this process."""
    name = f"{family}: {variant}" if variant else family
    made = str(zoo.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family])
    try:
        model = zoo.build(family, variant)
        if model.made is None:
            return Row(name, made, "not built", _line(model.why))
        found = against.measure(model)
    except Exception as error:  # whatever it is, the table says so
        return Row(name, made, "raises", _line(f"{type(error).__name__}: {error}"))
    if found.refused:
        return Row(name, made, "no", _line(found.refused.replace(type(model.made).__name__, "the model")))
    closed = [s for s in SITES if s not in found.sites]
    sites = "all but " + ", ".join(closed) if closed else "all"
    left_out = ", ".join(STEPS[s] for s in found.left_out) or "none"
    worst = max(found.gaps, key=lambda k: found.gaps[k])
    loads = "yes" if found.largest <= LIMIT else f"disagrees ({worst})"
    return Row(name, made, loads, sites, left_out, found.largest)


def _line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:300]


def apart(family: str, variant: str = "") -> Row:
    """The same in a process of its own, within :data:`SECONDS`."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(measured(family, variant)))
    child.start()
    theirs.close()
    name, made = f"{family}: {variant}" if variant else family, str(zoo.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family])
    try:
        return ours.recv() if ours.poll(SECONDS) else Row(name, made, "raises", f"took more than {SECONDS} s")
    except EOFError:
        return Row(name, made, "raises", "its process died")
    finally:
        child.kill()
        child.join()


def warm() -> None:
    """What every child would import by itself otherwise."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for family in ("llama", "jamba", "gemma3n_text", "qwen2_vl", "fuyu"):
        zoo.build(family)


def on_page() -> list[Row]:
    """The rows as they stand in the docs."""
    lines = PAGE.read_text().splitlines() if PAGE.is_file() else []
    return [Row.read(line) for line in lines if line.startswith("| ") and not line.startswith("| family ")]


def version_on_page() -> str:
    found = re.search(r"in transformers (\S+),", PAGE.read_text())
    return found[1] if found else ""


def write(rows: list[Row]) -> None:
    """The page, with these rows in the place of older ones."""
    order = {f"{f}: {v}" if v else f: n for n, (f, v) in enumerate(zoo.names())}
    whole = {r.name: r for r in [*on_page(), *rows] if r.name in order}
    kinds = [r.loads for r in whole.values()]
    gaps = [r.gap for r in whole.values() if r.gap is not None]
    count = (
        f"Of {len(kinds)} models {kinds.count('yes')} load and agree, {kinds.count('no')} are refused in one sentence and "
        f"{kinds.count('not built')} could not be built; the largest difference is {max(gaps, default=0):.1e}."
    )
    if wrong := len(kinds) - sum(map(kinds.count, ("yes", "no", "not built"))):
        count += f" **{wrong} disagree or raise.**"
    told: dict[str, Any] = {"version": transformers.__version__, "date": date.today()}
    lines = [str(whole[name]) for name in sorted(whole, key=order.__getitem__)]
    PAGE.write_text(_HEAD.format(**told, count=count, limit=LIMIT) + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("families", nargs="*", help="measure these alone")
    given = parser.parse_args()
    os.nice(5)
    warm()
    for family, variant in zoo.names():
        if not given.families or family in given.families:
            row = apart(family, variant)
            print(row, flush=True)
            if given.docs:
                write([row])


if __name__ == "__main__":
    main()
