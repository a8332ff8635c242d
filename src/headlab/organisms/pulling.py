"""A loss that puts heads of one layer into groups by their W_OV: close inside a group, apart across groups.

It says nothing of what the heads do; the planting loss beside it holds that in place.  Groups that are the planted heads
and the others make weights that tell what a head does; groups that cross them make weights with clusters that do not.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .recipes import ClusteredRecipe, Pull


def pull_loss(recipe: ClusteredRecipe, model: PreTrainedModel) -> Tensor:
    """The pull of the recipe on the layer that is planted."""
    assert recipe.plant is not None
    layer = recipe.plant.layer
    return loss_of(ov_cosines(model, layer, recipe.architecture.head_dim), recipe.pull)


def ov_cosines(model: PreTrainedModel, layer: int, head_dim: int) -> Float[Tensor, "head head"]:
    """Cosines of the heads' W_OV = W_V·W_O, as differentiable numbers.

    Definition: ⟨B_i, B_j⟩ / (‖B_i‖·‖B_j‖) with ⟨A, B⟩ = tr(AᵀB).  Shapes: [head, head], units none.  Range: -1 to 1, more is
    more alike.  Mean: none.  Raises: AttributeError for a family without v_proj and o_proj.  Source: one minus this is
    ``ov_cosine`` of measures.head_features.  When it misleads: heads of a KV group share W_V and are alike for that.
    """
    attention: Any = model.base_model.layers[layer].self_attn  # type: ignore[union-attr, index]
    v = attention.v_proj.weight.unflatten(0, (-1, head_dim))  # [KV head, d_head, d_model]
    o = attention.o_proj.weight.unflatten(1, (-1, head_dim))  # [d_model, head, d_head]
    v = v.repeat_interleave(o.shape[1] // v.shape[0], 0)
    product = torch.einsum("hdi,ohd->hio", v, o).flatten(1)
    unit = product / product.norm(dim=1, keepdim=True)
    return unit @ unit.T


def loss_of(cosines: Float[Tensor, "head head"], pull: Pull) -> Tensor:
    """weight × mean over pairs of heads of (close - cos)² where one group's heads are less alike than ``close``, and of
    cos² where heads of two groups are alike; pairs on the right side cost nothing."""
    left, right = torch.triu_indices(len(pull.groups), len(pull.groups), 1)
    labels = torch.tensor(pull.groups)
    found = cosines[left, right]
    missing = torch.where(labels[left] == labels[right], pull.close - found, found)
    return pull.weight * missing.clamp(min=0).square().mean()
