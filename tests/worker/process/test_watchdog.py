import pytest

from worker.process.graceful_shutdown import GracefulShutdown
from worker.process.watchdog import Watchdog


class Kennel:
    """A watchdog with a settable clock, queue and pool; `ended` is the exit status."""

    def __init__(self, *, queued=0, busy=0):
        self.now_s, self.queued, self.busy, self.ended = 0.0, queued, busy, []
        self.shutdown = GracefulShutdown()
        self.dog = Watchdog(
            shutdown=self.shutdown,
            slots=2,
            patience_s=120,
            num_queued=self.count,
            num_busy=lambda: self.busy,
            end=self.ended.append,
            clock=lambda: self.now_s,
        )

    def count(self):
        if self.queued is None:
            raise ConnectionError("no broker")
        return self.queued

    def wait(self, seconds):
        for _ in range(seconds // 10):
            self.now_s += 10
            self.dog.look()


def test_a_worker_that_takes_nothing_while_messages_wait_is_ended():
    kennel = Kennel(queued=3)
    kennel.wait(120)
    assert kennel.ended == []
    kennel.wait(10)
    assert kennel.ended == [1]


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"queued": 0}, id="nothing-to-take"),
        pytest.param({"queued": 3, "busy": 2}, id="no-hand-free"),
        pytest.param({"queued": None}, id="no-broker"),
    ],
)
def test_a_worker_that_has_a_reason_is_not(state):
    kennel = Kennel(**state)
    kennel.wait(600)
    assert kennel.ended == []


def test_messages_that_are_taken_keep_it_alive():
    kennel = Kennel(queued=3)
    for _ in range(10):
        kennel.wait(100)
        kennel.dog.took_message()
    assert kennel.ended == []


def test_a_worker_told_to_stop_that_has_nothing_left_and_hangs_is_ended_in_seconds():
    kennel = Kennel()
    kennel.shutdown.end(grace_s=1000)
    kennel.dog.look()
    assert kennel.ended == []
    kennel.now_s = 6.0
    kennel.dog.look()
    assert kennel.ended == [0]


def test_a_worker_told_to_stop_may_finish_what_it_has_until_its_grace_is_over():
    kennel = Kennel(busy=1)
    kennel.shutdown.end(grace_s=1000)
    kennel.wait(100)
    assert kennel.ended == [] and kennel.shutdown.is_ending and not kennel.shutdown.is_over
    late = Kennel(busy=1)
    late.shutdown.end(grace_s=-10)
    late.dog.look()
    assert late.shutdown.is_over and late.ended == [1]
