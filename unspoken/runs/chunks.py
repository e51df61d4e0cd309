"""The chunks of a plan: one line of JSON each, so that one is read without the others.

Five million rows take some hundred MB of lines. The file is mapped, so processes share its pages.
Each process stores only eight bytes per chunk: the end of its line.
"""

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from unspoken.wire.base import FileModel

_BLOCK = 1 << 24
NAME_DIGEST_CHARS, DIGEST_CHARS = 8, 24
"""Hex digits of a row's digest. The first ones are the digest of its picture's name alone."""


class Chunk(FileModel):
    """Some rows of one file: the unit of work of a worker."""

    id: int
    source: str
    """The file, relative to the source's root."""
    ranges: tuple[tuple[int, int], ...]
    """Rows in the file, ascending, as [start, stop) pairs; more than one pair only in a retry."""
    row_digests: str
    """Concatenated digests of its rows. They identify a row that has moved in its file."""
    offset: int = 0
    """Position where a reader may start for its first row; its unit depends on the reader."""
    duplicates: tuple[int, ...] = ()
    """Rows whose picture occurs earlier in the run."""

    @property
    def num_rows(self) -> int:
        """Number of inputs."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows in the file, ascending."""
        return tuple(row for start, stop in self.ranges for row in range(start, stop))

    @property
    def digests(self) -> dict[int, str]:
        """Row in the file -> digest of the row that was planned there."""
        starts = range(0, len(self.row_digests), DIGEST_CHARS)
        parts = [self.row_digests[start : start + DIGEST_CHARS] for start in starts]
        return dict(zip(self.rows, parts, strict=True))

    @property
    def keys(self) -> list[tuple[str, int]]:
        """(file, row) of every input, as a shard of this chunk must hold them."""
        return [(self.source, row) for row in self.rows]


class ChunkLines(Sequence[Chunk]):
    """A sequence of chunks over lines in bytes or in a mapped file."""

    def __init__(self, lines: bytes | mmap.mmap) -> None:
        self.lines = lines
        self._ends = _line_ends(lines)  # (N,) places of the newlines

    def __len__(self) -> int:
        return len(self._ends)

    def sha256(self) -> str:
        """Return the hex digest of all lines."""
        return hashlib.sha256(self.lines).hexdigest()

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | Sequence[Chunk]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        number = range(len(self))[index]
        start = int(self._ends[number - 1]) + 1 if number else 0
        return Chunk.model_validate_json(self.lines[start : int(self._ends[number])])

    def __iter__(self) -> Iterator[Chunk]:
        return (self[number] for number in range(len(self)))


def open_chunks(path: Path) -> ChunkLines:
    """Map a file of chunks. Raises OSError if it cannot be opened, ValueError if it is empty."""
    with path.open("rb") as file:
        return ChunkLines(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def dump_chunk(chunk: Chunk) -> bytes:
    """Return a chunk's line of JSON, without fields at their default."""
    return chunk.model_dump_json(exclude_defaults=True).encode() + b"\n"


def dump_chunks(chunks: Sequence[Chunk]) -> bytes:
    """Return the lines of several chunks."""
    if isinstance(chunks, ChunkLines):
        return chunks.lines[:]
    return b"".join(map(dump_chunk, chunks))


def _line_ends(lines: bytes | mmap.mmap) -> np.ndarray:
    parts = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(lines), _BLOCK):
        block = np.frombuffer(lines[start : start + _BLOCK], dtype=np.uint8)
        parts.append(np.flatnonzero(block == ord("\n")) + start)
    return np.concatenate(parts)
