"""A row as its source has it: what every reader gives, and what it is asked for."""

import hashlib
import json
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from unspoken.runs.chunks import DIGEST_CHARS, NAME_DIGEST_CHARS

Columns = Mapping[str, object]
"""A row's columns under the names of worker.readers.columns."""


SOURCE_CHANGED = "source_changed"
"""Problem of a row whose picture or caption is not the one that was planned."""

PROBLEMS: Mapping[str, str] = {
    "bad_row": "the source's row cannot be read",
    "bad_shard": "the source's file cannot be read",
    "torn_shard": "the tar ends within this row",
    "unreadable": "the file may not be read",
    "not_regular": "the tar's member is a link, a device or a sparse file",
    "repeated_member": "the same name came earlier in this sample",
    "second_picture": "the sample has a picture with a caption already",
    "second_caption": "the sample has a caption already",
    "no_picture": "there is no picture where the source says",
    "outside_data_folder": "the file is outside the data folder",
    "not_downloaded": (
        "the source has only a URL: download the pictures, for example with img2dataset, and label "
        "its output"
    ),
    "picture_too_large": "the picture's file is too large",
    "caption_too_long": "the caption's file is too large",
    SOURCE_CHANGED: "picture or caption changed, or is gone, since the run was planned",
    "duplicate": "the same picture came earlier in this run",
}
"""Reason -> a sentence for the user: why a row of a source has no picture or no caption."""
FAULTS = frozenset(
    (
        *("bad_row", "bad_shard", "torn_shard", "unreadable", "not_regular", "repeated_member"),
        SOURCE_CHANGED,
    )
)
"""Reasons that go away when the source is repaired: such rows are failed and can be retried."""


@dataclass(frozen=True)
class SourceRow:
    """One input. `problem` names the reason why it cannot be labelled, a key of PROBLEMS."""

    key: str
    shard: str
    """File or folder of the source, relative to its root."""
    member: str
    """The picture: a member of that tar, or a path from the root."""
    row: int
    caption: str
    """All of its captions as one text."""
    picture: bytes | None
    captions: tuple[str, ...] = ()
    """Each caption, where the source has several."""
    columns: Columns = field(default_factory=dict)
    problem: str | None = None
    detail: str | None = None
    """The problem of this very row in words, where there is more to say than in PROBLEMS."""
    offset: int = 0
    """Position from which a reader can start for this row: a byte, or a number that only its reader
    understands. It never decreases from row to row."""
    size: int = 0
    """Bytes of the picture's file."""
    picture_offset: int | None = None
    """Byte at which the picture begins, where it lies within the shard."""

    @property
    def digest(self) -> str:
        """Digest by which a plan knows the row again, wherever in its file it is.

        The first part is of the picture's name; the rest is of name, size and caption, without the
        picture's bytes.
        """
        captions = self.captions if len(self.captions) > 1 else ()
        content = json.dumps([self.member, self.size, self.caption, *captions])
        return _hex(self.member, NAME_DIGEST_CHARS) + _hex(
            content, DIGEST_CHARS - NAME_DIGEST_CHARS
        )

    def moved_to(self, row: int) -> "SourceRow":
        """Return the same row at another place; a key that was made of the place follows it."""
        is_numbered = self.key == numbered_key(self.member, self.row)
        return replace(
            self, row=row, key=numbered_key(self.member, row) if is_numbered else self.key
        )


def numbered_key(path: str, row: int) -> str:
    """Return the key of a row to which its source gives none."""
    return f"{PurePath(path).stem[:64] or 'row'}-{row:06d}"


def _hex(text: str, num_chars: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:num_chars]


NO_NAME = _hex("", NAME_DIGEST_CHARS)
"""Start of the digest of a row without a picture."""


def bad_shard(name: str, *, row: int, size: int, detail: str) -> SourceRow:
    """Return the one failed row that stands for a file, or the rest of it, that cannot be read."""
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
    """What is asked of a reader: where to begin, and whose pictures to read."""

    first_row: int = 0
    offset: int = 0
    pictures_of: Container[int] = ()
    """Other rows come without their picture: a listing wants none."""
