"""Mask quality with box and click prompts, as in SAM: mean IoU per box and after 1, 3, 5 clicks.

The first click is the pixel of the true mask that is farthest from its boundary. Each further click
is the pixel of the error region that is farthest from the region's boundary (Segment Anything,
arXiv:2304.02643, appendix D.1). Boundary IoU follows Cheng et al. (arXiv:2103.16562), with a band
of 2 % of the picture's diagonal.

Legend: N objects of one picture, H x W its size.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from training.evaluation.pictures import TruePicture
from unspoken.imaging.masks import mask_iou
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_decoder import DecoderOutput
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam

CLICKS = (1, 3, 5)
BAND = 0.02
"""Width of the band of boundary IoU, as a fraction of the picture's diagonal."""


class MaskScores(NamedTuple):
    """Scores of N objects, each an (N,) array."""

    box_iou: np.ndarray
    box_boundary_iou: np.ndarray
    click_iou: dict[int, np.ndarray]
    oracle_iou: np.ndarray
    """IoU of the best of the three masks after one click."""


def score_masks(
    model: SemanticSam,
    image_embedding: Tensor,
    upscaler: MaskUpscaler,
    picture: TruePicture,
    *,
    box_output: DecoderOutput,
    clicks: bool = True,
) -> MaskScores:
    """Score the masks of each object's box (`box_output`) and of simulated clicks."""
    truth = np.stack([each.mask for each in picture.objects])
    by_box = upscaler.masks(box_output.mask_logits[:, 0]).numpy()
    scores = MaskScores(
        box_iou=mask_iou(by_box, truth),
        box_boundary_iou=np.array([boundary_iou(a, b) for a, b in zip(by_box, truth, strict=True)]),
        click_iou={},
        oracle_iou=np.zeros(len(truth)),
    )
    return _score_clicks(model, image_embedding, upscaler, truth, scores) if clicks else scores


def _score_clicks(
    model: SemanticSam,
    image_embedding: Tensor,
    upscaler: MaskUpscaler,
    truth: np.ndarray,
    scores: MaskScores,
) -> MaskScores:
    points = np.zeros((len(truth), 0, 2))
    labels = np.zeros((len(truth), 0))
    predicted = np.zeros_like(truth)
    mask_logits: Tensor | None = None
    by_clicks: dict[int, np.ndarray] = {}
    oracle = scores.oracle_iou
    for number in range(1, max(CLICKS) + 1):
        places = [_farthest(a ^ b) for a, b in zip(truth, predicted, strict=True)]
        is_inside = [
            float(mask[int(y), int(x)]) for mask, (x, y) in zip(truth, places, strict=True)
        ]
        points = np.concatenate([points, np.array(places)[:, None]], axis=1)
        labels = np.concatenate([labels, np.array(is_inside)[:, None]], axis=1)
        output = model.decode(
            image_embedding,
            Prompts(
                torch.zeros(len(truth), dtype=torch.long),
                points=upscaler.frame.points_to_input(points),
                point_labels=torch.from_numpy(labels).float(),
                mask_logits=mask_logits,
            ),
            multimask_output=number == 1,
        )
        best = output.iou_predictions.argmax(1)
        rows = torch.arange(len(best))
        mask_logits = output.mask_logits[rows, best][:, None]
        if number == 1:
            each_of_3 = [upscaler.masks(output.mask_logits[:, k]).numpy() for k in range(3)]
            oracle = np.max([mask_iou(masks, truth) for masks in each_of_3], axis=0)
        predicted = upscaler.masks(mask_logits[:, 0]).numpy()
        if number in CLICKS:
            by_clicks[number] = mask_iou(predicted, truth)
    return scores._replace(click_iou=by_clicks, oracle_iou=oracle)


def boundary_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Return the IoU of the inner bands along the two masks' edges."""
    width = max(1, round(BAND * float(np.hypot(*first.shape))))
    a, b = _band(first, width), _band(second, width)
    return float((a & b).sum() / max((a | b).sum(), 1))


def _band(mask: np.ndarray, width: int) -> np.ndarray:
    padded = np.pad(mask, 1)  # the picture's border counts as an edge too
    inner = binary_erosion(padded, structure=np.ones((3, 3)), iterations=width)[1:-1, 1:-1]
    band: np.ndarray = mask & ~inner
    return band


def _farthest(region: np.ndarray) -> tuple[float, float]:
    """Return x, y of a region's pixel farthest from its edge; the picture's centre if empty."""
    if not region.any():
        return region.shape[1] / 2, region.shape[0] / 2
    distance = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), region.shape)
    return float(x), float(y)
