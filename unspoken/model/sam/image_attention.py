"""Attention of SAM's image encoder, computed over small groups of scores.

The package computes all scores of a block at once: 800 MB for 4096 cells and 12 heads, several
times. This module uses the same formula for a few rows of one head at a time, whose scores stay in
the processor's cache. It is about twice as fast. `bench.encode` measures the whole encoder.
"""

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor

SCORES_AT_ONCE = 1 << 21
"""8 MB in float32. Twice this number is slower in float32, half of it is slower in bfloat16."""


class PiecewiseAttention(Attention):  # type: ignore[misc]
    """The package's attention with relative positions.

    On GPUs and during training it runs the package's own code.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend among all cells: (B, H, W, C) -> (B, H, W, C)."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return super().forward(x)  # type: ignore[no-any-return]
        batch, height, width, _ = x.shape
        cells = height * width
        qkv = self.qkv(x).view(batch, cells, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, batch * self.num_heads, cells, -1)  # each (B heads, cells, D)
        rel_h = get_rel_pos(height, height, self.rel_pos_h).to(q.dtype)  # (H, H, D)
        rel_w = get_rel_pos(width, width, self.rel_pos_w).to(q.dtype)
        heads_at_once = max(1, SCORES_AT_ONCE // cells**2)
        rows_at_once = max(1, SCORES_AT_ONCE // (cells * width))
        summed = torch.empty_like(v)
        for head in range(0, len(q), heads_at_once):
            heads = slice(head, head + heads_at_once)
            for row in range(0, height, rows_at_once):
                places = slice(row * width, (row + rows_at_once) * width)
                asked = q[heads, places]
                positions = _position_scores(
                    asked.unflatten(1, (-1, width)), rel_h[row : row + rows_at_once], rel_w
                )
                scores = torch.baddbmm(positions, asked, k[heads].transpose(1, 2), alpha=self.scale)
                summed[heads, places] = (scores.softmax(dim=-1) @ v[heads]).to(summed.dtype)
        joined = summed.view(batch, self.num_heads, height, width, -1).permute(0, 2, 3, 1, 4)
        return self.proj(joined.reshape(batch, height, width, -1))  # type: ignore[no-any-return]


def attend_piecewise(encoder: ImageEncoderViT) -> None:
    """Use `PiecewiseAttention` in the blocks of the package's encoder; keeps their weights."""
    for block in encoder.blocks:
        block.attn.__class__ = PiecewiseAttention


def _position_scores(asked: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Return the scores of relative positions: (N, h, W, D), (h, H, D), (W, W, D) -> (N, h W, H W).

    The queries are those of h rows.
    """
    by_row = torch.einsum("nhwd,hkd->nhwk", asked, rel_h)
    by_column = torch.einsum("nhwd,wkd->nhwk", asked, rel_w)
    return (by_row[..., :, None] + by_column[..., None, :]).flatten(3).flatten(1, 2)
