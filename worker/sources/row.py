"""`SourceRow`, which every reader yields, and `Span`, the rows that a reader is asked for."""

import hashlib
import json
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from unspoken.runs.chunks import DIGEST_CHARS, NAME_DIGEST_CHARS

Columns = Mapping[str, object]
"""A row's columns under the names of worker.sources.tables.columns."""


SOURCE_CHANGED = "source_changed"
"""Problem of a row whose picture or caption differs from the plan."""

PROBLEMS: Mapping[str, str] = {
    "bad_row": "the source's row cannot be read",
    "bad_shard": "the source's file cannot be read",
    "torn_shard": "the tar ends within this row",
    "unreadable": "the file cannot be read",
    "not_regular": "the tar's member is a link, a device or a sparse file",
    "repeated_member": "the sample has this file name twice",
    "second_picture": "the sample already has a picture with a caption",
    "second_caption": "the sample already has a caption",
    "no_picture": "the picture file that the source names does not exist",
    "outside_data_folder": "the file is outside the data folder",
    "not_downloaded": (
        "the source has only a URL: download the pictures, for example with img2dataset, and label "
        "its output"
    ),
    "picture_too_large": "the picture's file is too large",
    "caption_too_long": "the caption's file is too large",
    SOURCE_CHANGED: "the picture or caption was changed or removed after the run was planned",
    "duplicate": "an earlier row of this run has the same picture",
}
"""Reason why a row cannot be labelled -> message to the user."""
FAULTS = frozenset(
    (
        *("bad_row", "bad_shard", "torn_shard", "unreadable", "not_regular", "repeated_member"),
        SOURCE_CHANGED,
    )
)
"""Reasons that a repair of the source can remove. Rows with them fail and can be retried."""


@dataclass(frozen=True)
class SourceRow:
    """One input row. `problem`: the reason why it cannot be labelled, a key of PROBLEMS."""

    key: str
    shard: str
    """File or folder of the source, relative to its root."""
    member: str
    """Name of the picture: a member of the tar, or a path relative to the root."""
    row: int
    caption: str
    """All captions as one text."""
    picture: bytes | None
    captions: tuple[str, ...] = ()
    """The captions one by one."""
    columns: Columns = field(default_factory=dict)
    problem: str | None = None
    detail: str | None = None
    """Description of this row's problem, if it is more specific than the text in PROBLEMS."""
    offset: int = 0
    """Position from which a reader can start for this row: a byte, or a number that only its reader
    understands. It never decreases from row to row."""
    size: int = 0
    """Size of the picture's file in bytes."""
    picture_offset: int | None = None
    """Byte offset of the picture in the shard; None if it is not part of a tar."""

    @property
    def digest(self) -> str:
        """Digest by which a plan identifies the row, independent of its position in the file.

        The first part is a digest of the picture's name, the rest one of name, size and captions.
        The picture's bytes are not included.
        """
        captions = self.captions if len(self.captions) > 1 else ()
        content = json.dumps([self.member, self.size, self.caption, *captions])
        return _hex(self.member, NAME_DIGEST_CHARS) + _hex(
            content, DIGEST_CHARS - NAME_DIGEST_CHARS
        )

    def moved_to(self, row: int) -> "SourceRow":
        """Return the same row at another position; a key made from the position is updated."""
        is_numbered = self.key == numbered_key(self.member, self.row)
        return replace(
            self, row=row, key=numbered_key(self.member, row) if is_numbered else self.key
        )


def numbered_key(path: str, row: int) -> str:
    """Return the key of a row for which the source has no key."""
    return f"{PurePath(path).stem[:64] or 'row'}-{row:06d}"


def _hex(text: str, num_chars: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:num_chars]


NO_NAME = _hex("", NAME_DIGEST_CHARS)
"""Start of the digest of a row without a picture."""


def bad_shard(name: str, *, row: int, size: int, detail: str) -> SourceRow:
    """Return the failed row that stands for an unreadable file, or for the rest of a file."""
    return SourceRow(
        key=name,
        shard=name,
        member="",
        row=row,
        caption="",
        picture=None,
        problem="bad_shard",
        detail=detail,
        size=size,
    )


EVERY_ROW = range(sys.maxsize)


@dataclass(frozen=True)
class Span:
    """Request to a reader: the row to start with, and the rows whose pictures to read."""

    first_row: int = 0
    offset: int = 0
    pictures_of: Container[int] = ()
    """Rows whose pictures are read. A listing needs no pictures."""
