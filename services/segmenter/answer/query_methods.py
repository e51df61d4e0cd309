"""The query methods `bank`, `detector` and `prompts`, and the selection of a query's masks.

`planning` chooses between the methods. Each method returns the masks that its queries found, by the
query's index in the request. A query's masks are those above its threshold, best first, without
duplicates, and at most top_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from services.segmenter.answer.planning import Detected, QueryPlan, problems_of_refused
from services.segmenter.answer.prompt_decoding import PromptMasks, decode_prompts
from services.segmenter.answer.prompts import MaskPrompt, clip_box, prompts_of
from services.segmenter.answer.rendering import QueryMasks, SegmentContent, WireBank
from services.segmenter.cache.cached_image import CachedImage
from unspoken.imaging.boxes import box_iou, non_maximum_suppression
from unspoken.model.mask_bank import MaskBankConfig
from unspoken.model.sam.semantic_sam import SemanticSam
from unspoken.model.text_space import TextQuery, TextSpace
from unspoken.timings import Timings
from unspoken.wire.base import ModelInfo
from unspoken.wire.detections import DetectionResult
from unspoken.wire.segment import SegmentQuery

NEGATIVE_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Settings of the segment engine."""

    bank: MaskBankConfig = field(default_factory=MaskBankConfig)
    score_threshold: float = 0.5
    """Threshold of text queries that name none, for method `bank`."""
    auto_method: Literal["bank", "detector"] | None = None
    """Method that `auto` stands for; None: `detector`, or `bank` without a detector."""
    encoder_dtype: torch.dtype = torch.float32
    """Type of the image encoder's matrix products."""


class QueryMethods:
    """The query methods over one network. Call it on the inference thread only."""

    def __init__(
        self,
        network: SemanticSam,
        text_space: TextSpace,
        *,
        model: ModelInfo,
        config: SegmentConfig,
    ) -> None:
        self._network = network
        self._model = model
        self._text_space = text_space
        self._config = config

    def answer(
        self, image: CachedImage, plan: QueryPlan, detected: Detected | None
    ) -> SegmentContent:
        """Return the masks of all queries. Method `bank` needs the bank, `detector` the boxes."""
        timings = Timings()
        problems = dict(plan.problems)
        if detected is not None:
            problems |= problems_of_refused(plan.queries, detected.refused)
        good = [place for place in range(len(plan.queries)) if place not in problems]
        prompted = [place for place in good if plan.queries[place].is_prompted]
        of_text = [place for place in good if not plan.queries[place].is_prompted]
        found = self._by_prompts(image, plan, prompted, timings)
        if plan.method == "bank":
            found |= self._by_bank(image, plan, of_text, timings)
        elif of_text:
            assert detected is not None, "the detector was asked before"
            found |= self._by_detector(image, plan, of_text, detected, timings)
        return SegmentContent(
            image_id=image.id,
            size_hw=image.size_hw,
            model=self._model,
            method=plan.method,
            queries=plan.question.queries,
            output=plan.question.output,
            found=found,
            problems=problems,
            stages_ms=timings.stages_ms(),
        )

    def _by_bank(
        self, image: CachedImage, plan: QueryPlan, places: Sequence[int], timings: Timings
    ) -> dict[int, QueryMasks]:
        """Answer text queries by one matrix product of all texts with all masks of the bank."""
        masks = image.bank
        assert masks is not None, "the bank was built before"
        queries = [plan.queries[place] for place in places]
        default = self._config.score_threshold
        with timings.measure("score"):
            scores = self._text_space.bank_scores(
                masks.bank, [_text_query(query) for query in queries], rivals=masks.rivals
            )
            thresholds = [default if q.threshold is None else q.threshold for q in queries]
            selected = select(
                scores,
                np.asarray(thresholds),
                boxes_xyxy=masks.bank.boxes_xyxy,
                top_k=plan.question.output.top_k,
                nms_iou=plan.question.nms_iou,
            )
        return {
            place: QueryMasks(masks, indices, values, method="bank", threshold=threshold)
            for place, threshold, (indices, values) in zip(
                places, thresholds, selected, strict=True
            )
        }

    def _by_detector(
        self,
        image: CachedImage,
        plan: QueryPlan,
        places: Sequence[int],
        detected: Detected,
        timings: Timings,
    ) -> dict[int, QueryMasks]:
        """Answer text queries with the detector's boxes as prompts and the detector's scores.

        The detector applied only the lowest threshold of all queries. This method applies the
        threshold of each query.
        """
        queries = [plan.queries[place] for place in places]
        found = _Boxes(detected.result, image.size_hw)
        with timings.measure("decode_masks"):
            prompted = self._decode(image, found.prompts({query.text or "" for query in queries}))
        masks = WireBank(prompted.bank)
        row_of = {int(owner): row for row, owner in enumerate(prompted.owners)}
        answers = {}
        with timings.measure("score"):
            for place, query in zip(places, queries, strict=True):
                lowest = detected.box_threshold if query.threshold is None else query.threshold
                rows = [
                    (row_of[index], float(found.scores[index]))
                    for index in found.unsuppressed(query)
                    if found.scores[index] >= lowest
                ]
                shown = [(row, score) for row, score in rows if prompted.bank.areas[row]]
                indices, scores = _selected(plan, masks, shown)
                answers[place] = QueryMasks(
                    masks,
                    indices,
                    scores,
                    method="detector",
                    threshold=lowest,
                    num_empty=len(rows) - len(shown),
                )
        return answers

    def _by_prompts(
        self, image: CachedImage, plan: QueryPlan, places: Sequence[int], timings: Timings
    ) -> dict[int, QueryMasks]:
        """Answer queries of boxes and points; score masks by the query's text or predicted IoU."""
        if not places:
            return {}
        queries = {place: plan.queries[place] for place in places}
        prompts = [
            prompt
            for place, query in queries.items()
            for prompt in prompts_of(query, owner=place, size_hw=image.size_hw)
        ]
        with timings.measure("decode_masks"):
            prompted = self._decode(image, prompts)
        masks = WireBank(prompted.bank)
        answers = {}
        with timings.measure("score"):
            with_text = {place: query for place, query in queries.items() if query.text is not None}
            scores = self._text_space.scores(
                prompted.bank.mask_embedding, [_text_query(query) for query in with_text.values()]
            )
            by_text = dict(zip(with_text, scores, strict=True))
            for place, query in queries.items():
                own = by_text.get(place, prompted.bank.predicted_iou)
                threshold = query.threshold or 0.0
                rows = [
                    (int(row), float(own[row]))
                    for row in np.flatnonzero(prompted.owners == place)
                    if own[row].clip(0, 1) >= threshold
                ]
                answers[place] = _in_order_of_prompts(
                    QueryMasks(masks, *_selected(plan, masks, rows), "prompts", threshold), prompted
                )
        return answers

    def _decode(self, image: CachedImage, prompts: Sequence[MaskPrompt]) -> PromptMasks:
        return decode_prompts(
            self._network,
            image.embedding,
            image.upscaler,
            prompts,
            config=self._config.bank,
        )


class _Boxes:
    """The detector's boxes by phrase, clipped to the image."""

    def __init__(self, detections: DetectionResult, size_hw: tuple[int, int]) -> None:
        boxes: list[tuple[float, float, float, float]] = []
        scores: list[float] = []
        self._by_phrase: dict[str, list[int]] = {}
        for detection in detections.detections:
            x0, y0, x1, y1 = detection.box.to_list()
            box = clip_box((x0, y0, x1, y1), size_hw)
            if box is not None:
                self._by_phrase.setdefault(detection.phrase, []).append(len(boxes))
                boxes.append(box)
                scores.append(detection.score)
        self._boxes = boxes
        self._boxes_xyxy = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        self.scores = np.array(scores, dtype=np.float64)

    def prompts(self, phrases: set[str]) -> list[MaskPrompt]:
        """Return one prompt for each box of these phrases; its owner is the index of the box."""
        chosen = sorted(index for phrase in phrases for index in self._by_phrase.get(phrase, []))
        return [MaskPrompt(index, box=self._boxes[index]) for index in chosen]

    def unsuppressed(self, query: SegmentQuery) -> list[int]:
        """Return the indices of a query's boxes that none of its negative texts suppresses."""
        mine = np.array(self._by_phrase.get(query.text or "", []), dtype=np.int64)
        negatives = [n for text in query.negative for n in self._by_phrase.get(text, [])]
        theirs = np.array(negatives, dtype=np.int64)
        suppressed = suppressed_by_negatives(
            self._boxes_xyxy[mine], self.scores[mine], self._boxes_xyxy[theirs], self.scores[theirs]
        )
        numbers: list[int] = mine[~suppressed].tolist()
        return numbers


def _selected(
    plan: QueryPlan, masks: WireBank, rows: list[tuple[int, float]]
) -> tuple[list[int], list[float]]:
    """Return the masks of one query, best first, from its own rows and scores."""
    if not rows:
        return [], []
    indices = np.array([row for row, _ in rows])
    ((places, values),) = select(
        np.array([[score for _, score in rows]]),
        np.zeros(1),
        boxes_xyxy=masks.bank.boxes_xyxy[indices],
        top_k=plan.question.output.top_k,
        nms_iou=plan.question.nms_iou,
    )
    return indices[places].tolist(), values


def _in_order_of_prompts(found: QueryMasks, prompted: PromptMasks) -> QueryMasks:
    """Sort by prompt; the masks of one prompt stay in order of falling score."""
    order = np.argsort(prompted.prompt_indices[found.indices], kind="stable").tolist()
    indices = [found.indices[place] for place in order]
    return found._replace(
        indices=indices,
        scores=[found.scores[place] for place in order],
        prompts=[
            (int(prompted.prompt_indices[row]), int(prompted.mask_indices[row])) for row in indices
        ],
    )


def _text_query(query: SegmentQuery) -> TextQuery:
    return TextQuery(query.text or "", query.negative)


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
