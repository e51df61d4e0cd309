"""Reads sources of all kinds: lists their rows for a plan, and reads the rows of a chunk.

A source is a folder of img2dataset's tar shards, one tar, a folder with captions beside its
pictures, a table of picture paths (parquet, CSV, JSONL), or COCO's captions JSON. Only files inside
the run's root folder are opened, and nothing is ever unpacked or written.
"""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path

import pyarrow as pa

from unspoken.errors import Conflict, InvalidInput
from unspoken.imaging.tar_members import TAR_ENDINGS
from unspoken.runs.chunks import Chunk
from unspoken.runs.plan import ListedRow
from worker.sources.folders import folder_rows, picture_folders
from worker.sources.planned_rows import Places, planned_rows
from worker.sources.row import EVERY_ROW, PROBLEMS, SOURCE_CHANGED, SourceRow, Span, bad_shard
from worker.sources.source_file import PICTURE_ENDINGS
from worker.sources.tables.coco_captions import coco_rows
from worker.sources.tables.tables import check_table, table_rows
from worker.sources.tar_shards import tar_rows

logger = logging.getLogger(__name__)

TABLE_ENDINGS = (".parquet", ".csv", ".tsv", ".txt", ".jsonl")

MAX_CHECKED_ROWS = 1000
"""Number of rows without a labelled picture after which `check_source` stops to read."""

_ADVICE = (
    "Give a folder of pictures with captions beside them, .tar shards, or a table of picture paths "
    "and captions"
)
_DAMAGE = (
    *(InvalidInput, pa.ArrowException, EOFError, ValueError, TypeError),
    *(OverflowError, RecursionError, MemoryError),
)
"""Errors that damaged, foreign or hostile files cause in the readers."""


def list_source(
    path: Path,
    *,
    root: Path,
    pictures: Path | None = None,
    is_duplicate: Callable[[SourceRow], bool] | None = None,
    runs_dir: Path | None = None,
) -> Iterator[tuple[str, Iterator[ListedRow]]]:
    """Yield the files (or folders of pictures) of a source in order, each with its rows.

    pictures: base folder of a table's relative paths; the table's own folder if None. is_duplicate:
    called for every row with its picture; if None, no picture is read. runs_dir: files in it are
    not part of the source. A file that cannot be read is one failed row. Raises InvalidInput with
    the first reason if no file can be read.
    """
    span = Span(pictures_of=() if is_duplicate is None else EVERY_ROW)
    check = _ReadCheck()
    for file in _source_files(path, root):
        if runs_dir is not None and file.resolve().is_relative_to(runs_dir.resolve()):
            continue  # a workspace inside its own source: contact sheets are not source pictures
        name = file.relative_to(root).as_posix()
        refusal = _refusal(file, name, root)
        if refusal is not None:
            rows = iter([bad_shard(_in_utf8(name), row=0, size=0, detail=refusal)])
        else:
            if file.suffix.lower() in TABLE_ENDINGS and file.is_file():
                check_table(file)
            rows = _read_rows(file, name=name, root=root, pictures=pictures, span=span)
        yield _in_utf8(name), (_listed(row, is_duplicate) for row in check.note(rows))
    if check.first_bad is not None and not check.any_good:
        raise InvalidInput(check.first_bad)


def check_source(path: Path, *, root: Path, pictures: Path | None = None) -> None:
    """Raise InvalidInput with the first reason if no picture of a source can be labelled.

    Reads the first rows only, and no pictures; see `list_source` for the arguments.
    """
    reason = ""
    try:
        for number, row in enumerate(_rows_of_source(path, root, pictures), start=1):
            if number > MAX_CHECKED_ROWS or (row.problem is None and row.caption):
                return
            reason = reason or _why(row)
    except InvalidInput as error:  # the folder itself
        reason = error.message
    raise InvalidInput(f"{reason or f'{path.name} has no rows'}. {_ADVICE}")


def _rows_of_source(path: Path, root: Path, pictures: Path | None) -> Iterator[SourceRow]:
    """Yield the rows of all files; a file that cannot be read ends with a failed row."""
    for file in _source_files(path, root):
        name = file.relative_to(root).as_posix()
        try:
            if (refusal := _refusal(file, name, root)) is not None:
                raise InvalidInput(refusal)
            if file.suffix.lower() in TABLE_ENDINGS and file.is_file():
                check_table(file)
            yield from _reader(file, name=name, root=root, pictures=pictures, span=Span())
        except Exception as error:
            if not _is_of_the_file(error):
                raise
            yield bad_shard(name, row=0, size=0, detail=_detail(error, name))


def _why(row: SourceRow) -> str:
    """Return the reason why a row cannot be labelled."""
    if row.problem is None:
        return (
            f"{row.member or row.key} has no caption, nor has any other picture: write it into a "
            ".txt file of the same name"
        )
    reason = row.detail or PROBLEMS[row.problem]
    return reason if row.problem == "bad_shard" else f"{row.member or row.key}: {reason}"


def _refusal(file: Path, name: str, root: Path) -> str | None:
    """Return the reason for not opening a file of the source; None if it may be opened."""
    if not file.resolve().is_relative_to(root.resolve()):
        return f"{_in_utf8(file.name)} leads out of the data folder"
    if _in_utf8(name) != name:
        return f"the name {_in_utf8(name)!r} is not UTF-8: a dataset cannot say it"
    return None


class _ReadCheck:
    """Records if any file of a source could be read, and the error of the first unreadable one."""

    def __init__(self) -> None:
        self.any_good = False
        self.first_bad: str | None = None

    def note(self, rows: Iterator[SourceRow]) -> Iterator[SourceRow]:
        for row in rows:
            if row.problem != "bad_shard":
                self.any_good = True
            elif self.first_bad is None:
                self.first_bad = row.detail
            yield row


def read_chunk(chunk: Chunk, *, root: Path, pictures: Path | None = None) -> list[SourceRow]:
    """Read a chunk's rows in the plan's order, with their pictures except for duplicates.

    A row is identified by its content, so rows added or removed around it do not matter. A row
    whose picture or caption changed or is gone has the problem SOURCE_CHANGED and no picture. No
    file outside `root` is read. Raises OSError if a disk fails.
    """
    file = root / chunk.source
    refusal = _refusal(file, chunk.source, root) or _planned_refusal(chunk, file)

    def read(span: Span) -> Iterator[SourceRow]:
        if refusal is not None:
            return iter([bad_shard(chunk.source, row=0, size=0, detail=refusal)])
        return _read_rows(file, name=chunk.source, root=root, pictures=pictures, span=span)

    def find() -> Places:
        if refusal is not None:
            return Places(read(Span()))
        found = file.stat()
        version = (found.st_mtime_ns, found.st_size)
        return _places(file, chunk.source, root, pictures, version)

    return planned_rows(chunk, read=read, find=find)


def _planned_refusal(chunk: Chunk, file: Path) -> str | None:
    """Return the reason why planning refused a file whose name is not UTF-8; None if it did not."""
    refused = bad_shard(chunk.source, row=0, size=0, detail="").digest
    if chunk.digests.get(0) != refused or os.path.lexists(file):
        return None
    return f"the name {chunk.source!r} is not UTF-8: a dataset cannot say it"


def check_chunk(chunk: Chunk, *, root: Path, pictures: Path | None = None) -> None:
    """Raise Conflict unless every row of a chunk is the same as when the run was planned."""
    rows = read_chunk(chunk, root=root, pictures=pictures)
    if changed := sum(row.problem == SOURCE_CHANGED for row in rows):
        raise Conflict(
            f"{changed} of {len(rows)} rows of {chunk.source} have changed since the plan was made"
        )


@lru_cache(maxsize=1)
def _places(
    file: Path, name: str, root: Path, pictures: Path | None, _version: tuple[int, int]
) -> Places:
    return Places(_read_rows(file, name=name, root=root, pictures=pictures, span=Span()))


def _listed(row: SourceRow, is_duplicate: Callable[[SourceRow], bool] | None = None) -> ListedRow:
    duplicate = is_duplicate is not None and is_duplicate(row)
    return ListedRow(row.row, row.digest, row.offset, duplicate)


def _source_files(path: Path, root: Path) -> Iterator[Path]:
    """Yield the file itself; for a folder, all tar shards, then all folders with pictures."""
    if not path.is_dir():
        yield path
        return
    empty = True
    for file in chain(_shards(path), picture_folders(path, root=root)):
        empty = False
        yield file
    if empty:
        endings = ", ".join(PICTURE_ENDINGS[:6])
        raise InvalidInput(
            f"the folder {path.name!r} contains no .tar shards and no pictures ({endings}, ...)"
        )


def _shards(top: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(TAR_ENDINGS) and not name.startswith("."):
                yield Path(folder) / name


def _read_rows(
    file: Path, *, name: str, root: Path, pictures: Path | None, span: Span
) -> Iterator[SourceRow]:
    """Yield the rows of a file; if reading fails midway, the last one is a failed row."""
    next_row = span.first_row
    try:
        for row in _reader(file, name=name, root=root, pictures=pictures, span=span):
            yield _row_in_utf8(row)
            next_row = row.row + 1
    except Exception as error:
        if not _is_of_the_file(error):
            raise
        logger.warning("unreadable file=%s row=%d error=%s", name, next_row, error)
        size = file.stat().st_size if file.is_file() else 0
        yield bad_shard(name, row=next_row, size=size, detail=_in_utf8(_detail(error, name)))


def _detail(error: Exception, name: str) -> str:
    """Return the reason why a file of the source cannot be read."""
    if isinstance(error, InvalidInput):
        return error.message
    return f"{name} cannot be read: {error or type(error).__name__}"


def _is_of_the_file(error: Exception) -> bool:
    """Return True for a fault of the file; False for one of the disk, which may be transient.

    pyarrow's own OSErrors have no errno; those of the operating system have one.
    """
    if isinstance(error, OSError):
        return error.errno is None or isinstance(error, PermissionError | FileNotFoundError)
    return isinstance(error, _DAMAGE)


def _reader(
    file: Path, *, name: str, root: Path, pictures: Path | None, span: Span
) -> Iterator[SourceRow]:
    if file.is_dir():
        return folder_rows(file, name=name, root=root, span=span)
    if file.exists() and not file.is_file():  # opening a FIFO would block
        raise InvalidInput(f"{name} is not a regular file")
    pictures = pictures or file.parent
    if file.name.lower().endswith(TAR_ENDINGS):
        return tar_rows(file, name=name, span=span)
    match file.suffix.lower():
        case ".json":
            return coco_rows(file, name=name, root=root, pictures=pictures, span=span)
        case suffix if suffix in TABLE_ENDINGS:
            return table_rows(file, name=name, root=root, pictures=pictures, span=span)
    endings = ", ".join((".tar", *TABLE_ENDINGS, ".json"))
    raise InvalidInput(f"{file.name!r} is not a source; give a folder, or one of {endings}")


def _row_in_utf8(row: SourceRow) -> SourceRow:
    """Return the row with all text valid in UTF-8: lone surrogates become question marks.

    They come from JSON escapes or from file names. A picture with such a name becomes a bad row,
    because a dataset could not say which picture it is.
    """
    columns = {
        name: _in_utf8(value) if isinstance(value, str) else value
        for name, value in row.columns.items()
    }
    member = _in_utf8(row.member)
    problem = row.problem if member == row.member else "bad_row"
    return replace(
        row,
        key=_in_utf8(row.key),
        member=member,
        caption=_in_utf8(row.caption),
        captions=tuple(map(_in_utf8, row.captions)),
        columns=columns,
        problem=problem,
        detail=None if row.detail is None else _in_utf8(row.detail),
    )


def _in_utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
