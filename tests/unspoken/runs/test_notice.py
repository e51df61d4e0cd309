"""The notice of a run that labelled nothing, or lost most of its rows for one reason."""

import pytest

from unspoken.runs.notice import HINTS, describe_loss
from worker.sources.row import PROBLEMS


def notice(total: int, labelled: int = 0, dropped=None, failed=None, **more) -> str:
    return describe_loss(
        total=total, labelled=labelled, dropped=dropped or {}, failed=failed or {}, **more
    )


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ({"total": 20, "dropped": {"caption_empty": 20}}, "all 20 rows dropped: caption_empty."),
        ({"total": 9, "failed": {"poison": 9}}, "all 9 rows failed: poison."),
        (
            {"total": 20, "labelled": 9, "dropped": {"language": 11}},
            "11 of 20 rows dropped: language.",
        ),
        (
            {"total": 5, "dropped": {"aspect": 2, "unsafe": 1}, "failed": {"bad_row": 2}},
            "nothing was labelled: 2 of 5 rows failed: bad_row.",
        ),
        (
            {"total": 9, "labelled": 3, "dropped": {"x": 2}, "failed": {"x": 4}},
            "6 of 9 rows failed: x.",
        ),
    ],
)
def test_a_run_that_lost_most_for_one_reason_says_so_with_its_numbers(run, says):
    assert notice(**run).startswith(says)


@pytest.mark.parametrize(
    "run",
    [
        {"total": 0},
        {"total": 20, "labelled": 20},
        {"total": 20, "labelled": 10, "dropped": {"language": 10}},
        {"total": 20, "labelled": 4, "dropped": {"language": 8, "aspect": 8}},
        {"total": 1000, "dropped": {"language": 49}},
    ],
)
def test_any_other_run_and_one_that_has_just_begun_say_nothing(run):
    assert notice(**run) == ""


def test_a_run_under_way_is_judged_from_fifty_rows_on():
    assert notice(total=1000, dropped={"language": 50}).startswith("all 50 rows dropped")


def test_a_run_without_a_single_box_says_so_once_its_thresholds_are_chosen():
    assert notice(total=9, labelled=9, boxes=0).startswith("no box was kept in 9 labelled pictures")
    assert notice(total=9, labelled=9, boxes=1) == notice(total=9, labelled=9, boxes=None) == ""
    assert notice(total=1000, labelled=9, boxes=0) == ""


def test_the_hint_names_an_option_and_that_of_the_source_comes_first():
    said = notice(total=3, dropped={"caption_too_short": 3})
    assert said.endswith("caption_too_short. --filter min_caption_words=off keeps them.")
    own = {**HINTS, "caption_empty": "metadata.jsonl in this folder contains captions"}
    said = notice(total=3, dropped={"caption_empty": 3}, hints=own)
    assert said.endswith("caption_empty. metadata.jsonl in this folder contains captions.")


@pytest.mark.parametrize("reason", ["no_picture", "bad_row", "outside_data_folder"])
def test_hints_are_of_reasons_that_there_are(reason):
    assert reason in HINTS and reason in PROBLEMS
