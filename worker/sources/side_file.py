"""Reads a small text or JSON file beside a picture."""

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from worker.sources.picture_file import MAX_SIDE_FILE_BYTES
from worker.sources.tables.text import decode_text


class SideFile(NamedTuple):
    """Content of a side file. `text` is None if there is no file, or it has a `problem`."""

    text: str | None = None
    problem: str | None = None
    detail: str | None = None


def read_side_file(path: Path, root: Path) -> SideFile:
    """Read a file below `root`; links that lead out of it are not followed.

    FIFOs and devices are not read, because reading could block forever.
    """
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            return SideFile(problem="outside_data_folder")
        content = _read(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, RuntimeError):
        return SideFile()
    except PermissionError:
        return SideFile(problem="unreadable", detail=f"{path.name} may not be read")
    if content is None:
        return SideFile(problem="unreadable", detail=f"{path.name} is not a regular file")
    if len(content) > MAX_SIDE_FILE_BYTES:
        return SideFile(problem="caption_too_long")
    return SideFile(decode_text(content))


def _read(path: Path) -> bytes | None:
    """Return the content, at most one byte over the limit; None if it is not a regular file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a socket, or a device without a driver
            raise
        return None
    with os.fdopen(file, "rb") as stream:
        kind = os.fstat(stream.fileno()).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(path)
        return stream.read(MAX_SIDE_FILE_BYTES + 1) if stat.S_ISREG(kind) else None
