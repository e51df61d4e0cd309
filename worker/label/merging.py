"""Turns raw detections into annotations: checks shapes, applies thresholds, merges duplicates.

A box is not dropped because it lies inside a box of another label: a wheel lies inside its car. A
wheel that was proposed as a part of a car must even lie inside a car. Two labels on almost the same
box are one object: the better one is its label, the other an alternative label.

A run that chooses thresholds at its end stores every box undecided, and merges boxes then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unspoken.imaging.boxes import box_area, box_intersection, box_iou, non_maximum_suppression
from unspoken.runs.dataset.false_discovery import UNDECIDED, Thresholds, source_of, wholes_of
from unspoken.runs.dataset.rows import AltLabel, Annotation, Candidate
from unspoken.runs.plan import LabelConfig
from unspoken.text.lexicon import Lexicon
from unspoken.wire.detections import Detection


@dataclass
class _Box:
    """A detection while it is turned into an annotation."""

    candidate: Candidate
    score: float
    xyxy: np.ndarray  # (4,) in pixels, within the picture
    clip_rank: int | None = None
    drop_reason: str | None = None
    alt_labels: tuple[AltLabel, ...] = ()
    merged: bool = False


def merge_detections(
    detections: Sequence[Detection],
    candidates: Sequence[Candidate],
    *,
    size_hw: tuple[int, int],
    config: LabelConfig,
    lexicon: Lexicon,
) -> tuple[Annotation, ...]:
    """Return the annotations of one picture by descending score; dropped ones have a reason.

    `detections[i].phrase_index` is the id of its candidate.
    """
    boxes = _clip_all(detections, candidates, size_hw)
    return _apply_thresholds(
        boxes, size_hw, config=config, lexicon=lexicon, thresholds=fixed_thresholds(config)
    )


def fixed_thresholds(config: LabelConfig) -> Thresholds:
    """Return the thresholds for a fixed threshold; implied labels and parts need a margin."""
    implied = config.named_threshold + config.implied_margin
    return {"named": config.named_threshold, "implied": implied, "part": implied}


def threshold_of(candidate: Candidate, thresholds: Thresholds, config: LabelConfig) -> float | None:
    """Return the lowest score at which the candidate's boxes are kept; None if none is kept.

    An implied label that only one template proposed needs a margin more. A label that the caption
    names or that several templates propose is more likely to be in the picture.
    """
    needed = thresholds[source_of(candidate)]
    templates = {source.template for source in candidate.sources}
    if needed is None or candidate.named or len(templates) > 1:
        return needed
    return needed + config.options.single_template_margin


def list_undecided(
    detections: Sequence[Detection],
    candidates: Sequence[Candidate],
    *,
    size_hw: tuple[int, int],
    config: LabelConfig,
) -> tuple[Annotation, ...]:
    """Return all boxes of a picture, also of decoys, by descending score; none kept or merged.

    Reasons that do not depend on a threshold are set already, such as a box that is too small or
    repeats a better one. All other boxes are undecided.
    """
    boxes = _clip_all(detections, candidates, size_hw)
    for box in boxes:
        box.drop_reason = _shape_fault(box, size_hw, config=config)
    _suppress_repeats([box for box in boxes if box.drop_reason is None], config)
    for box in boxes:
        box.drop_reason = box.drop_reason or UNDECIDED
    return tuple(_annotation(index, box) for index, box in enumerate(boxes))


def decide_annotations(
    undecided: Sequence[Annotation],
    candidates: Sequence[Candidate],
    *,
    size_hw: tuple[int, int],
    config: LabelConfig,
    lexicon: Lexicon,
    thresholds: Thresholds,
) -> tuple[Annotation, ...]:
    """Apply thresholds to the boxes of `list_undecided`.

    The result is the same as that of `merge_detections` with these thresholds.
    """
    boxes = [
        _Box(candidates[each.candidate_id], each.score, np.asarray(each.box), each.clip_rank)
        for each in undecided
    ]
    return _apply_thresholds(boxes, size_hw, config=config, lexicon=lexicon, thresholds=thresholds)


def _apply_thresholds(
    boxes: list[_Box],
    size_hw: tuple[int, int],
    *,
    config: LabelConfig,
    lexicon: Lexicon,
    thresholds: Thresholds,
) -> tuple[Annotation, ...]:
    """Apply thresholds and merge duplicates. Expects boxes sorted by score, descending."""
    for box in boxes:
        box.drop_reason = _drop_reason(box, size_hw, config=config, thresholds=thresholds)
    _suppress_repeats([box for box in boxes if box.drop_reason is None], config)
    _keep_parts_inside([box for box in boxes if box.drop_reason is None], config)
    _merge_labels([box for box in boxes if box.drop_reason is None], config, lexicon)
    boxes = [box for box in boxes if not box.merged]
    remaining = [box for box in boxes if box.drop_reason is None]
    for box in remaining[config.max_boxes :]:
        box.drop_reason = "over_limit"
    return tuple(_annotation(index, box) for index, box in enumerate(boxes))


def _clip_all(
    detections: Sequence[Detection], candidates: Sequence[Candidate], size_hw: tuple[int, int]
) -> list[_Box]:
    """Return the detections' boxes, clipped to the picture, by descending score."""
    boxes = [_clip(detection, candidates, size_hw) for detection in detections]
    return sorted(boxes, key=lambda box: (-box.score, box.candidate.id, *box.xyxy.tolist()))


def _clip(detection: Detection, candidates: Sequence[Candidate], size_hw: tuple[int, int]) -> _Box:
    height, width = size_hw
    xyxy = np.clip(np.asarray(detection.box.to_list()), 0, [width, height, width, height])
    return _Box(candidates[detection.phrase_index], float(detection.score), xyxy)


def _drop_reason(
    box: _Box, size_hw: tuple[int, int], *, config: LabelConfig, thresholds: Thresholds
) -> str | None:
    if box.candidate.decoy:
        return "decoy"
    fault = _shape_fault(box, size_hw, config=config)
    if fault is not None:
        return fault
    needed = threshold_of(box.candidate, thresholds, config)
    return "below_threshold" if needed is None or box.score < needed else None


def _shape_fault(box: _Box, size_hw: tuple[int, int], *, config: LabelConfig) -> str | None:
    height, width = size_hw
    share = float(box_area(box.xyxy[None])[0]) / (height * width)
    side_px = float((box.xyxy[2:] - box.xyxy[:2]).min())
    if side_px < config.min_box_side_px or share < config.min_box_area_share:
        return "too_small"
    if share > config.max_box_area_share and not box.candidate.stuff:
        return "covers_image"
    return None


def _suppress_repeats(boxes: Sequence[_Box], config: LabelConfig) -> None:
    """Drop a box if a better box of the same label is at the same place."""
    repeats = _same_candidate(boxes) & _overlap_or_nest(boxes, config)
    kept = set(non_maximum_suppression(np.arange(len(boxes)), repeats))
    for index, box in enumerate(boxes):
        if index not in kept:
            box.drop_reason = "repeated"


def _overlap_or_nest(boxes: Sequence[_Box], config: LabelConfig) -> np.ndarray:
    """Return (N, N) bool: True if two boxes overlap or nest; a car inside a car is the same car.

    For parts a lower IoU is enough, because small boxes of one part scatter around it.
    """
    xyxy = _stack(boxes)
    areas = box_area(xyxy)
    smaller = np.minimum(areas[:, None], areas[None])
    nested = box_intersection(xyxy, xyxy) >= config.label_nested_share * smaller
    limits = [
        config.part_nms_iou if wholes_of(box.candidate) else config.label_nms_iou for box in boxes
    ]
    return np.asarray(nested | (box_iou(xyxy, xyxy) >= np.array(limits)[:, None]))


def _keep_parts_inside(boxes: Sequence[_Box], config: LabelConfig) -> None:
    """Drop a part that was proposed only because of its whole, unless it lies in such a whole."""
    xyxy = _stack(boxes)
    areas = box_area(xyxy)
    inside = box_intersection(xyxy, xyxy)
    for index, box in enumerate(boxes):
        nouns = wholes_of(box.candidate)
        if not nouns:
            continue
        wholes = [
            other
            for other, each in enumerate(boxes)
            if each.candidate.phrase in nouns and areas[other] > areas[index]
        ]
        if (inside[index, wholes] / areas[index]).max(initial=0.0) < config.min_part_inside:
            box.drop_reason = "outside_its_whole"


def _merge_labels(boxes: Sequence[_Box], config: LabelConfig, lexicon: Lexicon) -> None:
    """Merge boxes of different labels at one place into one object with alternative labels."""
    same = _may_be_one_object(boxes, config, lexicon)
    kept = non_maximum_suppression(np.arange(len(boxes)), same)
    for index in sorted(set(range(len(boxes))) - set(kept)):
        box = boxes[index]
        box.merged = True
        best = boxes[next(other for other in kept if same[other, index])]
        alternative = AltLabel(
            label=box.candidate.phrase, candidate_id=box.candidate.id, score=box.score
        )
        best.alt_labels = (*best.alt_labels, alternative)


def _may_be_one_object(boxes: Sequence[_Box], config: LabelConfig, lexicon: Lexicon) -> np.ndarray:
    """Return (N, N) bool. A lower IoU is enough for labels that may name the same thing."""
    xyxy = _stack(boxes)
    overlaps = box_iou(xyxy, xyxy)
    lowest = min(config.synonym_merge_iou, config.merge_iou)
    same = np.asarray((overlaps >= lowest) & ~_same_candidate(boxes))
    for first, second in np.argwhere(same).tolist():
        phrases = boxes[first].candidate.phrase, boxes[second].candidate.phrase
        synonyms = lexicon.may_name_same_thing(*phrases)
        limit = config.synonym_merge_iou if synonyms else config.merge_iou
        same[first, second] = overlaps[first, second] >= limit
    return same


def _stack(boxes: Sequence[_Box]) -> np.ndarray:
    return np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)


def _same_candidate(boxes: Sequence[_Box]) -> np.ndarray:
    ids = np.array([box.candidate.id for box in boxes])
    return np.asarray(ids[:, None] == ids[None])


def _annotation(index: int, box: _Box) -> Annotation:
    x0, y0, x1, y1 = box.xyxy.tolist()
    candidate = box.candidate
    return Annotation(
        id=index,
        box=(x0, y0, x1, y1),
        label=candidate.phrase,
        score=box.score,
        candidate_id=candidate.id,
        named=candidate.named,
        stuff=candidate.stuff,
        decoy=candidate.decoy,
        alt_labels=box.alt_labels,
        templates=tuple(dict.fromkeys(source.template for source in candidate.sources)),
        clip_rank=box.clip_rank,
        kept=box.drop_reason is None,
        drop_reason=box.drop_reason,
    )
