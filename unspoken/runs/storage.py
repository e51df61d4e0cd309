"""Every call by which processes change a run's files, and read who holds or finished what.

Files that no longer change (run.json, the plan, committed shards) are read as ordinary files.
A local disk, or a file system that hosts share. NFS is thought of: no locks, only exclusive
creation and hard links; ages by the server's clock; a link whose answer was lost is known by its
count. An object store with conditional writes could stand here too: `create` and `publish_first`
are `If-None-Match: *`, `replace` is a plain put, `renew` is a put of the same content.
"""

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CLOCK_JITTER_S = 1.0


def create(path: Path, content: bytes = b"") -> bool:
    """Create a file that is not there; False where it is. Leaves nothing where the disk is full."""
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
    """A file that its one writer holds open and adds lines to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        # A closed descriptor's number is soon another file's.
        self._lock = threading.Lock()

    def append(self, line: bytes) -> None:
        """Add a line; nothing once it is closed. Raises OSError."""
        with self._lock:
            if self._descriptor is not None:
                _write_all(self._descriptor, line)

    def clear(self) -> None:
        """Empty it: a file without content takes no block of the disk. Raises OSError."""
        with self._lock:
            if self._descriptor is not None:
                os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Add nothing more."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


def create_journal(path: Path) -> Journal | None:
    """A journal that is not there yet; None where it is. Raises OSError."""
    try:
        return Journal(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644))
    except FileExistsError:
        return None


def replace(path: Path, content: bytes) -> None:
    """Replace `path` by `content`; a reader sees the old file or the new one, never a part."""
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
        # A full disk must not be filled further by what did not fit.
        remove(temporary)
        raise
    sync_folder(path.parent)


def seal(draft: Path) -> str:
    """Bring a draft's content to disk, before its name comes there -> its sha256."""
    with draft.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def publish_first(draft: Path, final: Path) -> bool:
    """Give a sealed draft its final name; False where another was first. The draft stays."""
    try:
        final.hardlink_to(draft)
    except FileExistsError:
        # NFS: the server made the link, its answer was lost, and the question came again.
        if not _is_same(draft, final):
            return False
    sync_folder(final.parent)
    return True


def publish_folder(draft: Path, final: Path) -> None:
    """Give a folder of drafts its final name. Raises OSError where a folder with files has it."""
    draft.rename(final)
    sync_folder(final.parent)


def set_aside(path: Path, aside: Path) -> bool:
    """Rename a file out of the way; False where it is gone."""
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    return True


def replace_by(draft: Path, final: Path) -> None:
    """Rename a sealed draft to its final name, over what is there."""
    draft.replace(final)
    sync_folder(final.parent)


def remove(path: Path) -> None:
    """Remove a file, which may be gone."""
    with suppress(FileNotFoundError):
        path.unlink()


def exists(path: Path) -> bool:
    """Whether there is such a file."""
    return path.exists()


def read(path: Path) -> bytes | None:
    """A small file's content; None where it is not there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def names(folder: Path) -> Iterator[str]:
    """Names in a folder, in any order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name


def renew(path: Path, *, age_s: float = 0.0) -> None:
    """Set a file's time to now by the server's clock, less `age_s`. Raises FileNotFoundError."""
    os.utime(path)
    if age_s:
        now_s = path.stat().st_mtime
        os.utime(path, (now_s, now_s - age_s))


def modified_s(path: Path) -> float:
    """When a file was last renewed, in the server's seconds. Raises FileNotFoundError.

    The file is opened: NFS may answer a mere stat from what it knew up to a minute ago.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def age_s(path: Path, *, now_s: float) -> float:
    """Seconds since a file was last renewed, by the server's clock. Raises FileNotFoundError.

    A date in the future means that the clock was set back. The file is then renewed, so that it
    ages from now on instead of looking new until the clock has caught up.
    """
    age = now_s - modified_s(path)
    if age >= -CLOCK_JITTER_S:
        return age
    try:
        renew(path)
    except PermissionError:
        return -age
    return 0.0


def now_s(folder: Path) -> float:
    """The server's clock, by a file that is created for it: hosts need not agree on the time."""
    probe = folder / f".clock-{secrets.token_hex(6)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        remove(probe)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut."""
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
