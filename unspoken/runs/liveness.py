"""Detection of stalled runs: checks that a dispatcher holds its lease and looks at its runs."""

import time
from pathlib import Path

from unspoken.runs import storage

DISPATCHER_LEASE = ".dispatcher"
"""File name, in the runs folder, of the active dispatcher's lease."""
SILENT_S = 30.0
"""A dispatcher renews its lease, and looks at its runs, several times in this time."""
GONE_S = 5.0
"""A dispatcher that starts or takes over acquires the lease within this time."""


def stalled_since(runs_dir: Path, *, seen_s: float) -> float | None:
    """Return the time since which no dispatcher has looked at a run, in seconds since 1970.

    Return None while a dispatcher works. seen_s: the last look at the run, or its creation.
    A dispatcher releases its lease at a graceful shutdown; the lease of a killed one expires.
    Raises OSError.
    """
    silent_s = time.time() - seen_s
    try:
        age_s = _lease_age_s(runs_dir)
    except FileNotFoundError:
        return None if -storage.CLOCK_JITTER_S <= silent_s < GONE_S else seen_s
    is_new = -storage.CLOCK_JITTER_S <= silent_s < SILENT_S
    return None if age_s < SILENT_S or is_new else seen_s


def _lease_age_s(runs_dir: Path) -> float:
    """Return the age of the dispatcher's lease. Raises FileNotFoundError."""
    lease = runs_dir / DISPATCHER_LEASE
    age_s = time.time() - storage.modified_s(lease)
    if -storage.CLOCK_JITTER_S <= age_s < SILENT_S:
        return age_s
    try:
        # Ask the file system's own clock, because hosts need not agree on the time.
        return storage.age_s(lease, now_s=storage.now_s(runs_dir))
    except OSError as error:
        if error.errno not in storage.READ_ONLY:
            raise
        return age_s  # by the local clock
