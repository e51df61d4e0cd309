"""Operations on boxes as arrays: (N, 4) corners (xyxy) in pixels."""

import numpy as np


def box_area(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return areas in square pixels: (N, 4) -> (N,). A box with reversed corners has area 0."""
    extent = np.clip(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0, None)
    return np.asarray(extent[:, 0] * extent[:, 1])


def box_iou(first_xyxy: np.ndarray, second_xyxy: np.ndarray) -> np.ndarray:
    """Return intersection over union: (N, 4), (M, 4) -> (N, M). It is 0 if both boxes are empty."""
    first = np.asarray(first_xyxy, dtype=np.float64).reshape(-1, 4)
    second = np.asarray(second_xyxy, dtype=np.float64).reshape(-1, 4)
    low = np.maximum(first[:, None, :2], second[None, :, :2])  # (N, M, 2)
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    extent = np.clip(high - low, 0, None)
    inter = extent[..., 0] * extent[..., 1]  # (N, M)
    union = box_area(first)[:, None] + box_area(second)[None, :] - inter
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union > 0))


def non_maximum_suppression(
    boxes_xyxy: np.ndarray, scores: np.ndarray, *, iou_threshold: float
) -> np.ndarray:
    """Return the indices of the boxes to keep, best first: (N, 4), (N,) -> (K,)."""
    order = np.argsort(-scores, kind="stable")
    overlaps = box_iou(boxes_xyxy, boxes_xyxy)
    kept: list[int] = []
    for index in order:
        if all(overlaps[index, other] < iou_threshold for other in kept):
            kept.append(int(index))
    return np.array(kept, dtype=np.int64)
