"""Tables beside pictures, which give columns for pictures that are read from elsewhere.

img2dataset writes a parquet file beside a shard, with columns by key. Hugging Face's imagefolder
has metadata.jsonl, .csv or .parquet. Its column `file_name` has paths relative to the table's
folder, which may be above the pictures' folders.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unspoken.errors import InvalidInput
from worker.sources.row import Columns
from worker.sources.tables.columns import captions_of, key_of, pick_columns, text_of
from worker.sources.tables.parquet_table import parquet_rows
from worker.sources.tables.tables import read_records

METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
MAX_PICTURES = 500_000
"""Largest number of pictures in one table, because it is held in memory."""
MAX_ROWS = 200_000
MAX_BYTES = 256 * 1024 * 1024
"""Limits of a table and of its texts, because it is held in memory. img2dataset writes 10 000 rows
by default."""


# ---- the parquet file beside a shard ---------------------------------------------------------


@dataclass(frozen=True)
class KnownColumns:
    """Columns of one key."""

    columns: Columns = field(default_factory=dict)
    problem: str | None = None
    """Description of cells that cannot be read; they count as missing."""


@dataclass(frozen=True)
class ShardTable:
    """The table beside a shard; empty if there is none or it cannot be read."""

    by_key: Mapping[str, KnownColumns] = field(default_factory=dict)
    problem: str | None = None

    def of(self, key: str, *, shard: str) -> KnownColumns:
        """Return the columns of a sample. Its key may begin with `./` or with the shard's name."""
        plain = key.removeprefix("./").removeprefix(f"{shard}/")
        return self.by_key.get(key) or self.by_key.get(plain) or KnownColumns()


def find_shard_table(parquet: Path) -> ShardTable:
    """Read the table beside a shard; an error is reported as its `problem`."""
    if not parquet.is_file():
        return ShardTable()
    about = parquet.stat()
    return _read_shard_table(parquet, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=2)
def _read_shard_table(parquet: Path, _mtime_ns: int, size: int) -> ShardTable:
    if not size:
        return ShardTable(problem=_problem(parquet, "it is empty (0 bytes)"))
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
        return ShardTable(problem=_problem(parquet, str(error)))
    return ShardTable(by_key)


def _problem(parquet: Path, why: str) -> str:
    return (
        f"{parquet.name}, the table beside the pictures, cannot be read: {why}. The pictures are "
        "labelled without its columns"
    )


# ---- metadata of an imagefolder --------------------------------------------------------------


class BadRow(NamedTuple):
    """A row of the table without an existing picture."""

    name: str
    captions: tuple[str, ...]
    problem: str
    detail: str


@dataclass(frozen=True)
class MetadataTable:
    """A metadata table: columns by the path of a picture, relative to the table's folder."""

    file: Path
    by_path: Mapping[str, Columns] = field(default_factory=dict)
    bad: tuple[BadRow, ...] = ()

    def of(self, picture: Path) -> Columns:
        """Return the columns of a picture below the table's folder; empty if it is not listed."""
        return self.by_path.get(picture.relative_to(self.file.parent).as_posix(), {})

    def missing(self) -> Iterator[BadRow]:
        """Yield the rows whose picture does not exist, and the rows that cannot be read."""
        for path, columns in self.by_path.items():
            if not _is_file(self.file.parent / path):
                detail = f"{self.file.name} names {path}, which is not there"
                yield BadRow(path, captions_of(columns.get("caption")), "no_picture", detail)
        yield from self.bad


def find_metadata(folder: Path, *, root: Path) -> MetadataTable | None:
    """Return the table of a folder, or of the nearest one above it up to `root`."""
    for place in (folder, *folder.parents):
        if not place.is_relative_to(root):
            return None
        for name in METADATA_NAMES:
            file = place / name
            if _is_file(file) and file.resolve().is_relative_to(root.resolve()):
                about = file.stat()
                return _read_metadata(file, about.st_mtime_ns, about.st_size)
    return None


@lru_cache(maxsize=2)
def _read_metadata(file: Path, _mtime_ns: int, _size: int) -> MetadataTable:
    by_path: dict[str, Columns] = {}
    bad: list[BadRow] = []
    try:
        for number, record in enumerate(read_records(file)):
            columns = pick_columns(record.values or {})
            path = _plain(text_of(columns.get("path")))
            if not path:
                detail = f"{file.name}: {record.detail or 'a row names no picture'}"
                bad.append(BadRow(f"{file.name}-{number}", (), "bad_row", detail))
                continue
            if len(by_path) == MAX_PICTURES:
                raise InvalidInput(f"it names over {MAX_PICTURES} pictures: label the table itself")
            known = captions_of(by_path.get(path, {}).get("caption"))
            captions = captions_of([*known, *captions_of(columns.get("caption"))])
            by_path[path] = {**columns, "caption": list(captions)} if captions else columns
    except (InvalidInput, PermissionError) as error:
        bad.append(BadRow(file.name, (), "bad_shard", f"{file.name} cannot be read: {error}"))
    return MetadataTable(file, by_path, tuple(bad))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no permission, or not a valid file name
        return False


def _plain(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).as_posix() if path else ""
