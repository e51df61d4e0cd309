"""Ends a worker that no longer consumes, and one that was told to stop and cannot.

Both have been seen of Celery workers on Redis: alive, connected, and taking nothing; and waiting
for a Redis that is away when SIGTERM comes. A thread of the main process looks; the process ends
with status 1 where it hangs, and whoever keeps it (compose, `unspoken up`) starts it again. Chunks
in hand are safe: their leases run out.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from worker.shift import Shift

logger = logging.getLogger(__name__)

LOOK_S = 5.0
CLOSING_S = 5.0
"""What a worker without work may take to say good-bye to the broker."""


class Watchdog:
    """Told of every message taken; asks for the rest.

    num_queued: messages that wait; raises ConnectionError where nobody knows. num_busy: chunks that
    the worker has in hand. end: ends the process with a status, at once.
    """

    def __init__(
        self,
        *,
        shift: Shift,
        slots: int,
        patience_s: float,
        num_queued: Callable[[], int],
        num_busy: Callable[[], int],
        end: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shift, self._slots, self._patience_s = shift, slots, patience_s
        self._num_queued, self._num_busy = num_queued, num_busy
        self._end, self._clock = end, clock
        self._moved_s = clock()
        self._idle_since_s: float | None = None

    def took_message(self) -> None:
        """The worker consumes."""
        self._moved_s = self._clock()

    def look(self) -> None:
        """Look once; call it every few seconds."""
        if self._shift.is_ending:
            self._look_at_end()
        elif self._hangs():
            logger.critical("takes no message for %.0f s; ends", self._patience_s)
            self._end(1)

    def start(self) -> None:
        """Look from a thread for as long as the process lives."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            # At the end of a shift seconds count.
            time.sleep(0.5 if self._shift.is_ending else min(LOOK_S, self._patience_s / 4))
            self.look()

    def _hangs(self) -> bool:
        try:
            waits = self._num_busy() < self._slots and self._num_queued() > 0
        except ConnectionError:
            waits = False
        if not waits:
            # Nothing to take, no hand free, or no broker: then taking nothing is right.
            self._moved_s = self._clock()
        return self._clock() - self._moved_s > self._patience_s

    def _look_at_end(self) -> None:
        now_s = self._clock()
        if self._num_busy():
            self._idle_since_s = None
            over = self._shift.over_s >= CLOSING_S
        else:
            self._idle_since_s = now_s if self._idle_since_s is None else self._idle_since_s
            over = now_s - self._idle_since_s >= CLOSING_S
        if over:
            logger.warning("the worker does not end by itself; ends now")
            self._end(1 if self._num_busy() else 0)
