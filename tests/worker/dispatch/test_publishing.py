"""The rules of publishing: how many messages, and when a chunk is published again."""

import pytest

from tests.worker.stage import ListPublisher, Stage
from unspoken.runs.plan import read_plan
from unspoken.runs.store import create_run, read_run
from unspoken.runs.worker_error import WorkerErrorRecord
from unspoken.wire.runs import RunRequest
from worker.dispatch.publishing import REPUBLISH_FACTOR_WITH_QUEUE, publish_open_chunks
from worker.dispatch.run_state import RunState

REPUBLISH_S = 10.0


class Published:
    """A planned run of 12 chunks, and its publisher, by a clock that the test sets."""

    def __init__(self, folder):
        self.now_s = 0.0
        stage = Stage(folder)
        request = RunRequest(source="in", run_id="r", chunk_size=1)
        create_run(stage.data_dir, stage.runs_dir, request)
        stage.dispatcher.tick()
        self.ledger, self.publisher = stage.ledger, ListPublisher()
        run = read_run(stage.runs_dir, "r")
        self.run_state = RunState(run, self.ledger, lambda: self.now_s)
        self.run_state.plan = read_plan(stage.runs_dir / "r")

    def publish(self, num_slots=0):
        """Look at the run and publish what is due; return the chunks of each new message."""
        before = len(self.publisher.messages)
        self.run_state.look()
        publish_open_chunks(
            self.run_state,
            self.run_state.plan,
            self.publisher,
            num_slots=num_slots,
            republish_s=REPUBLISH_S,
            message_s=90.0,
        )
        return [chunk_ids for _, chunk_ids, _ in self.publisher.messages[before:]]

    def commit(self, chunk_id):
        self.ledger.publish(chunk_id, [], attempt=1, models={})


@pytest.fixture
def published(tmp_path):
    return Published(tmp_path)


def test_a_queue_holds_two_messages_a_slot_and_four_before_a_worker_reports(published):
    assert published.publish() == [[0], [1], [2], [3]]
    assert published.publish() == []
    assert published.publish(num_slots=3) == [[4], [5]]


def test_a_chunk_is_published_again_once_its_message_is_lost_and_not_before(published):
    published.publish()
    published.publisher.messages.clear()
    published.now_s = REPUBLISH_S - 1
    assert published.publish() == [[4], [5], [6], [7]]
    published.publisher.messages.clear()
    published.now_s = REPUBLISH_S
    assert published.publish() == [[0], [1], [2], [3]]


def test_while_messages_are_queued_a_chunk_is_published_again_only_much_later(published):
    published.publish(num_slots=6)
    del published.publisher.messages[6:]
    published.now_s = REPUBLISH_S * REPUBLISH_FACTOR_WITH_QUEUE - 1
    assert published.publish(num_slots=6) == []
    published.now_s += 1
    assert published.publish(num_slots=6) == [[0], [1], [2], [3], [4], [5]]


def test_a_chunk_with_a_lease_or_a_commit_record_is_not_published_again(published):
    published.publish()
    published.publisher.messages.clear()
    published.commit(2)
    published.now_s = REPUBLISH_S
    with published.ledger.lease(1):
        assert published.publish() == [[0], [3], [4], [5]]


def test_a_run_whose_circuit_breaker_is_open_gets_no_message_and_then_a_single_probe(published):
    published.run_state.look()
    error = WorkerErrorRecord(token="t", code="disk", message="full", retry_after_s=5.0)
    published.run_state.breaker.record(num_commits=0, error=error)
    assert published.publish() == []
    published.now_s = 60.0 + error.retry_after_s
    assert published.publish() == [[0]]
    assert published.publish() == []
