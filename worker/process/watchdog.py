"""Ends a worker that takes no messages, or that cannot complete its graceful shutdown.

Both happen to Celery workers on Redis. Some are alive and connected but take no messages. Others
wait for an unreachable Redis when SIGTERM arrives. A thread of the main process checks for this. A
worker that hangs exits with status 1, and its supervisor (compose, `unspoken up`) restarts it. No
chunk is lost, because the worker's leases expire.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from worker.process.graceful_shutdown import GracefulShutdown

logger = logging.getLogger(__name__)

LOOK_S = 5.0
CLOSING_S = 5.0
"""Time that a worker without work may take to disconnect from the broker."""


class Watchdog:
    """Checks the worker process, and ends it if it hangs.

    num_queued: number of queued messages; raises ConnectionError if the broker does not answer.
    num_busy: number of messages that the worker is working on. end: exits the process at once with
    a status.
    """

    def __init__(
        self,
        *,
        shutdown: GracefulShutdown,
        slots: int,
        patience_s: float,
        num_queued: Callable[[], int],
        num_busy: Callable[[], int],
        end: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shutdown, self._slots, self._patience_s = shutdown, slots, patience_s
        self._num_queued, self._num_busy = num_queued, num_busy
        self._end, self._clock = end, clock
        self._moved_s = clock()
        self._idle_since_s: float | None = None

    def took_message(self) -> None:
        """Record that the worker has just taken a message."""
        self._moved_s = self._clock()

    def look(self) -> None:
        """Check once. Call it every few seconds."""
        if self._shutdown.is_ending:
            self._look_at_end()
        elif self._hangs():
            logger.critical("takes no message for %.0f s; the worker exits", self._patience_s)
            self._end(1)

    def start(self) -> None:
        """Check regularly from a thread for as long as the process lives."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            # More often during a shutdown, where seconds matter.
            time.sleep(0.5 if self._shutdown.is_ending else min(LOOK_S, self._patience_s / 4))
            self.look()

    def _hangs(self) -> bool:
        try:
            waits = self._num_busy() < self._slots and self._num_queued() > 0
        except ConnectionError:
            waits = False
        if not waits:
            # No messages queued, no free slot, or no broker: taking nothing is correct.
            self._moved_s = self._clock()
        return self._clock() - self._moved_s > self._patience_s

    def _look_at_end(self) -> None:
        now_s = self._clock()
        if self._num_busy():
            self._idle_since_s = None
            over = self._shutdown.over_s >= CLOSING_S
        else:
            self._idle_since_s = now_s if self._idle_since_s is None else self._idle_since_s
            over = now_s - self._idle_since_s >= CLOSING_S
        if over:
            logger.warning("graceful shutdown did not finish; the worker exits now")
            self._end(1 if self._num_busy() else 0)
