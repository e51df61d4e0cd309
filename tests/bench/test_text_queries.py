"""The bench of text queries compares a bank's masks with the truth."""

import numpy as np
import pytest

from bench.text_queries import bank_recall
from training.evaluation.pictures import TrueObject, TruePicture
from unspoken.imaging.masks import encode_rle, rle_areas, rle_boxes
from unspoken.model.mask_bank import MaskBank

SIZE_HW = (20, 20)


def square(low: int, high: int) -> np.ndarray:
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[low:high, low:high] = True
    return mask


def bank(*masks: np.ndarray) -> MaskBank:
    rle = encode_rle(np.stack(masks)) if masks else []
    ones = np.ones(len(masks), dtype=np.float32)
    return MaskBank(
        size_hw=SIZE_HW,
        rle=tuple(rle),
        boxes_xyxy=rle_boxes(rle, SIZE_HW),
        areas=rle_areas(rle, SIZE_HW),
        predicted_iou=ones,
        stability_score=ones,
        similarity=ones,
        mask_embedding=np.zeros((len(masks), 768), dtype=np.float32),
    )


def picture(key: str) -> TruePicture:
    things = (
        TrueObject("car", square(0, 10), (0, 0, 10, 10)),
        TrueObject("wheel", square(12, 16), (12, 12, 16, 16), is_part=True),
    )
    return TruePicture(key, np.zeros((*SIZE_HW, 3), dtype=np.uint8), things)


def test_a_truth_is_found_where_some_mask_overlaps_it_by_half():
    pictures = [picture("near"), picture("far"), picture("empty")]
    banks = {"near": bank(square(0, 9), square(12, 16)), "far": bank(square(0, 6)), "empty": bank()}
    assert bank_recall(pictures, banks) == pytest.approx(2 / 6)
