"""Tables of picture paths and captions: parquet, CSV and JSONL, read as streams.

A chunk of a CSV or JSONL file is entered at the byte where its first row begins, one of a parquet
file at its row group: no table is ever whole in memory.
"""

import csv
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unspoken.errors import InvalidInput
from worker.readers.columns import (
    SPELLINGS,
    known_column,
    known_spellings,
    parse_object,
    pick_columns,
    text_of,
)
from worker.readers.picture_file import find_picture
from worker.readers.row import SourceRow, Span

MAX_LINE_BYTES = 1024 * 1024
ROWS_AT_ONCE = 1024
# A table is refused where none of its first rows has the columns.
ROWS_TO_JUDGE = 100


class Record(NamedTuple):
    """A row under the table's own names; None where it cannot be read."""

    values: dict[str, object] | None
    offset: int = 0


def table_rows(
    file: Path, *, name: str, root: Path, pictures: Path, span: Span
) -> Iterator[SourceRow]:
    """Rows of a table from the span's place on; paths are seen from the folder `pictures`.

    Raises InvalidInput for what is no such table.
    """
    for row, record in enumerate(_records(file, span), start=span.first_row):
        columns = pick_columns(record.values or {})
        path = text_of(columns.get("path"))
        picture = find_picture(path, folder=pictures, root=root, read=row in span.pictures_of)
        yield SourceRow(
            key=str(columns.get("key") or f"{Path(path).stem[:64]}-{row:06d}"),
            shard=name,
            member=picture.member,
            row=row,
            caption=text_of(columns.get("caption")),
            picture=picture.content,
            columns=columns,
            problem="bad_row" if record.values is None else picture.problem,
            offset=record.offset,
            size=picture.size,
        )


def check_table(file: Path) -> None:
    """Raises InvalidInput, which says what is missing, where a table has not the two columns."""
    first = [record.values or {} for record in islice(_records(file, Span()), ROWS_TO_JUDGE)]
    names = {name for values in first for name in values}
    known = {known_column(name) for name in names}
    if first and not {"path", "caption"} <= known:
        raise InvalidInput(
            f"{file.name} needs a column of picture paths ({', '.join(SPELLINGS['path'])}) and one "
            f"of captions ({', '.join(SPELLINGS['caption'])}); it has "
            f"{', '.join(sorted(names)) or 'none'}"
        )


def _records(file: Path, span: Span) -> Iterator[Record]:
    try:
        match file.suffix:
            case ".parquet":
                yield from _parquet_records(file, first_row=span.first_row)
            case ".csv":
                yield from _csv_records(file, offset=span.offset)
            case _:
                yield from _jsonl_records(file, offset=span.offset)
    except (pa.ArrowInvalid, OSError) as error:
        # pyarrow's own errors have no number; those of the disk have one, and may pass.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidInput(f"{file.name} cannot be read: {error}") from error


# ---- parquet ---------------------------------------------------------------------------------


def _parquet_records(file: Path, *, first_row: int) -> Iterator[Record]:
    metadata = pq.read_metadata(file)
    start = 0
    for group in range(metadata.num_row_groups):
        stop = start + metadata.row_group(group).num_rows
        for row in range(max(start, first_row), stop, ROWS_AT_ONCE):
            table = _row_group(file, file.stat().st_mtime_ns, group)
            part = table.slice(row - start, min(ROWS_AT_ONCE, stop - row))
            yield from map(Record, part.to_pylist())
        start = stop


@lru_cache(maxsize=1)
def _row_group(file: Path, _mtime_ns: int, group: int) -> pa.Table:
    with pq.ParquetFile(file) as parquet:
        # An `image` may also be the picture itself: nothing for a table of paths.
        plain = [field.name for field in parquet.schema_arrow if not pa.types.is_nested(field.type)]
        return parquet.read_row_group(group, columns=known_spellings(plain))


# ---- lines -----------------------------------------------------------------------------------


class _Lines:
    """Lines of a file as text, one at a time, so that the place of the next one is known."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    @property
    def offset(self) -> int:
        return self._stream.tell()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        encoding = "utf-8-sig" if self.offset == 0 else "utf-8"
        line = self._stream.readline(MAX_LINE_BYTES)
        if not line:
            raise StopIteration
        return line.decode(encoding, errors="replace")


def _csv_records(file: Path, *, offset: int) -> Iterator[Record]:
    with file.open("rb") as stream:
        lines = _Lines(stream)
        reader = csv.reader(lines)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise InvalidInput(f"{file.name} has no header that can be read: {error}") from error
        stream.seek(max(offset, lines.offset))
        while True:
            start = lines.offset
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield Record(None, start)
                continue
            if values:
                yield Record(dict(zip(header, values, strict=False)), start)


def _jsonl_records(file: Path, *, offset: int) -> Iterator[Record]:
    with file.open("rb") as stream:
        stream.seek(offset)
        lines = _Lines(stream)
        start = lines.offset
        for line in lines:
            if line.strip():
                yield Record(parse_object(line), start)
            start = lines.offset
