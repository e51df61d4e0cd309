"""img2dataset's tar shards (webdataset): KEY.jpg, KEY.txt, KEY.json, and the parquet beside.

Nothing is unpacked: members are read as streams, only regular files, and their names are never
used as paths.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from unspoken.errors import InvalidInput
from unspoken.images import MAX_BYTES
from worker.readers.columns import parse_object, pick_columns, text_of
from worker.readers.columns_beside import columns_beside
from worker.readers.picture_file import MAX_SIDE_FILE_BYTES, PICTURE_ENDINGS
from worker.readers.row import SourceRow, Span


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


def tar_rows(file: Path, *, name: str, span: Span) -> Iterator[SourceRow]:
    """Rows of a shard from the span's place on.

    Where the file ends too early the row at the tear says so, and is the last. Raises InvalidInput
    for what is no tar.
    """
    beside = columns_beside(file.with_suffix(".parquet"))
    try:
        with file.open("rb") as stream:
            for row, sample in enumerate(_samples(stream, span=span), start=span.first_row):
                columns = {**beside.get(sample.key, {}), **sample.columns}
                caption = sample.caption
                yield SourceRow(
                    key=sample.key,
                    shard=name,
                    member=sample.picture_member,
                    row=row,
                    caption=text_of(columns.get("caption")) if caption is None else caption,
                    picture=sample.picture,
                    columns=columns,
                    problem=sample.problem,
                    offset=sample.offset,
                    size=sample.picture_size,
                )
    except (tarfile.TarError, EOFError) as error:
        raise InvalidInput(f"{name} is no tar that can be read: {error}") from error


def _samples(stream: BinaryIO, *, span: Span) -> Iterator[_Sample]:
    # A tar can be entered at any member's header: the plan knows the one of each chunk.
    stream.seek(span.offset)
    row = span.first_row - 1
    sample: _Sample | None = None
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        try:
            # TarFile remembers every member: forget them, a shard may have a hundred thousand.
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]
                key, _, ending = member.name.rsplit("/", 1)[-1].partition(".")
                if not member.isreg() or not key:
                    continue
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    row += 1
                    # Python counts from where the stream stood when the tar was opened.
                    sample = _Sample(key=key, offset=member.offset)
                _take(sample, tar, member, ending=ending.lower(), read=row in span.pictures_of)
        except tarfile.ReadError:
            if sample is None:
                raise
            sample.problem = "torn_shard"
    if sample is not None:
        yield sample


def _take(
    sample: _Sample, tar: tarfile.TarFile, member: tarfile.TarInfo, *, ending: str, read: bool
) -> None:
    if ending in PICTURE_ENDINGS:
        sample.picture_member, sample.picture_size = member.name, member.size
        if member.size > MAX_BYTES:
            sample.problem = "picture_too_large"
        elif read:
            sample.picture = _content(tar, member)
    elif ending in ("txt", "json") and member.size > MAX_SIDE_FILE_BYTES:
        sample.problem = "caption_too_long" if ending == "txt" else sample.problem
    elif ending == "txt":
        sample.caption = _content(tar, member).decode("utf-8", errors="replace")
    elif ending == "json":
        sample.columns = pick_columns(parse_object(_content(tar, member)) or {})


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None, "a regular member has content"
    return stream.read()
