"""The retry policy: number of attempts, pauses, and total time."""

import pytest

from unspoken.errors import (
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    ServiceUnavailable,
    Unreachable,
)
from unspoken.retries import Backoff, RetryPolicy, may_pass


def failing(*errors):
    """Return a function that raises each error once, then returns the number of its calls."""
    left, calls = list(errors), []

    def function():
        calls.append(1)
        if left:
            raise left.pop(0)
        return len(calls)

    return function


def test_pauses_double_up_to_the_cap_and_differ_between_callers():
    policy = RetryPolicy(first_pause_s=1, max_pause_s=4)
    for num_failed, longest in ((1, 1), (2, 2), (3, 4), (9, 4), (5000, 4)):
        drawn = {policy.pause_s(num_failed) for _ in range(50)}
        assert longest / 2 <= min(drawn) < max(drawn) <= longest and len(drawn) > 10


def test_without_jitter_all_pauses_are_the_longest():
    policy = RetryPolicy(first_pause_s=1, factor=3, max_pause_s=20, jitter=0)
    assert [policy.pause_s(number) for number in (1, 2, 3, 4)] == [1, 3, 9, 20]


def test_no_attempt_comes_before_the_retry_after_of_the_error():
    backoff = Backoff(RetryPolicy(first_pause_s=1))
    assert 30 < backoff.pause_s(NotReady("x", retry_after_s=30)) <= 31


def test_attempts_and_total_time_end_the_retries_and_a_reset_starts_them_again():
    now_s = [0.0]
    backoff = Backoff(RetryPolicy(attempts=3, jitter=0, total_s=10), clock=lambda: now_s[0])
    assert [backoff.pause_s() for _ in range(3)] == [0.5, 1.0, None]
    backoff.reset()
    assert backoff.pause_s() == 0.5
    now_s[0] = 9.0
    assert backoff.pause_s() is None, "a pause of 1 s would end after the total time"


def test_a_policy_within_a_time_keeps_the_shorter_of_both():
    assert RetryPolicy().within(3).total_s == 3
    assert RetryPolicy(total_s=2).within(3).total_s == 2


def test_a_call_is_repeated_after_the_named_errors_only():
    policy, waits = RetryPolicy(attempts=3, first_pause_s=0), []
    busy = Overloaded("full", retry_after_s=0)
    assert policy.call(failing(busy, busy), on=(Overloaded,), waited=waits.append) == 3
    assert waits == [0, 0]
    with pytest.raises(NotFound):
        policy.call(failing(busy, NotFound("gone"), busy), on=(Overloaded,))
    with pytest.raises(Overloaded, match="last"):
        policy.call(failing(busy, busy, Overloaded("last", retry_after_s=0)), on=(Overloaded,))


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"jitter": 1.5}, {"first_pause_s": -1}, {"factor": 0.5}]
)
def test_an_impossible_policy_is_refused(wrong):
    with pytest.raises(InvalidInput):
        RetryPolicy(**wrong)


def test_a_request_that_may_have_been_processed_is_repeated_only_if_it_is_idempotent():
    for refused in (Overloaded("x"), NotReady("x"), Unreachable("x")):
        assert may_pass(refused, is_repeatable=False)
    assert may_pass(ServiceUnavailable("cut"), is_repeatable=True)
    assert not may_pass(ServiceUnavailable("cut"), is_repeatable=False)
    assert not may_pass(NotFound("x"), is_repeatable=True)
