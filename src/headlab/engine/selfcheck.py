"""What a model must prove before anything is measured on it.

1. Parity: logits through our function, at the positions we give, equal the model's own, by its eager attention.
2. Causality: a later token changes no earlier logit.
3. Calls: one call of our function for each attention layer, in one pass.
4. No-op: writing a layer's own z back changes no logit.
5. An edit that must change the logits does, at every attention layer.
6. Heads are heads: Σ_h z_h W_O(h) is the attention module's output without its bias (where one projection takes z).
7. Pattern rows sum to one (at most one, in models with sinks); scores, where offered, give that pattern.  With the
   pattern asked for, and with scores asked for, logits are those of the unedited pass; where they are not, the site
   is not offered.
8. Token by token gives what one pass gives; where it does not, decoding is refused by name.
9. Every step that saves work (layers skipped, positions reused, deltas added, few vocabulary entries) gives what a
   full pass gives; a step that does not is left out, and the record says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headlab.engine import attention
from headlab.engine.attention import Tape
from headlab.engine.checkpoint import ModelError
from headlab.engine.edits import Rows, Source
from headlab.engine.model import CANNOT, Lab, first_line, probe_ids
from headlab.engine.passes import EngineError, alone, cache_of, ending, forward, logits_of, plain, reading, skipping
from headlab.engine.resume import add_deltas, coefficients, edits_of, make_deltas, resume, run_corrupted
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
        own = plain(lab, ids)
    finally:
        lab.model.set_attn_implementation(attention.NAME)
    must("parity", _gap(ours, own), "logits differ from the model's own eager attention")
    later = ids.clone()
    later[:, -1] = (later[:, -1] + 1) % lab.model.get_input_embeddings().num_embeddings
    shifted = forward(lab, later, last=False).logits
    must("causality", _gap(shifted[:, :-1], ours[:, :-1]), "a later token changes earlier logits")
    _check_edits(lab, ids, ours, must, found)
    _check_heads(lab, ids, must)
    _check_pattern(lab, ids, ours, limit, found)
    lab.no_decoding = _why_no_decoding(lab, ids, ours[:, -1:], limit)
    found["token by token"] = lab.no_decoding or "equal"
    _find_steps(lab, ids, ours[:, -1:], limit, found)
    lab.info["selfcheck"] = found
    return found


def _check_edits(lab: Lab, ids: Tensor, ours: Tensor, must: Any, found: dict[str, Any]) -> None:
    wanted = frozenset((s.layer, "z") for s in lab.slots)
    with lab.tape(Tape(wanted=wanted)) as tape:
        forward(lab, ids)
    if tape.calls != [s.layer for s in lab.slots]:
        raise ModelError(f"self-check 'calls' failed on {lab.name}: attention was called in layers {tape.calls}")
    found["attention layers"] = len(tape.calls)
    kept, layers = tape.kept, [s.layer for s in lab.slots]
    same = Tape(edits={(layer, "z"): [lambda _z, layer=layer: kept[layer, "z"]] for layer in layers})
    with lab.tape(same):
        again = forward(lab, ids, last=False).logits
    must("no-op", _gap(again, ours), "writing z of every layer back changes logits")
    # row r: the same prompt with z of the r-th attention layer set to zero; the last row: as it is
    zeroed = Tape(edits={(layer, "z"): [lambda z, r=r: _zeroed(z, r)] for r, layer in enumerate(layers)})
    with lab.tape(zeroed):
        rows = forward(lab, ids[:1].expand(len(layers) + 1, -1), last=False).logits
    gaps = [_gap(row, rows[-1]) for row in rows[:-1]]
    rounding = 4 * torch.finfo(torch.float32).eps  # rows of one product may be summed in another order
    dead = [layer for layer, gap in zip(layers, gaps, strict=True) if not gap > rounding]
    if dead or same.fired != dict.fromkeys(same.edits, 1):
        raise ModelError(
            f"self-check 'edit' failed on {lab.name}: setting z of layer {(dead or layers)[0]} to 0 changes no logit"
        )
    found["smallest change by an edit"] = min(gaps)


def _zeroed(z: Tensor, row: int) -> Tensor:
    out = z.clone()
    out[row] = 0
    return out


def _check_heads(lab: Lab, ids: Tensor, must: Any) -> None:
    if lab.geometry.o is None:
        return
    with lab.tape(Tape(wanted=frozenset((s.layer, site) for s in lab.slots for site in ("z", "out_block")))) as tape:
        forward(lab, ids)
    for slot in lab.slots:
        z, out = (tape.kept[slot.layer, site].float() for site in ("z", "out_block"))
        made = torch.einsum("bthd,hdm->btm", z, lab.weight("o", slot.layer).float())
        bias = lab.output_bias(slot.layer)
        gap = _gap(made, out - (0 if bias is None else bias.float()))
        must("heads", gap, f"in layer {slot.layer} the heads' outputs do not add up to the module's")


def _check_pattern(lab: Lab, ids: Tensor, ours: Tensor, limit: float, found: dict[str, Any]) -> None:
    wanted = frozenset((s.layer, "pattern") for s in lab.slots)
    tape, gap = Tape(), float("inf")
    for unit in (False, True):  # pattern · v is z, or the pattern is what the function does to unit vectors
        for slot in lab.slots:
            slot.pattern, slot.unit = True, unit
        try:
            tape, gap = _asked(lab, ids, wanted, ours)
        except CANNOT:
            gap = float("inf")
        if gap <= limit:
            break
    found["pattern gives z"] = gap <= limit
    for slot in lab.slots:
        slot.pattern = gap <= limit
        slot.unit, slot.scores = slot.unit and slot.pattern, False
    if not gap <= limit:
        found["scores give the pattern"] = False
        return
    sums = torch.stack([tape.kept[key].float().sum(-1) for key in sorted(wanted)])
    found["pattern row sums"] = [sums.min().item(), sums.max().item()]
    for slot in lab.slots:
        slot.scores = True
    try:
        again, off = _asked(lab, ids, wanted | frozenset((s.layer, "scores") for s in lab.slots), ours)
        gap = max((again.kept[k] - tape.kept[k]).abs().max().item() for k in wanted)
    except CANNOT:
        off = gap = float("inf")
    found["scores give the pattern"] = gap <= limit and off <= limit
    for slot in lab.slots:
        slot.scores = found["scores give the pattern"]


def _asked(lab: Lab, ids: Tensor, wanted: frozenset[tuple[int, str]], ours: Tensor) -> tuple[Tape, float]:
    """What a pass that is asked for sites keeps, and how far its logits are from those of the unedited pass."""
    with lab.tape(Tape(wanted=wanted)) as tape:
        got = forward(lab, ids, last=False).logits
    return tape, _gap(got, ours)


def _why_no_decoding(lab: Lab, ids: Tensor, ours: Tensor, limit: float) -> str:
    """Why the last two tokens given one by one, after a cached pass over the others, do not give the same logits."""
    n = ids.shape[1] - 2
    try:
        with lab.tape(Tape()):
            out = forward(lab, ids[:, :n], cache=True)
            for at in (n, n + 1):
                out = forward(lab, ids[:, at : at + 1], past=cache_of(out), start=at, cache=True)
    except CANNOT as error:
        return f"its cache cannot be handed on ({type(error).__name__}: {first_line(error)})"
    gap = _gap(out.logits[:, -1:], ours)
    return "" if gap <= limit else f"token by token its logits differ from one pass's by {gap:.2g}"


def _find_steps(lab: Lab, ids: Tensor, ours: Tensor, limit: float, found: dict[str, Any]) -> None:
    """Try every step that saves work against a full pass, and switch on those that change nothing."""
    lab.can_skip = _skip_is_exact(lab, ids, ours, limit)
    lab.can_narrow = _narrow_is_exact(lab, ids, ours, limit)
    lab.can_end = lab.can_skip and _end_is_exact(lab, ids, limit)
    lab.can_resume = lab.can_reuse = lab.can_add = False
    # an indexer keeps keys of its own in the cache; few tokens, which it chooses all, would not show that they are missing
    indexed = any("indexer" in name for name, _ in lab.model.named_modules())
    for lab.can_reuse in (False,) if indexed else (True, False):
        lab.can_resume = lab.can_skip and _resume_is_exact(lab, ids, limit, add=False)
        if lab.can_resume:
            break
    lab.can_add = lab.can_resume and lab.geometry.z_is_input and _resume_is_exact(lab, ids, limit, add=True)
    lab.can_reuse = lab.can_reuse and lab.can_resume
    found["steps"] = {
        "layers below an edit are skipped": lab.can_skip,
        "rows run from the edited layer to the last position": lab.can_resume,
        "positions before an edit are reused": lab.can_reuse,
        "linear edits are added after the output projection": lab.can_add,
        "logits are computed only where they are read": lab.can_narrow,
        "norm and head run without the rest of the model": lab.can_end,
    }


def _skip_is_exact(lab: Lab, ids: Tensor, ours: Tensor, limit: float) -> bool:
    """At the middle and at the last layer: layers that share keys and values take them from far below."""
    n = lab.grid.n_layers
    if n < 2:
        return False
    layers = sorted({max(1, n // 2), n - 1})
    try:
        with lab.tape(Tape(wanted=frozenset((at - 1, "resid") for at in layers))) as tape:
            forward(lab, ids)
        for at in layers:
            entering = tape.kept[at - 1, "resid"]
            if entering.shape != (*ids.shape, lab.d_model):  # several streams, or rows on another axis (Gemma 3n)
                return False
            with skipping(lab, at, entering):
                if not _gap(forward(lab, ids).logits[:, -1:], ours) <= limit / 10:
                    return False
    except CANNOT:
        return False
    return True


def _narrow_is_exact(lab: Lab, ids: Tensor, ours: Tensor, limit: float) -> bool:
    """Logits at a few entries of the vocabulary, alone and among all."""
    if not isinstance(lab.model.get_output_embeddings(), torch.nn.Linear):
        return False
    some = torch.tensor([1, 5, ours.shape[-1] - 1], device=ids.device)
    try:
        with reading(lab, some):
            got = forward(lab, ids).logits
        return got.shape[-1] == 3 and _gap(got, ours[..., some]) <= limit / 10
    except CANNOT:
        return False


def _end_is_exact(lab: Lab, ids: Tensor, limit: float) -> bool:
    """What runs after the last layer, called by itself on what leaves it: at every position, and at the last."""
    leaving = (lab.grid.n_layers - 1, "resid")
    try:
        with lab.tape(Tape(wanted=frozenset({leaving}))) as tape:
            lab.end, wanted = ending(lab, ids)
        hidden, lab.can_end = tape.kept[leaving], alone(lab)
        some = [(logits_of(lab, hidden[:, at:], ids[:, at:], at), wanted[:, at:]) for at in (0, ids.shape[1] - 1)]
        return lab.can_end and all(a.device == b.device and _gap(a, b) <= limit / 10 for a, b in some)
    except CANNOT:
        return False
    finally:
        lab.can_end = False


def _resume_is_exact(lab: Lab, ids: Tensor, limit: float, *, add: bool) -> bool:
    """Random heads patched at random positions in the first, a middle and the last attention layer, both ways, with
    several rows of one prompt and rows of several; ``add``: by deltas, else with a second edit in the last layer.
    """
    length = ids.shape[1]
    generator = torch.Generator().manual_seed(3)
    value = torch.randn(len(ids), length, lab.grid.n_heads, lab.head_dim, generator=generator)
    where = torch.zeros(len(ids), length, dtype=torch.bool)
    where[0, 3:] = where[1, 4::2] = True
    source = Source(value.to(ids.device, lab.dtype), where.to(ids.device))
    layers, last = [s.layer for s in lab.slots], lab.grid.n_layers - 1
    pairs = torch.tensor([0, 0, 1, 1], device=ids.device)
    for layer in {layers[0], layers[len(layers) // 2], layers[-1]}:
        start = 0 if not lab.can_reuse else length - 1 if layer == last else 3
        ones = [
            [Intervention(Heads.of(at, range(r % 2, lab.grid.n_heads, 2)), amount=0.7) for r in range(len(pairs))]
            for at in ([layer] if add else sorted({layer, layers[-1]}))
        ]
        first, sources = [some[0] for some in ones], [source] * len(ones)
        rows = [Rows.of(some, pairs.tolist(), lab.grid, ids.device) for some in ones]
        with lab.tape(Tape(edits=edits_of(lab, first, rows, sources)[0])):
            full = forward(lab, ids[pairs]).logits[:, -1:]
        sites = {(at, s) for at in layers if at >= layer for s in "kv"} if lab.can_reuse else set()
        try:
            run = run_corrupted(lab, ids, [layer], sites | {(layer, "z"), (layer, "out_block")}, tokens=ids.numel())
            for part in ([0, 1, 2], [2, 3]):  # rows of two prompts, rows of one
                index, local = pairs[part], pairs[part].tolist()
                some = [row.take(part, local, index) for row in rows]
                output, tape, wanted = None, Tape(), {}
                if add:
                    deltas = make_deltas(lab, first[0], source, run, start)
                    output = add_deltas(deltas, coefficients(first[0], some[0], lab.dtype), local, start)
                else:
                    tape.edits, wanted = edits_of(lab, first, some, sources, start=start)
                got = resume(lab, run, layer, local, index, ids[index], start=start, output=output, tape=tape)
                if tape.fired != wanted or not _gap(got, full[part]) <= limit / 2:
                    return False
        except (*CANNOT, EngineError):
            return False
    return True
