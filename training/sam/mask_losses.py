"""SAM's loss on masks: 20 focal + 1 dice + 1 mean squared error of the predicted IoU.

Of an ambiguous prompt's three masks, only the one with the lowest focal + dice is trained, and only
its IoU prediction (Segment Anything, arXiv:2304.02643, appendix A). All losses are computed on
low-resolution logits, without the padding of the square. The target of a logit is the share of its
cell that the mask covers; both losses are lowest where the probability equals that share.

Legend: N prompts, M masks a prompt, s side of the mask logits.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from unspoken.model.sam.semantic_decoder import DecoderOutput


@dataclass(frozen=True, kw_only=True)
class MaskLossConfig:
    """Weights of the terms, and alpha and gamma of the focal loss (RetinaNet's values)."""

    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0


class MaskLoss(NamedTuple):
    """Weighted terms, and the index of the trained mask of each prompt."""

    terms: dict[str, Tensor]
    best: Tensor  # (N,) long, in 0 .. M - 1
    iou: Tensor  # (N, M) of the masks with the truth


def mask_loss(
    output: DecoderOutput, masks: Tensor, known: Tensor, *, config: MaskLossConfig
) -> MaskLoss:
    """Return the mask loss; terms are means over prompts.

    masks: (N, s, s) covered shares; known: (N, s, s) bool, False at padding.
    """
    wanted = masks[:, None].expand_as(output.mask_logits)
    inside = known[:, None]
    focal = focal_loss(output.mask_logits, wanted, inside, config=config)  # (N, M)
    dice = dice_loss(output.mask_logits, wanted, inside)
    iou = iou_inside(output.mask_logits > 0, masks[:, None] > 0.5, inside)
    quality = (output.iou_predictions - iou) ** 2
    best = (config.focal_weight * focal + config.dice_weight * dice).argmin(dim=1)

    def of_best(values: Tensor) -> Tensor:
        return values.gather(1, best[:, None]).mean() if len(values) else values.sum()

    return MaskLoss(
        terms={
            "focal": config.focal_weight * of_best(focal),
            "dice": config.dice_weight * of_best(dice),
            "iou": config.iou_weight * of_best(quality),
        },
        best=best,
        iou=iou,
    )


def focal_loss(
    mask_logits: Tensor, wanted: Tensor, inside: Tensor, *, config: MaskLossConfig
) -> Tensor:
    """Return the mean focal loss over the picture's cells: (N, M, s, s) -> (N, M)."""
    cross_entropy = F.binary_cross_entropy_with_logits(mask_logits, wanted, reduction="none")
    wrong = (mask_logits.sigmoid() - wanted).abs()
    alpha = wanted * config.focal_alpha + (1 - wanted) * (1 - config.focal_alpha)
    losses = alpha * wrong**config.focal_gamma * cross_entropy * inside
    return losses.sum((-2, -1)) / inside.sum((-2, -1)).clamp(min=1)


def dice_loss(mask_logits: Tensor, wanted: Tensor, inside: Tensor) -> Tensor:
    """Return one minus the soft dice, smoothed by one: (N, M, s, s) -> (N, M).

    Uses V-Net's squared terms (arXiv:1606.04797, section 3). Without the squares, the best
    probability of a half-covered cell would be 1 or 0.
    """
    probability = mask_logits.sigmoid() * inside
    overlap = (probability * wanted).sum((-2, -1))
    total = (probability**2).sum((-2, -1)) + (wanted**2).sum((-2, -1))
    return 1 - (2 * overlap + 1) / (total + 1)


def iou_inside(first: Tensor, second: Tensor, inside: Tensor) -> Tensor:
    """Return the IoU of bool masks over the picture's cells: (N, M, s, s) -> (N, M) float."""
    overlap = (first & second & inside).sum((-2, -1))
    union = ((first | second) & inside).sum((-2, -1))
    return overlap.float() / union.clamp(min=1)
