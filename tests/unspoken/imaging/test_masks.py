"""Masks as run lengths, polygons and PNG: conversions are lossless."""

import base64
import io
import time

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from unspoken.errors import InvalidInput
from unspoken.imaging.mask_polygons import Polygon, mask_polygons
from unspoken.imaging.masks import (
    decode_rle,
    encode_rle,
    mask_iou,
    mask_png,
    rle_areas,
    rle_boxes,
)


def ring_fill(ring: list[int], size_hw: tuple[int, int]) -> np.ndarray:
    """Fill a ring by the even-odd rule, counting its vertical edges to the right of a pixel."""
    filled = np.zeros(size_hw, dtype=bool)
    points = np.asarray(ring).reshape(-1, 2)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if x0 == x1:
            filled[min(y0, y1) : max(y0, y1), :x0] ^= True
    return filled


def fill(polygons: list[Polygon], size_hw: tuple[int, int]) -> np.ndarray:
    """Draw polygons as a mask: outer rings minus their holes."""
    mask = np.zeros(size_hw, dtype=bool)
    for outer, *holes in polygons:
        part = ring_fill(outer, size_hw)
        for hole in holes:
            inside = ring_fill(hole, size_hw)
            assert (inside <= part).all(), "a hole lies in its own part"
            part &= ~inside
        mask |= part
    return mask


def target_mask() -> np.ndarray:
    """Return a ring with an island in its hole, and a second part that touches it at a corner."""
    mask = np.zeros((12, 16), dtype=bool)
    mask[1:9, 1:9] = True
    mask[3:7, 3:7] = False
    mask[4:6, 4:6] = True
    mask[9:11, 9:12] = True
    return mask


def test_no_mask_has_no_polygons_and_no_runs():
    assert mask_polygons(np.zeros((3, 4), dtype=bool)) == []
    assert encode_rle(np.zeros((0, 3, 4), dtype=bool)) == []
    assert decode_rle([], (3, 4)).shape == (0, 3, 4)
    assert rle_boxes([], (3, 4)).shape == (0, 4) and rle_areas([], (3, 4)).shape == (0,)


def test_polygons_keep_every_part_and_every_hole():
    polygons = mask_polygons(target_mask())
    assert sorted(len(rings) for rings in polygons) == [1, 1, 2]
    assert np.array_equal(fill(polygons, (12, 16)), target_mask())
    assert polygons[0][0] == [1, 1, 9, 1, 9, 9, 1, 9]


@pytest.mark.parametrize("seed", range(40))
def test_polygons_of_any_mask_draw_that_mask(seed):
    generator = np.random.default_rng(seed)
    size_hw = tuple(generator.integers(1, 20, 2).tolist())
    mask = generator.random(size_hw) < generator.random()
    assert np.array_equal(fill(mask_polygons(mask), size_hw), mask)


def test_polygons_of_a_noisy_mask_take_time_in_proportion_to_its_corners():
    def cpu_s(side: int) -> float:
        mask = np.random.default_rng(0).random((side, side)) < 0.5
        started = time.thread_time()
        mask_polygons(mask)
        return time.thread_time() - started

    assert cpu_s(480) < 30 * cpu_s(120)  # 16 times the pixels; it was 250 times


def test_a_mask_of_more_corners_than_are_written_is_refused_at_once():
    mask = np.indices((2000, 2000)).sum(axis=0) % 2 == 0
    started = time.thread_time()
    with pytest.raises(InvalidInput, match="'rle' or 'png'"):
        mask_polygons(mask)
    assert time.thread_time() - started < 1


def test_a_hole_beside_a_hole_belongs_to_the_part_around_both():
    mask = np.ones((7, 9), dtype=bool)
    mask[2:5, 2] = mask[2:5, 4] = mask[3, 6] = False
    (polygon,) = mask_polygons(mask)
    assert len(polygon) == 4 and np.array_equal(fill([polygon], (7, 9)), mask)


def test_a_mask_up_to_the_border_is_closed_there():
    mask = np.ones((2, 3), dtype=bool)
    assert mask_polygons(mask) == [[[0, 0, 3, 0, 3, 2, 0, 2]]]


def test_run_lengths_are_what_pycocotools_reads():
    masks = np.stack([target_mask(), np.zeros((12, 16), dtype=bool), ~target_mask()])
    counts = encode_rle(masks)
    runs = [{"size": [12, 16], "counts": each.decode("ascii")} for each in counts]
    for run, mask in zip(runs, masks, strict=True):
        assert np.array_equal(coco.decode(run).astype(bool), mask)
    assert np.array_equal(decode_rle(counts, (12, 16)), masks)
    assert rle_areas(counts, (12, 16)).tolist() == masks.sum((1, 2)).tolist()
    assert rle_boxes(counts, (12, 16))[0].tolist() == [1, 1, 12, 11]
    assert rle_boxes(counts, (12, 16))[1].tolist() == [0, 0, 0, 0]


def test_there_may_be_more_than_255_masks():
    masks = np.random.default_rng(0).random((300, 12, 16)) < 0.3
    counts = encode_rle(masks)
    assert rle_areas(counts, (12, 16)).tolist() == masks.sum((1, 2)).tolist()
    assert rle_boxes(counts, (12, 16)).shape == (300, 4)
    assert np.array_equal(decode_rle(counts, (12, 16)), masks)


def test_a_png_has_one_bit_a_pixel():
    image = Image.open(io.BytesIO(base64.b64decode(mask_png(target_mask()))))
    assert image.mode == "1" and np.array_equal(np.asarray(image), target_mask())


def test_the_iou_of_masks_is_given_by_pairs_and_empty_ones_are_a_choice():
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    half = np.array([[True, True], [False, False]])
    pairs = np.stack([full, empty, empty]), np.stack([half, full, empty])
    assert mask_iou(*pairs).tolist() == [0.5, 0, 0]
    assert mask_iou(*pairs, if_empty=1.0).tolist() == [0.5, 0, 1]
