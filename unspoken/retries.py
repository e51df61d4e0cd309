"""The retry policy: the number of attempts at a call, and the pauses between them.

All code that retries or restarts uses it: the client, the worker, the dispatcher's circuit breaker,
and the launcher. The pause between two attempts at a chunk is set in `worker/process/attempt.py`.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from unspoken.errors import (
    InvalidInput,
    NotReady,
    Overloaded,
    ServiceUnavailable,
    Unreachable,
    UnspokenError,
)

Result = TypeVar("Result")
_MOST_DOUBLINGS = 64  # keeps the power finite


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter that honours Retry-After.

    `attempts` includes the first one; 1 disables retries, None means no limit. The pause after
    failure n is `first_pause_s * factor ** (n - 1)`, at most `max_pause_s`. A random part of it, at
    most the fraction `jitter`, is subtracted, so that callers that were refused together do not
    retry together. A Retry-After is added to it, so no attempt comes too early. No pause ends later
    than `total_s` after the first attempt; None means no limit.
    """

    attempts: int | None = 5
    first_pause_s: float = 0.5
    factor: float = 2.0
    max_pause_s: float = 20.0
    jitter: float = 0.5
    total_s: float | None = None

    def __post_init__(self) -> None:
        """Check the values. Raises InvalidInput."""
        if self.attempts is not None and self.attempts < 1:
            raise InvalidInput(f"attempts must be at least 1, got {self.attempts}")
        if not 0 <= self.jitter <= 1:
            raise InvalidInput(f"jitter must be from 0 to 1, got {self.jitter:g}")
        if min(self.first_pause_s, self.max_pause_s) < 0 or self.factor < 1:
            raise InvalidInput("pauses must not be negative, and factor must be at least 1")

    def pause_s(
        self,
        num_failed: int,
        retry_after_s: float = 0.0,
        *,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> float:
        """Return the seconds to wait after failure `num_failed`, counted from 1."""
        power = min(num_failed - 1, _MOST_DOUBLINGS)
        longest_s = min(self.first_pause_s * self.factor**power, self.max_pause_s)
        return retry_after_s + draw((1 - self.jitter) * longest_s, longest_s)

    def within(self, seconds: float) -> "RetryPolicy":
        """Return this policy with at most this total time."""
        total_s = seconds if self.total_s is None else min(seconds, self.total_s)
        return replace(self, total_s=total_s)

    def call(
        self,
        function: Callable[[], Result],
        *,
        on: tuple[type[UnspokenError], ...],
        waited: Callable[[float], object] = lambda _seconds: None,
    ) -> Result:
        """Call a function, again after each error of `on`; raise the last one if all attempts fail.

        `waited` gets the seconds of each pause.
        """
        backoff = Backoff(self)
        while True:
            try:
                return function()
            except on as error:
                pause_s = backoff.pause_s(error)
                if pause_s is None:
                    raise
                time.sleep(pause_s)
                waited(pause_s)


class Backoff:
    """The failed attempts at one call. `clock` returns monotonic seconds."""

    def __init__(self, policy: RetryPolicy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy, self._clock = policy, clock
        self.reset()

    def reset(self) -> None:
        """Forget the failures, and count `total_s` from now on."""
        self._num_failed, self._began_s = 0, self._clock()

    def pause_s(self, error: Exception | None = None) -> float | None:
        """Record a failure; return the seconds before the next attempt, None if it was the last."""
        self._num_failed += 1
        policy = self._policy
        pause_s = policy.pause_s(self._num_failed, retry_after_s(error))
        if policy.attempts is not None and self._num_failed >= policy.attempts:
            return None
        took_s = self._clock() - self._began_s
        return pause_s if policy.total_s is None or took_s + pause_s < policy.total_s else None


def retry_after_s(error: Exception | None) -> float:
    """Return the seconds that an error asks its caller to wait; 0 if it has no such time."""
    return error.retry_after_s if isinstance(error, Overloaded | NotReady) else 0.0


def may_pass(error: UnspokenError, *, is_repeatable: bool) -> bool:
    """Return True if a retry of the same request may succeed.

    `is_repeatable`: the request is idempotent. A request that is not idempotent is sent again only
    if it was certainly not processed: it was refused temporarily, or nobody read it.
    """
    if isinstance(error, Overloaded | NotReady | Unreachable):
        return True
    return isinstance(error, ServiceUnavailable) and is_repeatable
