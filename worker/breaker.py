"""Pauses a run while its services, its disk or its models are in trouble.

Closed: all chunks may be rung for. It opens where half of the last outcomes, three at least, were
troubles; at once where waiting alone cannot help a single try (a full disk, other models). Open:
nothing is rung for until a random time, twice as long each time and not before what a service asked
for. Then one chunk is tried: its commit closes the breaker, new trouble opens it again.
"""

import random
from collections import deque
from collections.abc import Callable

from unspoken.runs.trouble import Trouble

WINDOW, MIN_TROUBLES = 50, 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
# A probe of which nothing was heard for so long was lost.
PROBE_S = 30.0
AT_ONCE = ("disk", "models_changed", "source_away")


class Breaker:
    """The circuit breaker of one run. `clock` returns monotonic seconds."""

    def __init__(
        self,
        clock: Callable[[], float],
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock, self._draw = clock, draw
        self._outcomes: deque[bool] = deque(maxlen=WINDOW)
        self._trouble: Trouble | None = None
        self._pauses = 0
        self._try_s: float | None = None
        """When one chunk may be tried; None while the breaker is closed."""
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the run is paused, or tried with one chunk."""
        return self._try_s is not None

    @property
    def message(self) -> str:
        """Return why the run is paused and when it goes on; empty while it is not paused."""
        if self._try_s is None or self._trouble is None:
            return ""
        left_s = max(0.0, self._try_s - self._clock())
        if self._probing:
            then = f"tries one chunk now, another in {left_s:.0f} s unless it is done by then"
        else:
            then = f"tries one chunk in {left_s:.0f} s"
        return f"paused: {self._trouble.message}; {then}"

    def note(self, *, num_commits: int, trouble: Trouble | None) -> None:
        """What came since the last time: commits, and a trouble that is new."""
        self._outcomes.extend([True] * min(num_commits, WINDOW))
        if num_commits and self._probing:
            self._close()
        if trouble is None:
            return
        self._trouble = trouble
        self._outcomes.append(False)
        if self._probing or (not self.is_open and self._is_enough(trouble)):
            self._open(trouble)

    def num_messages(self) -> int | None:
        """How many messages may be sent now; None for any number, and one is of one chunk."""
        if self._try_s is None:
            return None
        return 1 if self._clock() >= self._try_s else 0

    def rang(self) -> None:
        """A message was sent; while the breaker is open it is the probe."""
        if self._try_s is not None:
            self._probing = True
            self._try_s = self._clock() + PROBE_S

    def _is_enough(self, trouble: Trouble) -> bool:
        troubles = self._outcomes.count(False)
        return trouble.code in AT_ONCE or (
            troubles >= MIN_TROUBLES and 2 * troubles >= len(self._outcomes)
        )

    def _open(self, trouble: Trouble) -> None:
        longest_s = min(FIRST_PAUSE_S * 2**self._pauses, LONGEST_PAUSE_S)
        pause_s = max(trouble.retry_after_s, self._draw(0.0, longest_s))
        self._try_s = self._clock() + pause_s
        self._pauses = min(self._pauses + 1, 10)
        self._probing = False

    def _close(self) -> None:
        self._try_s, self._trouble, self._pauses, self._probing = None, None, 0, False
        self._outcomes.clear()
