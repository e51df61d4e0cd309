import pytest

from unspoken.runs.worker_error import WorkerErrorRecord
from worker.dispatch.circuit_breaker import CircuitBreaker


def worker_error(code="not_ready", retry_after_s=0.0):
    return WorkerErrorRecord(
        token="t", code=code, message="the detector loads", retry_after_s=retry_after_s
    )


class Timed:
    """A circuit breaker that always pauses as long as possible, without jitter."""

    def __init__(self):
        self.now_s = 0.0
        self.breaker = CircuitBreaker(lambda: self.now_s, draw=lambda low, high: high)

    def meet(self, times=1, **what):
        for _ in range(times):
            self.breaker.record(num_commits=0, error=worker_error(**what))

    def commit(self, count=1):
        self.breaker.record(num_commits=count, error=None)


def test_an_occasional_error_does_not_pause_a_run_that_progresses():
    timed = Timed()
    for _ in range(20):
        timed.commit(3)
        timed.meet()
    assert timed.breaker.num_messages() is None and timed.breaker.message == ""


def test_errors_in_half_of_the_outcomes_pause_the_run_and_the_pauses_grow():
    timed = Timed()
    timed.commit(3)
    timed.meet(2)
    assert not timed.breaker.is_open
    timed.meet()
    assert timed.breaker.num_messages() == 0
    assert timed.breaker.message == "paused: the detector loads; retrying one chunk in 2 s"
    timed.now_s = 2.0
    assert timed.breaker.num_messages() == 1
    timed.breaker.note_published()
    assert timed.breaker.num_messages() == 0
    assert "retrying one chunk now, another in 30 s" in timed.breaker.message
    timed.meet()
    timed.now_s = 5.9
    assert timed.breaker.num_messages() == 0
    timed.now_s = 6.0
    assert timed.breaker.num_messages() == 1


def test_the_probes_commit_ends_the_pause():
    timed = Timed()
    timed.meet(3)
    timed.commit()
    assert timed.breaker.is_open
    timed.now_s = 2.0
    timed.breaker.note_published()
    timed.commit()
    assert timed.breaker.num_messages() is None
    timed.meet()
    assert not timed.breaker.is_open


def test_a_probe_of_which_nothing_is_heard_is_sent_again():
    timed = Timed()
    timed.meet(3)
    timed.now_s = 2.0
    timed.breaker.note_published()
    timed.now_s = 32.0
    assert timed.breaker.num_messages() == 1


@pytest.mark.parametrize("code", ["disk", "models_changed"])
def test_what_no_try_can_help_pauses_at_once(code):
    timed = Timed()
    timed.commit(50)
    timed.meet(code=code)
    assert timed.breaker.num_messages() == 0


def test_a_service_is_not_asked_before_the_time_that_it_named():
    timed = Timed()
    timed.meet(3, retry_after_s=40.0)
    timed.now_s = 41.0
    assert timed.breaker.num_messages() == 0
    timed.now_s = 42.0
    assert timed.breaker.num_messages() == 1
