"""Reads the files that a source names, never outside the root: pictures, and text beside them."""

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from unspoken.imaging.file_formats import FILE_ENDINGS
from unspoken.imaging.images import MAX_BYTES
from worker.sources.tables.text import decode_text

PICTURE_ENDINGS = (
    *FILE_ENDINGS,
    *("heic", "heif", "hif", "jxl", "jp2", "j2k", "jpx", "psd", "svg", "ico", "tga", "exr"),
    *("cr2", "cr3", "nef", "arw", "dng", "orf", "rw2", "raf"),
)
"""Endings of picture files, including formats that cannot be read. A picture in such a format
becomes a row with that reason."""
# A larger text or JSON file beside a picture is not a caption.
MAX_SIDE_FILE_BYTES = 1024 * 1024

# Errors caused by the path itself. Other errors come from the disk and may be transient.
_BAD_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOTDIR)


class PictureFile(NamedTuple):
    """A picture file. `member`: its path from the root, or the source's path if not found."""

    member: str
    size: int = 0
    content: bytes | None = None
    problem: str | None = None


def find_picture(path: str, *, folder: Path, root: Path, read: bool) -> PictureFile:
    """Find the picture at `path`, relative to `folder`; read its content only if `read`.

    Paths written by Windows are found, too. A fault of the picture is reported as its `problem`.
    Raises OSError if the disk fails, which may be transient.
    """
    found = _find(path, folder=folder, root=root, read=read)
    if found.problem == "no_picture" and "\\" in path:
        as_posix = _find(path.replace("\\", "/"), folder=folder, root=root, read=read)
        return found if as_posix.problem == "no_picture" else as_posix
    return found


def _find(path: str, *, folder: Path, root: Path, read: bool) -> PictureFile:
    root = root.resolve()
    try:
        real = (folder / path).resolve()
        if not real.is_relative_to(root):
            return PictureFile(path, problem="outside_data_folder")
        if not path or not stat.S_ISREG(real.stat().st_mode):
            return PictureFile(path, problem="no_picture")
    except (RuntimeError, ValueError, FileNotFoundError):  # a cycle of links, a zero byte
        return PictureFile(path, problem="no_picture")
    except PermissionError:
        return PictureFile(path, problem="unreadable")
    except OSError as error:
        if error.errno not in _BAD_PATH:
            raise
        return PictureFile(path, problem="no_picture")
    member, size = real.relative_to(root).as_posix(), real.stat().st_size
    if size > MAX_BYTES:
        return PictureFile(member, size, problem="picture_too_large")
    try:
        return PictureFile(member, size, real.read_bytes() if read else None)
    except PermissionError:
        return PictureFile(member, size, problem="unreadable")


class SideFile(NamedTuple):
    """Content of a text or JSON file beside a picture.

    `text` is None if there is no file, or it has a `problem`.
    """

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
        content = _read_regular(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, RuntimeError):
        return SideFile()
    except PermissionError:
        return SideFile(
            problem="unreadable", detail=f"{path.name} cannot be read: permission denied"
        )
    if content is None:
        return SideFile(problem="unreadable", detail=f"{path.name} is not a regular file")
    if len(content) > MAX_SIDE_FILE_BYTES:
        return SideFile(problem="caption_too_long")
    return SideFile(decode_text(content))


def _read_regular(path: Path) -> bytes | None:
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
