"""Restarts child processes that have ended, with exponential backoff."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from unspoken.errors import UnspokenError
from unspoken.retries import RetryPolicy

PAUSES = RetryPolicy(attempts=None, first_pause_s=1.0, max_pause_s=30.0, jitter=0.0)
STABLE_S = 60.0
"""A process that ran for this time is stable: its next restart waits for the shortest pause."""
logger = logging.getLogger(__name__)


class Restartable(Protocol):
    """A child process that can be started again."""

    @property
    def name(self) -> str:
        """Name in log messages."""

    @property
    def log(self) -> Path:
        """Log file of the process."""

    def ended(self) -> bool:
        """Return True if the process was started and has ended."""

    def start(self) -> None:
        """Start the process. Raises UnspokenError or OSError."""


class Restarter:
    """Restarts one process. `clock` returns monotonic seconds."""

    def __init__(
        self, process: Restartable, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._process, self._clock = process, clock
        self._num_ended = 0
        self._started_s = clock()
        self._start_at_s: float | None = None

    def revive(self) -> bool:
        """Restart the process if it has ended and its pause is over; call this regularly.

        Returns True if this call restarted the process.
        """
        if not self._process.ended():
            return False
        now_s = self._clock()
        if self._start_at_s is None:
            self._back_off(now_s)
            return False
        if now_s < self._start_at_s:
            return False
        self._started_s, self._start_at_s = now_s, None
        try:
            self._process.start()
        except (UnspokenError, OSError) as error:
            logger.warning("%s could not be restarted: %s", self._process.name, error)
            return False
        return True

    def _back_off(self, now_s: float) -> None:
        if now_s - self._started_s >= STABLE_S:
            self._num_ended = 0
        self._num_ended += 1
        pause_s = PAUSES.pause_s(self._num_ended)
        logger.warning(
            "%s ended; restart in %.0f s; log: %s",
            self._process.name,
            pause_s,
            self._process.log,
        )
        self._start_at_s = now_s + pause_s
