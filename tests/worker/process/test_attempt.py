"""The rules of one attempt at a chunk, without Celery: skipped, counted, kept or given up."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import pytest

from tests.fakes import FakeDetector
from tests.worker.stage import Stage
from unspoken.errors import (
    DeadlineExceeded,
    ModelsChanged,
    NotReady,
    Overloaded,
    ServiceUnavailable,
    Unauthorized,
    Unreachable,
)
from unspoken.retries import RetryPolicy
from unspoken.runs.attempts import PastAttempts
from unspoken.runs.dataset.shards import record_name, shard_name
from unspoken.runs.plan import read_plan
from unspoken.runs.store import cancel_run, read_run
from unspoken.wire.base import ModelInfo
from worker.dispatch.run_state import RunState
from worker.label import pipeline
from worker.process.attempt import ChunkAttempt, label_one_chunk, poison_items, retry_batches


class PlannedChunk:
    """Chunk 0 of a planned run whose detector calls `before` for every picture."""

    def __init__(self, folder, before=lambda picture, phrases: None):
        self.stage = Stage(folder, detector=FakeDetector(before=lambda *call: before(*call)))
        self.stage.create()
        self.stage.dispatcher.tick()
        self.context = self.stage.worker_context(lease_s=20.0)
        self.ledger = self.context.open_run("r").ledger

    def label(self):
        return label_one_chunk("r", 0, self.context)

    @property
    def past(self):
        return self.ledger.past_attempts(0)


def test_a_committed_chunk_is_not_labelled_again(tmp_path):
    chunk = PlannedChunk(tmp_path)
    assert [chunk.label(), chunk.label()] == [True, False]
    assert chunk.past.number == 1


def test_a_chunk_that_another_worker_has_leased_is_left_to_it(tmp_path):
    chunk = PlannedChunk(tmp_path)
    with chunk.ledger.lease(0):
        assert not chunk.label()
    assert chunk.past.number == 0 and not chunk.ledger.committed(0)


def test_a_chunk_of_a_cancelled_run_and_one_that_is_not_planned_are_not_started(tmp_path):
    chunk = PlannedChunk(tmp_path)
    assert not label_one_chunk("r", 3, chunk.context)
    assert not label_one_chunk("nobody", 0, chunk.context)
    cancel_run(chunk.stage.runs_dir, "r")
    assert not chunk.label()
    assert chunk.past.number == 0


@pytest.mark.parametrize("error", [Overloaded, NotReady, Unreachable, Unauthorized, OSError])
def test_an_attempt_does_not_count_when_its_service_or_disk_was_unavailable(
    tmp_path, monkeypatch, error
):
    monkeypatch.setattr("worker.label.pipeline.SERVICE_RETRIES", RetryPolicy(attempts=1))

    def fail(*_):
        raise error("unavailable")

    chunk = PlannedChunk(tmp_path, fail)
    with pytest.raises(error):
        chunk.label()
    assert chunk.past.number == 0
    assert chunk.ledger.leased_chunks() == {0}  # nobody retries it at once


@pytest.mark.parametrize("error", [ServiceUnavailable, DeadlineExceeded])
def test_an_attempt_counts_with_its_items_when_a_service_failed_on_them(tmp_path, error):
    def fail(*_):
        raise error("the connection was lost")

    chunk = PlannedChunk(tmp_path, fail)
    with pytest.raises(error):
        chunk.label()
    assert chunk.past.number == 1 and set(chunk.past.ended_with) <= {0, 1, 2, 3}
    assert chunk.past.ended_with and chunk.ledger.leased_chunks() == {0}


def test_a_model_that_changes_during_an_attempt_discards_it(tmp_path):
    def change(*_):
        chunk.stage.ports.detector.model = ModelInfo(name="other", kind="detector", revision="2")

    chunk = PlannedChunk(tmp_path, change)
    with pytest.raises(ModelsChanged, match="the detector is now other@2"):
        chunk.label()
    assert chunk.past.number == 0 and not chunk.ledger.committed(0)


def test_of_two_shards_of_a_chunk_the_first_is_kept(tmp_path):
    def publish_before(*_):
        if not chunk.ledger.committed(0):
            chunk.ledger.publish(0, [], attempt=7, models={})

    chunk = PlannedChunk(tmp_path, publish_before)
    assert not chunk.label()
    assert chunk.ledger.read_record(0).attempt == 7


def test_a_shard_without_its_record_is_adopted_and_no_service_is_asked(tmp_path):
    asked = []
    chunk = PlannedChunk(tmp_path, lambda *call: asked.append(call))
    assert chunk.label()
    (chunk.ledger.shards_dir / record_name(0)).unlink()
    assert (chunk.ledger.shards_dir / shard_name(0)).is_file()
    num_asked = len(asked)
    assert chunk.label()
    assert len(asked) == num_asked and chunk.ledger.read_record(0).adopted


def test_after_the_grace_period_a_chunk_is_released_and_the_attempt_does_not_count(tmp_path):
    def end_grace(*_):
        if chunk.context.shutdown.is_ending:
            return
        assert not attempt.should_release()
        chunk.context.shutdown.end(grace_s=-1.0)
        counted.append(chunk.past.number)
        assert attempt.should_release()
        counted.append(chunk.past.number)

    counted = []
    chunk = PlannedChunk(tmp_path, end_grace)
    opened = chunk.context.open_run("r")
    attempt = ChunkAttempt(opened.plan.chunks[0], opened, chunk.context)
    with chunk.ledger.lease(0) as lease:
        attempt.make(lease)
    assert counted == [1, 0]


def past(number, **suspects):
    return PastAttempts(number, Counter({int(k[1:]): v for k, v in suspects.items()}))


@pytest.mark.parametrize(
    ("tries", "expected"),
    [
        pytest.param(past(0), [[0, 1, 2, 3]], id="first-try"),
        pytest.param(past(1), [[0, 1, 2, 3]], id="nobody-was-under-way"),
        pytest.param(past(1, i2=1), [[2], [0, 1, 3]], id="one-suspect-goes-first-and-alone"),
        pytest.param(past(2, i1=1, i3=2), [[3], [1], [0, 2]], id="the-worst-first"),
        pytest.param(past(3, i3=3), [[0], [1], [2]], id="given-up-and-the-rest-one-by-one"),
    ],
)
def test_suspects_go_alone_and_before_the_others(tries, expected):
    assert retry_batches(4, tries) == expected


def test_many_suspects_go_in_eighths_and_are_never_begun_a_fourth_time():
    everyone = Counter(dict.fromkeys(range(80), 1))
    parts = retry_batches(80, PastAttempts(1, everyone))
    assert [len(part) for part in parts] == [10] * 8
    assert poison_items(past(4, i2=3, i3=2)) == {2}


def test_the_pictures_of_a_slow_chunk_are_counted_before_it_is_committed(tmp_path, monkeypatch):
    seen = []

    def look(picture, phrases):
        run_state = RunState(read_run(chunk.stage.runs_dir, "r"), chunk.ledger, clock=lambda: 0.0)
        run_state.plan = read_plan(chunk.stage.runs_dir / "r")
        run_state.look()
        status = run_state.status("running", idle_s=60)
        seen.append((status.done, status.done_in_open_chunks, status.labelled))

    chunk = PlannedChunk(tmp_path, look)
    one_thread = lru_cache(lambda number: ThreadPoolExecutor(1))
    monkeypatch.setattr(pipeline, "_detector_threads", one_thread)
    assert chunk.label()
    assert seen == [(0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0)]
    look(None, ())
    assert seen[-1] == (4, 0, 4)
