"""Members of an uncompressed tar with their byte positions, read in one pass within limits.

`tarfile` parses the headers. It trusts the sizes in them, so this module limits the bytes read for
one header, and stops at a header that points outside of the file.
"""

import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from unspoken.errors import InvalidInput, TornArchive

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""File name endings of tar files. Compressed ones are not read; the error says so."""
MAX_HEADER_BYTES = 1024 * 1024
"""Maximum size of one member's header, including long names and pax records."""
MAX_TAIL_BYTES = 1024 * 1024
"""Bytes after the end-of-archive marker that are searched for more members."""

_COMPRESSED = {
    b"\x1f\x8b": ("gzipped", "gunzip"),
    b"BZh": ("compressed with bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("compressed with xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unzstd"),
}
# Exceptions that `tarfile` raises for invalid headers.
_DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)


class Member(NamedTuple):
    """A file, link or device in a tar; folders are left out."""

    name: str
    offset: int
    """Position of its header in the tar, in bytes; reading may start there."""
    start: int
    """Position of its content in the tar, in bytes."""
    size: int
    link_to: str | None = None
    """Name of the earlier member that a hard link refers to."""
    refused: str | None = None
    """Kind of a member whose content is not read: 'a symbolic link', 'a sparse file'."""


def iter_members(stream: BinaryIO, *, offset: int = 0) -> Iterator[Member]:
    """Yield members, starting with the one whose header begins at `offset`.

    Raises TornArchive after a member that the end of the file cuts off. Raises InvalidInput for a
    file that is not a tar, and at a damaged header; later members are then not found.
    """
    size = stream.seek(0, os.SEEK_END)
    if not offset:
        _check_is_plain(stream, size)
    stream.seek(offset)
    headers = _Headers(stream)
    try:
        with tarfile.open(fileobj=headers, mode="r:") as tar:  # type: ignore[call-overload]
            while (found := tar.next()) is not None:
                # Free memory: tarfile keeps all members, of which a shard may have a hundred
                # thousand, and all values of global headers.
                tar.members = []
                known = [name for name in tarfile.PAX_FIELDS if name in tar.pax_headers]
                tar.pax_headers = {name: tar.pax_headers[name] for name in known}
                if tar.offset <= found.offset:
                    raise InvalidInput(f"the header at byte {found.offset} has no valid size")
                member = _member(found)
                if member is not None:
                    yield member
                if tar.offset > size:
                    raise _cut(found, size)
                headers.begin()
            _check_end(stream, tar.offset, size)
    except _DAMAGE as error:
        raise _damage(error) from error


class _Headers:
    """The stream that `tarfile` reads from, limited to MAX_HEADER_BYTES for one header."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.begin()

    def begin(self) -> None:
        self._left = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise tarfile.ReadError(f"a header of more than {MAX_HEADER_BYTES} bytes")
        self._left -= size
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _member(found: tarfile.TarInfo) -> Member | None:
    if found.isdir() or (found.type == tarfile.AREGTYPE and found.name.endswith("/")):
        return None
    return Member(
        name=found.name,
        offset=found.offset,
        start=found.offset_data,
        size=found.size if found.isreg() else 0,
        link_to=found.linkname if found.islnk() else None,
        refused=_refused(found),
    )


def _refused(found: tarfile.TarInfo) -> str | None:
    if found.issparse():
        return "a sparse file"
    if found.isreg() or found.islnk():
        return None
    return "a symbolic link" if found.issym() else "not a regular file"


def _check_is_plain(stream: BinaryIO, size: int) -> None:
    if not size:
        raise InvalidInput("it is empty (0 bytes)")
    stream.seek(0)
    head = stream.read(8)
    for magic, (how, command) in _COMPRESSED.items():
        if head.startswith(magic):
            raise InvalidInput(f"it is {how}: unpack it with `{command}` first")


def _cut(found: tarfile.TarInfo, size: int) -> TornArchive:
    there = max(0, min(found.size, size - found.offset_data))
    return TornArchive(
        f"it ends within the member {found.name[:200]!r}: it has {there} of {found.size} bytes"
    )


def _check_end(stream: BinaryIO, offset: int, size: int) -> None:
    """Raise for a damaged header, which `tarfile` treats like the end of the archive."""
    stream.seek(offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if any(block):
        if len(block) < tarfile.BLOCKSIZE:
            raise TornArchive(f"it ends within the header at byte {offset}")
        raise InvalidInput(f"the header at byte {offset} of {size} is damaged")
    if any(stream.read(MAX_TAIL_BYTES)):
        raise InvalidInput(
            f"there is data after the end of the archive at byte {offset} of {size}: members of "
            "tars that were joined with `cat` are not found"
        )


def _damage(error: Exception) -> InvalidInput:
    if "unexpected end" in str(error) or "truncated" in str(error):
        return TornArchive(f"it ends too early: {error}")
    return InvalidInput(f"it is not a tar, or it is damaged: {error}")


def find_link_targets(stream: BinaryIO) -> dict[int, Member]:
    """Return the member that each hard link refers to, by the position of the link's header.

    The target is the last member of that name before the link. A link whose name is not found has
    no entry.
    """
    latest: dict[str, Member] = {}
    targets: dict[int, Member] = {}
    with suppress(InvalidInput):
        for member in iter_members(stream):
            found: Member | None = member
            if member.link_to is not None:
                found = latest.get(member.link_to.removeprefix("./"))
                if found is not None:
                    targets[member.offset] = found
            if found is not None:
                latest[member.name.removeprefix("./")] = found
    return targets
