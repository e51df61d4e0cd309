"""Boxes cut out of a picture for an image-text model, and how its labels rank for each.

Legend: N boxes, L labels, S side of a crop in pixels, D width of the shared space.
"""

import numpy as np
from PIL import Image

from unspoken.errors import InvalidInput

CROP_SCALE = 1.2
"""A crop shows so much of each side of its box: what a thing stands on helps to name it."""
PAD_RGB = (123, 117, 104)
"""CLIP's mean colour: zero to the network."""


def crop_windows(boxes_xyxy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """(N, 4) boxes -> (N, 4) windows in whole pixels: each box grown about its middle.

    Cut at the picture's edge. Raises InvalidInput for a box wholly outside of the picture.
    """
    height, width = size_hw
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    bounds = np.array([width, height, width, height])
    inside = (boxes[:, :2] < bounds[:2]).all(1) & (boxes[:, 2:] > 0).all(1)
    if not inside.all():
        raise InvalidInput(f"box {int(np.argmin(inside))} is outside of the picture")
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    low = np.floor(middle - half * CROP_SCALE)
    high = np.ceil(middle + half * CROP_SCALE)
    return np.asarray(np.clip(np.concatenate([low, high], axis=1), 0, bounds), dtype=np.int64)


def cut_crops(pixels: np.ndarray, boxes_xyxy: np.ndarray, *, side_px: int) -> np.ndarray:
    """(H, W, 3) uint8 and (N, 4) boxes -> (N, S, S, 3) uint8.

    The whole crop keeps its proportions, in the middle of a square of CLIP's mean colour: CLIP's
    own way, the middle square of a picture, would cut the ends off a long thing.
    """
    crops = np.empty((len(boxes_xyxy), side_px, side_px, 3), dtype=np.uint8)
    windows = crop_windows(boxes_xyxy, (pixels.shape[0], pixels.shape[1]))
    for index, (x0, y0, x1, y1) in enumerate(windows.tolist()):
        crop = Image.fromarray(pixels[y0:y1, x0:x1])
        scale = side_px / max(crop.size)
        width, height = (max(1, round(side * scale)) for side in crop.size)
        square = Image.new("RGB", (side_px, side_px), PAD_RGB)
        place = ((side_px - width) // 2, (side_px - height) // 2)
        square.paste(crop.resize((width, height), Image.Resampling.BICUBIC), place)
        crops[index] = np.asarray(square)
    return crops


def rank_labels(crop_vectors: np.ndarray, label_vectors: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(N, D), (L, D) unit vectors and (N,) places among the labels -> (N,) ranks, 1 the best.

    A softmax over the labels is in the order of the cosines, whatever its temperature: the rank is
    that of both. A rank needs no threshold, as cosines of one label are higher than of another.
    """
    cosines = crop_vectors @ label_vectors.T  # (N, L)
    own_cosines = cosines[np.arange(len(own)), own]  # (N,)
    return np.asarray(1 + (cosines > own_cosines[:, None]).sum(axis=1))
