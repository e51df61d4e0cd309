"""Reads metadata.jsonl, .csv or .parquet of Hugging Face's imagefolder: columns of its pictures.

The column `file_name` has paths relative to the table's folder, which may be above the pictures'
folders.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unspoken.errors import InvalidInput
from worker.sources.row import Columns
from worker.sources.tables.columns import captions_of, pick_columns, text_of
from worker.sources.tables.tables import read_records

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
MAX_PICTURES = 500_000
"""Largest number of pictures in one table, because it is held in memory."""


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
        for name in NAMES:
            file = place / name
            if _is_file(file) and file.resolve().is_relative_to(root.resolve()):
                about = file.stat()
                return _read(file, about.st_mtime_ns, about.st_size)
    return None


@lru_cache(maxsize=2)
def _read(file: Path, _mtime_ns: int, _size: int) -> MetadataTable:
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
