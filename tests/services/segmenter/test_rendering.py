"""JSON replies: bounded in size, and rendered only while the caller is connected."""

import json

import numpy as np
import pytest

from services.segmenter.answer import rendering
from services.segmenter.answer.rendering import QueryMasks, SegmentContent, WireBank
from unspoken.errors import DeadlineExceeded, TooLarge
from unspoken.http.deadline import ends_within, time_left_s
from unspoken.imaging.masks import encode_rle, rle_areas, rle_boxes
from unspoken.model.mask_bank import MaskBank
from unspoken.timings import Timings
from unspoken.wire.base import ModelInfo
from unspoken.wire.segment import CacheState, SegmentOutput, SegmentQuery

SIZE = (24, 32)
HIT = CacheState(hit=True, tier="memory")


def bank(number: int) -> WireBank:
    masks = np.random.default_rng(0).random((number, *SIZE)) < 0.5
    rle = encode_rle(masks)
    ones = np.ones(number, dtype=np.float32)
    return WireBank(
        MaskBank(
            size_hw=SIZE,
            rle=tuple(rle),
            boxes_xyxy=rle_boxes(rle, SIZE),
            areas=rle_areas(rle, SIZE),
            predicted_iou=ones,
            stability_score=ones,
            similarity=ones,
            mask_embedding=np.ones((number, 4), dtype=np.float32),
        )
    )


def answer(num_masks: int, *, num_queries: int = 1, form: str = "polygon") -> SegmentContent:
    masks = bank(num_masks)
    found = QueryMasks(masks, list(range(num_masks)), [0.5] * num_masks, "bank", 0.5)
    return SegmentContent(
        image_id="a",
        size_hw=SIZE,
        model=ModelInfo(name="m", kind="segmenter", revision="0"),
        method="bank",
        queries=[SegmentQuery(text="car")] * num_queries,
        output=SegmentOutput(mask=form),
        found=dict.fromkeys(range(num_queries), found),
        problems={},
        stages_ms={},
    )


def test_a_reply_has_every_instance():
    reply = json.loads(answer(3).to_json(cache=HIT, timings=Timings()))
    assert [each["mask"]["format"] for each in reply["results"][0]["instances"]] == ["polygon"] * 3


def test_no_further_mask_is_written_once_the_deadline_has_passed(monkeypatch):
    written = []

    def slowly(mask: np.ndarray) -> list[list[list[int]]]:
        written.append(mask)
        while time_left_s():
            pass
        return []

    monkeypatch.setattr(rendering, "mask_polygons", slowly)
    asked = answer(3)
    with ends_within(0.2), pytest.raises(DeadlineExceeded):
        asked.to_json(cache=HIT, timings=Timings())
    assert len(written) == 1


def test_a_reply_that_would_be_too_large_is_refused_before_it_is_written(monkeypatch):
    size = len(answer(3, num_queries=1, form="rle").to_json(cache=HIT, timings=Timings()))
    monkeypatch.setattr(rendering, "MAX_REPLY_CHARS", 2 * size)
    assert answer(3, form="rle").to_json(cache=HIT, timings=Timings())
    with pytest.raises(TooLarge, match=r"output\.top_k"):
        answer(3, num_queries=20, form="rle").to_json(cache=HIT, timings=Timings())
