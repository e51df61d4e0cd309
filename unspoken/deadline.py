"""Until when a request wants its answer, for the services that are asked on its behalf.

The deadline belongs to a task or a thread (contextvars), as the ids of `unspoken.logs` do, and
`logs.carried` takes both into another thread.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
MAX_TIMEOUT_MS = 3_600_000

_ends_s: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def ends_within(timeout_s: float | None) -> Iterator[None]:
    """What is asked in the block is wanted within so many seconds; None: whenever it comes."""
    token = _ends_s.set(None if timeout_s is None else time.monotonic() + timeout_s)
    try:
        yield
    finally:
        _ends_s.reset(token)


def timeout_headers() -> dict[str, str]:
    """The header that tells another service how long we shall still wait; none without an end."""
    ends_s = _ends_s.get()
    if ends_s is None:
        return {}
    left_ms = int(1000 * (ends_s - time.monotonic()))
    return {TIMEOUT_HEADER: str(min(max(left_ms, 1), MAX_TIMEOUT_MS))}
