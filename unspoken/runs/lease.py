"""A lease: a file that its holder renews, and that is nobody's once it was not renewed for long.

Its content is the holder's token. Ages are taken by the file system's own clock. Two who hold one
lease for a moment (a stalled host that wakes up) cost time and nothing else.
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
    """Ours until we stop renewing it."""

    path: Path
    token: str
    lease_s: float
    _rest_s: float | None = None

    def rest(self, seconds: float) -> None:
        """At the end, leave the thing alone for `seconds` (at most a lease's life)."""
        self._rest_s = min(max(seconds, 0.0), self.lease_s)

    def is_ours(self) -> bool:
        """Whether nobody took it after we failed to renew it in time."""
        return storage.read(self.path) == self.token.encode()

    def renew(self) -> bool:
        """Renew it; False where it is not ours any more."""
        try:
            if self.is_ours():
                storage.renew(self.path)
                return True
        except FileNotFoundError:
            pass
        return False

    def give_back(self) -> None:
        """Remove the lease, or let it rest."""
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
    """The thread of a process that renews whatever leases it holds, and asks who is put down.

    One for all, rather than a thread that is started and joined for every chunk.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: dict[str, _Kept] = {}
        self._waits_s: float | None = None
        threading.Thread(target=self._run, name="leases", daemon=True).start()

    def keep(self, lease: Lease, put_down: Callable[[], bool]) -> None:
        """Renew it every third of its life, until `let_go`, or until `put_down` says so."""
        kept = _Kept(lease, put_down)
        with self._changed:
            self._kept[lease.token] = kept
            if self._waits_s is None or kept.look_s < self._waits_s:
                self._changed.notify()

    def let_go(self, lease: Lease) -> None:
        """Renew it no more, from now on."""
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
    """A lease that is renewed."""

    def __init__(self, lease: Lease, put_down: Callable[[], bool]) -> None:
        self._lease, self._put_down = lease, put_down
        self._renewed_s = time.monotonic()
        self.look_s = min(lease.lease_s / 3, LOOK_S)

    def look(self) -> bool:
        """Renew it where it is time to; False where it was put down."""
        name = self._lease.path.name
        try:
            if self._put_down():
                self._lease.give_back()
                return False
            if time.monotonic() - self._renewed_s >= self._lease.lease_s / 3:
                self._renewed_s = time.monotonic()
                if not self._lease.renew():
                    logger.warning("lease %s is lost; the work may be done twice", name)
        except OSError as error:  # a server that is away for a moment
            logger.warning("lease %s could not be renewed: %s", name, error)
        return True


@cache
def _keeper_of(_pid: int) -> _Keeper:
    """A thread does not survive a fork: a child has a keeper of its own."""
    return _Keeper()


def acquire(path: Path, *, lease_s: float) -> Lease | None:
    """Take a lease; None where another holds it, or is about to."""
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
    put_down: Callable[[], bool] = _never,
) -> Iterator[Lease | None]:
    """Hold a lease while a thread renews it; None where another holds it.

    It is given back at the end; after `Lease.rest` it lapses at its own time. The thread asks
    `put_down` twice a second; once that says so the lease is not renewed any more, and free.
    """
    lease = acquire(path, lease_s=lease_s)
    if lease is None:
        yield None
        return
    keeper = _keeper_of(os.getpid())
    keeper.keep(lease, put_down)
    try:
        yield lease
    finally:
        keeper.let_go(lease)
        lease.give_back()


def held_names(folder: Path, *, lease_s: float) -> frozenset[str]:
    """Names of the leases in a folder that somebody holds."""
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
    """Make a lapsed lease ours. The lease is never away meanwhile, so nobody can slip in.

    Whoever may replace a holder is who created the claim on that very holder's token: never two.
    """
    holder = storage.read(path)
    if holder is None:
        return storage.create(path, token.encode())
    if not _lapsed(path, lease_s=lease_s):
        return False
    digest = hashlib.sha256(holder).hexdigest()[:16]
    claim = path.with_name(f".{path.name}.{digest}.claim")
    if not storage.create(claim):
        if _lapsed(claim, lease_s=lease_s):  # who created it ended on the way
            storage.remove(claim)
        return False
    try:
        # A claim may come late, after another was made good and removed.
        if storage.read(path) != holder or not _lapsed(path, lease_s=lease_s):
            return False
        storage.replace(path, token.encode())
        return True
    finally:
        storage.remove(claim)


def _lapsed(path: Path, *, lease_s: float) -> bool:
    """Return True if a file was not renewed for `lease_s`; False if it is gone."""
    try:
        return storage.age_s(path, now_s=storage.now_s(path.parent)) >= lease_s
    except FileNotFoundError:
        return False
