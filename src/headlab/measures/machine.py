"""What a model's attention is made of, probed in the running model and compared with what its config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from headlab.engine.attention import Tape
from headlab.engine.model import Lab, probe_ids
from headlab.engine.passes import forward
from headlab.measures.watching import visible

LENGTH = 37
"""Tokens of the probes: a sliding window shorter than this is seen, a longer one only read."""
SAME = 1e-3
"""Values of one repeated token that differ by less, relative to the largest, are equal."""
_ROPE = ("rope_parameters", "rope_scaling", "rope_theta", "rotary_emb_base")


@torch.inference_mode()
def architecture(lab: Lab) -> dict[str, Any]:
    """The attention architecture of a loaded model, as a plain dict.

    Definition: ``heads``, ``kv_heads``, ``group_size`` (query heads for each KV head), ``head_dim`` (channels of z),
        ``qk_dim`` (channels of q and k), ``layers``, ``attention_layers`` (those with softmax attention), ``d_model``:
        counted in the running model.
        ``positions``: how layers learn of position: ``rotary``, ``additive`` (a table or sinusoids added to the
        embedding), ``bias`` (on scores) or ``none``.  ``rotary_share``: the share of q's channels that turn with
        position, by layer, None where it cannot be told apart.  Both probed on one repeated token, whose values are
        equal at every position unless something was added to the embedding (or learned sinks scale them: None).
        ``windows``: keys that a query sees at most, by layer (None: all).  ``soft_cap``: c in c·tanh(scores / c).
        ``learned_sinks``: whether pattern rows sum to less than one.
        ``config``: what the config says of the same.  ``disagreements``: sentences, empty where the two agree.
    Units: counts; shares of 1; soft_cap in units of scores.  Range: group_size 1 is MHA, kv_heads 1 is MQA.
    Mean: none is taken.
    Raises: nothing beyond what a forward pass raises.
    Source: the probes; Hugging Face config names as second opinion.
    When it misleads: a window or soft-cap beyond what the probes reach (37 tokens; scores of 10⁴ times the usual) is
        taken from the config and cannot be contradicted.  Rotary channels too slow to move beyond rounding go
        unseen (in 16 bits many), so ``rotary_share`` is a lower bound.  A mask that depends on content is seen for one
        prompt.
    """
    grid, layers = lab.grid, sorted(lab.attentions)
    ids = probe_ids(lab.model, LENGTH, seed=3)
    seen = visible(lab, ids, layers)
    told = _config(lab, layers)
    probed = {layer: _window(seen[layer]) for layer in layers}
    positions, shares, qk_dim = _positions(lab, layers, told)
    cap = _soft_cap(lab, ids, layers)
    found = {
        "family": lab.info.get("family"),
        "layers": grid.n_layers,
        "attention_layers": layers,
        "d_model": lab.d_model,
        "heads": grid.n_heads,
        "kv_heads": grid.n_kv_heads,
        "group_size": grid.n_heads // grid.n_kv_heads,
        "head_dim": lab.head_dim,
        "qk_dim": qk_dim,
        "positions": positions,
        "rotary_share": shares,
        "windows": {n: probed[n] or told["windows"][n] for n in layers},
        "soft_cap": told["soft_cap"] if cap is None else cap,
        "learned_sinks": _sinks(lab, ids, layers),
        "config": told,
    }
    return {**found, "disagreements": _disagreements(found, told, probed, cap)}


def _config(lab: Lab, layers: Sequence[int]) -> dict[str, Any]:
    """What the config says, under the names that transformers uses most."""
    config = lab.model.config.get_text_config()

    def first(*names: str) -> Any:
        return next((v for n in names if (v := getattr(config, n, None)) is not None), None)

    heads = first("num_attention_heads", "n_head")
    rope = next((v for n in ("rope_parameters", "rope_scaling") if (v := getattr(config, n, None))), {})
    share = first("partial_rotary_factor", "rotary_pct") or (rope or {}).get("partial_rotary_factor")
    kinds = getattr(config, "layer_types", None)
    used = getattr(config, "use_sliding_window", True)
    window = getattr(config, "sliding_window", None) if used else None

    def size(layer: int) -> int | None:
        kind = kinds[layer] if kinds and layer < len(kinds) else None
        return window if kind in {None, "sliding_attention"} else None

    return {
        "heads": heads,
        "kv_heads": 1 if getattr(config, "multi_query", False) else first("num_key_value_heads") or heads,
        "rotary": any(getattr(config, n, None) is not None for n in _ROPE),
        "rotary_share": share,
        "soft_cap": first("attn_logit_softcapping"),
        "windows": {layer: size(layer) for layer in layers},
    }


def _window(seen: Tensor) -> int | None:
    """How many keys the last query sees, where those are not all."""
    keys = int(seen[-1].sum())
    return keys if keys < seen.shape[1] else None


def _positions(lab: Lab, layers: Sequence[int], told: Mapping[str, Any]) -> tuple[str, dict[int, float | None], int]:
    """How position enters, the share of rotary channels by layer, and the channels of q.

    One token, repeated at the first positions and again at the last that the model was made for: slow channels turn
    little within a short prompt.
    """
    ids = probe_ids(lab.model, 1, seed=4).expand(1, LENGTH)
    end = getattr(lab.model.config.get_text_config(), "max_position_embeddings", None) or 8 * LENGTH
    kept: list[dict[tuple[int, str], Tensor]] = []
    for start in (0, max(0, min(end, 8192) - LENGTH)):
        with lab.tape(Tape(wanted=frozenset((n, site) for n in layers for site in "qv"))) as tape:
            forward(lab, ids, start=start)
        kept.append(tape.kept)
    shares: dict[int, float | None] = {}
    added = False
    level = max(1e-5, 4 * torch.finfo(lab.dtype).eps)
    for n in layers:
        q, v = (_spread(torch.cat([k[n, site] for k in kept], 2)) for site in "qv")
        rounding = v.max().item()
        turning = int((q > max(level, 10 * rounding)).sum())
        shares[n] = turning / len(q) if rounding <= max(SAME, level) else None if told["rotary"] else 0.0
        added = added or (n == 0 and rounding > max(SAME, level))
    known = [s for s in shares.values() if s is not None]
    qk_dim = kept[0][layers[0], "q"].shape[-1]
    if added:
        return "additive", shares, qk_dim
    if any(known) or (not known and told["rotary"]):
        return "rotary", shares, qk_dim
    return ("bias" if _biased(lab, layers) else "none"), shares, qk_dim


def _spread(x: Tensor) -> Tensor:
    """How much each channel differs between positions, in the head where it does most, relative to the largest entry,
    [channel]; x [1, head, position, channel]."""
    wide = x[0].double()
    return (wide - wide[:, :1]).abs().amax((0, 1)) / wide.abs().max()


def _biased(lab: Lab, layers: Sequence[int]) -> bool:
    """Whether attention prefers some keys to others where every query vector is zero."""
    wanted = frozenset((n, "pattern") for n in layers)
    edits: Any = {(n, "q"): [torch.zeros_like] for n in layers}
    with lab.tape(Tape(edits=edits, wanted=wanted)) as tape:
        forward(lab, probe_ids(lab.model, LENGTH, seed=3))
    last = torch.stack([tape.kept[key][0, :, -1].float() for key in sorted(wanted)])
    held = last.masked_fill(last == 0, torch.inf).amin(-1)
    return bool((last.amax(-1) - held > 0.01 * last.amax(-1)).any())


def _soft_cap(lab: Lab, ids: Tensor, layers: Sequence[int]) -> float | None:
    """The size at which scores stop growing with the queries; None where they do not stop, or are not available."""
    if not all(slot.scores for slot in lab.slots):
        return None
    sizes = []
    for factor in (1e3, 1e4):
        edits: Any = {(n, "q"): [lambda q, factor=factor: q * factor] for n in layers[:1]}
        with lab.tape(Tape(edits=edits, wanted=frozenset({(layers[0], "scores")}))) as tape:
            forward(lab, ids)
        sizes.append(tape.kept[layers[0], "scores"].double().abs().max().item())
    return round(sizes[1], 3) if sizes[0] > 0 and sizes[1] < 1.05 * sizes[0] else None


def _sinks(lab: Lab, ids: Tensor, layers: Sequence[int]) -> bool:
    with lab.tape(Tape(wanted=frozenset((n, "pattern") for n in layers))) as tape:
        forward(lab, ids)
    return any(bool((x.double().sum(-1) < 0.98).any()) for x in tape.kept.values())


def _disagreements(
    found: Mapping[str, Any], told: Mapping[str, Any], probed: Mapping[int, int | None], cap: float | None
) -> list[str]:
    out = [
        f"the config says {told[name]} {name.replace('_', ' ')}, the model has {found[name]}"
        for name in ("heads", "kv_heads")
        if told[name] not in {None, found[name]}
    ]
    for layer, window in probed.items():
        says = told["windows"][layer]
        within = says if says is not None and says < LENGTH else None
        if within != window:
            out.append(f"layer {layer}: the config says a window of {says}, the model shows {window or 'none'}")
    if cap is not None and (told["soft_cap"] is None or abs(told["soft_cap"] - cap) > 0.05 * cap):
        out.append(f"the config says a soft-cap of {told['soft_cap']}, scores stop at {cap}")
    share = told["rotary_share"]
    turning = {s for s in found["rotary_share"].values() if s}
    if share is not None and any(s > share + 1 / found["qk_dim"] for s in turning):  # slow channels may go unseen
        out.append(f"the config turns {share:.3g} of the channels, the model {sorted(turning)}")
    return out


def facts_table(lab: Lab) -> pd.DataFrame:
    """What the running model's attention is made of, one row for each fact, beside what its config says."""
    found = dict(architecture(lab))
    told: Mapping[str, Any] = found.pop("config", {})
    disagreements: Sequence[str] = found.pop("disagreements", ())
    found["disagreements with the config"] = "; ".join(disagreements) or "none"
    return pd.DataFrame(
        [{"fact": k, "value": _plain(v), "config": _plain(told[k]) if k in told else ""} for k, v in found.items()]
    )


def _plain(value: Any) -> str:
    """A fact in words: one value where every layer has the same."""
    if isinstance(value, Mapping) and value:
        kinds = {str(v) for v in value.values()}
        return kinds.pop() if len(kinds) == 1 else ", ".join(f"L{k}: {v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
