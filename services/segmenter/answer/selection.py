"""Select a query's masks: threshold, sort, suppress duplicates, keep at most top_k."""

from itertools import pairwise

import numpy as np

from unspoken.imaging.boxes import box_iou, non_maximum_suppression

NEGATIVE_IOU = 0.5


def select(
    scores: np.ndarray,
    thresholds: np.ndarray,
    *,
    boxes_xyxy: np.ndarray,
    top_k: int,
    nms_iou: float | None,
) -> list[tuple[list[int], list[float]]]:
    """Return the indices of each query's masks, best first, and their scores in [0, 1].

    scores: (Q, N) raw scores; a predicted IoU may be outside [0, 1]. thresholds: (Q,) in [0, 1].
    Raw scores decide the order and the suppression; the returned scores are clipped to [0, 1].
    """
    rows, columns = np.nonzero(scores.clip(0, 1) >= thresholds[:, None])
    values = scores[rows, columns]
    order = np.lexsort((columns, -values, rows))
    columns, values = columns[order], values[order]
    indices, best = columns.tolist(), values.clip(0, 1).tolist()
    ends = np.searchsorted(rows, np.arange(len(scores) + 1)).tolist()
    conflicts = None if nms_iou is None else box_iou(boxes_xyxy, boxes_xyxy) > nms_iou
    selected = []
    for query, (start, end) in enumerate(pairwise(ends)):
        if conflicts is None:
            last = min(end, start + top_k)
            selected.append((indices[start:last], best[start:last]))
            continue
        kept = non_maximum_suppression(columns[start:end], conflicts, limit=top_k)
        selected.append((kept, scores[query, kept].clip(0, 1).tolist()))
    return selected


def suppressed_by_negatives(
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    negative_boxes_xyxy: np.ndarray,
    negative_scores: np.ndarray,
) -> np.ndarray:
    """Return (N,) bool: True for boxes that a negative text's box overlaps with at least the score.

    Boxes overlap if their IoU is at least NEGATIVE_IOU.
    """
    if not len(boxes_xyxy) or not len(negative_boxes_xyxy):
        return np.zeros(len(boxes_xyxy), dtype=bool)
    overlaps = box_iou(boxes_xyxy, negative_boxes_xyxy) >= NEGATIVE_IOU
    return np.asarray((overlaps & (negative_scores[None] >= scores[:, None])).any(1))
