"""A model made ready for trial: loaded safely, its attention led through our function, its heads located.

This is the only file that knows model families, and it knows them by probing: which modules call the attention
function, which layer each stands in, which projection takes z, which rows of which projection make q, k and v of
head h.  Names in configs are never trusted for that.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headlab.engine import attention, between
from headlab.engine.adapters import with_adapter
from headlab.engine.attention import Slot, Tape
from headlab.engine.checkpoint import ModelError
from headlab.engine.loading import pick_device, pick_dtype, read_model
from headlab.heads import Grid
from headlab.reading import brief, expected_one_of

__all__ = ["Geometry", "Lab", "ModelError", "Projection", "fingerprint", "open_model", "probe_ids"]

Tokenizer = Any
"""A tokenizer of transformers, or what behaves as one."""
Model = Any
"""A causal language model of transformers."""
Facts = dict[str, Any]

CANNOT = (RuntimeError, LookupError, TypeError, AttributeError, ValueError, AssertionError, NotImplementedError)
"""What a family's own code may raise when something that it does not bear is tried on it."""

ABILITIES = ("can_skip", "can_resume", "can_reuse", "can_add", "can_narrow", "can_end")  # steps that save work

_WITHOUT_INTERFACE = "does not route its attention through transformers' AttentionInterface"


@dataclass(frozen=True)
class Projection:
    """Where heads live in one projection.  ``channels[h]`` are its output (q, k, v) or input (o) channels."""

    path: str
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Geometry:
    """Where W_Q, W_K, W_V and W_O of each head live, as paths below the attention module.

    An entry is None where no single projection makes it (MLA keys, gated outputs); ``why`` says so.
    ``z_is_input``: z, flattened, is exactly what the output projection receives.
    """

    q: Projection | None
    k: Projection | None
    v: Projection | None
    o: Projection | None
    z_is_input: bool
    why: str = ""


@dataclass
class Lab:
    """A loaded model with everything the engine needs.  Made by :func:`open_model`.

    What the load-time check found to equal a full pass: ``can_skip`` layers below an edit are replaced by their cached
    output; ``can_resume`` rows start at the edited layer and end at the last position; ``can_reuse`` and after the
    first changed position; ``can_add`` linear edits are added after the output projection; ``can_narrow`` logits are
    computed only where they are read; ``can_end`` the modules ``end`` (their names: norm and head) alone make the logits of
    what leaves the last layer.  ``no_decoding`` says why token by token gives other logits, where it does.
    ``between`` is what the model keeps from pass to pass, as it is put back before each new prompt.  ``first_position`` is
    the number that the model gives a prompt's first token (RoBERTa's begin after the padding token's), None: it is not told.
    ``can_ask_last``: logits of the last position can be asked for while every layer runs on all.
    """

    model: Model
    tokenizer: Tokenizer
    name: str
    revision: str | None
    grid: Grid
    head_dim: int
    d_model: int
    slots: list[Slot]
    attentions: dict[int, nn.Module]
    layers: list[nn.Module]
    geometry: Geometry
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    can_skip: bool = False
    can_resume: bool = False
    can_reuse: bool = False
    can_add: bool = False
    can_narrow: bool = False
    can_end: bool = False
    end: tuple[str, ...] = ()
    no_decoding: str = ""
    first_position: int | None = 0
    can_ask_last: bool = False
    between: between.Kept = field(default_factory=list)
    info: Facts = field(default_factory=dict)

    def __repr__(self) -> str:
        g = self.grid
        return (
            f"Lab({self.name!r}: {self.info['architecture']}, {g.n_layers} layers × {g.n_heads} heads "
            f"({g.n_kv_heads} KV) × {self.head_dim}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    def weight(self, which: str, layer: int) -> Tensor:
        """W_Q, W_K, W_V as [head, d_model, d_head] (heads are KV heads for k and v), W_O as [head, d_head, d_model].

        ``which`` is one of q k v o.  Raises ModelError where the family has no such per-head matrix.
        """
        projection: Projection | None = getattr(self.geometry, _letter(which, "qkvo"))
        if projection is None:
            raise ModelError(f"{self.name} has no per-head W_{which.upper()}: {self.geometry.why}")
        module: Any = _child(self.attention_of(layer), projection.path)
        weight = _matrix(module)
        index = torch.tensor(projection.channels, device=weight.device)
        return weight[index] if which == "o" else weight[:, index].permute(1, 0, 2)

    def bias(self, which: str, layer: int) -> Tensor | None:
        """The bias of ``which`` of q k v for each head (KV head for k and v), [head, d_head], or None without one.

        Raises ModelError where the family has no such per-head projection; ``o`` has one bias for all heads together,
        see :meth:`output_bias`.
        """
        projection: Projection | None = getattr(self.geometry, _letter(which, "qkvo"))
        if which == "o" or projection is None:
            why = "all heads share the output bias (Lab.output_bias)" if which == "o" else self.geometry.why
            raise ModelError(f"{self.name} has no per-head bias of {which}: {why}")
        bias = getattr(_child(self.attention_of(layer), projection.path), "bias", None)
        return None if bias is None else bias[torch.tensor(projection.channels, device=bias.device)]

    def output_bias(self, layer: int) -> Tensor | None:
        """The bias of the output projection, [d_model], or None."""
        if self.geometry.o is None:
            raise ModelError(f"{self.name} has no output projection that takes z: {self.geometry.why}")
        return getattr(_child(self.attention_of(layer), self.geometry.o.path), "bias", None)

    def attention_of(self, layer: int) -> nn.Module:
        """The attention module of a layer.  Raises ModelError where the layer has no softmax attention."""
        self.grid.check_layer(layer)
        if layer not in self.attentions:
            raise ModelError(f"layer {layer} of {self.name} has no softmax attention, so it has no heads")
        return self.attentions[layer]

    @contextmanager
    def tape(self, tape: Tape) -> Iterator[Tape]:
        """Passes inside run under ``tape``; whatever happens, nothing of it stays behind."""
        handles = []
        try:
            for layer, site in sorted({*tape.edits, *tape.wanted}):
                if site in {"out_block", "subspace"}:
                    module = self.attention_of(layer)
                elif site == "resid":
                    module = self.layers[self.grid.check_layer(layer)]
                else:
                    self.attention_of(layer)
                    continue
                handles.append(module.register_forward_hook(_toucher(tape, layer, site)))
            with attention.running(self.slots, tape):
                yield tape
        finally:
            for handle in handles:
                handle.remove()


def loaded(lab: object) -> None:
    """Raises ModelError where something else than a loaded model was given."""
    if not isinstance(lab, Lab):
        raise ModelError(f"expected a loaded model, given {brief(lab)}; lab = headlab.load('ioi-small') loads one")


def _letter(which: object, known: str) -> str:
    """``which`` of the projections.  Raises ValueError that says which was meant."""
    if which in tuple(known):
        return str(which)
    last = str(which)[-1:].lower()
    hint = f"; did you mean {last!r}?" if last in set(known) else ""
    raise ValueError(f"no projection {brief(which)}; {expected_one_of(which, known)}{hint}")


def _toucher(tape: Tape, layer: int, site: str) -> Any:
    """A forward hook that shows a module's (first) output to the tape."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if site == "resid" and (output[0] if isinstance(output, tuple) else output).dim() != 3:
            raise ModelError("the site 'resid' is not available for this model: its layers pass on several streams")
        if isinstance(output, tuple):
            return (tape.touch(layer, site, output[0]), *output[1:])
        return tape.touch(layer, site, output)

    return hook


def open_model(
    model: Any,
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    device_map: Any = None,
    adapter: str | None = None,
) -> Lab:
    """Load a hub id or local folder (or take a Hugging Face model in memory) and locate its heads.

    ``dtype``: "float32", "bfloat16", "float16"; by default float32 on a CPU (16-bit is several times slower there)
    and the checkpoint's own elsewhere.  ``adapter``: a PEFT folder or hub id, merged into the weights.
    Remote code is never run; weights are safetensors, a pickle is opened only with ``weights_only=True``.

    Raises ModelError with one clear sentence.
    """
    if isinstance(model, str | Path):
        place = pick_device(device)
        hf, tok, name = read_model(str(model), tokenizer, revision, pick_dtype(dtype, place), place, device_map)
    else:
        hf, tok, name = model, tokenizer, getattr(model.config, "_name_or_path", "") or type(model).__name__
        if tok is None:
            raise ModelError("a model in memory needs its tokenizer: headlab.load(model, tokenizer=tokenizer)")
    if adapter is not None:
        hf = with_adapter(hf, adapter)
    hf.eval().requires_grad_(False)
    _refuse_unfit(hf, name)
    try:
        lab = _fit(hf, tok, name, revision)
    except ModelError:
        raise
    except CANNOT as error:  # whatever a family's own code raises when it is looked into
        family = getattr(hf.config, "model_type", type(hf).__name__)
        raise ModelError(
            f"the family {family!r} cannot be opened: its heads could not be located "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    # what makes a replica elsewhere; a model in memory has no such recipe
    named = {"model": str(model), "revision": revision, "dtype": dtype, "device_map": device_map, "adapter": adapter}
    lab.info["loaded"] = named if isinstance(model, str | Path) else None
    if adapter is not None:
        lab.info["adapter"] = adapter
    return lab


def _refuse_unfit(hf: Any, name: str) -> None:
    if getattr(hf.config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder; headlab tries causal language models")
    if getattr(hf, "quantization_method", None) or getattr(hf.config, "quantization_config", None):
        raise ModelError(f"{name} has quantised weights, which cannot be read per head; use the 16-bit checkpoint")


def probe_ids(hf: Any, n: int, rows: int = 1, seed: int = 0) -> Tensor:
    """[row, position] random token ids of the lower half of the vocabulary (special tokens sit at its end), no padding."""
    words = hf.get_input_embeddings()
    size, padding = words.num_embeddings, getattr(words, "padding_idx", None)
    ids = torch.randint(0, max(2, size // 2), (rows, n), generator=torch.Generator().manual_seed(seed))
    if padding is not None:
        ids[ids == padding] = (padding + 1) % size
    return ids.to(words.weight.device)


@torch.no_grad()
def _fit(hf: Any, tokenizer: Any, name: str, revision: str | None) -> Lab:
    family = getattr(hf.config, "model_type", type(hf).__name__)
    ids = probe_ids(hf, 6)
    hf.set_attn_implementation("eager")
    before = between.snapshot(hf)
    wanted = hf(ids, use_cache=False).logits
    first = _first_position(hf, ids, wanted)
    met = _meet(hf, ids, family)
    layers = _decoder_layers(hf, met, family)
    slots = {}
    for module in met:
        index = next(i for i, block in enumerate(layers) if any(m is module for m in block.modules()))
        # a model opened twice keeps its slots, so that both Labs go on working
        slot = module.__dict__.setdefault("_headlab", Slot(index))
        slots[index] = slot
    q, k, z = _shapes(hf, ids, list(slots.values()), family)
    grid = Grid(len(layers), q[1], k[1])
    attentions = {slot.layer: m for m, slot in zip(met, slots.values(), strict=True)}
    _allow_sdpa(hf, ids, list(slots.values()), wanted)
    geometry = _locate(hf, list(slots.values()), attentions, grid)
    weight = hf.get_input_embeddings().weight
    return Lab(
        hf,
        tokenizer,
        name,
        revision,
        grid,
        z[3],
        hf.config.get_text_config().hidden_size,
        list(slots.values()),
        attentions,
        layers,
        geometry,
        weight.device,
        weight.dtype,
        fingerprint(hf),
        first_position=first,
        can_ask_last=_can_ask_last(hf, ids, list(slots.values())),
        between=between.changed(hf, before),
        info={"family": family, "architecture": type(hf).__name__},
    )


def _meet(hf: Any, ids: Tensor, family: str) -> list[nn.Module]:
    """The attention modules, in order; refuses families that never call the registered function."""
    try:
        hf.set_attn_implementation(attention.NAME)
        with attention.meeting() as met:
            hf(ids, use_cache=False)
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"the family {family!r} {_WITHOUT_INTERFACE}, so its heads cannot be reached: {error}"
        ) from error
    if not met:
        raise ModelError(
            f"the family {family!r} {_WITHOUT_INTERFACE}, so its heads cannot be reached; "
            "Llama, GPT-2, GPT-NeoX, Gemma, Qwen, Mistral, Phi, OLMo and about 140 more do"
        )
    if len(set(map(id, met))) != len(met):
        raise ModelError(
            f"the family {family!r} calls attention more than once in a layer, so z is not one head's output"
        )
    return met


def _decoder_layers(hf: Any, met: list[nn.Module], family: str) -> list[nn.Module]:
    """The list of decoder layers that holds the attention modules."""
    several, wanted, inside = False, set(map(id, met)), set()
    for module in hf.modules():
        if isinstance(module, nn.ModuleList):
            inside |= set(map(id, module.modules()))
            homes = [i for i, block in enumerate(module) for m in block.modules() if id(m) in wanted]
            if len(homes) == len(met) == len(set(homes)):
                return list(module)
            several |= len(homes) == len(met)
    if several:
        raise ModelError(
            f"the family {family!r} has more than one attention in a layer, so (layer, head) names no one head"
        )
    if inside & wanted and wanted - inside:
        raise ModelError(f"the family {family!r} attends outside its layers, too, so (layer, head) names no one head")
    raise ModelError(f"the family {family!r} keeps its layers in no single list; headlab cannot tell its layers apart")


def _shapes(hf: Any, ids: Tensor, slots: list[Slot], family: str) -> tuple[torch.Size, torch.Size, torch.Size]:
    wanted = frozenset((s.layer, site) for s in slots for site in ("q", "k", "z"))
    with attention.running(slots, Tape(wanted=wanted)) as tape:
        hf(ids, use_cache=False)
    shapes = {site: {tape.kept[s.layer, site].shape for s in slots} for site in ("q", "k", "z")}
    if more := {shape[2] for shape in shapes["k"]} - {ids.shape[1]}:
        raise ModelError(
            f"the layers of this {family} model attend to {max(more)} keys in a prompt of {ids.shape[1]} tokens (compressed "
            "ones beside their own), so a key is not a token; that is not supported"
        )
    for at, what in ((1, "numbers of heads"), (3, "sizes of a head")):
        for site, found in shapes.items():
            if len({shape[at] for shape in found}) != 1:
                given = ", ".join(map(str, sorted({shape[at] for shape in found})))
                raise ModelError(
                    f"the layers of this {family} model differ in their {what} ({site}: {given}); that is not supported"
                )
    return tuple(next(iter(shapes[s])) for s in ("q", "k", "z"))  # type: ignore[return-value]


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether logits are the same but for rounding."""
    return bool((a - b).abs().max() <= 50 * torch.finfo(a.dtype).eps * b.abs().max().clamp(min=1))


def _first_position(hf: Any, ids: Tensor, wanted: Tensor) -> int | None:
    """The first position with which the model gives what it gives by itself."""
    padding = {m.padding_idx for m in hf.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None}
    for first in (0, *(n + 1 for n in sorted(padding))):
        positions = torch.arange(first, first + ids.shape[1], device=ids.device)[None]
        with suppress(*CANNOT):
            if _equal(hf(ids, use_cache=False, position_ids=positions).logits, wanted):
                return first
    return None


def _can_ask_last(hf: Any, ids: Tensor, slots: list[Slot]) -> bool:
    """Gemma 4's layers that share keys leave out the positions whose logits are not asked for: no."""
    if "logits_to_keep" not in inspect.signature(type(hf).forward).parameters:
        return False
    wanted = frozenset((s.layer, "z") for s in slots)
    with suppress(*CANNOT), attention.running(slots, Tape(wanted=wanted)) as tape:
        hf(ids, use_cache=False, logits_to_keep=1)
        return all(tape.kept[key].shape[1] == ids.shape[1] for key in wanted)
    return False


def _allow_sdpa(hf: Any, ids: Tensor, slots: list[Slot], wanted: Tensor) -> None:
    """Let calls go to sdpa where it gives the eager function's logits (it drops soft-caps and sinks elsewhere)."""
    for slot in slots:
        slot.sdpa = True
    try:
        equal = _equal(hf(ids, use_cache=False).logits, wanted)
    except CANNOT:
        equal = False
    if not equal:
        for slot in slots:
            slot.sdpa = False


def fingerprint(hf: Any) -> str:
    """SHA-256 over names, shapes and values of all weights (each as its float64 sum, absolute sum and ends)."""
    digest = hashlib.sha256()
    for key, value in sorted(hf.state_dict().items()):
        flat = value.detach().flatten()
        picks = flat[:: max(1, flat.numel() // 64)][:64].double().cpu() if flat.numel() else flat.double().cpu()
        total = flat.double().sum().item() if flat.is_floating_point() else 0.0
        digest.update(f"{key} {tuple(value.shape)} {total!r}".encode() + picks.numpy().tobytes())
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), "")


def _child(module: nn.Module, path: str) -> nn.Module:
    return module.get_submodule(path)


def _matrix(linear: Any) -> Tensor:
    """The matrix of a linear map as it acts, [in, out]: transposed where it is kept so, active LoRA added."""
    inner = linear.get_base_layer() if _has_lora(linear) else linear
    weight = inner.weight
    if inner is not linear and not linear.disable_adapters and not linear.merged:
        for adapter in linear.active_adapters:
            weight = weight + linear.get_delta_weight(adapter)
    return weight if isinstance(inner, Conv1D) else weight.T


def _has_lora(module: nn.Module) -> bool:
    """Whether peft has wrapped a linear map."""
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")


def _linears(module: nn.Module) -> dict[str, nn.Module]:
    """Every linear map of a module; with LoRA kept, the whole of it and not its parts."""
    wrapped = tuple(f"{n}." for n, m in module.named_modules() if _has_lora(m))
    return {
        n: m
        for n, m in module.named_modules()
        if (isinstance(m, nn.Linear | Conv1D) or _has_lora(m)) and not n.startswith(wrapped or "\0")
    }


def _locate(hf: Any, slots: list[Slot], attentions: dict[int, nn.Module], grid: Grid) -> Geometry:
    """Find the projections by watching one attention module at work (first attention layer)."""
    slot = slots[0]
    module = attentions[slot.layer]
    seen: dict[str, Tensor] = {}
    made: dict[str, Tensor] = {}
    linears = _linears(module)

    def hook(name: str):
        def keep(_m: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            seen[name] = args[0].detach()
            made[name] = out.detach().requires_grad_()
            return made[name]

        return keep

    handles = [m.register_forward_hook(hook(n)) for n, m in linears.items()]
    wanted = frozenset((slot.layer, s) for s in ("q", "k", "v", "z"))
    ids = probe_ids(hf, 3, seed=1)
    try:
        with torch.enable_grad(), attention.running(slots, Tape(wanted=wanted, grad=True)) as tape:
            hf(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    kept = {site: tape.kept[slot.layer, site] for site in "qkvz"}
    z = kept["z"].detach().flatten(2)
    outs = [n for n, x in seen.items() if x.shape == z.shape and torch.equal(x, z)]
    made = {n: x for n, x in made.items() if n not in outs}
    with torch.enable_grad():
        found = {site: _channels(kept[site], made) for site in "qkv"}
    missing = [f"no one projection makes {s} of each head" for s, p in found.items() if p is None]
    o = None
    if len(outs) == 1:
        size = kept["z"].shape[-1]
        o = Projection(outs[0], tuple(tuple(range(h * size, (h + 1) * size)) for h in range(grid.n_heads)))
    else:
        missing.append("no projection receives z itself (something gates or mixes heads in between)")
    return Geometry(found["q"], found["k"], found["v"], o, o is not None, "; ".join(missing))


def _channels(x: Tensor, made: dict[str, Tensor]) -> Projection | None:
    """Which output channels of which projection make each head of ``x`` [1, head, position, d].

    The gradient of a random weighting of head h with respect to a projection's output is nonzero on the rows of
    head h.  A norm over all heads smears it thinly over the others, so the d strongest channels are taken and must
    be disjoint between heads.
    """
    size = x.shape[-1]
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x) + 3.0
    names = [n for n in made if x.requires_grad]  # without one, no linear map of the module makes x (JetMoE's experts)
    best: dict[str, list[tuple[int, ...]]] = {n: [] for n in names}
    for h in range(x.shape[1] if names else 0):
        grads = torch.autograd.grad(
            (x[:, h] * weights[:, h]).sum(), [made[n] for n in names], retain_graph=True, allow_unused=True
        )
        for n, g in zip(names, grads, strict=True):
            if g is not None and g.shape[-1] >= size:
                strength = g.abs().float().sum(dim=tuple(range(g.dim() - 1)))
                top = strength.topk(size)
                if bool(top.values[-1] > 0):
                    best[n].append(tuple(sorted(top.indices.tolist())))
    for n in names:
        if len(best[n]) == x.shape[1] and len({c for rows in best[n] for c in rows}) == x.shape[1] * size:
            return Projection(n, tuple(best[n]))
    return None
