"""What a pool's process has from the process that forked it, and must let go.

A child holds its parent's connections to Redis. Where such a connection breaks, the parent closes
it, but the kernel's epoll goes on reporting a socket that somebody still holds, under a number that
the parent cannot unregister any more: its event loop spins on a whole core until the child ends
(seen in the chaos suite; celery#1845, celery#5299).
"""

import os
import stat
from pathlib import Path


def let_go_of_sockets() -> None:
    """Put /dev/null in the place of every inherited socket but the standard streams.

    Not closed: objects of the parent's still know the numbers, and would close what has them next.
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
    except OSError:  # that of the listing itself
        return False
