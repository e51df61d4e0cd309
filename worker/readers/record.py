"""A row of a table under the table's own column names."""

from typing import NamedTuple


class Record(NamedTuple):
    """`values` is None where the row cannot be read; `detail` then says why, and on which line."""

    values: dict[str, object] | None
    offset: int = 0
    detail: str | None = None
