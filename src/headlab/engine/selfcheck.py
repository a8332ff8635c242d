"""What a model must prove before anything is measured on it.

1. Parity: logits through our function equal the model's own eager attention.
2. Causality: a later token changes no earlier logit.
3. Calls: one call of our function for each attention layer, in one pass.
4. No-op: writing a layer's own z back changes no logit.
5. An edit that must change the logits does, at every attention layer.
6. Heads are heads: Σ_h z_h W_O(h) is the attention module's output without its bias (where one projection takes z).
7. Pattern rows sum to one (at most one, in models with sinks); scores, where offered, give that pattern.
8. Layers below an edit may be replaced by their cached output (or else are run again).
9. Sweeping z by resuming after the edited layer's output projection gives the logits of a full pass.

A failure of 1–6 is a ModelError; 7, 8 and 9 switch the site ``scores`` and the two shortcuts on or off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headlab.engine import attention
from headlab.engine.attention import Tape
from headlab.engine.edits import Rows, Source, compile_edit
from headlab.engine.model import Lab, ModelError, probe_ids
from headlab.engine.passes import forward, skipping
from headlab.engine.resume import make_base, resume
from headlab.heads import Heads
from headlab.interventions import Intervention

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 6e-2, torch.float16: 8e-3}


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest logit (at least 1)."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


@torch.inference_mode()
def prove(lab: Lab) -> dict[str, Any]:
    """Run the checks, switch what they switch, and return what was measured (kept in ``lab.info['selfcheck']``).

    Raises ModelError naming the check that failed.
    """
    limit = TOLERANCE[lab.dtype]
    ids = probe_ids(lab.model, 9, rows=2, seed=2)
    found: dict[str, Any] = {"tolerance": limit}

    def must(name: str, value: float, words: str) -> None:
        found[name] = value
        if not value <= limit:
            raise ModelError(f"self-check {name!r} failed on {lab.name}: {words} ({value:.3g}, allowed {limit:.3g})")

    ours = forward(lab, ids, last=False).logits
    lab.model.set_attn_implementation("eager")
    try:
        own = forward(lab, ids, last=False).logits
    finally:
        lab.model.set_attn_implementation(attention.NAME)
    must("parity", _gap(ours, own), "logits differ from the model's own eager attention")
    later = ids.clone()
    later[:, -1] = (later[:, -1] + 1) % lab.model.get_input_embeddings().num_embeddings
    shifted = forward(lab, later, last=False).logits
    must("causality", _gap(shifted[:, :-1], ours[:, :-1]), "a later token changes earlier logits")
    _check_edits(lab, ids, ours, must, found)
    _check_heads(lab, ids, must)
    _check_pattern(lab, ids, found)
    lab.can_skip = _skip_is_exact(lab, ids, ours[:, -1:], limit)
    found["layers below an edit are skipped"] = lab.can_skip
    lab.can_resume = lab.can_skip and lab.geometry.z_is_input and _resume_is_exact(lab, ids, limit)
    found["sweeps of z resume after the edit"] = lab.can_resume
    lab.info["selfcheck"] = found
    return found


def _check_edits(lab: Lab, ids: Tensor, ours: Tensor, must: Any, found: dict[str, Any]) -> None:
    wanted = frozenset((s.layer, "z") for s in lab.slots)
    with lab.tape(Tape(wanted=wanted)) as tape:
        forward(lab, ids)
    if tape.calls != [s.layer for s in lab.slots]:
        raise ModelError(f"self-check 'calls' failed on {lab.name}: attention was called in layers {tape.calls}")
    found["attention layers"] = len(tape.calls)
    kept = tape.kept
    smallest = float("inf")
    for layer, _ in sorted(wanted):
        same = Tape(edits={(layer, "z"): [lambda z, layer=layer: kept[layer, "z"]]})
        with lab.tape(same):
            must(
                "no-op",
                _gap(forward(lab, ids, last=False).logits, ours),
                f"writing z of layer {layer} back changes logits",
            )
        zero = Tape(edits={(layer, "z"): [torch.zeros_like]})
        with lab.tape(zero):
            smallest = min(smallest, _gap(forward(lab, ids, last=False).logits, ours))
        if not smallest > 0 or same.fired != {(layer, "z"): 1}:
            raise ModelError(
                f"self-check 'edit' failed on {lab.name}: setting z of layer {layer} to 0 changes no logit"
            )
    found["smallest change by an edit"] = smallest


def _check_heads(lab: Lab, ids: Tensor, must: Any) -> None:
    if lab.geometry.o is None:
        return
    for slot in lab.slots:
        with lab.tape(Tape(wanted=frozenset({(slot.layer, "z"), (slot.layer, "out_block")}))) as tape:
            forward(lab, ids)
        made = torch.einsum("bthd,hdm->btm", tape.kept[slot.layer, "z"].float(), lab.weight("o", slot.layer).float())
        bias = lab.output_bias(slot.layer)
        out = tape.kept[slot.layer, "out_block"].float() - (0 if bias is None else bias.float())
        must("heads", _gap(made, out), f"in layer {slot.layer} the heads' outputs do not add up to the module's")


def _check_pattern(lab: Lab, ids: Tensor, found: dict[str, Any]) -> None:
    wanted = frozenset((s.layer, "pattern") for s in lab.slots)
    with lab.tape(Tape(wanted=wanted)) as tape:
        forward(lab, ids)
    sums = torch.stack([tape.kept[key].float().sum(-1) for key in sorted(wanted)])
    found["pattern row sums"] = [sums.min().item(), sums.max().item()]
    for slot in lab.slots:
        slot.scores = True
    with lab.tape(Tape(wanted=wanted | frozenset((s.layer, "scores") for s in lab.slots))) as again:
        forward(lab, ids)
    gap = max((again.kept[k] - tape.kept[k]).abs().max().item() for k in wanted)
    found["scores give the pattern"] = gap <= TOLERANCE[lab.dtype]
    for slot in lab.slots:
        slot.scores = found["scores give the pattern"]


def _skip_is_exact(lab: Lab, ids: Tensor, ours: Tensor, limit: float) -> bool:
    if lab.grid.n_layers < 2:
        return False
    middle = max(1, lab.grid.n_layers // 2)
    with lab.tape(Tape(wanted=frozenset({(middle - 1, "resid")}))) as tape:
        forward(lab, ids)
    try:
        with skipping(lab, middle, tape.kept[middle - 1, "resid"]):
            return _gap(forward(lab, ids).logits[:, -1:], ours) <= limit / 10
    except (RuntimeError, KeyError, TypeError, AttributeError, IndexError, ValueError):
        return False


def _resume_is_exact(lab: Lab, ids: Tensor, limit: float) -> bool:
    """Random heads of the first, a middle and the last attention layer patched at random positions, both ways."""
    rows, length = ids.shape
    generator = torch.Generator().manual_seed(3)
    value = torch.randn(rows, length, lab.grid.n_heads, lab.head_dim, generator=generator)
    where = torch.zeros(rows, length, dtype=torch.bool)
    where[0, 3:] = where[1, 4::2] = True
    source = Source(value.to(ids.device, lab.dtype), where.to(ids.device))
    layers = [s.layer for s in lab.slots]
    for layer in {layers[0], layers[len(layers) // 2], layers[-1]}:
        ones = [Intervention(Heads.of(layer, range(r, lab.grid.n_heads, 2)), amount=0.7) for r in range(rows)]
        chosen = Rows.of(ones, range(rows), lab.grid, ids.device)
        edit = compile_edit(ones[0], source, chosen, lab.grid.n_heads, None)
        with lab.tape(Tape(edits={(layer, "z"): [edit]})):
            full = forward(lab, ids).logits[:, -1:]
        try:
            base = make_base(lab, layer, ids, source, tokens=length)
            if base is None or not _gap(resume(lab, base, chosen, list(range(rows)), ids[:, -1:]), full) <= limit / 2:
                return False
        except (RuntimeError, KeyError, TypeError, AttributeError, IndexError, ValueError):
            return False
    return True
