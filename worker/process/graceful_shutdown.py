"""Graceful shutdown of a worker: a deadline, set once, that all its forked processes see.

A module of its own because the main process, its watchdog and the forked pool all use it.
"""

import math
import mmap
import struct
import time

_SECONDS = struct.Struct("d")


class GracefulShutdown:
    """State of a worker's graceful shutdown, in a page of shared memory.

    Create it before the pool forks, so that all processes share the page.
    """

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def end(self, *, grace_s: float) -> None:
        """Begin the shutdown, with `grace_s` to finish current work. Later calls have no effect.

        The deadline is by CLOCK_MONOTONIC, which all processes of a machine share.
        """
        if not self.is_ending:
            self._page[: _SECONDS.size] = _SECONDS.pack(time.monotonic() + grace_s)

    @property
    def is_ending(self) -> bool:
        """True once no further work should be started."""
        return self._ends_s() > 0

    @property
    def is_over(self) -> bool:
        """True once the grace period is over, and unfinished work must be released."""
        return self.over_s >= 0

    @property
    def over_s(self) -> float:
        """Seconds since the end of the grace period; negative before it."""
        return time.monotonic() - self._ends_s() if self.is_ending else -math.inf

    def _ends_s(self) -> float:
        return float(_SECONDS.unpack(self._page[: _SECONDS.size])[0])
