"""Leases as files: the holder renews its lease; a lease that is not renewed expires.

A lease file's content is the holder's token. Its age is measured by the file system's own clock.
Two holders of one lease at a time (as when a stalled host resumes) only cost time.
"""

import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from unspoken.runs import storage

logger = logging.getLogger(__name__)

MAX_CHECK_S = 0.5


@dataclass
class Lease:
    """A lease that this process holds until it stops renewing it."""

    path: Path
    token: str
    lease_s: float
    _delay_s: float | None = None
    """Time for which the lease stays unavailable after its release."""

    def delay_release(self, seconds: float) -> None:
        """Keep the lease unavailable for `seconds` (at most `lease_s`) after its release."""
        self._delay_s = min(max(seconds, 0.0), self.lease_s)

    def is_ours(self) -> bool:
        """Return True unless another process took the lease after it expired."""
        return storage.read(self.path) == self.token.encode()

    def renew(self) -> bool:
        """Renew the lease; return False if it is lost."""
        try:
            if self.is_ours():
                storage.renew(self.path)
                return True
        except FileNotFoundError:
            pass
        return False

    def release(self) -> None:
        """Release the lease, at once or after the delay set by `delay_release`."""
        try:
            if not self.is_ours():
                return
            if self._delay_s is None:
                storage.remove(self.path)
            else:
                storage.renew(self.path, age_s=self.lease_s - self._delay_s)
        except FileNotFoundError:
            pass


class _Renewer:
    """A thread that renews all leases of a process, and releases those that should be released.

    It is one thread, because starting and joining a thread for every chunk would cost time.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._leases: dict[str, _RenewedLease] = {}
        self._wait_s: float | None = None
        """Time until the next check; None while there are no leases."""
        threading.Thread(target=self._run, name="leases", daemon=True).start()

    def add(self, lease: Lease, should_release: Callable[[], bool]) -> None:
        """Renew a lease every third of `lease_s`, until `remove` or `should_release()`."""
        renewed = _RenewedLease(lease, should_release)
        with self._changed:
            self._leases[lease.token] = renewed
            if self._wait_s is None or renewed.check_s < self._wait_s:
                self._changed.notify()

    def remove(self, lease: Lease) -> None:
        """Stop renewing a lease."""
        with self._changed:
            self._leases.pop(lease.token, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                self._wait_s = min((each.check_s for each in self._leases.values()), default=None)
                self._changed.wait(self._wait_s)
                for token, renewed in list(self._leases.items()):
                    if not renewed.renew_if_due():
                        del self._leases[token]


class _RenewedLease:
    """A lease of the renewal thread, which checks it every `check_s` seconds."""

    def __init__(self, lease: Lease, should_release: Callable[[], bool]) -> None:
        self._lease, self._should_release = lease, should_release
        self._renewed_s = time.monotonic()
        self.check_s = min(lease.lease_s / 3, MAX_CHECK_S)

    def renew_if_due(self) -> bool:
        """Renew the lease if it is due; return False if it was released instead."""
        name = self._lease.path.name
        try:
            if self._should_release():
                self._lease.release()
                return False
            if time.monotonic() - self._renewed_s >= self._lease.lease_s / 3:
                self._renewed_s = time.monotonic()
                if not self._lease.renew():
                    logger.warning("lease %s is lost; the work may be done twice", name)
        except OSError as error:  # the file server may be unavailable for a short time
            logger.warning("lease %s could not be renewed: %s", name, error)
        return True


@cache
def _renewer_of(_pid: int) -> _Renewer:
    """Return the renewer of a process. A forked child needs its own: a fork ends all threads."""
    return _Renewer()


def acquire(path: Path, *, lease_s: float) -> Lease | None:
    """Acquire a lease; return None if another process holds it or is taking it over."""
    token = secrets.token_hex(8)
    taken = storage.create(path, token.encode()) or _take_over(path, token, lease_s=lease_s)
    return Lease(path=path, token=token, lease_s=lease_s) if taken else None


def _never() -> bool:
    return False


@contextmanager
def leased(
    path: Path,
    *,
    lease_s: float,
    should_release: Callable[[], bool] = _never,
) -> Iterator[Lease | None]:
    """Acquire a lease and renew it until the end; yield None if another process has it.

    The lease is released at the end, or expires later after `Lease.delay_release`. The thread calls
    `should_release` twice a second; once it returns True, the lease is released and no longer
    renewed.
    """
    lease = acquire(path, lease_s=lease_s)
    if lease is None:
        yield None
        return
    renewer = _renewer_of(os.getpid())
    renewer.add(lease, should_release)
    try:
        yield lease
    finally:
        renewer.remove(lease)
        lease.release()


def leased_names(folder: Path, *, lease_s: float) -> frozenset[str]:
    """Return the names of the leases in a folder that have not expired."""
    now_s = storage.now_s(folder)
    held = set()
    for name in storage.names(folder):
        if name.startswith("."):
            continue
        try:
            if storage.age_s(folder / name, now_s=now_s) < lease_s:
                held.add(name)
        except FileNotFoundError:
            continue
    return frozenset(held)


def _take_over(path: Path, token: str, *, lease_s: float) -> bool:
    """Take over an expired lease. Its file exists throughout, so no other process can create it.

    Only the process that created the claim on the old holder's token may replace that token, so
    two processes never take over the same lease.
    """
    holder = storage.read(path)
    if holder is None:
        return storage.create(path, token.encode())
    if not _expired(path, lease_s=lease_s):
        return False
    digest = hashlib.sha256(holder).hexdigest()[:16]
    claim = path.with_name(f".{path.name}.{digest}.claim")
    if not storage.create(claim):
        if _expired(claim, lease_s=lease_s):  # its creator ended before removing it
            storage.remove(claim)
        return False
    try:
        # Check again, because another process may have taken over and removed its claim meanwhile.
        if storage.read(path) != holder or not _expired(path, lease_s=lease_s):
            return False
        storage.replace(path, token.encode())
        return True
    finally:
        storage.remove(claim)


def _expired(path: Path, *, lease_s: float) -> bool:
    """Return True if a file was not renewed for `lease_s`; False if it does not exist."""
    try:
        return storage.age_s(path, now_s=storage.now_s(path.parent)) >= lease_s
    except FileNotFoundError:
        return False
