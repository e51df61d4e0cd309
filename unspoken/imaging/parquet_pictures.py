"""Read encoded pictures from a parquet file: a column of bytes, or of structs as in `datasets`.

Rows are read one by one, because a value of a dictionary may be large and repeated in every row.
Rows read in ascending order need only one read per row group.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from unspoken.errors import InvalidInput, NotFound, TooLarge
from unspoken.imaging.images import MAX_BYTES

BUFFER_BYTES = 1024 * 1024
"""Bytes of a column per read. Without a buffer, pyarrow reads the whole column of a row group."""
_NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes", "imagebytes")


@contextmanager
def translate_parquet_errors(about: str) -> Iterator[None]:
    """Convert pyarrow's exceptions for a damaged file into InvalidInput.

    OSErrors of pyarrow have no errno and are converted. Those of the operating system have one and
    are raised unchanged, because a retry may succeed.
    """
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InvalidInput(f"{about} cannot be read: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise InvalidInput(f"{about} cannot be read: {error}") from error


def find_picture_column(schema: pa.Schema) -> str | None:
    """Return the name of the column that holds encoded pictures; None if there is none."""
    structs = [field.name for field in schema if _is_struct(field.type)]
    plain = {_squeeze(field.name): field.name for field in schema if _is_binary(field.type)}
    named = [plain[name] for name in _NAMES if name in plain]
    return next(iter((*structs, *named)), None)


class PictureColumn:
    """The pictures of one column; close it, or use it in a `with` statement."""

    def __init__(self, file: Path, column: str) -> None:
        """Open the file. Raises InvalidInput if it has no such column of pictures."""
        self.name = column
        self._file_name = file.name
        with translate_parquet_errors(file.name):
            self._parquet = pq.ParquetFile(file, buffer_size=BUFFER_BYTES)
            schema, metadata = self._parquet.schema_arrow, self._parquet.metadata
            index = schema.get_field_index(column)
        if index < 0 or not (_is_struct(schema.types[index]) or _is_binary(schema.types[index])):
            self._parquet.close()
            raise InvalidInput(f"{file.name} has no column {column!r} of pictures")
        self._counts = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        self._lock = Lock()  # all threads share one cursor
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._start = 0  # first row of the batch, counted from the start of the file
        self._batch: pa.Array = pa.array([])
        self._stop = 0  # end row of the row group

    def read(self, row: int) -> bytes | None:
        """Return a row's encoded picture; None for an empty cell.

        Raises NotFound, InvalidInput, and TooLarge for a large picture.
        """
        with translate_parquet_errors(f"{self._file_name}, row {row}"):
            with self._lock:
                cell = self._cell(row)
            encoded = cell["bytes"] if isinstance(cell, pa.StructScalar) else cell
            size = 0 if encoded.as_buffer() is None else encoded.as_buffer().size
            if size > MAX_BYTES:
                raise TooLarge(f"the file has {size} bytes, at most {MAX_BYTES} are read")
            content: bytes | None = encoded.as_py()
            return content

    def close(self) -> None:
        """Close the file."""
        self._parquet.close()

    def __enter__(self) -> "PictureColumn":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _cell(self, row: int) -> pa.Scalar:
        if not 0 <= row < sum(self._counts):
            raise NotFound(f"{self._file_name} has no row {row}")
        if not self._start <= row < self._stop:
            self._open_group(row)
        while row >= self._start + len(self._batch):
            self._start += len(self._batch)
            batch = next(self._batches, None)
            if batch is None:
                raise InvalidInput(f"{self._file_name} ends before row {row}")
            self._batch = batch.column(0)
        return self._batch[row - self._start]

    def _open_group(self, row: int) -> None:
        group, start = 0, 0
        while row >= start + self._counts[group]:
            start += self._counts[group]
            group += 1
        self._batches = self._parquet.iter_batches(
            batch_size=1, row_groups=[group], columns=[self.name], use_threads=False
        )
        self._start, self._stop = start, start + self._counts[group]
        self._batch = pa.array([])


def _is_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    index = kind.get_field_index("bytes")
    return index >= 0 and _is_binary(kind.field(index).type)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _squeeze(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
