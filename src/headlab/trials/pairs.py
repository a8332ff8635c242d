"""What trials on prompt pairs share: eligibility, the layer, worlds as a protocol makes them, the two controls of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headlab.claims import Control, Protocol, judged
from headlab.effects import Table, graded, of_world, repair
from headlab.engine.model import Lab
from headlab.engine.selfcheck import TOLERANCE
from headlab.heads import Heads
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import Encoded, EncodedPair, encode_prompt, prompts_of
from headlab.stats import Estimate, clustered_rate, paired_difference
from headlab.stats.figures import percent
from headlab.store import NamedEstimate
from headlab.tasks.decimals import fill, get_format, numbers
from headlab.trials.case import Bench
from headlab.trials.eligibility import CLEAN_AT_LEAST, CORRUPTED_AT_MOST, PAIRS_AT_LEAST

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Eligibility:
    """Whether the model shows what is to be explained, and the pairs on which it does."""

    ok: bool
    reason: str
    clean: Estimate
    corrupted: Estimate
    parsed: Estimate
    pairs: tuple[EncodedPair, ...]

    def usable(self, bench: Bench) -> list[EncodedPair]:
        """Eligible pairs; every pair when there are too few to say anything (the verdict is then untestable)."""
        return list(self.pairs) if len(self.pairs) >= 2 else bench.encoded

    def plain(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "reason": self.reason,
            "clean": self.clean.to_dict(),
            "corrupted": self.corrupted.to_dict(),
            "parsed": self.parsed.to_dict(),
            "eligible_pairs": len(self.pairs),
            "rule": f"clean accuracy ≥ {CLEAN_AT_LEAST:.0%}, corrupted ≤ {CORRUPTED_AT_MOST:.0%}, on ≥ {PAIRS_AT_LEAST} pairs",
        }


def clusters_of(pairs: Sequence[EncodedPair]) -> list[str]:
    """The cluster of each pair: its own id where it has none."""
    return [p.pair.cluster or p.pair.id for p in pairs]


def in_format(pair: EncodedPair, name: str, tokenizer: Any) -> Encoded:
    """The comparison of a pair of decimals asked in another format ("bigger")."""
    prompt = fill(get_format(name), *numbers(pair.pair.clean), "bigger", tokenizer)
    return encode_prompt(prompt, pair.pair.answer, pair.pair.wrong, tokenizer)


def distinct(pairs: Sequence[EncodedPair]) -> int:
    """Pairs that differ in their prompts: what eligibility counts."""
    return len({prompts_of(p.pair) for p in pairs})


def eligibility(bench: Bench, protocol: Protocol) -> Eligibility:
    """Clean and corrupted accuracy under the protocol's own decoding and grading; eligible pairs are answered rightly
    from the clean prompt and wrongly from the corrupted one."""
    pairs = bench.encoded
    base = [World("unedited")]
    clean = bench.texts(
        [replace(p, corrupted=p.clean) for p in pairs], base, protocol, f"clean prompts ({protocol.name})"
    )
    corrupted = bench.texts(pairs, base, protocol, f"corrupted prompts ({protocol.name})")
    clusters = clusters_of(pairs)

    def rate(values: Any) -> Estimate:
        return clustered_rate(values, clusters=clusters, unit="pairs")

    right, bug = clean["right"].to_numpy(bool), ~corrupted["right"].to_numpy(bool)
    kept = tuple(p for p, a, b in zip(pairs, right, bug, strict=True) if a and b)
    problems = []
    if (n := distinct(pairs)) < PAIRS_AT_LEAST:
        problems.append(f"eligibility needs at least {PAIRS_AT_LEAST} pairs, given {n}")
    if right.mean() < CLEAN_AT_LEAST:
        problems.append(
            f"it answers only {percent(right.mean(), CLEAN_AT_LEAST)} of the clean prompts (at least {CLEAN_AT_LEAST:.0%} needed)"
        )
    if 1 - bug.mean() > CORRUPTED_AT_MOST:
        problems.append(
            f"it has no bug to repair: {percent(1 - bug.mean(), CORRUPTED_AT_MOST)} of the corrupted prompts are answered rightly"
        )
    parsed = clustered_rate([*clean["parsed"], *corrupted["parsed"]], clusters=clusters * 2, unit="answers")
    reason = "the model is not eligible: " + "; ".join(problems) if problems else ""
    return Eligibility(not problems, reason, rate(right), rate(~bug), parsed, kept)


def protocol_patch(protocol: Protocol, name: str, heads: Heads, *, site: str | None = None, **fields: Any) -> World:
    """A world that patches ``heads`` from the clean run as the protocol says."""
    one = Intervention(
        heads,
        site or protocol.site,  # type: ignore[arg-type]
        fields.pop("write", "patch"),
        align=protocol.align,
        when=protocol.when,  # type: ignore[arg-type]
        beyond="first" if protocol.when == "every_step" else None,
        **fields,
    )
    return World(name, (one,))


def no_op_world(protocol: Protocol, whole: Heads, site: str | None = None) -> World:
    """The no-op: every head's own activation written back.  At generated tokens nothing was captured to write back,
    so a protocol that edits every step is held against the unedited run instead."""
    if protocol.when == "every_step":
        return World("noop")
    return protocol_patch(protocol, "noop", whole, site=site, write="noop")


def choose_layer(bench: Bench, pairs: Sequence[EncodedPair]) -> tuple[int, list[dict[str, Any]]]:
    """The layer by ``claim.layer_rule``, on selection pairs: patch every head of each layer, count repaired pairs.

    A pair counts as repaired when its logit difference is positive.
    """
    lab, grid = bench.lab, bench.lab.grid
    layers = [s.layer for s in lab.slots]
    if isinstance(bench.claim.layer, int):
        grid.check_layer(bench.claim.layer)
        return bench.claim.layer, []
    worlds = [World(f"L{at}", (Intervention(all_heads(grid, at)),)) for at in layers]
    table = bench.sweep(pairs, worlds, "choosing a layer")
    share = {w.name: float((of_world(table, w.name)["edited"] > 0).mean()) for w in worlds}
    best = max(layers, key=lambda at: (share[f"L{at}"], -at))
    return best, [{"layer": at, "repaired": share[f"L{at}"], "pairs": len(pairs)} for at in layers]


def with_texts(effects: pd.DataFrame, texts: pd.DataFrame, **labels: str) -> Table:
    """The effects table with graded text beside the logit differences, and constant label columns."""
    merged = effects.merge(texts.rename(columns={"text": "edited_text"}), on=["pair", "world"], how="left")
    for n, (key, value) in enumerate(labels.items()):
        merged.insert(n, key, value)
    return merged


def named(name: str, label: str, estimate: Estimate, arm: str = "z") -> NamedEstimate:
    return NamedEstimate(name=name, label=label, arm=arm, estimate=estimate.to_dict())


def no_op_control(effects: pd.DataFrame, lab: Lab) -> Control:
    """A patch by nothing (amount 0), the no-op world and the unedited run must agree pair by pair: the same text, and
    the same logit difference to the tolerance of the dtype."""
    base, same = (graded(effects, w) for w in ("baseline", "noop"))
    gap = float(abs(base["edited"].to_numpy() - same["edited"].to_numpy()).max())
    drift = float((base["edited"] - base["corrupted"]).abs().max())
    scale = max(1.0, float(base["corrupted"].abs().max()))
    texts = bool((base["edited_text"].to_numpy() == same["edited_text"].to_numpy()).all())
    moved = max(gap, drift)
    words = (
        f"an edit that writes nothing new changes {'no' if texts else 'an'} answer of {len(base)} pairs; largest "
        f"change of a logit difference {moved:.2g}"
    )
    return judged("no-op", "negative", texts and moved <= TOLERANCE[lab.dtype] * scale, moved, words)


def patch_all_control(effects: pd.DataFrame, seed: int, label: str = "every head of the layer") -> Control:
    """Patching everything must repair: the lower bound of the repair rate above one half."""
    found = repair(effects, "all")
    words = f"patching {label} repairs {found}"
    return Control(name="patch-all", kind="positive", passed=found.above(0.5) == "yes", words=words, value=found.value)


def contrast(effects: pd.DataFrame, a: str, b: str, seed: int) -> Estimate:
    """Repair rate of world ``a`` minus that of ``b``, paired by prompt pair."""
    rows = [graded(effects, w) for w in (a, b)]
    return paired_difference(
        rows[0]["right"].to_numpy(bool),
        rows[1]["right"].to_numpy(bool),
        clusters=rows[0]["cluster"].to_numpy(),
        unit="pairs",
        seed=seed,
    )
