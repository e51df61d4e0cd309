"""Reading a source: img2dataset's tar shards, or a table of picture paths and captions.

Nothing is unpacked: members are read as streams, only regular files, and their names are never
used as paths. A table's pictures must lie inside the root that the run may read from.
"""

import csv
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from unspoken.errors import Conflict, InvalidInput
from unspoken.images import MAX_BYTES
from unspoken.runs.files import json_sha256
from unspoken.runs.plan import Chunk, ListedRow, rows_sha256

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp")
TABLE_ENDINGS = (".parquet", ".csv", ".jsonl")
PATH_COLUMNS = ("image_path", "path", "image", "file_name", "filename", "file", "filepath")
CAPTION_COLUMNS = ("caption", "text")
MAX_SIDE_FILE_BYTES = 1024 * 1024
# The columns that a filter or the dataset reads, in lower case; others are not loaded.
COLUMNS = ("key", "status", "url", "caption", "text", "language", "lang", "punsafe", "nsfw")

Columns = Mapping[str, object]


@dataclass(frozen=True)
class SourceRow:
    """One input as its source has it. `problem` says why there is no picture."""

    key: str
    shard: str
    member: str
    row: int
    caption: str
    picture: bytes | None
    columns: Columns = field(default_factory=dict)
    problem: str | None = None
    offset: int = 0
    size: int = 0

    @property
    def sha256(self) -> str:
        """Digest of what the source says, without the picture's bytes."""
        return json_sha256([self.key, self.member, self.row, self.caption, self.size])


def list_source(path: Path, *, root: Path) -> Iterator[tuple[str, Iterator[ListedRow]]]:
    """Files of a source in order, each with its rows; pictures are not read.

    `path`: a folder of tar shards, one tar, or one table. Raises InvalidInput.
    """
    for file in _source_files(path):
        if not file.resolve().is_relative_to(root.resolve()):
            raise InvalidInput(f"{file.name} leads out of the data folder")
        name = file.relative_to(root).as_posix()
        rows = _read_rows(file, name=name, root=root, with_pictures=False)
        yield name, (ListedRow(row.row, row.sha256, row.offset) for row in rows)


def read_chunk(chunk: Chunk, *, root: Path, check: bool = True) -> list[SourceRow]:
    """A chunk's rows with their pictures, in the plan's order.

    Raises Conflict where the source is no longer what was planned.
    """
    file = _inside(root, chunk.source)
    wanted = chunk.rows
    found: dict[int, SourceRow] = {}
    try:
        rows = _read_rows(
            file,
            name=chunk.source,
            root=root,
            with_pictures=True,
            wanted=frozenset(wanted),
            offset=chunk.offset,
            first_row=wanted[0],
        )
        for row in rows:
            if row.row in wanted:
                found[row.row] = row
            if row.row >= wanted[-1]:
                break
    except (InvalidInput, FileNotFoundError) as error:
        raise Conflict(f"{chunk.source} cannot be read any more: {error}") from error
    ordered = [found[row] for row in wanted if row in found]
    listed = [ListedRow(row.row, row.sha256) for row in ordered]
    if check and rows_sha256(listed) != chunk.rows_sha256:
        raise Conflict(f"{chunk.source} has changed since the run was planned")
    return ordered


def _source_files(path: Path) -> list[Path]:
    if path.is_dir():
        shards = sorted(file for file in path.glob("*.tar") if file.is_file())
        if not shards:
            raise InvalidInput(f"the folder {path.name!r} holds no .tar shards")
        return shards
    if path.suffix == ".tar" or path.suffix in TABLE_ENDINGS:
        return [path]
    endings = ", ".join((".tar", *TABLE_ENDINGS))
    raise InvalidInput(f"{path.name!r} is no source: a folder of shards, or one of {endings}")


def _read_rows(
    file: Path,
    *,
    name: str,
    root: Path,
    with_pictures: bool,
    wanted: frozenset[int] | None = None,
    offset: int = 0,
    first_row: int = 0,
) -> Iterator[SourceRow]:
    if file.suffix == ".tar":
        yield from _tar_rows(
            file, name=name, with_pictures=with_pictures, offset=offset, first_row=first_row
        )
    else:
        yield from _table_rows(
            file, name=name, root=root, with_pictures=with_pictures, wanted=wanted
        )


# ---- tar shards ------------------------------------------------------------------------------


@dataclass
class _Sample:
    """The members of one key, as they come."""

    key: str
    offset: int
    picture_member: str = ""
    picture: bytes | None = None
    picture_size: int = 0
    problem: str | None = None
    caption: str | None = None
    columns: dict[str, object] = field(default_factory=dict)


def _tar_rows(
    file: Path, *, name: str, with_pictures: bool, offset: int, first_row: int
) -> Iterator[SourceRow]:
    beside = _columns_beside(file)
    try:
        with file.open("rb") as stream:
            samples = _samples(stream, offset=offset, with_pictures=with_pictures)
            for row, sample in enumerate(samples, start=first_row):
                columns = {**beside.get(sample.key, {}), **sample.columns}
                caption = sample.caption
                if caption is None:
                    caption = str(columns.get("caption") or columns.get("text") or "")
                yield SourceRow(
                    key=sample.key,
                    shard=name,
                    member=sample.picture_member,
                    row=row,
                    caption=caption,
                    picture=sample.picture,
                    columns=columns,
                    problem=sample.problem,
                    offset=sample.offset,
                    size=sample.picture_size,
                )
    except (tarfile.TarError, EOFError) as error:
        raise InvalidInput(f"{name} is no tar that can be read: {error}") from error


def _samples(stream: BinaryIO, *, offset: int, with_pictures: bool) -> Iterator[_Sample]:
    # A tar can be entered at any member's header: the plan knows the one of each chunk.
    stream.seek(offset)
    sample: _Sample | None = None
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        # TarFile remembers every member: forget them, a shard may have a hundred thousand.
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]
            if not member.isreg():
                continue
            base = member.name.rsplit("/", 1)[-1]
            key, _, ending = base.partition(".")
            if not key:
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                # Python counts from where the stream stood when the tar was opened.
                sample = _Sample(key=key, offset=member.offset)
            _take(sample, tar, member, ending=ending.lower(), with_pictures=with_pictures)
    if sample is not None:
        yield sample


def _take(
    sample: _Sample,
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    *,
    ending: str,
    with_pictures: bool,
) -> None:
    if ending in PICTURE_ENDINGS:
        sample.picture_member, sample.picture_size = member.name, member.size
        if member.size > MAX_BYTES:
            sample.problem = "picture_too_large"
        elif with_pictures:
            sample.picture = _content(tar, member)
    elif ending in ("txt", "json") and member.size > MAX_SIDE_FILE_BYTES:
        sample.problem = "caption_too_long" if ending == "txt" else sample.problem
    elif ending == "txt":
        sample.caption = _content(tar, member).decode("utf-8", errors="replace")
    elif ending == "json":
        sample.columns = _lower(_parse_json(_content(tar, member)))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None, "a regular member has content"
    return stream.read()


def _parse_json(content: bytes) -> dict[str, object]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _lower(columns: Mapping[str, object]) -> dict[str, object]:
    lowered = {name.lower(): value for name, value in columns.items()}
    return {name: lowered[name] for name in COLUMNS if lowered.get(name) is not None}


def _columns_beside(file: Path) -> Mapping[str, Columns]:
    """Columns of the parquet that img2dataset wrote beside the tar, by key."""
    parquet = file.with_suffix(".parquet")
    if not parquet.is_file():
        return {}
    return _read_columns(parquet, parquet.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_columns(parquet: Path, _mtime_ns: int) -> Mapping[str, Columns]:
    try:
        names = [name for name in pq.read_schema(parquet).names if name.lower() in COLUMNS]
        table = pq.read_table(parquet, columns=names, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidInput(f"{parquet.name} cannot be read: {error}") from error
    rows = (_lower(row) for row in table.to_pylist())
    return {str(row["key"]): row for row in rows if "key" in row}


# ---- tables ----------------------------------------------------------------------------------


def _table_rows(
    file: Path, *, name: str, root: Path, with_pictures: bool, wanted: frozenset[int] | None
) -> Iterator[SourceRow]:
    for index, row in enumerate(_read_table(file, file.stat().st_mtime_ns)):
        if wanted is not None and index not in wanted:
            continue
        path = next((str(row[column]) for column in PATH_COLUMNS if row.get(column)), "")
        caption = next((row[column] for column in CAPTION_COLUMNS if row.get(column)), "")
        picture, size, problem = _table_picture(file, path, root=root, read=with_pictures)
        yield SourceRow(
            key=str(row.get("key") or f"{Path(path).stem[:64]}-{index:06d}"),
            shard=name,
            member=path,
            row=index,
            caption=str(caption),
            picture=picture,
            columns=row,
            problem=problem,
            size=size,
        )


@lru_cache(maxsize=2)
def _read_table(file: Path, _mtime_ns: int) -> list[dict[str, object]]:
    rows: Iterable[Mapping[str, object]]
    try:
        match file.suffix:
            case ".parquet":
                schema = pq.read_schema(file).names
                names = [n for n in schema if n.lower() in (*COLUMNS, *PATH_COLUMNS)]
                rows = pq.read_table(file, columns=names, partitioning=None).to_pylist()
            case ".csv":
                with file.open(newline="", encoding="utf-8") as text:
                    rows = [{k: v for k, v in row.items() if k} for row in csv.DictReader(text)]
            case _:
                with file.open(encoding="utf-8") as text:
                    rows = [_parse_json(line.encode()) for line in text if line.strip()]
    except (OSError, pa.ArrowInvalid, csv.Error, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file.name} cannot be read: {error}") from error
    lowered = [{name.lower(): value for name, value in row.items()} for row in rows]
    known = set().union(*lowered) if lowered else set()
    if not known & set(PATH_COLUMNS) or not known & set(CAPTION_COLUMNS):
        raise InvalidInput(
            f"{file.name} needs a column of picture paths ({', '.join(PATH_COLUMNS)}) and one of "
            f"captions ({', '.join(CAPTION_COLUMNS)}); it has {', '.join(sorted(known)) or 'none'}"
        )
    return lowered


def _table_picture(
    table: Path, path: str, *, root: Path, read: bool
) -> tuple[bytes | None, int, str | None]:
    """(bytes, size, problem) of a picture beside a table."""
    if not path or "\0" in path:
        return None, 0, "no_picture"
    real = (table.parent / path).resolve()
    if not real.is_relative_to(root.resolve()):
        return None, 0, "outside_data_folder"
    if not real.is_file():
        return None, 0, "no_picture"
    size = real.stat().st_size
    if size > MAX_BYTES:
        return None, size, "picture_too_large"
    return (real.read_bytes() if read else None), size, None


def _inside(root: Path, name: str) -> Path:
    file = (root / name).resolve()
    if not file.is_relative_to(root.resolve()):
        raise Conflict(f"{name} is not inside the data folder")
    return file
