"""File operations by which processes change a run's files and read leases and commits.

Files that no longer change (run.json, the plan, committed shards) are read as ordinary files.
The runs folder may be on a local disk or on a file system that hosts share. It may be NFS:
there are no locks, only exclusive creation and hard links; ages use the server's clock; if the
reply to a link call was lost, `publish_first` checks that both names are the same file.
An object store with conditional writes could replace this module: `create` and `publish_first`
are `If-None-Match: *`, `replace` is a plain put, `renew` is a put of the same content.
"""

import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CLOCK_JITTER_S = 1.0
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a folder that this process may not write to."""


def create(path: Path, content: bytes = b"") -> bool:
    """Create a file; return False if it exists. Leaves no file behind if the disk is full."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        _write_all(descriptor, content)
    except OSError:
        remove(path)
        raise
    finally:
        os.close(descriptor)
    return True


class Journal:
    """A file that a single writer keeps open and appends lines to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        # The lock prevents a write to a closed descriptor, because its number is soon reused.
        self._lock = threading.Lock()

    def append(self, line: bytes) -> None:
        """Append a line. Does nothing once the journal is closed. Raises OSError."""
        with self._lock:
            if self._descriptor is not None:
                _write_all(self._descriptor, line)

    def clear(self) -> None:
        """Truncate the file, because an empty file takes no disk block. Raises OSError."""
        with self._lock:
            if self._descriptor is not None:
                os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Close the file; later calls of `append` and `clear` do nothing."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


def create_journal(path: Path) -> Journal | None:
    """Create a journal; return None if the file exists. Raises OSError."""
    try:
        return Journal(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644))
    except FileExistsError:
        return None


def replace(path: Path, content: bytes) -> None:
    """Replace a file's content atomically: a reader sees either the old or the new content."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError:
        # Remove the incomplete draft, because it would keep a full disk full.
        remove(temporary)
        raise
    sync_folder(path.parent)


def seal(draft: Path) -> str:
    """Flush a draft's content to disk before it is published; return its sha256."""
    with draft.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def publish_first(draft: Path, final: Path) -> bool:
    """Link a sealed draft to its final name; return False if the name is taken. Keeps the draft."""
    try:
        final.hardlink_to(draft)
    except FileExistsError:
        # On NFS, the server may have made the link and its reply was lost; the client then retries.
        if not _is_same(draft, final):
            return False
    sync_folder(final.parent)
    return True


def publish_folder(draft: Path, final: Path) -> None:
    """Rename a draft folder to its final name. Raises OSError if that folder is not empty."""
    draft.rename(final)
    sync_folder(final.parent)


def set_aside(path: Path, aside: Path) -> bool:
    """Rename a file out of the way; return False if it does not exist."""
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    return True


def replace_by(draft: Path, final: Path) -> None:
    """Rename a sealed draft to its final name; replaces an existing file."""
    draft.replace(final)
    sync_folder(final.parent)


def remove(path: Path) -> None:
    """Remove a file; does nothing if it does not exist."""
    with suppress(FileNotFoundError):
        path.unlink()


def exists(path: Path) -> bool:
    """Return True if the file exists."""
    return path.exists()


def read(path: Path) -> bytes | None:
    """Return a small file's content; None if it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def names(folder: Path) -> Iterator[str]:
    """Yield the names in a folder, in any order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name


def renew(path: Path, *, age_s: float = 0.0) -> None:
    """Set a file's modification time to `age_s` before now, by the server's clock.

    Raises FileNotFoundError.
    """
    os.utime(path)
    if age_s:
        now_s = path.stat().st_mtime
        os.utime(path, (now_s, now_s - age_s))


def modified_s(path: Path) -> float:
    """Return the time of a file's last renewal, in the server's seconds. Raises FileNotFoundError.

    Opens the file, because NFS may answer a stat call from a cache that is up to a minute old.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def age_s(path: Path, *, now_s: float) -> float:
    """Return the seconds since a file's last renewal. Raises FileNotFoundError.

    now_s: the server's clock. A date in the future means that the clock was set back. The file is
    then renewed, so that it ages from now on instead of looking new until the clock catches up.
    """
    age = now_s - modified_s(path)
    if age >= -CLOCK_JITTER_S:
        return age
    try:
        renew(path)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        return -age
    return 0.0


def now_s(folder: Path) -> float:
    """Return the file server's time, read from a new file, because hosts' clocks may differ."""
    probe = folder / f".clock-{secrets.token_hex(6)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        remove(probe)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that they survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _is_same(draft: Path, final: Path) -> bool:
    try:
        return draft.samefile(final)
    except FileNotFoundError:
        return False
