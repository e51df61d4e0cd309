"""What is asked of the system alone: children that end with their parent, memory given back."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
# Looked up before any fork: a forked child must not load libraries.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent dies, even by kill -9; for `preexec_fn`."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def give_back_free_memory() -> None:
    """Let glibc return the holes of its heap, which it keeps otherwise; some milliseconds."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)
