"""Reads the parquet file that img2dataset writes beside a shard: columns by key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from unspoken.errors import InvalidInput
from worker.sources.row import Columns
from worker.sources.tables.columns import key_of, pick_columns
from worker.sources.tables.parquet_table import parquet_rows

MAX_ROWS = 200_000
MAX_BYTES = 256 * 1024 * 1024
"""Limits of a table and of its texts, because it is held in memory. img2dataset writes 10 000 rows
by default."""


@dataclass(frozen=True)
class KnownColumns:
    """Columns of one key."""

    columns: Columns = field(default_factory=dict)
    problem: str | None = None
    """Description of cells that cannot be read; they count as missing."""


@dataclass(frozen=True)
class Beside:
    """The table beside a shard; empty if there is none or it cannot be read."""

    by_key: Mapping[str, KnownColumns] = field(default_factory=dict)
    problem: str | None = None

    def of(self, key: str, *, shard: str) -> KnownColumns:
        """Return the columns of a sample. Its key may begin with `./` or with the shard's name."""
        plain = key.removeprefix("./").removeprefix(f"{shard}/")
        return self.by_key.get(key) or self.by_key.get(plain) or KnownColumns()


def columns_beside(parquet: Path) -> Beside:
    """Read the table beside a shard; an error is reported as its `problem`."""
    if not parquet.is_file():
        return Beside()
    about = parquet.stat()
    return _read(parquet, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=2)
def _read(parquet: Path, _mtime_ns: int, size: int) -> Beside:
    if not size:
        return Beside(problem=_problem(parquet, "it is empty (0 bytes)"))
    by_key: dict[str, KnownColumns] = {}
    num_bytes = 0
    try:
        for row in parquet_rows(parquet):
            columns = pick_columns(row.values)
            num_bytes += sum(len(value) for value in columns.values() if isinstance(value, str))
            if len(by_key) == MAX_ROWS or num_bytes > MAX_BYTES:
                raise InvalidInput(f"it has over {MAX_ROWS} rows or {MAX_BYTES} bytes")
            key = key_of(columns.get("key"))
            if key:
                by_key[key] = KnownColumns(columns, row.problem)
    except (InvalidInput, PermissionError) as error:
        return Beside(problem=_problem(parquet, str(error)))
    return Beside(by_key)


def _problem(parquet: Path, why: str) -> str:
    return (
        f"{parquet.name}, the table beside the pictures, cannot be read: {why}. The pictures are "
        "labelled without its columns"
    )
