"""Timings: computing and waiting are measured separately."""

import time

import pytest

from unspoken.timings import Timings, is_wait, note_wait


def test_time_that_was_not_computed_is_waiting():
    timings = Timings()
    with timings.computing("detect") as own:
        time.sleep(0.01)
        own.ms += 4
    stages = timings.stages_ms()
    assert stages["detect"] == 4 and stages["wait"] >= 6


def test_waiting_is_told_alone_where_who_computes_tells_the_stages():
    timings = Timings()
    with timings.computing() as own:
        time.sleep(0.01)
        own.ms += 4
    assert list(timings.stages_ms()) == ["wait"] and timings.stages_ms()["wait"] >= 6


def test_a_share_of_a_batch_is_never_more_than_the_time_that_passed():
    timings = Timings()
    with timings.computing("detect") as own:
        own.ms += 60_000
    assert timings.stages_ms()["wait"] == 0 and timings.stages_ms()["detect"] < 1000


def test_waits_that_are_noted_within_the_block_are_taken_off_its_stage():
    timings = Timings()
    note_wait(60_000)  # nobody gathers it
    with pytest.raises(ValueError, match="broken"), timings.asking("detect"):
        time.sleep(0.01)
        note_wait(3)
        note_wait(4)
        raise ValueError("broken")
    with timings.asking("prompt"):
        pass
    stages = timings.stages_ms()
    assert stages["detect_wait"] == 7 and stages["detect"] >= 3
    assert "prompt_wait" not in stages


def test_threads_that_computed_in_turn_did_not_wait_for_anyone_else():
    timings, one, other = Timings(), Timings(), Timings()
    one.add({"detect": 50, "detect_wait": 50})
    other.add({"detect": 50, "detect_wait": 50})
    timings.share(100, [one, other])
    assert timings.stages_ms() == {"detect": 100, "detect_wait": 0}


def test_waits_of_threads_share_the_time_in_which_none_of_them_computed():
    timings, one, other = Timings(), Timings(), Timings()
    one.add({"detect": 10, "detect_wait": 90})
    other.add({"detect": 10, "detect_wait": 60, "rank_wait": 30})
    timings.share(100, [one, other])
    shared = timings.stages_ms()
    assert shared["detect"] == 20 and sum(shared.values()) == 100
    assert shared["detect_wait"] == 5 * shared["rank_wait"] > 0


@pytest.mark.parametrize(
    ("stage", "waits"), [("wait", True), ("rank_wait", True), ("await", False)]
)
def test_the_waiting_of_a_stage_is_known_by_its_name(stage, waits):
    assert is_wait(stage) is waits
