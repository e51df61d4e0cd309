"""Tells a run that goes on from one on which nothing works: its dispatcher's signs of life."""

import time
from pathlib import Path

from unspoken.runs import storage

DISPATCHER_LEASE = ".dispatcher"
"""In the runs folder: the lease of the dispatcher that works."""
SILENT_S = 30.0
"""A dispatcher renews its lease, and looks at its runs, several times in this time."""
GONE_S = 5.0
"""A dispatcher that starts, or takes over, has the lease within this time."""


def stalled_since(runs_dir: Path, *, seen_s: float) -> float | None:
    """Return since when no dispatcher has looked at a run, in seconds since 1970.

    None while one works. seen_s: the last look at the run, or its creation. A dispatcher that ended
    in order has given its lease back; the lease of a killed one grows old. Raises OSError.
    """
    silent_s = time.time() - seen_s
    try:
        age_s = _lease_age_s(runs_dir)
    except FileNotFoundError:
        return None if -storage.CLOCK_JITTER_S <= silent_s < GONE_S else seen_s
    return None if age_s < SILENT_S or 0 <= silent_s < SILENT_S else seen_s


def _lease_age_s(runs_dir: Path) -> float:
    """Return the age of the dispatcher's lease. Raises FileNotFoundError."""
    lease = runs_dir / DISPATCHER_LEASE
    age_s = time.time() - storage.modified_s(lease)
    if -storage.CLOCK_JITTER_S <= age_s < SILENT_S:
        return age_s
    try:
        # Ask the file system's own clock, because hosts need not agree on the time.
        return storage.age_s(lease, now_s=storage.now_s(runs_dir))
    except PermissionError:
        # The folder may be read and not written: the local clock has to do.
        return age_s
