"""Conversion of raw network outputs to detections of the requested phrases."""

import numpy as np
import pytest

from services.detector.packing import pack_phrases
from services.detector.scoring import (
    RawDetections,
    ScoringConfig,
    best_first,
    boxes_to_pixels,
    detections_of,
    phrase_scores,
)


def letters(text: str) -> list[int]:
    return [ord(character) for character in text if character != " "]


def score(asked, token_scores, boxes, *, box_threshold=0.3, **config):
    (chunk,) = pack_phrases(asked, letters)
    raw = RawDetections(token_scores=np.array(token_scores), boxes_cxcywh_norm=np.array(boxes))
    return best_first(
        detections_of(
            chunk,
            raw,
            asked=asked,
            size_hw=(100, 200),
            box_threshold=box_threshold,
            config=ScoringConfig(**config),
        )
    )


LEFT, RIGHT = [0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]
# tokens of ["ab", "c"]: [CLS] a b . c . [SEP]


def test_a_score_is_the_mean_over_the_phrases_own_tokens():
    (chunk,) = pack_phrases(["ab", "c"], letters)
    scores = phrase_scores(np.array([[0.9, 0.2, 0.6, 0.9, 0.5, 0.9, 0.9]]), chunk.phrases)
    assert scores.tolist() == [[pytest.approx(0.4), pytest.approx(0.5)]]


def test_a_box_carries_every_phrase_above_the_threshold():
    found = score(["ab", "c"], [[0, 0.4, 0.4, 0, 0.8, 0, 0]], [LEFT])
    assert [(each.phrase, each.phrase_index) for each in found] == [("c", 1), ("ab", 0)]
    assert found[0].box.to_list() == [0, 0, 100, 100]


def test_equality_with_the_threshold_is_enough():
    assert len(score(["a"], [[0, 0.5, 0, 0]], [LEFT], box_threshold=0.5)) == 1
    assert score(["a"], [[0, 0.49, 0, 0]], [LEFT], box_threshold=0.5) == ()


def test_two_boxes_of_one_phrase_on_one_place_are_one_but_not_of_two_phrases():
    twins = [LEFT, [0.26, 0.5, 0.5, 1.0], RIGHT]
    found = score(["a"], [[0, 0.6, 0, 0], [0, 0.7, 0, 0], [0, 0.4, 0, 0]], twins)
    assert [round(each.score, 2) for each in found] == [0.7, 0.4]
    both = score(["a", "b"], [[0, 0.6, 0, 0, 0, 0], [0, 0, 0, 0.7, 0, 0]], twins[:2])
    assert [each.phrase for each in both] == ["b", "a"]


def test_a_phrase_keeps_its_best_boxes_only():
    boxes = [[(i + 0.5) / 10, 0.5, 0.05, 1.0] for i in range(10)]
    rows = [[0, 0.3 + i / 20, 0, 0] for i in range(10)]
    found = score(["a"], rows, boxes, max_boxes_per_phrase=3)
    assert [each.score for each in found] == pytest.approx([0.75, 0.7, 0.65])


def test_a_phrase_asked_twice_is_answered_twice_in_its_own_words():
    found = score(["Car", "car."], [[0, 0.5, 0.5, 0.5, 0, 0]], [LEFT])
    assert [(each.phrase_index, each.phrase) for each in found] == [(0, "Car"), (1, "car.")]


def test_boxes_are_clipped_to_the_picture_and_empty_ones_dropped():
    boxes = boxes_to_pixels(
        np.array([[0.5, 0.5, 2.0, 2.0], [1.5, 0.5, 0.5, 0.5]]), size_hw=(10, 20)
    )
    assert boxes[0].tolist() == [0, 0, 20, 10]
    assert score(["a"], [[0, 0.9, 0, 0]], [[1.5, 0.5, 0.5, 0.5]]) == ()
