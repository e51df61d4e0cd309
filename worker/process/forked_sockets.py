"""Releases the sockets that a pool process inherits across fork.

A child inherits its parent's connections to Redis. If such a connection breaks, the parent closes
it. But epoll goes on reporting the socket while the child holds it, under a descriptor that the
parent can no longer unregister. The parent's event loop then spins on a whole core until the child
exits (seen in the chaos suite; celery#1845, celery#5299).
"""

import os
import stat
from pathlib import Path


def release_inherited_sockets() -> None:
    """Replace every inherited socket except the standard streams by /dev/null.

    The descriptors stay open, because inherited objects still refer to them. Such an object would
    otherwise close whatever file gets the same descriptor next.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for path in list(Path("/dev/fd").iterdir()):
        descriptor = int(path.name)
        if descriptor > 2 and _is_socket(descriptor):
            os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # the descriptor of the directory listing itself
        return False
