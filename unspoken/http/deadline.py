"""The deadline of the current request, passed on to the services that are called for it.

Like the ids of `unspoken.logs`, the deadline belongs to a task or a thread (contextvars).
`logs.bind_context` copies both into another thread.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from unspoken.errors import DeadlineExceeded

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
MAX_TIMEOUT_MS = 3_600_000


@dataclass
class _Deadline:
    ends_s: float | None
    is_over: bool = False
    """True once the request was answered or its caller disconnected; visible to all threads."""


_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def ends_within(timeout_s: float | None) -> Iterator[None]:
    """Set the deadline of calls made in the block: `timeout_s` from now, or none if it is None."""
    deadline = _Deadline(None if timeout_s is None else time.monotonic() + timeout_s)
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        deadline.is_over = True
        _deadline.reset(token)


def time_left_s() -> float | None:
    """Return the seconds until the request's deadline, at least 0; None if it has no deadline."""
    deadline = _deadline.get()
    if deadline is None or deadline.ends_s is None:
        return None
    return max(0.0, deadline.ends_s - time.monotonic())


def check_wanted() -> None:
    """Raise DeadlineExceeded if the deadline has passed or the request has ended.

    For long work in a thread, which cannot be cancelled: call it between steps.
    """
    deadline = _deadline.get()
    if deadline is not None and (deadline.is_over or time_left_s() == 0.0):
        raise DeadlineExceeded("the deadline has passed or the caller has disconnected")


def timeout_headers() -> dict[str, str]:
    """Return the header that tells another service our remaining time; empty without a deadline."""
    left_s = time_left_s()
    if left_s is None:
        return {}
    return {TIMEOUT_HEADER: str(min(max(int(1000 * left_s), 1), MAX_TIMEOUT_MS))}
