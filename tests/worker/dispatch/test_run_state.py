"""The dispatcher's view of one run: what it reads from the disk, and what it takes from it."""

import pytest

from tests.worker.stage import Stage
from unspoken.runs.dataset.shards import record_name, shard_name
from unspoken.runs.plan import read_plan
from unspoken.runs.store import read_run
from unspoken.runs.worker_error import WorkerErrorRecord, write_worker_error
from worker.dispatch.run_state import RunState


@pytest.fixture
def stage(tmp_path):
    """A run of three chunks, of which chunk 0 is committed and no message is left."""
    stage = Stage(tmp_path)
    stage.create()
    stage.dispatcher.tick()
    del stage.publisher.messages[1:]
    stage.work()
    return stage


def new_state(stage):
    run_state = RunState(read_run(stage.runs_dir, "r"), stage.ledger, lambda: stage.time_s)
    run_state.plan = read_plan(stage.runs_dir / "r")
    return run_state


def note_disk_error(stage, token):
    error = WorkerErrorRecord(token=token, code="disk", message="no space left", retry_after_s=0.0)
    write_worker_error(stage.runs_dir / "r", error)


def test_the_first_look_counts_what_is_committed(stage):
    run_state = new_state(stage)
    run_state.look()
    assert (run_state.num_open, run_state.tally.rows, run_state.attempts) == (2, 4, 1)


def test_a_shard_without_its_record_is_adopted_and_counted(stage):
    (stage.ledger.shards_dir / record_name(0)).unlink()
    run_state = new_state(stage)
    run_state.look()
    assert run_state.num_open == 2 and stage.ledger.read_record(0).adopted


def test_a_chunk_whose_record_cannot_be_read_is_open_again(stage):
    (stage.ledger.shards_dir / record_name(0)).write_bytes(b"{")
    run_state = new_state(stage)
    run_state.look()
    assert run_state.num_open == 3
    assert not (stage.ledger.shards_dir / shard_name(0)).exists()
    assert run_state.take_due(3, unanswered_s=10.0) == [0, 1, 2]


def test_an_error_noted_before_this_dispatcher_started_does_not_pause_the_run(stage):
    note_disk_error(stage, "before")
    run_state = new_state(stage)
    run_state.look()
    run_state.look()
    assert not run_state.breaker.is_open
    note_disk_error(stage, "after")
    run_state.look()
    assert run_state.breaker.is_open


def test_a_commit_is_seen_although_no_message_was_published_for_it(stage):
    run_state = new_state(stage)
    run_state.look()
    with stage.ledger.lease(1):
        run_state.look()
        assert run_state.leased == {1}
        stage.ledger.publish(1, [], attempt=1, models={})
    run_state.look()
    assert run_state.num_open == 2, "nobody published it, and its lease is gone"
    assert run_state.take_due(3, unanswered_s=10.0) == [1, 2]
    run_state.look()
    assert run_state.num_open == 1
