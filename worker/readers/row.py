"""A row as its source has it: what every reader gives, and what it is asked for."""

import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from unspoken.runs.files import json_sha256

Columns = Mapping[str, object]
"""A row's columns under the names of worker.readers.columns."""


@dataclass(frozen=True)
class SourceRow:
    """One input. `problem` is a word that says why there is no picture."""

    key: str
    shard: str
    """File or folder of the source, relative to its root."""
    member: str
    """The picture: a member of that tar, or a path from the root."""
    row: int
    caption: str
    picture: bytes | None
    columns: Columns = field(default_factory=dict)
    problem: str | None = None
    offset: int = 0
    """Byte of the file from which a reader may start for this row."""
    size: int = 0
    """Bytes of the picture's file."""

    @property
    def sha256(self) -> str:
        """Digest of what the source says, without the picture's bytes."""
        return json_sha256([self.key, self.member, self.row, self.caption, self.size])


EVERY_ROW = range(sys.maxsize)


@dataclass(frozen=True)
class Span:
    """What is asked of a reader: where to begin, and whose pictures to read."""

    first_row: int = 0
    offset: int = 0
    pictures_of: Container[int] = ()
    """Other rows come without their picture: a listing wants none."""
