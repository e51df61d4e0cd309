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

LOOK_S = 0.5


@dataclass
class Lease:
    """A lease that this process holds until it stops renewing it."""

    path: Path
    token: str
    lease_s: float
    _rest_s: float | None = None

    def rest(self, seconds: float) -> None:
        """At the end, keep the lease unavailable for `seconds` (at most `lease_s`)."""
        self._rest_s = min(max(seconds, 0.0), self.lease_s)

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

    def give_back(self) -> None:
        """Release the lease, at once or after the delay set by `rest`."""
        try:
            if not self.is_ours():
                return
            if self._rest_s is None:
                storage.remove(self.path)
            else:
                storage.renew(self.path, age_s=self.lease_s - self._rest_s)
        except FileNotFoundError:
            pass


class _Keeper:
    """The thread that renews all leases of a process.

    It releases those whose `should_release` returns True.

    A single thread avoids starting and joining a thread for every chunk.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: dict[str, _Kept] = {}
        self._waits_s: float | None = None
        threading.Thread(target=self._run, name="leases", daemon=True).start()

    def keep(self, lease: Lease, should_release: Callable[[], bool]) -> None:
        """Renew the lease every third of `lease_s`, until `let_go` or `should_release()`."""
        kept = _Kept(lease, should_release)
        with self._changed:
            self._kept[lease.token] = kept
            if self._waits_s is None or kept.look_s < self._waits_s:
                self._changed.notify()

    def let_go(self, lease: Lease) -> None:
        """Stop renewing the lease."""
        with self._changed:
            self._kept.pop(lease.token, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                self._waits_s = min((kept.look_s for kept in self._kept.values()), default=None)
                self._changed.wait(self._waits_s)
                for token, kept in list(self._kept.items()):
                    if not kept.look():
                        del self._kept[token]


class _Kept:
    """A lease in the renewal thread."""

    def __init__(self, lease: Lease, should_release: Callable[[], bool]) -> None:
        self._lease, self._put_down = lease, should_release
        self._renewed_s = time.monotonic()
        self.look_s = min(lease.lease_s / 3, LOOK_S)

    def look(self) -> bool:
        """Renew the lease if it is due; return False if it was released by `should_release`."""
        name = self._lease.path.name
        try:
            if self._put_down():
                self._lease.give_back()
                return False
            if time.monotonic() - self._renewed_s >= self._lease.lease_s / 3:
                self._renewed_s = time.monotonic()
                if not self._lease.renew():
                    logger.warning("lease %s is lost; the work may be done twice", name)
        except OSError as error:  # the file server may be unavailable for a short time
            logger.warning("lease %s could not be renewed: %s", name, error)
        return True


@cache
def _keeper_of(_pid: int) -> _Keeper:
    """Return the process's keeper. A forked child needs its own, as threads end at a fork."""
    return _Keeper()


def acquire(path: Path, *, lease_s: float) -> Lease | None:
    """Acquire a lease; return None if another process holds it or is taking it over."""
    token = secrets.token_hex(8)
    taken = storage.create(path, token.encode()) or _take_over(path, token, lease_s=lease_s)
    return Lease(path=path, token=token, lease_s=lease_s) if taken else None


def _never() -> bool:
    return False


@contextmanager
def hold(
    path: Path,
    *,
    lease_s: float,
    should_release: Callable[[], bool] = _never,
) -> Iterator[Lease | None]:
    """Hold a lease while a thread renews it; yield None if another process holds it.

    The lease is released at the end, or expires later if `Lease.rest` was called. The thread calls
    `should_release` twice a second; once it returns True, the lease is released and no longer
    renewed.
    """
    lease = acquire(path, lease_s=lease_s)
    if lease is None:
        yield None
        return
    keeper = _keeper_of(os.getpid())
    keeper.keep(lease, should_release)
    try:
        yield lease
    finally:
        keeper.let_go(lease)
        lease.give_back()


def held_names(folder: Path, *, lease_s: float) -> frozenset[str]:
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
    if not _lapsed(path, lease_s=lease_s):
        return False
    digest = hashlib.sha256(holder).hexdigest()[:16]
    claim = path.with_name(f".{path.name}.{digest}.claim")
    if not storage.create(claim):
        if _lapsed(claim, lease_s=lease_s):  # its creator ended before removing it
            storage.remove(claim)
        return False
    try:
        # Check again, because another process may have taken over and removed its claim meanwhile.
        if storage.read(path) != holder or not _lapsed(path, lease_s=lease_s):
            return False
        storage.replace(path, token.encode())
        return True
    finally:
        storage.remove(claim)


def _lapsed(path: Path, *, lease_s: float) -> bool:
    """Return True if a file was not renewed for `lease_s`; False if it does not exist."""
    try:
        return storage.age_s(path, now_s=storage.now_s(path.parent)) >= lease_s
    except FileNotFoundError:
        return False
