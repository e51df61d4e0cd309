"""Reads tar shards as img2dataset and webdataset write them, and the parquet file beside them.

Nothing is unpacked: members are read in place, and their names are never used as paths. Rows are
webdataset's samples; files that do not fit a sample are rows of their own (worker.sources.samples).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from unspoken.errors import InvalidInput, TornArchive
from unspoken.imaging.images import MAX_BYTES
from unspoken.imaging.tar_members import Member, find_link_targets, iter_members
from worker.sources.row import SourceRow, Span, bad_shard
from worker.sources.samples import Sample, sample_key, samples_of
from worker.sources.source_file import MAX_SIDE_FILE_BYTES
from worker.sources.tables.columns import captions_of, join_captions, pick_columns
from worker.sources.tables.tables_beside import ShardTable, find_shard_table
from worker.sources.tables.text import decode_text, parse_object

MEMBERS_OF_A_KEY = 10_000
MAX_MEMBERS_OF_A_KEY = 15_000
"""A group is held in memory, so it is split. The split is where the stem changes after 10 000
members, so that a picture stays with its caption, and at the latest after 15 000."""
_PLACE_BITS = 14  # enough for a position in a group: 15 000 members and a failed row


class _Group(NamedTuple):
    """Consecutive members of one key."""

    key: str
    members: Sequence[Member]
    damage: InvalidInput | None = None
    """Error that prevents reading beyond the last of the members."""

    @property
    def start(self) -> int:
        return self.members[0].offset if self.members else 0


def tar_rows(file: Path, *, name: str, span: Span) -> Iterator[SourceRow]:
    """Yield the rows of a shard, starting at the span's first row.

    The complete samples of a damaged tar are read. If anything is lost, in the tar or in the
    parquet file beside it, the last row is a failed row with the reason.
    """
    beside = find_shard_table(file.with_suffix(".parquet"))
    problems = [] if beside.problem is None else [beside.problem]
    start, place = _split(span.offset)
    row = span.first_row - place
    with file.open("rb") as stream:
        num_bytes = stream.seek(0, os.SEEK_END)
        shard = _Shard(file, stream, name, num_bytes, beside, span)
        for group in _groups(stream, start):
            start, place, is_torn = group.start, 0, False
            for sample in samples_of(group.key, [member.name for member in group.members]):
                found = shard.read(sample, group, row=row, offset=_join(start, place))
                if found is not None:
                    yield found
                    is_torn |= found.problem == "torn_shard"
                    row, place = row + 1, place + 1
            is_told = is_torn and isinstance(group.damage, TornArchive)
            if group.damage is not None and not is_told:
                problems.insert(0, f"{name} cannot be read: {group.damage}")
    if problems:
        bad = bad_shard(name, row=row, size=num_bytes, detail="; ".join(problems))
        yield replace(bad, offset=_join(start, place))


def _join(start: int, place: int) -> int:
    """Return the offset of a row: its group's byte offset and its position within the group."""
    return start << _PLACE_BITS | place


def _split(offset: int) -> tuple[int, int]:
    return offset >> _PLACE_BITS, offset & ((1 << _PLACE_BITS) - 1)


def _groups(stream: BinaryIO, start: int) -> Iterator[_Group]:
    key, members = "", list[Member]()
    damage: InvalidInput | None = None
    try:
        for member in iter_members(stream, offset=start):
            its_key = sample_key(member.name)
            if its_key is None:
                continue
            if members and (its_key != key or _is_full(members, member)):
                yield _Group(key, members)
                members = []
            key = its_key
            members.append(member)
    except InvalidInput as error:
        damage = error
    if members or damage is not None:
        yield _Group(key, members, damage)


def _is_full(members: Sequence[Member], following: Member) -> bool:
    if len(members) < MEMBERS_OF_A_KEY:
        return False
    stems = [member.name.rpartition(".")[0] for member in (members[-1], following)]
    return stems[0] != stems[1] or len(members) >= MAX_MEMBERS_OF_A_KEY


class _Content(NamedTuple):
    """The content of a member, or the reason why it is not read."""

    content: bytes | None = None
    problem: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class _Shard:
    """An open tar."""

    file: Path
    stream: BinaryIO
    name: str
    num_bytes: int
    beside: ShardTable
    span: Span

    def read(self, sample: Sample, group: _Group, *, row: int, offset: int) -> SourceRow | None:
        """Return the sample's row; None if the sample is only a JSON file without a caption."""
        picture = self._member(sample.picture, group)
        shown = self._picture(picture, read=row in self.span.pictures_of)
        text = self._side_file(self._member(sample.caption, group))
        about = self._side_file(self._member(sample.about, group))
        own = pick_columns(parse_object(about.content or b"") or {})
        known = self.beside.of(sample.key, shard=self.file.stem)
        columns = {**known.columns, **own}
        captions = captions_of(columns.get("caption"))
        if text.content is not None:
            captions = captions_of(decode_text(text.content))
        caption = join_captions(captions)
        if picture is None and sample.caption is None and not caption:
            return None
        faults = [
            self._tear(sample, group, caption),
            (shown.problem, shown.detail),
            (sample.problem, sample.detail),
            (text.problem, text.detail),
            (None if caption else about.problem, about.detail),
            ("bad_row" if known.problem and not caption else None, known.problem),
        ]
        problem, detail = next((fault for fault in faults if fault[0] is not None), (None, None))
        is_there = picture is not None and self._is_whole(picture)
        return SourceRow(
            key=sample.key,
            shard=self.name,
            member="" if picture is None else picture.name,
            row=row,
            caption=caption,
            captions=captions,
            picture=shown.content,
            columns=columns,
            problem=problem,
            detail=detail,
            offset=offset,
            size=picture.size if picture is not None and is_there else 0,
            picture_offset=picture.start if picture is not None and is_there else None,
        )

    def _member(self, place: int | None, group: _Group) -> Member | None:
        """Return a member of the group; a hard link has the content of its target."""
        if place is None:
            return None
        member = group.members[place]
        if member.link_to is None:
            return member
        about = self.file.stat()
        target = _link_targets(self.file, about.st_mtime_ns, about.st_size).get(member.offset)
        if target is None:
            refused = f"a hard link to {member.link_to}, which is not before it in this tar"
            return member._replace(refused=refused)
        return member._replace(start=target.start, size=target.size, refused=target.refused)

    def _picture(self, member: Member | None, *, read: bool) -> _Content:
        if member is None:
            return _Content()
        if member.refused is not None:
            return _refuse(member)
        if member.size > MAX_BYTES:
            return _Content(problem="picture_too_large")
        return _Content(self._read(member)) if read else _Content()

    def _side_file(self, member: Member | None) -> _Content:
        if member is None:
            return _Content()
        if member.refused is not None:
            return _refuse(member)
        if member.size > MAX_SIDE_FILE_BYTES:
            return _Content(problem="caption_too_long")
        return _Content(self._read(member))

    def _read(self, member: Member) -> bytes:
        self.stream.seek(member.start)
        return self.stream.read(member.size)

    def _tear(self, sample: Sample, group: _Group, caption: str) -> tuple[str | None, str | None]:
        """Return problem and detail if a sample is cut by a damaged tar or may lack its caption."""
        if group.damage is None:
            return None, None
        is_whole = caption.strip() and all(
            self._is_whole(group.members[place]) for place in sample.places
        )
        return (None, None) if is_whole else ("torn_shard", f"{self.name}: {group.damage}")

    def _is_whole(self, member: Member) -> bool:
        return member.start + member.size <= self.num_bytes


def _refuse(member: Member) -> _Content:
    detail = f"{member.name} is {member.refused}: its content is not read"
    return _Content(problem="not_regular", detail=detail)


@lru_cache(maxsize=2)
def _link_targets(file: Path, _mtime_ns: int, _size: int) -> Mapping[int, Member]:
    with file.open("rb") as stream:
        return find_link_targets(stream)
