"""A picture that is a file of its own: found from a source's words, never outside the root."""

import errno
import stat
from pathlib import Path
from typing import NamedTuple

from unspoken.file_formats import FILE_ENDINGS
from unspoken.images import MAX_BYTES

PICTURE_ENDINGS = (
    *FILE_ENDINGS,
    *("heic", "heif", "hif", "jxl", "jp2", "j2k", "jpx", "psd", "svg", "ico", "tga", "exr"),
    *("cr2", "cr3", "nef", "arw", "dng", "orf", "rw2", "raf"),
)
"""Endings of pictures, those that are not read, too: such a picture is a row that says so."""
# A text or JSON beside a picture that is larger is no caption.
MAX_SIDE_FILE_BYTES = 1024 * 1024

# Errors that a path itself causes; others are a disk's, and may pass.
_BAD_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOTDIR)


class PictureFile(NamedTuple):
    """`member`: its path from the root, or the source's own words where it is not there."""

    member: str
    size: int = 0
    content: bytes | None = None
    problem: str | None = None


def find_picture(path: str, *, folder: Path, root: Path, read: bool) -> PictureFile:
    """Find the picture at `path`, seen from `folder`; read its content only where `read`.

    A path that Windows wrote is found, too. What is wrong with the picture is its `problem`; an
    OSError of the disk, which may pass, is raised.
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
    except (RuntimeError, ValueError, FileNotFoundError):  # a ring of links, a zero byte
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
