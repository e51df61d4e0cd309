"""Boxes: areas, overlaps and suppression, starting with the empty case."""

import numpy as np
import pytest

from unspoken.imaging.boxes import box_area, box_iou, non_maximum_suppression, order_by_score

EMPTY = np.zeros((0, 4))


def test_no_boxes_have_no_areas_overlaps_or_survivors():
    assert box_area(EMPTY).shape == (0,)
    assert box_iou(EMPTY, np.array([[0, 0, 1, 1]])).shape == (0, 1)
    assert non_maximum_suppression(order_by_score(np.zeros(0)), np.zeros((0, 0), bool)) == []


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


def suppress(boxes: list[list[float]], scores: list[float], **limits: int) -> list[int]:
    """Return the boxes that remain at an IoU threshold of 0.5."""
    conflicts = box_iou(np.array(boxes), np.array(boxes)) >= 0.5
    return non_maximum_suppression(order_by_score(np.array(scores)), conflicts, **limits)


def test_suppression_keeps_the_best_of_each_place():
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]
    assert suppress(boxes, [0.5, 0.9, 0.1]) == [1, 2]
    assert suppress(boxes, [0.5, 0.9, 0.1], limit=1) == [1]


def test_of_equal_scores_the_first_box_is_kept():
    assert suppress([[0, 0, 10, 10]] * 40 + [[50, 50, 60, 60]], [0.5] * 41) == [0, 40]


def test_a_suppressed_box_suppresses_no_other():
    chain = [[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]]
    assert suppress(chain, [0.9, 0.8, 0.7]) == [0, 2]


def test_boxes_outside_the_order_are_ignored():
    assert non_maximum_suppression(np.array([2, 0]), np.eye(3, dtype=bool)) == [2, 0]
