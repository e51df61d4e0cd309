"""Reads tables of picture paths and captions: parquet, CSV and similar, JSONL, and JSON lists.

A chunk of a CSV or JSONL file is read from the byte offset of its first row, a chunk of a parquet
file from its row group. These files are never held in memory as a whole. Consecutive rows of one
picture are one input with several captions.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from unspoken.errors import InvalidInput
from worker.sources.row import Columns, SourceRow, Span, numbered_key
from worker.sources.source_file import PictureFile, find_picture
from worker.sources.tables.columns import (
    SPELLINGS,
    Record,
    captions_of,
    join_captions,
    key_of,
    known_column,
    pick_columns,
    text_of,
)
from worker.sources.tables.csv_table import csv_records
from worker.sources.tables.line_file import LineFile
from worker.sources.tables.parquet_table import parquet_records
from worker.sources.tables.text import parse_object, read_json

# A table is refused if none of its first rows has the required columns.
ROWS_TO_JUDGE = 100
FROM_START = Span()
MAX_CAPTIONS_OF_ONE = 64
"""Largest number of captions of one input; further rows of the same picture start another input."""


_CAPTION_NUMBER = re.compile(r"(?<=\.jpg)#\d+$")
"""Flickr8k.token.txt numbers the captions of a picture: `1000268201_693b08cb0e.jpg#0`."""


def table_rows(
    file: Path, *, name: str, root: Path, pictures: Path, span: Span
) -> Iterator[SourceRow]:
    """Yield the rows of a table from the span's start on; paths are relative to `pictures`.

    A row has the number of its first record. Raises InvalidInput if the file is not such a table.
    """
    for entry in _entries(read_records(file, span, name), first_row=span.first_row):
        read = entry.row in span.pictures_of
        picture = _find_picture(entry, folder=pictures, root=root, read=read)
        yield SourceRow(
            key=entry.key or numbered_key(picture.member, entry.row),
            shard=name,
            member=picture.member,
            row=entry.row,
            caption=join_captions(entry.captions),
            captions=entry.captions,
            picture=picture.content,
            columns=entry.columns,
            problem=picture.problem,
            detail=entry.record.detail,
            offset=entry.record.offset,
            size=picture.size,
        )


def check_table(file: Path) -> None:
    """Raise InvalidInput unless a table has a column of captions and one of paths or URLs.

    A table of URLs is read, so that its rows are counted as not downloaded.
    """
    first = list(islice(read_records(file), ROWS_TO_JUDGE))
    if not first:
        raise InvalidInput(f"{file.name} has no rows")
    if all(record.values is None for record in first):
        raise InvalidInput(f"{file.name} has no row that can be read: {first[0].detail}")
    names = {name for record in first for name in record.values or {}}
    known = {known_column(name) for name in names}
    if "caption" not in known or known.isdisjoint(("path", "url")):
        raise InvalidInput(
            f"{file.name} needs a column of picture paths ({', '.join(SPELLINGS['path'])}) and one "
            f"of captions ({', '.join(SPELLINGS['caption'])}); it has "
            f"{', '.join(sorted(names)) or 'none'}"
        )


@dataclass(frozen=True)
class _Entry:
    """A picture of the table, with its first record and the captions of all its records."""

    row: int
    record: Record
    columns: Columns
    captions: tuple[str, ...]

    @property
    def key(self) -> str:
        return key_of(self.columns.get("key"))

    @property
    def path(self) -> str:
        return _CAPTION_NUMBER.sub("", text_of(self.columns.get("path")))


def _entries(records: Iterator[Record], *, first_row: int) -> Iterator[_Entry]:
    last: _Entry | None = None
    for row, record in enumerate(records, start=first_row):
        columns = pick_columns(record.values or {})
        entry = _Entry(row, record, columns, captions_of(columns.get("caption")))
        if last is None:
            last = entry
        elif _are_one_picture(last, entry):
            captions = captions_of([*last.captions, *entry.captions])
            last = _Entry(last.row, last.record, last.columns, captions)
        else:
            yield last
            last = entry
    if last is not None:
        yield last


def _are_one_picture(last: _Entry, entry: _Entry) -> bool:
    return last.path == entry.path != "" and len(last.captions) < MAX_CAPTIONS_OF_ONE


def _find_picture(entry: _Entry, *, folder: Path, root: Path, read: bool) -> PictureFile:
    if entry.record.values is None:
        return PictureFile("", problem="bad_row")
    if entry.record.picture is not None:
        return entry.record.picture
    if not entry.path and "url" in entry.columns:
        return PictureFile("", problem="not_downloaded")
    return find_picture(entry.path, folder=folder, root=root, read=read)


def read_records(file: Path, span: Span = FROM_START, name: str = "") -> Iterator[Record]:
    """Yield a table's records from the span's start on. Raises InvalidInput, OSError."""
    match file.suffix.lower():
        case ".parquet":
            yield from parquet_records(file, name=name, span=span)
        case ".csv" | ".tsv" | ".txt":
            yield from csv_records(file, offset=span.offset)
        case ".json":
            yield from islice(_json_records(file), span.first_row, None)
        case _:
            yield from _jsonl_records(file, offset=span.offset)


# ---- JSON ------------------------------------------------------------------------------------


def _json_records(file: Path) -> Iterator[Record]:
    about = file.stat()
    for number, row in enumerate(_json_list(file, about.st_mtime_ns, about.st_size), start=1):
        if isinstance(row, dict):
            yield Record(row)
        else:
            yield Record(None, detail=f"entry {number} is not a JSON object")


@lru_cache(maxsize=1)
def _json_list(file: Path, _mtime_ns: int, _size: int) -> Sequence[object]:
    content = read_json(file)
    return content if isinstance(content, list) else ()


def _jsonl_records(file: Path, *, offset: int) -> Iterator[Record]:
    with LineFile(file) as lines:
        lines.seek(offset)
        for line in lines:
            values = parse_object(line.text)
            if values is not None:
                yield Record(values, line.offset)
            elif line.problem or line.text.strip():
                problem = line.problem or "is not a JSON object"
                yield Record(None, line.offset, f"line {lines.number_at(line.offset)} {problem}")
