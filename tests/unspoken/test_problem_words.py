"""Validation messages: plain words, the field's name as sent, and valid alternatives."""

import json
import time

import pytest
from pydantic import ValidationError

from unspoken.client.calls import checked
from unspoken.errors import InvalidInput
from unspoken.problem_words import MAX_PROBLEMS, plain_problems
from unspoken.wire.segment import SegmentQuestion

PYTHONS_WORDS = ("Tuple", "Input should", "validation", "valid dictionary", "permitted", "Field")
BOX = {"x0": 1, "y0": 1, "x1": 9, "y1": 9}


def said(body: object) -> str:
    with pytest.raises(ValidationError) as caught:
        SegmentQuestion.model_validate_json(json.dumps(body))
    (problem, *_) = plain_problems(caught.value, SegmentQuestion)
    return problem.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "queries: is missing"),
        ({"queries": 3}, "queries: must be a list"),
        ({"queries": [3]}, "queries[0]: must be an object"),
        ({"queries": [{"points": [{"x": 1, "y": 1}] * 65}]}, "must have at most 64 items"),
        ({"queries": [{"text": 3}]}, "queries[0].text: must be a text"),
        ({"queries": [{"text": "x" * 300}]}, "must have at most 256 characters"),
        (
            {"queries": [{"boxes": [{**BOX, "x0": "a"}]}]},
            "queries[0].boxes[0].x0: must be a num",
        ),
        ({"queries": [], "nms_iou": 0}, "nms_iou: must be greater than 0"),
        ({"queries": [], "nms_iou": 2}, "nms_iou: must be at most 1"),
        ({"queries": [], "output": {"top_k": 1.5}}, "output.top_k: must be a whole number"),
        ({"queries": [], "independent": "maybe"}, "independent: must be true or false"),
        ({"queries": [], "method": "magic"}, "method: must be 'auto', 'bank' or 'detector'"),
        ({"queries": [{}]}, "queries[0]: give a text, boxes or points"),
        ({"queries": [{"box": BOX}]}, "unknown field 'box' of queries[0]; send boxes: a list"),
        (
            {"queries": [{"thresold": 1}]},
            "field 'thresold' of queries[0]; did you mean 'threshold'?",
        ),
        ({"queries": [], "multimask_output": True}, "a single point is answered by three masks"),
        ({"queries": [], "boxes": [BOX]}, "send boxes and points in a query"),
        (
            {"queries": [], "output": {"zzz": 1}},
            "unknown field 'zzz' of output; known are embedding",
        ),
    ],
)
def test_a_problem_is_told_in_plain_words(body, message):
    text = said(body)
    assert message in text
    assert not any(words in text for words in PYTHONS_WORDS)


def test_the_client_says_the_same():
    with pytest.raises(InvalidInput, match="top_k: must be at least 1"):
        checked(SegmentQuestion, {"queries": [], "output": {"top_k": 0}})


def test_null_for_an_optional_field_is_the_same_as_leaving_it_out():
    nulls = {"text": "car", "boxes": None, "points": None, "negative": None, "threshold": None}
    body = {"queries": [nulls], "method": None, "output": {"mask": None}, "independent": None}
    plain = SegmentQuestion.model_validate_json('{"queries": [{"text": "car"}]}')
    assert SegmentQuestion.model_validate_json(json.dumps(body)) == plain
    assert said({"queries": None}) == "queries: must be a list"


def test_an_unknown_field_is_told_before_the_missing_one_that_it_was_to_be():
    assert said({"querys": []}) == "unknown field 'querys'; did you mean 'queries'?"


def test_many_long_unknown_names_cost_no_time_and_are_not_repeated():
    body = {"queries": [{f"{number}{'threshold' * 1000}": 1} for number in range(1000)]}
    started_s = time.monotonic()
    with pytest.raises(ValidationError) as caught:
        SegmentQuestion.model_validate(body)
    problems = plain_problems(caught.value, SegmentQuestion)
    assert time.monotonic() - started_s < 2
    assert len(problems) == MAX_PROBLEMS and len(str(problems)) < 500 * MAX_PROBLEMS
