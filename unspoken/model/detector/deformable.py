"""Multi-scale deformable attention (Zhu et al. 2021, 4.1) for CPUs, by `embedding_bag`.

transformers samples each level by `grid_sample` into a tensor of all samples, then weights and sums
them. Most of that time is spent on memory access. Here the four cells around each sampling point
are rows of a table. One weighted bag of rows for each query and head gives the sum in one step.
"""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.grounding_dino.modeling_grounding_dino import (
    MultiScaleDeformableAttention,
)


class BaggedDeformableAttention(nn.Module):
    """Replaces transformers' MultiScaleDeformableAttention; computes the sums in another order."""

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: Sequence[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """Sample and sum the values: -> (B, Q, H x D).

        value: (B, S, H, D), where S counts the cells of all L levels; sampling_locations:
        (B, Q, H, L, P, 2) in [0, 1]; attention_weights: (B, Q, H, L, P). Cells outside a level
        count as zero.
        """
        batch, num_cells, heads, width = value.shape
        queries, levels, points = sampling_locations.shape[1], *sampling_locations.shape[3:5]
        sizes_hw = torch.tensor(value_spatial_shapes_list, device=value.device)
        height, across = (size.view(levels, 1) for size in sizes_hw.to(torch.int32).unbind(1))
        starts = level_start_index.to(torch.int32).view(levels, 1)
        x = sampling_locations[..., 0].float() * across - 0.5
        y = sampling_locations[..., 1].float() * height - 0.5
        left, top = x.floor(), y.floor()
        right_share, lower_share = x - left, y - top
        left, top = left.to(torch.int32), top.to(torch.int32)
        weights = attention_weights.float()
        # Rows of the table are ordered by (picture, cell, head), as `value` is in memory.
        picture = torch.arange(batch, dtype=torch.int32, device=value.device) * num_cells
        base = starts + picture.view(-1, 1, 1, 1, 1)
        head = torch.arange(heads, dtype=torch.int32, device=value.device).view(heads, 1, 1)
        shape = (batch, queries, heads, 4, levels * points)
        rows = torch.empty(shape, dtype=torch.int32, device=value.device)
        shares = torch.empty(shape, dtype=torch.float32, device=value.device)
        for corner, (down, aside) in enumerate(product((0, 1), (0, 1))):
            column, row = left + aside, top + down
            inside = (column >= 0) & (column < across) & (row >= 0) & (row < height)
            share = weights * (right_share if aside else 1 - right_share)
            share = share * (lower_share if down else 1 - lower_share)
            cell = (base + row * across + column) * heads + head
            rows[..., corner, :] = torch.where(inside, cell, 0).flatten(-2)
            shares[..., corner, :] = torch.where(inside, share, 0.0).flatten(-2)
        summed = F.embedding_bag(
            rows.view(-1, 4 * levels * points),
            value.reshape(-1, width).float(),
            per_sample_weights=shares.view(-1, 4 * levels * points),
            mode="sum",
        )
        return summed.view(batch, queries, heads * width).to(value.dtype)


def use_bagged_attention(model: nn.Module) -> None:
    """Replace every deformable attention module in transformers' Grounding-DINO."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, MultiScaleDeformableAttention):
                setattr(module, name, BaggedDeformableAttention())
