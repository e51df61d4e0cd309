"""When a worker must put its work down: told once, seen by all processes that it forked."""

import math
import mmap
import struct
import time

_SECONDS = struct.Struct("d")


class Shift:
    """Open-ended until `end`; make it before the pool forks, for it is a page that they share."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def end(self, *, grace_s: float) -> None:
        """Begin nothing more; put down after `grace_s` what is not finished. The first call counts.

        One clock (CLOCK_MONOTONIC) serves all processes of a machine.
        """
        if not self.is_ending:
            self._page[: _SECONDS.size] = _SECONDS.pack(time.monotonic() + grace_s)

    @property
    def is_ending(self) -> bool:
        """Whether nothing more should be begun."""
        return self._ends_s() > 0

    @property
    def is_over(self) -> bool:
        """Whether the grace has passed."""
        return self.over_s >= 0

    @property
    def over_s(self) -> float:
        """Seconds since the grace has passed; below zero before."""
        return time.monotonic() - self._ends_s() if self.is_ending else -math.inf

    def _ends_s(self) -> float:
        return float(_SECONDS.unpack(self._page[: _SECONDS.size])[0])
