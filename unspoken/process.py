"""Child processes that never outlive the launcher, however it ends."""

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
