"""The query methods `bank`, `detector` and `prompts`.

Each method returns the masks that its queries found, by the query's index in the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from services.segmenter.answer.prompting import (
    Prompt,
    Prompted,
    cut_box,
    decode_prompts,
    prompts_of,
)
from services.segmenter.answer.rendering import Found, WireBank
from services.segmenter.answer.selection import select, suppressed_by_negatives
from services.segmenter.cache.cached_image import CachedImage
from services.segmenter.stages import Detected, Plan
from unspoken.model.mask_bank import MaskBankConfig
from unspoken.model.sam.semantic_sam import SemanticSam
from unspoken.model.text_space import TextQuery, TextSpace
from unspoken.timings import Timings
from unspoken.wire.detections import DetectionResult
from unspoken.wire.segment import SegmentQuery


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
        self, network: SemanticSam, text_space: TextSpace, *, config: SegmentConfig
    ) -> None:
        self._network = network
        self._text_space = text_space
        self._config = config

    def by_bank(
        self, plan: Plan[CachedImage], places: Sequence[int], timings: Timings
    ) -> dict[int, Found]:
        """Answer text queries by one matrix product of all texts with all masks of the bank."""
        masks = plan.held.bank
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
            place: Found(masks, indices, values, method="bank", threshold=threshold)
            for place, threshold, (indices, values) in zip(
                places, thresholds, selected, strict=True
            )
        }

    def by_detector(
        self,
        plan: Plan[CachedImage],
        places: Sequence[int],
        detected: Detected,
        timings: Timings,
    ) -> dict[int, Found]:
        """Answer text queries with the detector's boxes as prompts and the detector's scores.

        The detector applied only the lowest threshold of all queries. This method applies the
        threshold of each query.
        """
        queries = [plan.queries[place] for place in places]
        found = _Boxes(detected.result, plan.held.size_hw)
        with timings.measure("decode_masks"):
            prompted = self._decode(plan, found.prompts({query.text or "" for query in queries}))
        masks = WireBank(prompted.bank)
        row_of = {int(owner): row for row, owner in enumerate(prompted.owners)}
        answers = {}
        with timings.measure("score"):
            for place, query in zip(places, queries, strict=True):
                lowest = detected.box_threshold if query.threshold is None else query.threshold
                rows = [
                    (row_of[index], float(found.scores[index]))
                    for index in found.unbeaten(query)
                    if found.scores[index] >= lowest
                ]
                shown = [(row, score) for row, score in rows if prompted.bank.areas[row]]
                indices, scores = _selected(plan, masks, shown)
                answers[place] = Found(
                    masks,
                    indices,
                    scores,
                    method="detector",
                    threshold=lowest,
                    num_empty=len(rows) - len(shown),
                )
        return answers

    def by_prompts(
        self, plan: Plan[CachedImage], places: Sequence[int], timings: Timings
    ) -> dict[int, Found]:
        """Answer queries of boxes and points; score masks by the query's text or predicted IoU."""
        if not places:
            return {}
        queries = {place: plan.queries[place] for place in places}
        prompts = [
            prompt
            for place, query in queries.items()
            for prompt in prompts_of(query, owner=place, size_hw=plan.held.size_hw)
        ]
        with timings.measure("decode_masks"):
            prompted = self._decode(plan, prompts)
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
                    Found(masks, *_selected(plan, masks, rows), "prompts", threshold), prompted
                )
        return answers

    def _decode(self, plan: Plan[CachedImage], prompts: Sequence[Prompt]) -> Prompted:
        return decode_prompts(
            self._network,
            plan.held.embedding,
            plan.held.upscaler,
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
            box = cut_box((x0, y0, x1, y1), size_hw)
            if box is not None:
                self._by_phrase.setdefault(detection.phrase, []).append(len(boxes))
                boxes.append(box)
                scores.append(detection.score)
        self._boxes = boxes
        self._boxes_xyxy = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        self.scores = np.array(scores, dtype=np.float64)

    def prompts(self, phrases: set[str]) -> list[Prompt]:
        """Return one prompt for each box of these phrases; its owner is the index of the box."""
        chosen = sorted(index for phrase in phrases for index in self._by_phrase.get(phrase, []))
        return [Prompt(index, box=self._boxes[index]) for index in chosen]

    def unbeaten(self, query: SegmentQuery) -> list[int]:
        """Return the indices of a query's boxes that none of its negative texts suppresses."""
        mine = np.array(self._by_phrase.get(query.text or "", []), dtype=np.int64)
        negatives = [n for text in query.negative for n in self._by_phrase.get(text, [])]
        theirs = np.array(negatives, dtype=np.int64)
        beaten = suppressed_by_negatives(
            self._boxes_xyxy[mine], self.scores[mine], self._boxes_xyxy[theirs], self.scores[theirs]
        )
        numbers: list[int] = mine[~beaten].tolist()
        return numbers


def _selected(
    plan: Plan[CachedImage], masks: WireBank, rows: list[tuple[int, float]]
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


def _in_order_of_prompts(found: Found, prompted: Prompted) -> Found:
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
