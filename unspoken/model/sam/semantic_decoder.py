"""SAM's mask decoder with five more tokens: a vector in text space for every mask.

SAM's part is that of `segment_anything.modeling.mask_decoder` (Apache-2.0) with the same parameter
names. The new tokens are added to its IoU token and its four mask tokens. There are four
`semantic_tokens`, one for each mask; their heads give unit vectors that are aligned with CLIP's
text embeddings. The head of the `similarity_token` predicts, for each mask, the cosine between that
vector and the right label's embedding, as a measure of confidence. HQ-SAM (arXiv:2306.01567) adds
its token in the same way. SAM 2 (arXiv:2408.00714) also predicts a score from a token of its own.

Legend: N prompts, M masks a prompt (1 or 3), C decoder width, D text width, h x w embedding cells.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from unspoken.model.sam.config import NUM_MASKS, SemanticSamConfig
from unspoken.model.sam.conv_stem import FineFeatures, split_embedding
from unspoken.model.sam.token_transformer import TokenTransformer

TOKEN_NOISE = 0.02
LOGIT_SCALE_START = math.log(1 / 0.07)  # open_clip's default
MAX_LOGIT_SCALE = math.log(100.0)
NUM_NEW_TOKENS = NUM_MASKS + 1
NEW_PREFIXES = (
    "semantic_tokens.",
    "similarity_token.",
    "semantic_heads.",
    "similarity_head.",
    "semantic_pool.",
    "logit_scale",
)
"""Name prefixes of the decoder's parameters that SAM does not have."""


class DecoderOutput(NamedTuple):
    """Output of the decoder for N prompts with M masks each."""

    mask_logits: Tensor  # (N, M, 4h, 4w), before the threshold
    iou_predictions: Tensor  # (N, M), predicted IoU of each mask
    mask_embedding: Tensor  # (N, M, D), unit length, in text space
    similarity: Tensor  # (N, M), predicted cosine of that vector with the right label's


class MaskPool(nn.Module):
    """Pools the mean image embedding in each mask, with each channel standardised.

    Channels' scales differ widely, and channels that separate labels are among the small ones.
    """

    mean: Tensor  # (C,)
    std: Tensor  # (C,)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def forward(self, image_embeddings: Tensor, mask_logits: Tensor) -> Tensor:
        """Pool and project embeddings, (N, C, h, w), (N, M, 4h, 4w) -> (N, M, C)."""
        means = pool_masks(image_embeddings, mask_logits)
        answer: Tensor = self.linear((means - self.mean) / self.std)
        return answer

    @torch.no_grad()
    def standardise(self, image_embeddings: Tensor) -> None:
        """Set the channels' mean and scale from some pictures, (B, C, h, w).

        Call it once, before training.
        """
        cells = image_embeddings.transpose(0, 1).flatten(1)
        self.mean.copy_(cells.mean(1))
        self.std.copy_(cells.std(1).clamp(min=1e-3))


class SemanticDecoder(nn.Module):
    """SAM's mask decoder with semantic tokens.

    One call takes prompts of many pictures; each prompt has the index of its picture.
    """

    def __init__(self, config: SemanticSamConfig) -> None:
        super().__init__()
        sam, semantic = config.sam, config.semantic
        width = sam.decoder_width
        self.is_isolated = semantic.token_attention == "isolated"
        self.is_stemmed = sam.stem != "none"
        self.transformer = TokenTransformer(
            depth=sam.decoder_depth,
            width=width,
            num_heads=sam.decoder_heads,
            mlp_dim=sam.decoder_mlp,
        )
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(NUM_MASKS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(width, width, width // 8, 3) for _ in range(NUM_MASKS)
        )
        self.iou_prediction_head = MLP(width, sam.iou_head_width, NUM_MASKS, 3)

        self.semantic_tokens = nn.Embedding(NUM_MASKS, width)
        self.similarity_token = nn.Embedding(1, width)
        num_heads = 1 if semantic.shared_head else NUM_MASKS
        self.semantic_heads = nn.ModuleList(
            MLP(width, width, semantic.text_dim, 3) for _ in range(num_heads)
        )
        self.similarity_head = MLP(width, sam.iou_head_width, NUM_MASKS, 3)
        self.semantic_pool = MaskPool(width) if semantic.pools_masks else None
        # log of the factor on cosines before a softmax, in the loss and in served scores
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_START))
        self.start_new_tokens()

    @torch.no_grad()
    def start_new_tokens(self) -> None:
        """Initialise the new tokens from SAM's tokens. Call it again after loading SAM."""
        noise = TOKEN_NOISE * torch.randn_like(self.mask_tokens.weight)
        self.semantic_tokens.weight.copy_(self.mask_tokens.weight + noise)
        self.similarity_token.weight.copy_(self.iou_token.weight)

    def forward(
        self,
        image_embeddings: Tensor,
        *,
        image_pe: Tensor,
        image_index: Tensor,
        sparse_prompts: Tensor,
        dense_prompts: Tensor,
        multimask_output: bool,
    ) -> DecoderOutput:
        """Decode N prompts.

        image_embeddings: (B, C, h, w), or (B, 4C, h, w) with a stem; image_pe: (1, C, h, w);
        image_index: (N,) long, index of each prompt's picture among the B pictures;
        sparse_prompts: (N, S, C); dense_prompts: (N, C, h, w).
        """
        fine = None
        if self.is_stemmed:
            image_embeddings, features = split_embedding(image_embeddings)
            fine = FineFeatures(*(each[image_index] for each in features))
        height, width = image_embeddings.shape[-2:]
        tokens = self._tokens(sparse_prompts)  # (N, 5 + S + 5, C)
        pictures = image_embeddings[image_index]
        source = pictures + dense_prompts
        hidden, seen = self.transformer(
            source.flatten(2).transpose(1, 2),
            image_pe.flatten(2).transpose(1, 2),
            tokens,
            num_hidden=NUM_NEW_TOKENS if self.is_isolated else 0,
        )
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        seen = seen.transpose(1, 2).unflatten(-1, (height, width))
        mask_logits = self._masks(hidden[:, 1 : 1 + NUM_MASKS], seen, fine)
        semantic = hidden[:, -NUM_NEW_TOKENS:-1]  # (N, 4, C)
        if self.semantic_pool is not None:
            semantic = semantic + self.semantic_pool(pictures, mask_logits)
        return DecoderOutput(
            mask_logits=mask_logits[:, chosen],
            iou_predictions=self.iou_prediction_head(hidden[:, 0])[:, chosen],
            mask_embedding=self._embed(semantic)[:, chosen],
            similarity=self.similarity_head(hidden[:, -1])[:, chosen],
        )

    def scale(self) -> Tensor:
        """Return the factor on cosines, at most 100."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    def _tokens(self, sparse_prompts: Tensor) -> Tensor:
        """Join tokens: SAM's IoU token, mask tokens and prompts, then the new tokens.

        The transformer does not depend on their order.
        """

        def rows(*weights: Tensor) -> Tensor:
            return torch.cat(weights).expand(len(sparse_prompts), -1, -1)

        old = rows(self.iou_token.weight, self.mask_tokens.weight)
        new = rows(self.semantic_tokens.weight, self.similarity_token.weight)
        return torch.cat([old, sparse_prompts, new], dim=1)

    def _masks(self, mask_tokens: Tensor, seen: Tensor, fine: FineFeatures | None) -> Tensor:
        """Return mask logits, (N, 4, C) and (N, C, h, w) -> (N, 4, 4h, 4w)."""
        if fine is None:
            upscaled = self.output_upscaling(seen)  # (N, C / 8, 4h, 4w)
        else:
            grow, norm, bend, grow_again, bend_again = self.output_upscaling
            middle = bend(norm(grow(seen) + fine.of_stride_4))
            upscaled = bend_again(grow_again(middle) + fine.of_stride_2)
        weights = torch.stack(
            [mlp(mask_tokens[:, k]) for k, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )  # (N, 4, C / 8)
        num_rows, _, height, width = upscaled.shape
        logits: Tensor = (weights @ upscaled.flatten(2)).view(num_rows, NUM_MASKS, height, width)
        return logits

    def _embed(self, semantic: Tensor) -> Tensor:
        """Return mask embeddings, (N, 4, C) -> (N, 4, D), unit length, in float32."""
        heads = list(self.semantic_heads)
        if len(heads) == 1:
            return F.normalize(heads[0](semantic).float(), dim=-1)
        vectors = torch.stack([head(semantic[:, k]) for k, head in enumerate(heads)], dim=1)
        return F.normalize(vectors.float(), dim=-1)


def pool_masks(image_embeddings: Tensor, mask_logits: Tensor) -> Tensor:
    """Return the mean embedding in each mask: (N, C, h, w), (N, M, 4h, 4w) -> (N, M, C).

    Mask logits are detached, so that the loss on labels does not change the masks.
    """
    share = F.avg_pool2d(mask_logits.detach().sigmoid(), 4).flatten(2)  # (N, M, h * w)
    share = share / share.sum(-1, keepdim=True).clamp(min=1e-3)
    return share @ image_embeddings.flatten(2).transpose(1, 2)
