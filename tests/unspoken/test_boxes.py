"""Boxes: areas, overlaps and suppression, starting with the empty case."""

import numpy as np
import pytest

from unspoken.imaging.boxes import box_area, box_iou, non_maximum_suppression

EMPTY = np.zeros((0, 4))


def test_no_boxes_have_no_areas_overlaps_or_survivors():
    assert box_area(EMPTY).shape == (0,)
    assert box_iou(EMPTY, np.array([[0, 0, 1, 1]])).shape == (0, 1)
    assert non_maximum_suppression(EMPTY, np.zeros(0), iou_threshold=0.5).tolist() == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param([0, 0, 2, 2], [0, 0, 2, 2], 1.0, id="same"),
        pytest.param([0, 0, 2, 2], [2, 0, 4, 2], 0.0, id="touching"),
        pytest.param([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3, id="half"),
        pytest.param([0, 0, 4, 4], [1, 1, 3, 3], 0.25, id="inside"),
        pytest.param([1, 1, 1, 1], [1, 1, 1, 1], 0.0, id="both-empty"),
    ],
)
def test_iou(first, second, expected):
    assert box_iou(np.array([first]), np.array([second]))[0, 0] == pytest.approx(expected)


def test_suppression_keeps_the_best_of_each_place():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]])
    kept = non_maximum_suppression(boxes, np.array([0.5, 0.9, 0.1]), iou_threshold=0.5)
    assert kept.tolist() == [1, 2]
