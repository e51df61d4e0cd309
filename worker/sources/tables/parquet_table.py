"""Read a parquet file with bounded memory. Damage only affects its row, or its row group.

A file of a few hundred bytes can expand to gigabytes: one value, or null, repeated a billion times.
So rows are read in batches, and the number of rows, the rows of a batch and the values are bounded.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import lru_cache
from pathlib import Path, PurePath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unspoken.errors import InvalidInput, TooLarge
from unspoken.imaging.parquet_pictures import (
    BUFFER_BYTES,
    PictureColumn,
    find_picture_column,
    translate_parquet_errors,
)
from worker.sources.row import Span
from worker.sources.source_file import PictureFile
from worker.sources.tables.columns import Record, known_spellings

MAX_CELL_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 64 * 1024 * 1024
ROWS_AT_ONCE = 1024
GROUP_BYTES = 1024 * 1024 * 1024
LIST_BYTES = 256 * 1024 * 1024
EXPANSION = 100
"""Limits of a row group in memory: GROUP_BYTES for its values, LIST_BYTES for those of its lists,
each plus EXPANSION times the size in its metadata."""
ROWS_OF_ANY_FILE = 100_000
ROWS_PER_BYTE = 4
"""Limit of a file's rows: ROWS_OF_ANY_FILE, and ROWS_PER_BYTE more for each byte of the file. Real
tables have far fewer."""


class ParquetRow(NamedTuple):
    """A row with the table's own column names. Cells that cannot be read are left out."""

    values: dict[str, object]
    problem: str | None = None
    """Description of the cells that cannot be read, with the reason."""


def parquet_records(file: Path, *, name: str, span: Span) -> Iterator[Record]:
    """Yield records from the span's first row on, with the pictures stored in the table.

    Raises InvalidInput for a file that is not parquet, or whose metadata exceeds the limits.
    """
    with ExitStack() as stack:
        table = stack.enter_context(closing(_Table(file)))
        column = table.pictures
        pictures = None if column is None else stack.enter_context(PictureColumn(file, column))
        for number, row in enumerate(table.rows(span.first_row), start=span.first_row):
            if row.problem is not None:
                yield Record(None, detail=f"row {number}: {row.problem}")
            elif pictures is None:
                yield Record(row.values)
            else:
                read = number in span.pictures_of
                yield _with_picture(row, pictures, f"{name}/{number}/{column}", number, read=read)


def parquet_rows(file: Path) -> Iterator[ParquetRow]:
    """Yield every row of a table. Raises InvalidInput for a file that is not parquet."""
    with closing(_Table(file)) as table:
        yield from table.rows(0)


def _with_picture(
    row: ParquetRow, pictures: PictureColumn, member: str, number: int, *, read: bool
) -> Record:
    """Return the record of a row with a stored picture. The picture's file name is the key."""
    values = {**row.values, "image_path": member}
    stored = values.pop(pictures.name, None)
    if isinstance(stored, dict) and isinstance(stored.get("path"), str):
        values.setdefault("key", PurePath(stored["path"]).stem)
    if not read:
        return Record(values, picture=PictureFile(member))
    try:
        content = pictures.read(number)
    except InvalidInput as error:
        problem = "picture_too_large" if isinstance(error, TooLarge) else "bad_row"
        return Record(values, detail=error.message, picture=PictureFile(member, problem=problem))
    missing = "no_picture" if content is None else None
    return Record(values, picture=PictureFile(member, content=content, problem=missing))


class _Table:
    """An open parquet file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._parquet = self._open()
        try:
            with translate_parquet_errors(file.name):
                self.schema: pa.Schema = self._parquet.schema_arrow
                self.pictures = find_picture_column(self.schema)
                self._names = self._names_to_read()
            metadata = self._parquet.metadata
            groups = map(metadata.row_group, range(metadata.num_row_groups))
            self._groups = [_RowGroup(each.num_rows, each.total_byte_size) for each in groups]
            self._check_size(file.stat().st_size)
        except InvalidInput:
            self.close()
            raise

    def _names_to_read(self) -> list[str]:
        plain = (field.name for field in self.schema if _is_plain(field.type))
        names = known_spellings(name for name in plain if name != self.pictures)
        if self.pictures is not None and _has_path(self.schema.field(self.pictures).type):
            names.append(f"{self.pictures}.path")
        return names

    def _check_size(self, size: int) -> None:
        max_rows = ROWS_OF_ANY_FILE + ROWS_PER_BYTE * size
        num_rows = sum(group.num_rows for group in self._groups)
        if num_rows > max_rows or any(group.num_rows < 0 for group in self._groups):
            raise InvalidInput(f"{self._file.name} announces {num_rows} rows in {size} bytes")
        lists = [field.name for field in self.schema if pa.types.is_nested(field.type)]
        self._values_of_lists = 0
        if any(name in self._names for name in lists):
            num_values = _count_values(self._file, self._file.stat().st_mtime_ns, size)
            if num_values > max_rows:
                raise InvalidInput(
                    f"{self._file.name} announces {num_values} values in {size} bytes"
                )
            self._values_of_lists = num_values

    def close(self) -> None:
        self._parquet.close()

    def rows(self, first_row: int) -> Iterator[ParquetRow]:
        """Yield rows from `first_row` on; the rows of a damaged row group have a problem."""
        start = 0
        for number, group in enumerate(self._groups):
            stop = start + group.num_rows
            next_row = max(start, first_row)
            problem = f"row group {number} ends too early"
            try:
                with translate_parquet_errors(f"row group {number}"):
                    for row in self._group_rows(number, range(next_row - start, stop - start)):
                        yield row
                        next_row += 1
            except InvalidInput as error:
                problem = error.message
            yield from (ParquetRow({}, problem) for _ in range(next_row, stop))
            start = stop

    def _group_rows(self, group: int, wanted: range) -> Iterator[ParquetRow]:
        if not wanted or not self._names:
            yield from (ParquetRow({}) for _ in wanted)
            return
        batches = self._parquet.iter_batches(
            batch_size=self._rows_at_once(group),
            row_groups=[group],
            columns=self._names,
            use_threads=False,
        )
        skip = wanted.start
        left = GROUP_BYTES + EXPANSION * self._groups[group].num_bytes
        for batch in batches:
            left -= batch.nbytes
            if left < 0:
                raise InvalidInput("its values would take gigabytes of memory")
            part = batch.slice(skip)
            skip = max(0, skip - batch.num_rows)
            columns = [_cells(column) for column in part.columns]
            for cells in zip(*columns, strict=True):
                yield _row(part.schema.names, cells)

    def _rows_at_once(self, group: int) -> int:
        """Return the rows that fit into a batch, even if each has the dictionary's longest value.

        Raises InvalidInput for a value that does not fit into any batch.
        """
        if self._groups[group].num_bytes * ROWS_AT_ONCE <= MAX_BATCH_BYTES:
            return ROWS_AT_ONCE
        longest = max(1, self._longest_value(group))
        max_bytes = LIST_BYTES + EXPANSION * self._groups[group].num_bytes
        if longest * self._values_of_lists > max_bytes:  # a single row may contain all of them
            raise InvalidInput("its lists may take gigabytes of memory")
        if longest > MAX_BATCH_BYTES:
            raise InvalidInput(f"a value has {longest} bytes, at most {MAX_CELL_BYTES} are read")
        return min(ROWS_AT_ONCE, MAX_BATCH_BYTES // longest)

    def _longest_value(self, group: int) -> int:
        """Return the bytes of the longest value in the columns' dictionaries.

        The dictionaries are loaded with the first row. The column metadata also has this size, but
        damaged metadata makes pyarrow crash the process.
        """
        leaves = [
            self._parquet.schema.column(number) for number in range(len(self._parquet.schema))
        ]
        paths = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        with closing(self._open(read_dictionary=paths)) as parquet:
            batches = parquet.iter_batches(
                batch_size=1, row_groups=[group], columns=self._names, use_threads=False
            )
            batch = next(batches, None)
        columns = () if batch is None else batch.columns
        return max((_longest(column) for column in columns), default=0)

    def _open(self, read_dictionary: list[str] | None = None) -> pq.ParquetFile:
        with translate_parquet_errors(self._file.name):
            return pq.ParquetFile(
                self._file, read_dictionary=read_dictionary, buffer_size=BUFFER_BYTES
            )


class _RowGroup(NamedTuple):
    """Size of a row group, according to the file's metadata."""

    num_rows: int
    num_bytes: int


_COUNT_VALUES = """
import sys
import pyarrow.parquet as pq

metadata = pq.read_metadata(sys.argv[1])
groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
print(max((g.column(n).num_values for g in groups for n in range(g.num_columns)), default=0))
"""


@lru_cache(maxsize=16)
def _count_values(file: Path, _mtime_ns: int, _size: int) -> int:
    """Return the largest number of values of a column in a row group, by the metadata.

    One row may have a billion values in a list. The metadata is read in a separate process, because
    damaged metadata makes pyarrow crash the process. Raises InvalidInput in that case.
    """
    command = [sys.executable, "-P", "-c", _COUNT_VALUES, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InvalidInput(f"{file.name} cannot be read: the metadata of its columns is damaged")
    return int(done.stdout)


def _longest(values: pa.Array) -> int:
    """Return the bytes of the longest text in a column or in its dictionary."""
    while pa.types.is_nested(values.type):
        flat = values.flatten()  # for a struct this is a list of one array
        values = flat[0] if isinstance(flat, list) else flat
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary
    if not _is_text(values.type):
        return 0
    return int(pc.max(pc.binary_length(values)).as_py() or 0)


class _Bad(NamedTuple):
    """A cell that cannot be read."""

    problem: str


def _row(names: list[str], cells: tuple[object, ...]) -> ParquetRow:
    values = dict(zip(names, cells, strict=True))
    bad = [(name, cell) for name, cell in values.items() if isinstance(cell, _Bad)]
    for name, _ in bad:
        del values[name]
    return ParquetRow(
        values, "; ".join(f"the column {name!r} {cell.problem}" for name, cell in bad) or None
    )


def _cells(column: pa.Array) -> list[object]:
    if not _is_binary(column.type) and not _is_long(column):
        try:
            cells: list[object] = column.to_pylist()
            return cells
        except UnicodeDecodeError:
            pass
    return [_cell(value) for value in column]


def _cell(value: pa.Scalar) -> object:
    buffer = value.as_buffer() if hasattr(value, "as_buffer") else None
    if buffer is not None and buffer.size > MAX_CELL_BYTES:
        return _Bad(f"has {buffer.size} bytes, at most {MAX_CELL_BYTES} are read")
    try:
        cell: object = value.as_py()
        return cell.decode() if isinstance(cell, bytes) else cell
    except UnicodeDecodeError:
        return _Bad("is not UTF-8")


def _is_long(column: pa.Array) -> bool:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return False
    return (pc.max(pc.binary_length(column)).as_py() or 0) > MAX_CELL_BYTES


def _is_plain(kind: pa.DataType) -> bool:
    """Return True for text, numbers, booleans, and lists of texts such as several captions."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_text(kind.value_type)
    return (
        _is_text(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
    )


def _has_path(kind: pa.DataType) -> bool:
    """Return True for a struct of a picture's bytes and its file name."""
    index = kind.get_field_index("path") if pa.types.is_struct(kind) else -1
    return index >= 0 and _is_text(kind.field(index).type)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_binary(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
