"""Until when a request wants its answer, for the services that are asked on its behalf.

The deadline belongs to a task or a thread (contextvars), as the ids of `unspoken.logs` do, and
`logs.carried` takes both into another thread.
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
    """The request has been answered, or its caller has gone; seen from every thread."""


_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def ends_within(timeout_s: float | None) -> Iterator[None]:
    """What is asked in the block is wanted within so many seconds; None: whenever it comes."""
    deadline = _Deadline(None if timeout_s is None else time.monotonic() + timeout_s)
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        deadline.is_over = True
        _deadline.reset(token)


def time_left_s() -> float | None:
    """Seconds until the request's deadline, 0 at least; None where it has none."""
    deadline = _deadline.get()
    if deadline is None or deadline.ends_s is None:
        return None
    return max(0.0, deadline.ends_s - time.monotonic())


def check_wanted() -> None:
    """Raise DeadlineExceeded where nobody waits for the answer any more.

    For long work in a thread, which cannot be cancelled: call it between two pieces.
    """
    deadline = _deadline.get()
    if deadline is not None and (deadline.is_over or time_left_s() == 0.0):
        raise DeadlineExceeded("nobody waits for this answer any more")


def timeout_headers() -> dict[str, str]:
    """The header that tells another service how long we shall still wait; none without an end."""
    left_s = time_left_s()
    if left_s is None:
        return {}
    return {TIMEOUT_HEADER: str(min(max(int(1000 * left_s), 1), MAX_TIMEOUT_MS))}
