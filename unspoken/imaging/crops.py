"""Cut boxes out of a picture for an image-text model, and rank labels for each crop.

Legend: N boxes, L labels, S side of a crop in pixels, D width of the shared embedding space.
"""

import numpy as np
from PIL import Image

from unspoken.errors import InvalidInput

CROP_SCALE = 1.2
"""Factor by which a crop is larger than its box: the surroundings of a thing help to name it."""
PAD_RGB = (123, 117, 104)
"""CLIP's mean colour, which is zero after CLIP's normalisation."""


def crop_windows(boxes_xyxy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the window of each box, enlarged about its centre: (N, 4) -> (N, 4) whole pixels.

    Windows are clipped to the picture. Raises InvalidInput for a box completely outside of it.
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
    """Cut and resize crops: (H, W, 3) uint8 and (N, 4) boxes -> (N, S, S, 3) uint8.

    A crop keeps its proportions and is centred in a square of CLIP's mean colour. CLIP's own
    preprocessing takes the central square of a picture, which would cut the ends off a long thing.
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
    """Rank each crop's own label among all labels; 1 is the best.

    Takes (N, D) and (L, D) unit vectors and (N,) label indices, and returns (N,) ranks. A softmax
    over the labels has the same order as the cosines at any temperature, so both give the same
    rank. A rank needs no threshold; cosines would, because some labels have higher cosines than
    others.
    """
    cosines = crop_vectors @ label_vectors.T  # (N, L)
    own_cosines = cosines[np.arange(len(own)), own]  # (N,)
    return np.asarray(1 + (cosines > own_cosines[:, None]).sum(axis=1))
