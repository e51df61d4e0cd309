"""Operating system services: cores, child processes, who listens on a port, free memory."""

import ctypes
import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
_CPUS = Path("/sys/devices/system/cpu")
_LISTEN = "0A"  # state of a listening socket in /proc/net/tcp
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# Loaded before any fork, because a forked child must not load libraries.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def num_cores() -> int:
    """Return the number of physical cores that this process may use.

    It respects the process's CPU affinity and its container's CPU quota. Physical cores count,
    because two threads of one core compute no more products than one.
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
    """Ask Linux to send SIGTERM when the parent dies, even by kill -9; for `preexec_fn`."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start_child(
    command: Sequence[str],
    keep: "Callable[[subprocess.Popen[bytes]], None]",
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
) -> None:
    """Start a child that ends with this process, in its own process group.

    `keep` receives the child before any signal is handled, so that no child is lost. Ctrl-C signals
    a whole process group; in separate groups, the parent decides in which order its children end.
    """
    # An exception that a signal handler raises during a fork would be lost, with the signal.
    with _deferred_signals():
        keep(
            subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        )


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Delay signals that ask the process to exit until the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if callable(handler := signal.getsignal(number)):
            handlers[number] = handler
            signal.signal(number, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in pending:
            signal.raise_signal(late)


def free_port() -> int:
    """Return a TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_problem(host: str, port: int) -> str:
    """Return the reason why a TCP port cannot be listened on; empty if it can, or for port 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # The same option as uvicorn sets, so that closing connections do not block a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "is already in use, perhaps by another stack"
            return f"cannot be used: {error.strerror}"
    return ""


def listens_on(pid: int, port: int) -> bool:
    """Return True if the process itself listens on a TCP port, or if that is unknown.

    Another program that already has the port would answer instead of the process.
    """
    folder = Path(f"/proc/{pid}")
    try:
        links = list((folder / "fd").iterdir())
    except OSError:  # /proc is missing or restricted
        return True
    inodes = _listening_inodes(folder, port)
    for link in links:
        with suppress(OSError):  # closed in the meantime
            if str(link.readlink()) in inodes:
                return True
    return False


def _listening_inodes(folder: Path, port: int) -> set[str]:
    """Return `socket:[INODE]` of every socket that listens on the port."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        for line in _read(folder / "net" / name).splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    return inodes


@contextmanager
def collector_paused() -> Iterator[None]:
    """Import in the block without the cyclic garbage collector, at the start of a process.

    torch and transformers create half a million objects that stay. A fifth of the CPU time of their
    imports would be collections that find nothing. Later collections do not visit these objects.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def give_back_free_memory() -> None:
    """Make glibc return free heap memory to the system; takes some milliseconds."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _read(path: Path) -> str:
    """Return the text of a system file; "" if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
