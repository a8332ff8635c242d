"""The latent loop beside the usual code: ``python -m benchmarks.thoughts [--docs]``.

One job: mean-free zero ablation of single heads of a thinking organism on held-out problems, answers decoded.  The usual
code is the published procedure, one problem and one hook at a time; headlab runs the same rows in batches of several
sizes.  In every round each method runs once, in an order drawn anew; ratios are taken inside a round.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.envs import ROOT
from benchmarks.peers.hf import CACHE
from benchmarks.results import commit, machine, spread
from benchmarks.timing import timed

PAGE = ROOT / "docs" / "benchmarks-thoughts.md"
MODELS, BATCHES, TOKENS = ("thoughts-gpt2", "thoughts-llama"), (1, 16, 64, 256), 8


def official(thinker: Any, question: str, layer: int | None, head: int) -> str:
    """One answer by plain Hugging Face calls, one head's slice of the output projection's input set to zero."""
    model, spec, lab = thinker.model, thinker.spec, thinker.lab
    base, hook = model.codi.get_decoder(), None
    if layer is not None:
        attention = lab.attention_of(layer)
        projection = attention.c_proj if hasattr(attention, "c_proj") else attention.o_proj
        part = slice(head * lab.head_dim, (head + 1) * lab.head_dim)

        def zero(_module: Any, args: Any) -> Any:
            z = args[0].clone()
            z[..., part] = 0
            return (z,)

        hook = projection.register_forward_pre_hook(zero)
    try:
        device = lab.device
        ids = torch.tensor([[*thinker.tokenizer(question).input_ids, spec.bot]], device=device)
        out = base(input_ids=ids, use_cache=True)
        for _ in range(spec.n_thoughts):
            fed = model.prj(out.last_hidden_state[:, -1])
            out = base(inputs_embeds=fed[:, None], use_cache=True, **{CACHE: out[CACHE]})
        token, past, made = spec.eot, out[CACHE], []
        for _ in range(TOKENS):
            step = model.codi(input_ids=torch.tensor([[token]], device=device), use_cache=True, **{CACHE: past})
            token = int(step.logits[0, -1, : spec.eot].argmax())
            if token == thinker.tokenizer.eos_token_id:
                break
            made.append(token)
        return thinker.tokenizer.decode(made)
    finally:
        if hook is not None:
            hook.remove()


def measure(name: str, problems: int, rounds: int) -> dict[str, Any]:
    """As :func:`timed_rounds`, of a thinking organism on held-out problems and all of its heads."""
    from headlab.experiments.trial import load_thinker
    from headlab.tasks.word_problems import word_problems

    thinker = load_thinker(name)
    chosen = word_problems(problems, split="test", seed=7, **thinker.lab.info["problems"])
    grid = thinker.lab.grid
    heads = [(at, h) for at in range(grid.n_layers) for h in range(grid.n_heads)]
    asked = {p.id: p.question for p in chosen}
    return {"model": name, **timed_rounds(thinker, asked, heads, rounds)}


def timed_rounds(
    thinker: Any,
    asked: Mapping[str, str],
    heads: Sequence[tuple[int, int]],
    rounds: int,
    *,
    few: int = 3,
    batches: Sequence[int] = BATCHES,
) -> dict[str, Any]:
    """Seconds of one problem (by its name) in one world, for each method and round, and whether the answers agree.

    Loops are measured on a ``few`` problems.  Seconds are of the processor, with a device of its own by the wall's clock.
    """
    from headlab.heads import Head, Heads
    from headlab.thoughts.loop import think
    from headlab.thoughts.worlds import ThoughtWorld, ablation

    names, questions, problems = list(asked), list(asked.values()), len(asked)
    worlds = [ThoughtWorld("baseline"), *(ablation(str(h), Heads([h]), "zero") for h in (Head(*at) for at in heads))]
    few_of, device = list(range(min(few, problems))), thinker.lab.device.type

    def loop() -> list[str]:
        return [official(thinker, questions[i], *at) for i in few_of for at in [(None, 0), *heads]]

    def batched(size: int) -> Callable[[], list[str]]:
        some = few_of if size == 1 else range(problems)  # a loop's time does not depend on how many problems there are

        def run() -> list[str]:
            told = [questions[i] for i in some], [names[i] for i in some]
            return list(think(thinker, *told, worlds, batch=size, max_new_tokens=TOKENS)["text"])

        return run

    methods: dict[str, tuple[Callable[[], list[str]], int]] = {"published loop": (loop, len(few_of))}
    methods |= {f"headlab, {b} rows": (batched(b), len(few_of) if b == 1 else problems) for b in batches}
    wanted, rng, times = loop(), random.Random(0), {m: [] for m in methods}
    agree: dict[str, bool] = {}
    for _ in range(rounds):
        for method in rng.sample(list(methods), len(methods)):
            work, n = methods[method]
            found, *took = timed(work, device)
            times[method].append(took[device != "cpu"] / (n * len(worlds)))
            agree[method] = found[: len(wanted)] == wanted
    return {"worlds": len(worlds), "problems": problems, "times": times, "agree": agree}


def table(found: dict[str, Any]) -> list[str]:
    first = found["times"]["published loop"]
    lines = [
        f"## {found['model']}: {found['problems']} problems × {found['worlds']} worlds",
        "",
        "| method | ms CPU a row | × published loop | answers |",
        "|---|---|---|---|",
    ]
    for method, times in found["times"].items():
        s = spread([a / b for a, b in zip(first, times, strict=True)])
        ratio = f"{s['median']:.1f} [{s['low']:.1f}, {s['high']:.1f}] ({s['min']:.1f}–{s['max']:.1f})"
        ms = 1000 * sorted(times)[len(times) // 2]
        same = "the same" if found["agree"][method] else "**differ**"
        lines.append(f"| {method} | {ms:.2f} | {'reference' if method == 'published loop' else ratio} | {same} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thoughts", description=__doc__)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    where = machine(1, None)
    lines = [
        "# Benchmarks: thinking models",
        "",
        "Zero ablation of each head in turn, answers decoded: the published procedure (one problem, one hook, a growing",
        "cache) beside headlab's batched loop, in turn, one thread. Generated by `python -m benchmarks.thoughts --docs`.",
        "Ratios are the median over rounds, with their 95 % bootstrap interval and range; a row is one problem in one world.",
        "",
        f"{where['cpu']}, {where['cores']} cores, 1 thread, load {where['load_at_start']:.1f} at the start; "
        f"torch {torch.__version__}; {given.rounds} rounds; commit {commit(ROOT)}.",
        "",
    ]
    for name in MODELS:
        lines += table(measure(name, given.problems, given.rounds))
    text = "\n".join(lines)
    print(text)
    if given.docs:
        Path(PAGE).write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
