"""Progress in a status: rate, time left, time per stage, and the cause of a delay."""

import time

import pytest

from tests.fakes import FakeDetector, FakePrompter
from tests.worker.stage import Stage
from unspoken.runs.dataset.shards import CommitRecord, read_record, record_name
from unspoken.runs.store import read_status
from unspoken.timings import Timings
from worker.dispatch.tally import Tally


def record(**timings_ms):
    return CommitRecord(
        shard="s", sha256="0", num_rows=4, labelled=3, dropped={"too_small": 1}, failed={},
        annotations=0, attempt=1, timings_ms=timings_ms,
    )  # fmt: skip


def tally(*records):
    total = Tally()
    for each in records:
        total.add(each)
    return total


def test_no_records_are_counts_of_nothing_and_no_stage():
    assert (tally().rows, tally().timings_ms, tally().slowest_stage) == (0, {}, None)


def test_counts_and_times_of_records_add_up():
    two = tally(record(detect=1.5, total=2), record(detect=2, write=1, total=4))
    assert (two.chunks, two.rows, two.labelled, two.dropped) == (2, 8, 6, {"too_small": 2})
    assert two.timings_ms == {"detect": 3.5, "write": 1, "total": 6}


def test_the_slowest_stage_is_that_of_the_last_commits():
    early = [record(prompt=900, total=900)] * 100
    assert tally(*early).slowest_stage == "prompt"
    assert tally(*early, *[record(prompt=1, detect=9, total=99)] * 64).slowest_stage == "detect"
    assert tally(record()).slowest_stage is None  # adopted


def test_times_of_threads_that_overlapped_share_the_time_that_passed():
    timings, one, other = Timings(), Timings(), Timings()
    one.add({"detect": 100})
    other.add({"detect": 200, "merge": 100})
    timings.share(100, [one, other])
    timings.share(100, [Timings()])
    assert timings.stages_ms() == {"detect": 75, "merge": 25}


def test_the_slowest_stage_is_the_one_that_computes_most_not_the_one_that_waits():
    tally = Tally()
    tally.add(record(prompt=50, prompt_wait=10, detect=20, detect_wait=120, total=200))
    assert tally.slowest_stage == "prompt"


def test_a_commit_record_says_where_its_workers_time_went_and_a_new_dispatcher_still_knows(
    tmp_path,
):
    stage = Stage(
        tmp_path,
        prompter=FakePrompter(before=lambda captions: time.sleep(0.05)),
        detector=FakeDetector(before=lambda picture, phrases: time.sleep(0.2)),
    )
    stage.create()
    stage.tick(1)
    timings_ms = read_record(tmp_path / "runs/r/dataset" / record_name(0)).timings_ms
    total = timings_ms.pop("total")
    assert set(timings_ms) == {"read", "filter", "prompt", "detect", "merge", "write"}
    assert timings_ms["prompt"] >= 50 and timings_ms["detect"] >= 200
    assert 0.9 * sum(timings_ms.values()) <= total
    stage.dispatcher = stage.new_dispatcher()
    stage.dispatcher.tick()
    status = read_status(stage.runs_dir, "r")
    assert status.state == "done" and status.timings_ms["detect"] >= 3 * 200


def test_a_status_says_what_holds_the_run_back(tmp_path):
    stage = Stage(tmp_path, detector=FakeDetector(before=lambda picture, phrases: time.sleep(0.05)))
    stage.create()
    stage.dispatcher.tick()
    stage.time_s += 60
    stage.dispatcher.tick()
    waiting = read_status(stage.runs_dir, "r")
    assert (waiting.bottleneck, waiting.seconds_left) == ("workers", None)
    stage.publisher.messages = stage.publisher.messages[:2]
    stage.work()
    stage.dispatcher.tick()
    running = read_status(stage.runs_dir, "r")
    assert (running.state, running.bottleneck) == ("running", "detect")
    assert running.rate_per_s == pytest.approx(8 / 60)
    assert running.seconds_left == pytest.approx(4 / (8 / 60))
    assert abs(running.updated_s - time.time()) < 60
    assert stage.tick(2).bottleneck is None
