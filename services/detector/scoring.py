"""Convert the raw output of a Grounding-DINO to detections of the requested phrases.

A phrase's score in a box is the mean sigmoid of its own tokens' logits, as in the `token_spans`
path of the original code. Phrase decoding is not used, because it merges neighbours
("car taxi") and invents words ("##van"). A box may have several phrases: each phrase with a score
at or above the threshold is kept.

Legend: Q queries (candidate boxes), T tokens of a chunk, P phrases of a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.detector.packing import PackedPhrase, PromptChunk
from unspoken.imaging.boxes import box_iou, non_maximum_suppression, order_by_score
from unspoken.wire.detections import Detection
from unspoken.wire.pictures import Box


@dataclass(frozen=True)
class RawDetections:
    """Output of a network for one picture and one chunk.

    token_scores: (Q, >= T) sigmoid of the logits. boxes_cxcywh_norm: (Q, 4) centre and size as
    fractions of the picture's size.
    """

    token_scores: np.ndarray
    boxes_cxcywh_norm: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """Settings of the suppression of overlapping boxes within one phrase."""

    nms_iou: float = 0.55
    """IoU from which the lower-scored of two boxes of one phrase is dropped."""
    max_boxes_per_phrase: int = 50
    """Largest number of boxes of one phrase; the best are kept."""


def phrase_scores(token_scores: np.ndarray, phrases: Sequence[PackedPhrase]) -> np.ndarray:
    """Return the mean score over each phrase's own tokens: (Q, >= T) -> (Q, P)."""
    columns = [
        token_scores[:, slice(*phrase.token_span)].mean(axis=1, dtype=np.float64)
        for phrase in phrases
    ]
    return np.stack(columns, axis=1)


def boxes_to_pixels(boxes_cxcywh_norm: np.ndarray, *, size_hw: tuple[int, int]) -> np.ndarray:
    """Convert (Q, 4) centre boxes in [0, 1] to (Q, 4) corners in pixels, clipped to the picture."""
    height, width = size_hw
    center, extent = boxes_cxcywh_norm[:, :2], boxes_cxcywh_norm[:, 2:]
    corners_norm = np.concatenate([center - extent / 2, center + extent / 2], axis=1)
    boxes_xyxy: np.ndarray = np.clip(corners_norm, 0, 1) * np.array([width, height, width, height])
    return boxes_xyxy


def detections_of(
    chunk: PromptChunk,
    raw: RawDetections,
    *,
    asked: Sequence[str],
    size_hw: tuple[int, int],
    box_threshold: float,
    config: ScoringConfig,
) -> list[Detection]:
    """Return the unsorted detections of one chunk; a phrase asked twice is answered twice.

    asked: the request's phrases as written. size_hw: size of the original picture in pixels.
    """
    scores = phrase_scores(raw.token_scores, chunk.phrases)  # (Q, P)
    some_phrase = (scores >= box_threshold).any(axis=1)  # (Q,)
    scores = scores[some_phrase]
    boxes_xyxy = boxes_to_pixels(raw.boxes_cxcywh_norm[some_phrase], size_hw=size_hw)
    # Once, because all phrases share the boxes.
    conflicts = box_iou(boxes_xyxy, boxes_xyxy) >= config.nms_iou
    has_area = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1)
    detections: list[Detection] = []
    for column, phrase in enumerate(chunk.phrases):
        likely = np.flatnonzero((scores[:, column] >= box_threshold) & has_area)
        order = likely[order_by_score(scores[likely, column])]
        limit = config.max_boxes_per_phrase
        for query in non_maximum_suppression(order, conflicts, limit=limit):
            x0, y0, x1, y1 = (float(value) for value in boxes_xyxy[query])
            box, score = Box(x0=x0, y0=y0, x1=x1, y1=y1), float(scores[query, column])
            detections += [
                Detection(phrase_index=index, phrase=asked[index], box=box, score=min(score, 1.0))
                for index in phrase.asked_indices
            ]
    return detections


def best_first(detections: Sequence[Detection]) -> tuple[Detection, ...]:
    """Sort by descending score, and equal scores in the order asked, so the order is repeatable."""
    return tuple(sorted(detections, key=lambda found: (-found.score, found.phrase_index)))
