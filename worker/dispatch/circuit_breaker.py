"""The circuit breaker: pauses a run while its services, its disk or its models are unavailable.

Closed: any number of messages may be published. The breaker opens if at least half of the last
outcomes, and at least three, were failures of this kind. For a full disk, other models or a missing
source it opens at the first failure.

Open: no messages are published for a random time. Its upper limit doubles with each pause, and a
service's `Retry-After` is added to it. After that one chunk is tried as a probe: its commit
closes the breaker, and another failure opens it again.
"""

import random
from collections import deque
from collections.abc import Callable

from unspoken.errors import ModelsChanged, SourceAway
from unspoken.retries import RetryPolicy
from unspoken.runs.worker_error import DISK, WorkerErrorRecord

WINDOW, MIN_ERRORS = 50, 3
PAUSES = RetryPolicy(first_pause_s=2.0, max_pause_s=60.0, jitter=1.0)
# A probe without an outcome after this time counts as lost, and another is sent.
PROBE_S = 30.0
AT_ONCE = (DISK, ModelsChanged.code, SourceAway.code)


class CircuitBreaker:
    """The circuit breaker of one run. `clock` returns monotonic seconds."""

    def __init__(
        self,
        clock: Callable[[], float],
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock, self._draw = clock, draw
        self._outcomes: deque[bool] = deque(maxlen=WINDOW)
        self._error: WorkerErrorRecord | None = None
        self._pauses = 0
        self._try_s: float | None = None
        """Time of the next probe by `clock`; None while the breaker is closed."""
        self._probing = False

    @property
    def is_open(self) -> bool:
        """True while the run is paused or a probe is under way."""
        return self._try_s is not None

    @property
    def message(self) -> str:
        """The reason for the pause and the time of the next probe; empty while not paused."""
        if self._try_s is None or self._error is None:
            return ""
        left_s = max(0.0, self._try_s - self._clock())
        if self._probing:
            then = f"retrying one chunk now, another in {left_s:.0f} s unless it succeeds"
        else:
            then = f"retrying one chunk in {left_s:.0f} s"
        return f"paused: {self._error.message}; {then}"

    def record(self, *, num_commits: int, error: WorkerErrorRecord | None) -> None:
        """Record the outcomes since the last call: commits, and a new error if there is one."""
        self._outcomes.extend([True] * min(num_commits, WINDOW))
        if num_commits and self._probing:
            self._close()
        if error is None:
            return
        self._error = error
        self._outcomes.append(False)
        if self._probing or (not self.is_open and self._is_enough(error)):
            self._open(error)

    def num_messages(self) -> int | None:
        """Return the number of messages that may be published now; None for no limit.

        While the breaker is open, a message names one chunk (`RunState.chunks_per_message`).
        """
        if self._try_s is None:
            return None
        return 1 if self._clock() >= self._try_s else 0

    def note_published(self) -> None:
        """Record that a message was published; while the breaker is open it is the probe."""
        if self._try_s is not None:
            self._probing = True
            self._try_s = self._clock() + PROBE_S

    def _is_enough(self, error: WorkerErrorRecord) -> bool:
        num_errors = self._outcomes.count(False)
        return error.code in AT_ONCE or (
            num_errors >= MIN_ERRORS and 2 * num_errors >= len(self._outcomes)
        )

    def _open(self, error: WorkerErrorRecord) -> None:
        self._pauses += 1
        pause_s = PAUSES.pause_s(self._pauses, error.retry_after_s, draw=self._draw)
        self._try_s = self._clock() + pause_s
        self._probing = False

    def _close(self) -> None:
        self._try_s, self._error, self._pauses, self._probing = None, None, 0, False
        self._outcomes.clear()
