"""A row of a table under the table's own column names."""

from typing import NamedTuple

from worker.readers.picture_file import PictureFile


class Record(NamedTuple):
    """`values` is None where the row cannot be read; `detail` then says why, and on which line.

    `picture`: the one that lies in the table itself, where it is no path.
    """

    values: dict[str, object] | None
    offset: int = 0
    detail: str | None = None
    picture: PictureFile | None = None
