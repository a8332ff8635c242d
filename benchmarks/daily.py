"""The ten daily jobs: headlab's lines, their time, and how far their numbers are from TransformerLens's.

    python -m benchmarks.daily        # writes the table in docs/looking.md

Each job is code as a reader writes it (its lines are counted), and a second implementation on a TransformerBridge with hooks,
on a model of its own with the family's eager attention.  The difference is the largest one of all numbers compared, of the
largest of them (shares and accuracies: as they are).  Seconds are of one process and one thread.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import headlab
from benchmarks.results import commit, machine
from headlab import organisms
from headlab.prompts import EncodedPair, align, encode
from headlab.tasks import TASKS
from headlab.thoughts.probing import control_labels
from headlab.trials.scores import REPEATED, _repeated

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 12
BEGIN, END = "<!-- ten jobs -->", "<!-- end of ten jobs -->"


@dataclass
class Bench:
    """A model for headlab and one for TransformerLens, pairs and a text."""

    lab: Any
    bridge: Any
    pairs: Any
    text: str

    @property
    def last(self) -> int:
        return self.lab.grid.n_layers - 1

    @property
    def encoded(self) -> list[EncodedPair]:
        return [encode(p, self.lab.tokenizer) for p in self.pairs]

    def run(self, ids: Any, hooks: dict[str, Callable[[Tensor], Tensor]] | None = None) -> Tensor:
        """Logits [position, vocabulary] with hooks by name."""

        def hooked(change: Callable[[Tensor], Tensor]) -> Any:
            return lambda x, hook: change(x)

        made = [(name, hooked(change)) for name, change in (hooks or {}).items()]
        with torch.no_grad():
            return self.bridge.run_with_hooks(torch.tensor([list(ids)]), fwd_hooks=made)[0]

    def seen(self, ids: Any, *names: str) -> list[Tensor]:
        """What hooks see, each [position, …]."""
        kept: dict[str, Tensor] = {}

        def keeper(name: str) -> Callable[[Tensor], Tensor]:
            return lambda x: kept.setdefault(name, x.clone())

        self.run(ids, {name: keeper(name) for name in names})
        return [kept[n][0] for n in names]

    def margin(
        self, pair: EncodedPair, which: str, hooks: dict[str, Callable[[Tensor], Tensor]] | None = None
    ) -> float:
        one = getattr(pair, which)
        logits = self.run(one.ids, hooks)[-1]
        return float(logits[one.answer_id] - logits[one.wrong_id])


def z(at: int) -> str:
    return f"blocks.{at}.attn.hook_z"


def leaving(at: int) -> str:
    return f"blocks.{at}.hook_out"


def heads(b: Bench) -> Iterator[tuple[int, int]]:
    return ((at, h) for at in range(b.lab.grid.n_layers) for h in range(b.lab.grid.n_heads))


def _reading(b: Bench, look: Any) -> tuple[Any, Any]:
    sites = [(s, at) for at in range(b.last + 1) for s in ("z", "resid")]
    theirs = b.seen(look.ids, *(z(at) if s == "z" else leaving(at) for s, at in sites))
    own = [look.logits, *(look[s, at] for s, at in sites)]
    flat = [b.run(look.ids), *theirs]
    return torch.cat([(x / y.abs().max()).flatten() for x, y in zip(own, flat, strict=True)]), torch.cat(
        [(y / y.abs().max()).flatten() for y in flat]
    )


def _patterns(b: Bench, look: Any) -> tuple[Any, Any]:
    ids = [e for e in headlab.read(b.lab, b.text).ids]
    (pattern,) = b.seen(ids, f"blocks.{b.last}.attn.hook_pattern")
    return look.table["value"], [float(pattern[1, r["query"], r["key"]]) for r in look.table.to_dict("records")]


def _grid(write: str) -> Callable[[Bench, Any], tuple[Any, Any]]:
    def peer(b: Bench, look: Any) -> tuple[Any, Any]:
        which, found = "corrupted" if write == "patch" else "clean", []
        clean = {(n, at): b.seen(p.clean.ids, z(at))[0] for n, p in enumerate(b.encoded) for at in range(b.last + 1)}

        def change(n: int, p: EncodedPair, at: int, h: int) -> Callable[[Tensor], Tensor]:
            target, origin = zip(*align(p, "role"), strict=True) if write == "patch" else ((), ())

            def edit(x: Tensor) -> Tensor:
                x = x.clone()
                if write == "zero":
                    x[0, :, h] = 0
                else:
                    x[0, list(target), h] = clean[n, at][list(origin), h]
                return x

            return edit

        plain = [b.margin(p, which) for p in b.encoded]
        for at, h in heads(b):
            edited = [b.margin(p, which, {z(at): change(n, p, at, h)}) for n, p in enumerate(b.encoded)]
            found.append(np.mean(edited) - np.mean(plain))
        return look.table["value"], found

    return peer


def _mean(b: Bench, look: Any) -> tuple[Any, Any]:
    """Each head at its mean over the other prompts, position by position: prompts of one length without roles."""
    found, every = [], [z(at) for at in range(b.last + 1)]
    runs = [torch.stack(b.seen(p.clean.ids, *every)) for p in b.encoded]
    assert len({one.shape for one in runs}) == 1, "prompts of one length"
    others = [torch.stack([r for m, r in enumerate(runs) if m != n]).double().mean(0).float() for n in range(len(runs))]
    plain = [b.margin(p, "clean") for p in b.encoded]
    for at, h in heads(b):

        def written(n: int, at: int = at, h: int = h) -> Callable[[Tensor], Tensor]:
            return lambda x: torch.cat([x[:, :, :h], others[n][at][None, :, h : h + 1], x[:, :, h + 1 :]], 2)

        edited = [b.margin(p, "clean", {z(at): written(n)}) for n, p in enumerate(b.encoded)]
        found.append(np.mean(edited) - np.mean(plain))
    return look.table["value"], found


def _attribution(b: Bench, look: Any) -> tuple[Any, Any]:
    """The slope of the margin of the corrupted run at each head, times how far the clean run's z is from it there."""
    every, total = [z(at) for at in range(b.last + 1)], np.zeros((b.last + 1, b.lab.grid.n_heads))
    for p in b.encoded:
        clean, own = b.seen(p.clean.ids, *every), b.seen(p.corrupted.ids, *every)
        nudges = [torch.zeros_like(x)[None].requires_grad_() for x in own]
        hooks = [(name, lambda x, hook, d=d: x + d) for name, d in zip(every, nudges, strict=True)]
        with torch.enable_grad():
            logits = b.bridge.run_with_hooks(torch.tensor([list(p.corrupted.ids)]), fwd_hooks=hooks)[0, -1]
            slopes = torch.autograd.grad(logits[p.corrupted.answer_id] - logits[p.corrupted.wrong_id], nudges)
        target, origin = (list(t) for t in zip(*align(p, "role"), strict=True))
        for at, slope in enumerate(slopes):
            total[at] += ((clean[at][origin] - own[at][target]) * slope[0, target]).sum((0, 2)).numpy()
    return look.table["value"], (total / len(b.encoded)).ravel()


def _lens(b: Bench, look: Any) -> tuple[Any, Any]:
    ids, theirs = headlab.read(b.lab, b.text).ids, []
    for at in range(b.last + 1):
        (resid,) = b.seen(ids, leaving(at))
        theirs.append(float(b.run(ids, {leaving(b.last): lambda _, r=resid: r[None]})[-1].double().softmax(-1).max()))
    return look.table["value"], theirs


def _direct(b: Bench, look: Any) -> tuple[Any, Any]:
    norm, head = b.lab.model.model.norm, b.lab.model.lm_head
    gain = norm.weight + (1 if "Gemma" in type(norm).__name__ else 0)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    total = np.zeros((b.last + 1, b.lab.grid.n_heads))
    for p in b.encoded:
        seen = b.seen(p.clean.ids, leaving(b.last), *(z(at) for at in range(b.last + 1)))
        scale = (seen[0][-1].pow(2).mean() + eps).rsqrt()
        towards = (head.weight[p.clean.answer_id] - head.weight[p.clean.wrong_id]) * gain * scale
        for at, h in heads(b):
            weight = b.lab.layers[at].self_attn.o_proj.weight.T.unflatten(0, (b.lab.grid.n_heads, -1))[h]
            total[at, h] += float(seen[1 + at][-1, h] @ weight @ towards)
    own = look.table[look.table["part"] == "head"]["value"]
    return own, (total / len(b.encoded)).ravel()


def _paths(b: Bench, look: Any) -> tuple[Any, Any]:
    q, to, found = f"blocks.{b.last}.attn.hook_q", 1, []
    plain = [b.margin(p, "corrupted") for p in b.encoded]
    every = [z(at) for at in range(b.last)]
    runs = [(b.seen(p.clean.ids, *every), b.seen(p.corrupted.ids, *every)) for p in b.encoded]
    for at, h in ((at, h) for at, h in heads(b) if at < b.last):
        changes = []
        for p, (clean, own), before in zip(b.encoded, runs, plain, strict=True):
            held = {name: (lambda _, v=own[n]: v[None]) for n, name in enumerate(every) if n >= at}
            sent, (target, origin) = own[at].clone(), zip(*align(p, "role"), strict=True)
            sent[list(target), h] = clean[at][list(origin), h]
            kept: list[Tensor] = []
            held[z(at)] = lambda _, v=sent: v[None]
            b.run(p.corrupted.ids, {**held, q: lambda x, kept=kept: kept.append(x.clone()) or x})

            def receive(x: Tensor, v: Tensor = kept[0]) -> Tensor:
                x = x.clone()
                x[:, :, to] = v[:, :, to]
                return x

            changes.append(b.margin(p, "corrupted", {q: receive}) - before)
        found.append(np.mean(changes))
    return look.table["value"], found


def _induction(b: Bench, look: Any) -> tuple[Any, Any]:
    at = torch.arange(REPEATED, 2 * REPEATED)
    rows = [e.ids for e in _repeated(b.lab)]
    seen = [b.seen(ids, *(f"blocks.{n}.attn.hook_pattern" for n in range(b.last + 1))) for ids in rows]
    return look.table["value"], [
        float(np.mean([float(one[n][h, at, at - REPEATED + 1].mean()) for one in seen])) for n, h in heads(b)
    ]


def _steer(b: Bench, look: Any) -> tuple[Any, Any]:
    names = list(dict.fromkeys(p.cluster or p.id for p in b.pairs))
    lends = [e for e in b.encoded if (e.pair.cluster or e.pair.id) in set(names[::2])]
    tried = [e for e in b.encoded if e not in lends]
    seen = [b.seen(p.clean.ids, leaving(1))[0][-1] - b.seen(p.corrupted.ids, leaving(1))[0][-1] for p in lends]
    way = torch.stack(seen).double().mean(0).float()

    def added(amount: float) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([x[:, :-1], x[:, -1:] + amount * way], 1)

    return look.table["value"], [
        np.mean([b.margin(p, "corrupted", {leaving(1): added(a)}) for p in tried]) for a in look.table["amount"]
    ]


def _probe(b: Bench, look: Any) -> tuple[Any, Any]:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import GroupKFold, KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    groups, own, theirs = np.array([p.cluster or p.id for p in b.pairs] * 2), [], []
    y, drawn = np.repeat(["clean", "corrupted"], len(b.pairs)), None
    drawn = control_labels(y, groups, 0)
    fit = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.05))
    for at, row in zip(range(b.last + 1), look.table.to_dict("records"), strict=True):
        each = [getattr(p, which).ids for which in ("clean", "corrupted") for p in b.encoded]
        x = np.stack([b.seen(ids, leaving(at))[0][-1].numpy() for ids in each]).astype(float)
        apart = GroupKFold(5, shuffle=True, random_state=0)
        theirs.append((cross_val_predict(fit, x, y, groups=groups, cv=apart) == y).mean())
        theirs.append((cross_val_predict(fit, x, drawn, cv=KFold(5, shuffle=True, random_state=0)) == drawn).mean())
        own += [row["value"], row["control"]]
    return own, theirs


JOBS: dict[str, tuple[str, Callable[[Bench, Any], tuple[Any, Any]]]] = {
    "read a text, every site": ("look = headlab.read(lab, text)", _reading),
    "attention patterns": ('look = headlab.show_attention(lab, text, f"L{last}H1")', _patterns),
    "patching, a grid of heads": ('look = headlab.heatmap(lab, pairs, "patch")', _grid("patch")),
    "ablation, a grid of heads": ('look = headlab.heatmap(lab, pairs, "zero")', _grid("zero")),
    "logit lens": ("look = headlab.logit_lens(lab, text)", _lens),
    "direct effects": ("look = headlab.direct_effects(lab, pairs)", _direct),
    "path patching": ('look = headlab.paths(lab, pairs, f"L{last}H1", "q")', _paths),
    "induction score": ("look = headlab.head_scores(lab)", _induction),
    "steering": ("look = headlab.steer(lab, pairs, 1, (-1, 0, 2))", _steer),
    "probing": ("look = headlab.probe(lab, pairs)", _probe),
}

MORE = {
    "ablation by the mean, a grid of heads": ('look = headlab.heatmap(lab, pairs, "mean")', _mean),
    "attribution, a grid of heads": ('look = headlab.heatmap(lab, pairs, "attribution")', _attribution),
}
"""Held against the same peer in the tests alone."""


def measured(b: Bench, job: str) -> tuple[int, float, float, float]:
    """Lines, headlab's seconds (the second time), the peer's, and the difference."""
    code, peer = {**JOBS, **MORE}[job]
    names: dict[str, Any] = {"headlab": headlab, "lab": b.lab, "pairs": b.pairs, "text": b.text, "last": b.last}
    exec(code, names)
    start = time.process_time()
    exec(code, names)
    middle = time.process_time()
    own, theirs = (np.asarray(x, dtype=float) for x in peer(b, names["look"]))
    end = time.process_time()
    assert own.shape == theirs.shape, f"{job}: {own.shape}, {theirs.shape}"
    return (
        len(code.splitlines()),
        middle - start,
        end - middle,
        float(abs(own - theirs).max() / max(1.0, abs(theirs).max())),
    )


def bench(folder: str, task: str, lab: Any = None) -> Bench:
    """A model in a folder, loaded twice."""
    from transformer_lens.model_bridge import TransformerBridge

    from benchmarks import models

    hf, tokenizer = models.load(folder, device="cpu", dtype="float32")
    bridge = TransformerBridge.boot_transformers(folder, hf_model=hf, tokenizer=tokenizer, device="cpu")
    lab = lab or headlab.load(folder)
    pairs = TASKS[task].pairs(PAIRS, seed=1, tokenizer=lab.tokenizer)
    return Bench(lab, bridge, pairs, pairs[0].clean.text)


def gemma(folder: str) -> str:
    """A random Gemma with the words of a real tokenizer."""
    from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "head_dim": 24,
    }
    config = GemmaConfig(
        vocab_size=50257, num_key_value_heads=1, bos_token_id=50256, eos_token_id=50256, pad_token_id=None, **sizes
    )
    GemmaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(shared() / "tokenizers" / "gpt2").save_pretrained(folder)
    return folder


def shared() -> Path:
    return Path(os.environ["HEADLAB_SHARED"]) / "data"


def told(where: dict[str, Any], date: str, at: str | None) -> str:
    """What the table was measured on, and when."""
    load = "" if where["load_at_start"] is None else f", load {where['load_at_start']:.1f} at the start"
    return (
        f"{where['cpu']}, {where['cores']} cores, one thread{load}; {where['system']}, Python {where['python']}, "
        f"torch {torch.__version__}; {date}, commit {at or 'unknown'}."
    )


def written(page: str, rows: dict[str, dict[str, tuple[int, float, float, float]]], measured_on: str) -> str:
    """The page with its table between the marks, and above it what it was measured on."""
    lines = [measured_on, "", f"| job | the line | {' | '.join(rows)} |", f"|---|---|{'---|' * len(rows)}"]
    for job, (code, _) in JOBS.items():
        cells = [f"{r[job][1]:.2f} s ({r[job][2]:.1f} s), {r[job][3]:.0e}" for r in rows.values()]
        lines.append(f"| {job} | `{code.removeprefix('look = ')}` | {' | '.join(cells)} |")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return before + "\n".join([BEGIN, "", *lines, "", END]) + after


def main() -> None:
    torch.set_num_threads(1)
    measured_on = told(machine(1, None), datetime.now(UTC).strftime("%Y-%m-%d"), commit(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        named = {
            "decimals-natural": (str(organisms.path("decimals-natural")), "decimals"),
            "ioi-small": (str(organisms.path("ioi-small")), "ioi"),
            "induction": (str(organisms.path("induction")), "induction"),
            "stories260k": (str(shared() / "models" / "stories260k"), "pronouns"),
            "a random Gemma": (gemma(folder), "ioi"),
        }
        rows = {}
        for name, (where, task) in named.items():
            made = bench(where, task)
            rows[name] = {job: measured(made, job) for job in JOBS}
            print(name, {job: f"{r[1]:.2f} s, {r[2]:.2f} s, {r[3]:.1e}" for job, r in rows[name].items()}, flush=True)
    page = ROOT / "docs" / "looking.md"
    page.write_text(written(page.read_text("utf-8"), rows, measured_on), "utf-8")


if __name__ == "__main__":
    main()
