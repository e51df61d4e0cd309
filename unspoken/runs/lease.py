"""A lease: a file that its holder renews, and that is nobody's once it was not renewed for long.

Its content is the holder's token. Ages are taken by the file system's own clock. Two who hold one
lease for a moment (a stalled host that wakes up) cost time and nothing else.
"""

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    _ended: threading.Event = field(default_factory=threading.Event)
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

    def keep_renewed(self, put_down: Callable[[], bool]) -> None:
        """Renew every third of a lease's life, until `stop`, or until `put_down` says so."""
        look_s = min(self.lease_s / 3, LOOK_S)
        since_s = 0.0
        while not self._ended.wait(look_s):
            if put_down():
                self.give_back()
                return
            since_s += look_s
            if since_s >= self.lease_s / 3:
                since_s = 0.0
                self._renew_anyhow()

    def stop(self) -> None:
        """Renew no more."""
        self._ended.set()

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

    def _renew_anyhow(self) -> None:
        try:
            if not self.renew():
                logger.warning("lease %s is lost; the work may be done twice", self.path.name)
        except OSError as error:  # a server that is away for a moment
            logger.warning("lease %s could not be renewed: %s", self.path.name, error)


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
    renewing = threading.Thread(
        target=lease.keep_renewed, args=(put_down,), name="lease", daemon=True
    )
    renewing.start()
    try:
        yield lease
    finally:
        lease.stop()
        renewing.join()
        lease.give_back()


def held_names(folder: Path, *, lease_s: float) -> frozenset[str]:
    """Names of the leases in a folder that somebody holds."""
    now_s = storage.now_s(folder)
    held = set()
    for name in storage.names(folder):
        if name.startswith("."):
            continue
        try:
            if now_s - storage.modified_s(folder / name) < lease_s:
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
    """Whether a file was not renewed for so long; False where it is gone."""
    try:
        return storage.now_s(path.parent) - storage.modified_s(path) >= lease_s
    except FileNotFoundError:
        return False
