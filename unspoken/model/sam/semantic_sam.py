"""Semantic-SAM: SAM's image and prompt encoders with the semantic decoder.

The network is stateless: the caller holds the image embedding, so threads and pictures share no
state. Image and prompt encoders are the segment-anything package's own classes.

Legend: B pictures, N prompts of K points, S side of the square input, C decoder width, h cells.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, PromptEncoder
from torch import Tensor, nn

from unspoken.errors import InvalidInput
from unspoken.model.sam.config import SamConfig, SemanticSamConfig
from unspoken.model.sam.conv_stem import STEM_PREFIX, StemmedImageEncoder
from unspoken.model.sam.image_attention import attend_piecewise
from unspoken.model.sam.semantic_decoder import NEW_PREFIXES, DecoderOutput, SemanticDecoder

BOX_LOGIT = 4.0  # logit of a mask prompt inside a drawn box: a confident mask


class Prompts(NamedTuple):
    """N prompts of one kind; coordinates in pixels of the network's square input.

    Prompts of one kind have the same number of points, and either all or none have a box. Other
    kinds need other calls, because SAM pads a missing box with a token that changes the answer.
    """

    image_index: Tensor  # (N,) long: index of each prompt's picture
    points: Tensor | None = None  # (N, K, 2) x, y
    point_labels: Tensor | None = None  # (N, K): 1 on the thing, 0 off it, -1 padding
    boxes: Tensor | None = None  # (N, 4) xyxy
    mask_logits: Tensor | None = None  # (N, 1, 4h, 4h): low-resolution logits of an earlier answer

    def __len__(self) -> int:
        return len(self.image_index)


class SemanticSam(nn.Module):
    """A network that embeds pictures and decodes prompts to masks, each with a mask embedding."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: SemanticSamConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = build_image_encoder(config.sam)
        self.prompt_encoder = build_prompt_encoder(config.sam)
        self.mask_decoder = SemanticDecoder(config)
        mean, std = config.sam.pixel_mean, config.sam.pixel_std
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pixel_mean.device

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """Embed pictures, (3, H, W) in 0 to 255 with long side S -> (B, C, h, h)."""
        return self.image_encoder(self.prepare(images))  # type: ignore[no-any-return]

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Normalise pictures and pad them at right and bottom to the square: (B, 3, S, S)."""
        side = self.config.sam.image_size
        squares = []
        for image in images:
            height, width = image.shape[-2:]
            if max(height, width) > side:
                raise InvalidInput(f"a picture must fit {side} px, got {height} x {width}")
            normal = (image.to(self.device).float() - self.pixel_mean) / self.pixel_std
            squares.append(F.pad(normal, (0, side - width, 0, side - height)))
        return torch.stack(squares)

    def decode(
        self, image_embeddings: Tensor, prompts: Prompts, *, multimask_output: bool
    ) -> DecoderOutput:
        """Decode the prompts of many pictures in one call of the decoder."""
        points = None
        if prompts.points is not None:
            assert prompts.point_labels is not None, "every point has a label"
            points = (prompts.points, prompts.point_labels)
        mask_logits = prompts.mask_logits
        if mask_logits is None and prompts.boxes is not None and self.config.sam.draws_boxes:
            mask_logits = draw_boxes(prompts.boxes, self.config.sam)
        sparse, dense = self.prompt_encoder(points=points, boxes=prompts.boxes, masks=mask_logits)
        output: DecoderOutput = self.mask_decoder(
            image_embeddings,
            image_pe=self.prompt_encoder.get_dense_pe(),
            image_index=prompts.image_index,
            sparse_prompts=sparse,
            dense_prompts=dense,
            multimask_output=multimask_output,
        )
        return output

    def choose_trained(self) -> list[str]:
        """Freeze all weights that `train` excludes, and any stem; return the trained names."""
        prefixes = trained_prefixes(self.config)
        names = []
        for name, parameter in self.named_parameters():
            learns = name.startswith(prefixes) and not name.startswith(STEM_PREFIX)
            parameter.requires_grad_(learns)
            if parameter.requires_grad:
                names.append(name)
        return names


def draw_boxes(boxes: Tensor, config: SamConfig) -> Tensor:
    """Draw boxes as mask prompts, (N, 4) xyxy -> (N, 1, 4h, 4h) logits.

    Logits are BOX_LOGIT inside, -BOX_LOGIT outside, and in between for cells partly covered. This
    helps because the encoding of corners gives a small network only a rough place of small boxes.
    """
    side = config.mask_side
    cell = config.image_size / side
    low = torch.arange(side, device=boxes.device) * cell  # (s,) start of each cell

    def covered(start: Tensor, end: Tensor) -> Tensor:
        inside = torch.minimum(end[:, None], low + cell) - torch.maximum(start[:, None], low)
        return inside.clamp(min=0) / cell  # (N, s)

    share = (
        covered(boxes[:, 1], boxes[:, 3])[:, :, None] * covered(boxes[:, 0], boxes[:, 2])[:, None]
    )
    return BOX_LOGIT * (2 * share[:, None] - 1)


def trained_prefixes(config: SemanticSamConfig) -> tuple[str, ...]:
    """Return the name prefixes of the parameters that a network of this config trains."""
    match config.semantic.train:
        case "new_only":
            return tuple(f"mask_decoder.{prefix}" for prefix in NEW_PREFIXES)
        case "decoder":
            return ("mask_decoder.",)
        case "decoder+encoder":
            return ("mask_decoder.", "image_encoder.")
        case "all":
            return ("",)


def is_new(name: str) -> bool:
    """Return True if SAM does not have this parameter of the network."""
    return name.removeprefix("mask_decoder.").startswith(NEW_PREFIXES)


def build_image_encoder(config: SamConfig) -> ImageEncoderViT:
    """Build the package's ViT in the config's sizes, with the stem if the config has one."""
    sizes: dict[str, Any] = dict(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.encoder_width,
        depth=config.encoder_depth,
        num_heads=config.encoder_heads,
        mlp_ratio=4,
        out_chans=config.decoder_width,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_attention,
    )
    encoder = (
        ImageEncoderViT(**sizes)
        if config.stem == "none"
        else StemmedImageEncoder(
            mean=config.pixel_mean, std=config.pixel_std, stem_size=config.stem_size, **sizes
        )
    )
    attend_piecewise(encoder)
    return encoder


def build_prompt_encoder(config: SamConfig) -> PromptEncoder:
    """Build the package's prompt encoder in the config's sizes."""
    cells, side = config.embedding_side, config.image_size
    return PromptEncoder(
        embed_dim=config.decoder_width,
        image_embedding_size=(cells, cells),
        input_image_size=(side, side),
        mask_in_chans=config.mask_channels,
    )
