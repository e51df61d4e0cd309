"""Operations on boxes as arrays: (N, 4) corners (xyxy) in pixels."""

import numpy as np


def box_area(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return areas in square pixels: (N, 4) -> (N,). A box with reversed corners has area 0."""
    extent = np.clip(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0, None)
    return np.asarray(extent[:, 0] * extent[:, 1])


def box_intersection(first_xyxy: np.ndarray, second_xyxy: np.ndarray) -> np.ndarray:
    """Return the shared areas in square pixels: (N, 4), (M, 4) -> (N, M)."""
    first = np.asarray(first_xyxy, dtype=np.float64).reshape(-1, 4)
    second = np.asarray(second_xyxy, dtype=np.float64).reshape(-1, 4)
    low = np.maximum(first[:, None, :2], second[None, :, :2])  # (N, M, 2)
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    extent = np.clip(high - low, 0, None)
    return np.asarray(extent[..., 0] * extent[..., 1])  # (N, M)


def box_iou(first_xyxy: np.ndarray, second_xyxy: np.ndarray) -> np.ndarray:
    """Return intersection over union: (N, 4), (M, 4) -> (N, M). It is 0 if both boxes are empty."""
    first = np.asarray(first_xyxy, dtype=np.float64).reshape(-1, 4)
    second = np.asarray(second_xyxy, dtype=np.float64).reshape(-1, 4)
    inter = box_intersection(first, second)
    union = box_area(first)[:, None] + box_area(second)[None, :] - inter
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union > 0))


def order_by_score(scores: np.ndarray) -> np.ndarray:
    """Return the indices by descending score; equal scores keep their order: (N,) -> (N,)."""
    return np.argsort(-np.asarray(scores), kind="stable")


def non_maximum_suppression(
    order: np.ndarray, conflicts: np.ndarray, *, limit: int | None = None
) -> list[int]:
    """Return the members of `order` that no kept, better one is in conflict with, best first.

    order: indices, best first; others are ignored. conflicts: (N, N) bool, symmetric: usually
    `box_iou(boxes, boxes)` compared with a threshold, and True only for boxes of one class. The
    caller compares, because some thresholds include equality. limit: keep at most so many.
    """
    kept: list[int] = []
    suppressed = np.zeros(len(conflicts), dtype=bool)
    for index in order.tolist():
        if len(kept) == limit:
            break
        if not suppressed[index]:
            kept.append(index)
            suppressed |= conflicts[index]
    return kept
