"""What is computed from low-rank factors equals the full d_model × d_model products, and changes with nothing that
leaves the model as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import tiny
import torch
from torch import Tensor
from worked import REFUSED

from headlab.engine.model import ModelError, open_model
from headlab.heads import Grid
from headlab.measures import distances, head_weights, norms, spectra
from headlab.measures.head_features import KINDS
from headlab.measures.rotations import HeadNorm
from headlab.measures.weights import HeadWeights, LayerWeights

OFFSETS = (0, 1, 3, 7, 20)
HEADS, D_MODEL, D, TURNING = 5, 23, 7, 4
FREQUENCIES = (1.0, 0.3)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotary() -> Tensor:
    """M [offset, 7, 7]: channels 0, 2 and 1, 3 turn together, 4 to 6 do not."""
    maps = torch.eye(D, dtype=torch.float64).repeat(len(OFFSETS), 1, 1)
    for m, n in zip(maps, OFFSETS, strict=True):
        for i, frequency in enumerate(FREQUENCIES):
            c, s = np.cos(n * frequency), np.sin(n * frequency)
            m[i, i], m[i + 2, i + 2], m[i, i + 2], m[i + 2, i] = c, c, s, -s
    return maps


def made(heads: int = HEADS, kv: int = HEADS, *, turning: bool = False, seed: int = 0, **fields: object) -> HeadWeights:
    """A layer 1 of random heads of unequal size, in float64."""
    g = generator(seed)
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)  # noqa: E731
    size = 1 + torch.arange(heads)[:, None, None]
    one = LayerWeights(1, size * draw(heads, D_MODEL, D), draw(kv, D_MODEL, D), draw(kv, D_MODEL, D), draw(heads, D, D_MODEL),
                       rotation=rotary() if turning else None)  # fmt: skip
    return HeadWeights(
        "made", Grid(2, heads, kv), D_MODEL, D, {1: replace(one, **fields)}, OFFSETS if turning else (0,)
    )


def with_(weights: HeadWeights, **fields: Tensor) -> HeadWeights:
    return replace(weights, layers={1: replace(weights.at(1), **fields)})


def products(weights: HeadWeights, circuit: str) -> np.ndarray:
    """The full products [head, offset, d_model, d_model], by the definition."""
    group, one = weights.kv_of().tolist(), weights.at(1)
    parts = {b: weights.of(b, 1).double().numpy() for b in ("q", "k", "v", "o")}  # type: ignore[arg-type]
    if circuit == "ov":
        return np.stack([(parts["v"][g] @ parts["o"][h])[None] for h, g in enumerate(group)])
    turns = np.eye(D)[None] if one.rotation is None else one.rotation.numpy()
    for b, norm in (("q", one.q_norm), ("k", one.k_norm)):
        if norm is not None:
            centring = np.eye(D) - norm.centred / D
            parts[b] = np.stack([w @ centring @ np.diag(x) for w, x in zip(parts[b], norm.gain.numpy(), strict=True)])
    return np.stack([np.stack([parts["q"][h] @ m @ parts["k"][g].T for m in turns]) for h, g in enumerate(group)])


def gain(heads: int, centred: bool, seed: int) -> HeadNorm:
    return HeadNorm(1 + 0.5 * torch.rand(heads, D, generator=generator(seed)), torch.zeros(heads, D), centred)


CASES = {
    "heads of their own": made(),
    "grouped": made(10, 2),
    "rotary": made(turning=True),
    "grouped and rotary": made(10, 2, turning=True),
    "normed": made(6, 3, turning=True, q_norm=gain(6, False, 1), k_norm=gain(3, False, 2)),
    "centred": made(q_norm=gain(5, True, 1), k_norm=gain(5, True, 2)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("circuit", ["qk", "ov"])
def test_features_equal_the_full_products(case: str, circuit: str) -> None:
    """Cosine, singular values and norms of matrices that are really formed, by numpy."""
    weights = CASES[case]
    full = products(weights, circuit)
    flat = full.reshape(len(full), -1)
    size = np.linalg.norm(flat, axis=1)
    cosine = 1 - flat @ flat.T / np.outer(size, size)
    assert np.allclose(distances(weights, 1, f"{circuit}_cosine"), cosine, atol=1e-10)  # type: ignore[arg-type]
    values = np.linalg.svd(full, compute_uv=False)[..., :D].mean(1)
    found = spectra(weights, 1, circuit)  # type: ignore[arg-type]
    assert np.allclose(found.values, values, atol=1e-9 * values.max())
    norm = size / np.sqrt(full.shape[1])
    assert np.allclose(found.norm, norm) and np.allclose(found.shape, values / norm[:, None])
    assert np.allclose(found.rank, (values**2).sum(1) ** 2 / (values**4).sum(1), rtol=1e-8)
    apart = np.linalg.norm(found.shape[:, None] - found.shape[None], axis=2)
    assert np.allclose(distances(weights, 1, f"{circuit}_spectrum"), apart)  # type: ignore[arg-type]
    table = norms(weights)
    assert np.allclose(table.loc[table["block"] == circuit, "norm"], norm)


@pytest.mark.parametrize("case", ["heads of their own", "grouped"])
def test_subspaces_by_scipys_principal_angles(case: str) -> None:
    """√(1 − mean cos²θ) with scipy.linalg.subspace_angles, which shares no code; KV heads on their own axis."""
    weights = CASES[case]
    by_block = {}
    for block in ("q", "k", "v", "o"):
        bases = [w.T if block == "o" else w for w in weights.of(block, 1).numpy()]  # type: ignore[attr-defined]
        angles = np.array([[np.sort(scipy.linalg.subspace_angles(a, b)) for b in bases] for a in bases])
        by_block[block] = np.sqrt((np.sin(angles) ** 2).mean(2))
        assert by_block[block].shape == (len(bases), len(bases))
        assert np.allclose(distances(weights, 1, f"{block}_subspace"), by_block[block], atol=1e-7)  # type: ignore[arg-type]
    group = weights.kv_of().numpy()
    for circuit, (own, shared) in {"qk": ("q", "k"), "ov": ("o", "v")}.items():
        both = np.sqrt((by_block[own] ** 2 + by_block[shared][group][:, group] ** 2) / 2)
        assert np.allclose(distances(weights, 1, f"{circuit}_subspace"), both, atol=1e-7)  # type: ignore[arg-type]


def everything(weights: HeadWeights, layer: int = 1) -> dict[str, np.ndarray]:
    return {kind: distances(weights, layer, kind) for kind in KINDS}  # type: ignore[arg-type]


def apart(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
    return {kind: float(np.abs(a[kind] - b[kind]).max()) for kind in a}


def orthogonal(n: int, size: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, size, size, generator=generator(seed), dtype=torch.float64)).Q


def pairwise(n: int, seed: int, *, free: bool = True) -> Tensor:
    """Rotations of each frequency's pair by an angle of its own, and (``free``) any of the channels that do not turn."""
    out = torch.eye(D, dtype=torch.float64).repeat(n, 1, 1)
    angles = 6 * torch.rand(n, 2, generator=generator(seed), dtype=torch.float64)
    for h in range(n):
        for i in range(2):
            c, s = angles[h, i].cos(), angles[h, i].sin()
            out[h, i, i], out[h, i + 2, i + 2], out[h, i, i + 2], out[h, i + 2, i] = c, c, s, -s
    if free:
        out[:, TURNING:, TURNING:] = orthogonal(n, D - TURNING, seed + 1)
    return out


def turned(weights: HeadWeights, qk: Tensor, ov: Tensor) -> HeadWeights:
    """Every head in another basis: W_Q·G, W_K·G⁻ᵀ and W_V·H, H⁻¹·W_O."""
    one, group = weights.at(1), weights.kv_of()
    assert one.q is not None and one.k is not None and one.v is not None and one.o is not None
    return with_(weights, q=one.q @ qk[group], k=one.k @ torch.linalg.inv(qk).transpose(1, 2), v=one.v @ ov,
                 o=torch.linalg.inv(ov)[group] @ one.o)  # fmt: skip


@pytest.mark.parametrize("kv", [5, 1])
def test_a_basis_inside_a_head_is_nothing(kv: int) -> None:
    """Without rotary positions any invertible change of basis, orthogonal or not, leaves every distance."""
    weights = made(5, kv)
    before = everything(weights)
    skewed = orthogonal(kv, D, 5) * torch.linspace(0.5, 2, D, dtype=torch.float64)
    for qk, ov in ((orthogonal(kv, D, 3), orthogonal(kv, D, 4)), (skewed, skewed.transpose(1, 2))):
        change = apart(before, everything(turned(weights, qk, ov)))
        assert max(change.values()) < 1e-7, change


def test_with_rotary_positions_only_what_commutes_is_nothing() -> None:
    """Rotations of frequency pairs, and any of channels that do not turn: no change.  A general rotation is another
    model, and W_QK's cosine and spectrum say so; subspaces cannot."""
    weights = made(turning=True)
    before, other = everything(weights), orthogonal(HEADS, D, 4)
    change = apart(before, everything(turned(weights, pairwise(HEADS, 1), other)))
    assert max(change.values()) < 1e-7, change
    change = apart(before, everything(turned(weights, orthogonal(HEADS, D, 3), other)))
    assert change.pop("qk_cosine") > 0.01 and change.pop("qk_spectrum") > 0.001
    assert max(change.values()) < 1e-7, change


def test_that_difference_is_one_of_the_model_too() -> None:
    """In a running GPT-NeoX (4 of 16 channels turn): a rotation inside heads that commutes leaves the logits, a
    general one does not; the distances go with the logits."""
    ids = torch.tensor(tiny.prompts(2, 11))
    lab = open_model(tiny.hf_model("gpt_neox"), tokenizer=tiny.words())
    fused = lab.model.gpt_neox.layers[1].attention.query_key_value
    start, bias = fused.weight.clone(), fused.bias.clone()

    def run(g: Tensor) -> tuple[Tensor, dict[str, np.ndarray]]:
        with torch.no_grad():
            for x, y in ((fused.weight, start), (fused.bias[:, None], bias[:, None])):
                cut = y.view(5, 3, 16, -1)
                x.copy_(torch.stack([*(g.T @ cut[:, i] for i in range(2)), cut[:, 2]], 1).flatten(0, 2))
            logits = lab.model(ids).logits
        return logits, everything(head_weights(lab, [1]))

    commuting, general = torch.eye(16), orthogonal(1, 16, 3)[0].float()
    for i, angle in ((0, 0.7), (1, 2.0)):
        c, s = np.cos(angle), np.sin(angle)
        commuting[i, i], commuting[i + 2, i + 2], commuting[i, i + 2], commuting[i + 2, i] = c, c, s, -s
    commuting[4:, 4:] = orthogonal(1, 12, 2)[0].float()
    logits, before = run(torch.eye(16))
    same, after = run(commuting)
    assert (same - logits).abs().max() < 1e-4 and max(apart(before, after).values()) < 1e-4
    moved, beyond = run(general)
    assert (moved - logits).abs().max() > 0.1 and apart(before, beyond)["qk_cosine"] > 0.01


@pytest.mark.parametrize("turning", [False, True])
def test_permuted_heads_permute_the_matrices(turning: bool) -> None:
    weights, order = made(turning=turning), [3, 0, 4, 2, 1]
    one = weights.at(1)
    moved = with_(weights, **{b: getattr(one, b)[order] for b in "qkvo"})
    for kind, matrix in everything(weights).items():
        assert np.allclose(everything(moved)[kind], matrix[np.ix_(order, order)], atol=1e-10)
        assert np.allclose(matrix, matrix.T) and not np.diag(matrix).any()
        assert not np.allclose(everything(moved)[kind], matrix, atol=1e-3)


def test_size_is_no_distance_and_stands_in_the_norms() -> None:
    """7·W_Q of head 2 and W_O / 3 of head 4: no distance changes, the table says 7 and 1/3."""
    weights = made(turning=True)
    one = weights.at(1)
    assert one.q is not None and one.o is not None
    scale = torch.ones(HEADS, 1, 1, dtype=torch.float64)
    q, o = scale.clone(), scale.clone()
    q[2], o[4] = 7, 1 / 3
    grown = with_(weights, q=q * one.q, o=o * one.o)
    assert max(apart(everything(weights), everything(grown)).values()) < 1e-7
    table = norms(weights)
    ratio = (norms(grown)["norm"] / table["norm"]).tolist()
    for block, head, x in zip(table["block"].tolist(), table["head"].tolist(), ratio, strict=True):
        expected = 7 if (block in {"q", "qk"} and head == 2) else 1 / 3 if (block in {"o", "ov"} and head == 4) else 1
        assert x == pytest.approx(expected)


def test_known_distances() -> None:
    """By hand: head 1 is head 0 in another basis and size (0), head 2 its negative (2, same subspaces), head 3 reads
    and writes other axes (1 in every way), head 4 shares 3 of head 0's 7 reading and writing axes."""
    eye = torch.eye(20, dtype=torch.float64)
    turn = orthogonal(1, 7, 0)[0]
    axes = [eye[:, :7], 3 * eye[:, :7] @ turn, -eye[:, :7], eye[:, 7:14], eye[:, [0, 1, 2, 14, 15, 16, 17]]]
    other = [eye[:, :7], eye[:, :7] @ turn, eye[:, :7], eye[:, 7:14], eye[:, [0, 1, 2, 14, 15, 16, 17]]]
    left, right = torch.stack(axes), torch.stack(other)
    one = LayerWeights(1, left, right, left, right.transpose(1, 2))
    weights = HeadWeights("made", Grid(2, 5, 5), 20, 7, {1: one})
    for circuit in ("qk", "ov"):
        assert np.allclose(distances(weights, 1, f"{circuit}_cosine")[0], [0, 0, 2, 1, 4 / 7])  # type: ignore[arg-type]
        expected = [0, 0, 0, 1, np.sqrt(4 / 7)]
        assert np.allclose(distances(weights, 1, f"{circuit}_subspace")[0], expected, atol=1e-7)  # type: ignore[arg-type]
        assert np.allclose(distances(weights, 1, f"{circuit}_spectrum"), 0)  # type: ignore[arg-type]
    assert np.allclose(spectra(weights, 1, "qk").rank, 7) and np.allclose(
        spectra(weights, 1, "qk").norm[:2], np.sqrt(7) * np.array([1, 3])
    )


def test_unrelated_heads_are_orthogonal_and_a_shared_factor_shows() -> None:
    """32 random heads on 8 KV heads: W_QK's cosine is 1 ± about 1/√(d_model·d), inside KV groups too; its subspaces see
    the shared W_K, those of W_Q alone do not."""
    g = generator(3)
    draw = lambda *shape: torch.randn(shape, generator=g)  # noqa: E731
    one = LayerWeights(0, draw(32, 211, 11), draw(8, 211, 11), draw(8, 211, 11), draw(32, 11, 211))
    weights = HeadWeights("random", Grid(1, 32, 8), 211, 11, {0: one})
    group = weights.kv_of().numpy()
    within = (group[:, None] == group[None]) & ~np.eye(32, dtype=bool)
    between = group[:, None] != group[None]
    cosine = distances(weights, 0, "qk_cosine")
    assert abs(cosine[within].mean() - 1) < 0.01 and abs(cosine[between].mean() - 1) < 0.01
    shared, own = distances(weights, 0, "qk_subspace"), distances(weights, 0, "q_subspace")
    assert shared[between].min() - shared[within].max() > 0.2
    assert abs(own[within].mean() - own[between].mean()) < 0.003
    assert distances(weights, 0, "k_subspace").shape == (8, 8)


def test_a_head_without_weights_is_undefined() -> None:
    """Not at distance 0 or 1: its row and column are NaN, the others stay."""
    weights = made()
    one = weights.at(1)
    assert one.q is not None and one.o is not None
    q, o = one.q.clone(), one.o.clone()
    q[3], o[3] = 0, 0
    before, found = everything(weights), everything(with_(weights, q=q, o=o))
    for kind in KINDS:
        gone = np.isnan(found[kind])
        expected = np.zeros((5, 5), bool)
        if kind not in {"k_subspace", "v_subspace"}:
            expected[3] = expected[:, 3] = True
        assert (gone == expected).all(), kind
        assert np.allclose(found[kind][~gone], before[kind][~gone])
    assert np.isnan(spectra(with_(weights, q=q), 1, "qk").shape[3]).all()


def test_a_head_that_uses_fewer_directions() -> None:
    """Head 0 reads a plane inside what head 1 reads: √(1 − 2/7), the mean over the larger dimension."""
    weights = made()
    q = weights.of("q", 1).clone()
    q[0] = q[1][:, :2] @ torch.randn(2, D, generator=generator(0), dtype=torch.float64)
    assert distances(with_(weights, q=q), 1, "q_subspace")[0, 1] == pytest.approx(np.sqrt(5 / 7))


def test_the_table_of_norms_has_a_row_for_each_block() -> None:
    """Query heads and KV heads are different axes; a family without W_O has no rows for o and ov."""
    lab = tiny.lab("llama")
    table = norms(head_weights(lab))
    assert list(table.columns) == ["layer", "block", "axis", "head", "norm"]
    assert len(table) == 3 * (4 * 10 + 2 * 2)
    assert set(table.loc[table["axis"] == "kv_head", "block"]) == {"k", "v"}
    row = table.query("layer == 2 and block == 'v' and head == 1")["norm"].item()
    assert row == pytest.approx(lab.model.model.layers[2].self_attn.v_proj.weight[14:].norm().item())
    gated = norms(head_weights(tiny.lab("bitnet")))
    assert set(gated["block"]) == {"q", "k", "v", "qk"}


def test_what_is_asked_wrongly_is_said() -> None:
    weights = made()
    with pytest.raises(REFUSED, match="qk_cosine"):
        distances(weights, 1, "qk")  # type: ignore[arg-type]
    with pytest.raises(REFUSED, match=r"qk.*ov"):
        spectra(weights, 1, "q")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="layers 1"):
        distances(weights, 0, "qk_cosine")
    with pytest.raises(ModelError, match="no W_O that"):
        distances(head_weights(tiny.lab("bitnet")), 1, "ov_cosine")
    with pytest.raises(ModelError, match="because of that"):
        distances(replace(weights, why_no_ov="because of that"), 1, "ov_spectrum")
