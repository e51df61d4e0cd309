"""SAM's two-way transformer, with hidden tokens to which the other tokens do not attend.

The computation and the parameter names are those of `segment_anything.modeling.transformer`
(Apache-2.0), so that official weights load. The only addition is that the last tokens may be
hidden: the old tokens and the picture do not attend to them. It is not enough to mask only one of
the two, because image features change with the tokens that the picture attends to.

Legend: N prompts, T tokens of which the last H are hidden, A cells of the image embedding, C width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn


class TransformerOutput(NamedTuple):
    """Tokens and image features after the last block."""

    tokens: Tensor  # (N, T, C)
    image_features: Tensor  # (N, A, C)


class TokenTransformer(nn.Module):
    """`depth` two-way blocks and a final attention from tokens to the picture."""

    def __init__(self, *, depth: int, width: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TokenBlock(width=width, num_heads=num_heads, mlp_dim=mlp_dim, is_first=index == 0)
            for index in range(depth)
        )
        self.final_attn_token_to_image = TokenAttention(width, num_heads, downsample_rate=2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(
        self, image_embedding: Tensor, image_pe: Tensor, tokens: Tensor, *, num_hidden: int
    ) -> TransformerOutput:
        """Run all blocks. image_embedding: (N, A, C); image_pe: (1, A, C); tokens: (N, T, C).

        The last `num_hidden` tokens are hidden.
        """
        queries, keys = tokens, image_embedding
        for layer in self.layers:
            queries, keys = layer(
                queries, keys, token_pe=tokens, image_pe=image_pe, num_hidden=num_hidden
            )
        attended = self.final_attn_token_to_image(queries + tokens, keys + image_pe, keys)
        return TransformerOutput(self.norm_final_attn(queries + attended), keys)


class TokenBlock(nn.Module):
    """Attention of tokens to tokens and to the picture, an MLP, attention of picture to tokens."""

    def __init__(self, *, width: int, num_heads: int, mlp_dim: int, is_first: bool) -> None:
        super().__init__()
        self.self_attn = TokenAttention(width, num_heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = TokenAttention(width, num_heads, downsample_rate=2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLPBlock(width, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = TokenAttention(width, num_heads, downsample_rate=2)
        self.is_first = is_first

    def forward(
        self, tokens: Tensor, image: Tensor, *, token_pe: Tensor, image_pe: Tensor, num_hidden: int
    ) -> tuple[Tensor, Tensor]:
        """Attend in both directions: (N, T, C) and (N, A, C) -> the same shapes."""
        if self.is_first:  # SAM's first block has no positions and no residual here
            tokens = self._attend_to_each_other(tokens, tokens, num_hidden=num_hidden)
        else:
            tokens = tokens + self._attend_to_each_other(
                tokens + token_pe, tokens, num_hidden=num_hidden
            )
        tokens = self.norm1(tokens)
        seen = image + image_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, seen, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        num_seen = tokens.shape[1] - num_hidden
        visible = tokens[:, :num_seen]
        shown = self.cross_attn_image_to_token(seen, visible + token_pe[:, :num_seen], visible)
        return tokens, self.norm4(image + shown)

    def _attend_to_each_other(self, queries: Tensor, values: Tensor, *, num_hidden: int) -> Tensor:
        """Self-attention among tokens: (N, T, C) -> (N, T, C).

        Hidden tokens attend to all tokens; the others attend only to each other.
        """
        if not num_hidden:
            return self.self_attn(queries, queries, values)  # type: ignore[no-any-return]
        num_seen = queries.shape[1] - num_hidden
        visible = queries[:, :num_seen]
        # Two calls instead of a mask, so that visible tokens cannot depend on hidden ones.
        return torch.cat(
            [
                self.self_attn(visible, visible, values[:, :num_seen]),
                self.self_attn(queries[:, num_seen:], queries, values),
            ],
            dim=1,
        )


class TokenAttention(nn.Module):
    """Multi-head attention whose inner width may be smaller than its outer width."""

    def __init__(self, width: int, num_heads: int, *, downsample_rate: int = 1) -> None:
        super().__init__()
        inner = width // downsample_rate
        assert inner % num_heads == 0, "heads divide the inner width"
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from queries to keys: (N, Q, C), (N, K, C), (N, K, C) -> (N, Q, C)."""
        attended = F.scaled_dot_product_attention(
            self._split(self.q_proj(queries)),
            self._split(self.k_proj(keys)),
            self._split(self.v_proj(values)),
        )  # (N, heads, Q, inner / heads)
        joined = attended.transpose(1, 2).flatten(2)  # (N, Q, inner)
        return self.out_proj(joined)  # type: ignore[no-any-return]

    def _split(self, vectors: Tensor) -> Tensor:
        num_rows, num_tokens, width = vectors.shape
        heads = vectors.view(num_rows, num_tokens, self.num_heads, width // self.num_heads)
        return heads.transpose(1, 2)
