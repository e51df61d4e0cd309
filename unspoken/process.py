"""What is asked of the system alone: cores, children that end with their parent, free memory."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# Looked up before any fork: a forked child must not load libraries.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def num_cores() -> int:
    """Physical cores that this process may use: of its affinity, within its container's quota.

    Two threads of one core do no more products than one.
    """
    if sys.platform != "linux":
        return max(1, (os.cpu_count() or 2) // 2)
    siblings = set()
    for cpu in os.sched_getaffinity(0):
        topology = _CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        siblings.add(_read(topology) or str(cpu))
    quota, _, period_us = _read(_QUOTA).partition(" ")
    allowed = int(quota) // int(period_us) if quota.isdecimal() else len(siblings)
    return max(1, min(len(siblings), allowed))


def end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent dies, even by kill -9; for `preexec_fn`."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def give_back_free_memory() -> None:
    """Let glibc return the holes of its heap, which it keeps otherwise; some milliseconds."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _read(path: Path) -> str:
    """Text of a file of the system; empty where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""
