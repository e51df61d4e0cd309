"""A row of a table under the table's own column names."""

from typing import NamedTuple

from worker.sources.picture_file import PictureFile


class Record(NamedTuple):
    """A row of a table. If it cannot be read, `values` is None and `detail` gives line and reason.

    `picture`: the picture, if it is stored in the table itself instead of as a path.
    """

    values: dict[str, object] | None
    offset: int = 0
    detail: str | None = None
    picture: PictureFile | None = None
