"""Multi-scale deformable attention (Zhu et al. 2021, 4.1), made fast on CPUs by `embedding_bag`.

The library `transformers` calls `grid_sample` for each level, stores all samples in one tensor, and
then computes their weighted sum. Memory access takes most of its time. Here `value` is a table with
one row per cell and head. Each sampling point selects the four cells around it with their bilinear
weights, and one `embedding_bag` computes the weighted sum of these rows for each query and head.
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
    """Drop-in replacement of transformers' module. It adds in another order: rounding differs."""

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
        level_h, level_w = (size.view(levels, 1) for size in sizes_hw.to(torch.int32).unbind(1))
        starts = level_start_index.to(torch.int32).view(levels, 1)
        x = sampling_locations[..., 0].float() * level_w - 0.5
        y = sampling_locations[..., 1].float() * level_h - 0.5
        left, top = x.floor(), y.floor()
        right_weight, lower_weight = x - left, y - top
        left, top = left.to(torch.int32), top.to(torch.int32)
        weights = attention_weights.float()
        # Rows of the table are ordered by (picture, cell, head), as `value` is in memory.
        picture = torch.arange(batch, dtype=torch.int32, device=value.device) * num_cells
        base = starts + picture.view(-1, 1, 1, 1, 1)
        head = torch.arange(heads, dtype=torch.int32, device=value.device).view(heads, 1, 1)
        shape = (batch, queries, heads, 4, levels * points)
        rows = torch.empty(shape, dtype=torch.int32, device=value.device)
        row_weights = torch.empty(shape, dtype=torch.float32, device=value.device)
        for corner, (dy, dx) in enumerate(product((0, 1), (0, 1))):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < level_w) & (row >= 0) & (row < level_h)
            weight = weights * (right_weight if dx else 1 - right_weight)
            weight = weight * (lower_weight if dy else 1 - lower_weight)
            cell = (base + row * level_w + column) * heads + head
            rows[..., corner, :] = torch.where(inside, cell, 0).flatten(-2)
            row_weights[..., corner, :] = torch.where(inside, weight, 0.0).flatten(-2)
        summed = F.embedding_bag(
            rows.view(-1, 4 * levels * points),
            value.reshape(-1, width).float(),
            per_sample_weights=row_weights.view(-1, 4 * levels * points),
            mode="sum",
        )
        return summed.view(batch, queries, heads * width).to(value.dtype)


def use_bagged_attention(model: nn.Module) -> None:
    """Replace every deformable attention module in transformers' Grounding-DINO."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, MultiScaleDeformableAttention):
                setattr(module, name, BaggedDeformableAttention())
