"""Reads folders of pictures with captions beside them: PICTURE.txt, or PICTURE.json.

img2dataset's folders (00000/KEY.jpg, KEY.txt, KEY.json, and 00000.parquet) are of this kind. So are
Hugging Face's imagefolder (metadata.jsonl or metadata.csv) and any folder with a text file beside
each picture, at any depth.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from unspoken.errors import InvalidInput
from worker.sources.row import SourceRow, Span
from worker.sources.samples import sample_key, samples_of
from worker.sources.source_file import (
    PICTURE_ENDINGS,
    PictureFile,
    SideFile,
    find_picture,
    read_side_file,
)
from worker.sources.tables.columns import (
    captions_of,
    join_captions,
    key_of,
    pick_columns,
)
from worker.sources.tables.tables_beside import (
    METADATA_NAMES,
    MetadataTable,
    ShardTable,
    find_metadata,
    find_shard_table,
)
from worker.sources.tables.text import parse_object


def folder_rows(folder: Path, *, name: str, root: Path, span: Span) -> Iterator[SourceRow]:
    """Yield the rows of the files directly in `folder`, by name, from the span's start on.

    A tar with the same files has the same rows. After them come subfolders that cannot be read, and
    rows of a metadata table without a picture. Raises InvalidInput after the last row if the
    parquet file beside the folder cannot be read.
    """
    reader = _Folder(
        folder,
        name,
        root,
        beside=ShardTable()
        if name == "."
        else find_shard_table(folder.parent / f"{folder.name}.parquet"),
        metadata=find_metadata(folder, root=root),
    )
    samples = _samples(folder, folder.stat().st_mtime_ns)
    for row in range(span.first_row, len(samples)):
        yield reader.read(samples[row], row=row, with_picture=row in span.pictures_of)
    for row, other in enumerate(reader.others(), start=len(samples)):
        if row >= span.first_row:
            yield reader.bad_row(other, row=row)
    if reader.beside.problem is not None:
        raise InvalidInput(reader.beside.problem)


class _FolderSample(NamedTuple):
    """File names of a sample; an empty string for a missing file."""

    key: str
    picture: str
    caption: str
    about: str
    problem: str | None
    detail: str | None


class _Other(NamedTuple):
    """An input of the folder that is not one of its files."""

    name: str
    problem: str
    detail: str
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Folder:
    """A folder, and the tables that describe its pictures."""

    path: Path
    name: str
    root: Path
    beside: ShardTable
    metadata: MetadataTable | None

    def read(self, sample: _FolderSample, *, row: int, with_picture: bool) -> SourceRow:
        picture = PictureFile("")
        if sample.picture:
            picture = find_picture(
                sample.picture, folder=self.path, root=self.root, read=with_picture
            )
        text, about = self._side_file(sample.caption), self._side_file(sample.about)
        known = self.beside.of(sample.key, shard=self.path.name)
        columns = {**known.columns, **pick_columns(parse_object(about.text or "") or {})}
        if self.metadata is not None and sample.picture:
            columns = {**self.metadata.of(self.path / sample.picture), **columns}
        captions = captions_of(columns.get("caption") if text.text is None else text.text)
        faults = [
            (picture.problem, None),
            (sample.problem, sample.detail),
            (text.problem, text.detail),
            (None if captions else about.problem, about.detail),
            ("bad_row" if known.problem and not captions else None, known.problem),
        ]
        problem, detail = next((fault for fault in faults if fault[0] is not None), (None, None))
        return SourceRow(
            key=key_of(columns.get("key")) or self._key(sample.key),
            shard=self.name,
            member=picture.member,
            row=row,
            caption=join_captions(captions),
            captions=captions,
            picture=picture.content,
            columns=columns,
            problem=problem,
            detail=detail,
            size=picture.size,
        )

    def others(self) -> Iterator[_Other]:
        """Yield blocked subfolders, and the metadata table's rows without a picture."""
        for folder in blocked_folders(self.path, root=self.root):
            yield _Other(folder.name, folder.problem, folder.detail)
        if self.metadata is not None and self.metadata.file.parent == self.path:
            for bad in self.metadata.missing():
                yield _Other(bad.name, bad.problem, bad.detail, bad.captions)

    def bad_row(self, other: _Other, *, row: int) -> SourceRow:
        return SourceRow(
            key=self._key(other.name),
            shard=self.name,
            member=self._key(other.name),
            row=row,
            caption=join_captions(other.captions),
            captions=other.captions,
            picture=None,
            problem=other.problem,
            detail=other.detail,
        )

    def _key(self, name: str) -> str:
        return name if self.name == "." else f"{self.name}/{name}"

    def _side_file(self, name: str) -> SideFile:
        return read_side_file(self.path / name, self.root) if name else SideFile()


@lru_cache(maxsize=4)
def _samples(folder: Path, _mtime_ns: int) -> list[_FolderSample]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if sample_key(e.name) and not _is_folder(e))
    samples: list[_FolderSample] = []
    for key, group in groupby(names, key=sample_key):
        own = list(group)
        for sample in samples_of(key or "", own):
            picture, caption, about = (
                "" if place is None else own[place]
                for place in (sample.picture, sample.caption, sample.about)
            )
            if picture or caption or _has_caption(folder / about):
                problem, detail = sample.problem, sample.detail
                found = _FolderSample(sample.key, picture, caption, about, problem, detail)
                samples.append(found)
    return samples


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to a place without access, or a cycle of links
        return False


def _has_caption(about: Path) -> bool:
    """Return True if a JSON file has a caption; other JSON files are not samples."""
    text = read_side_file(about, about.parent).text
    return bool(captions_of(pick_columns(parse_object(text or "") or {}).get("caption")))


# ---- folders below a source -----------------------------------------------------------------


class BlockedFolder(NamedTuple):
    """A folder that cannot be read. It becomes a row of its parent folder."""

    name: str
    problem: str
    detail: str


@dataclass
class _Listing:
    """Direct content of a folder, without hidden files and folders."""

    has_rows: bool = False
    folders: list[Path] = field(default_factory=list)
    blocked: list[BlockedFolder] = field(default_factory=list)


def picture_folders(top: Path, *, root: Path) -> Iterator[Path]:
    """Yield those of `top` and the folders below it that contain pictures or blocked folders.

    Links to folders are followed if they lead to another place below `root`; each place is visited
    once. Raises InvalidInput if there is no permission to read `top`.
    """
    waiting, seen = [top], set[Path]()
    while waiting:
        folder = waiting.pop()
        place = folder.resolve()
        if place in seen:
            continue
        seen.add(place)
        try:
            listing = _list(folder, top=top, root=root)
        except PermissionError as error:
            raise InvalidInput(
                f"the folder {folder.name!r} cannot be read: permission denied"
            ) from error
        if listing.has_rows or listing.blocked:
            yield folder
        waiting += reversed(listing.folders)


def blocked_folders(folder: Path, *, root: Path) -> list[BlockedFolder]:
    """Return the direct subfolders of `folder` that cannot be read, in order."""
    return _list(folder, top=folder, root=root).blocked


def _list(folder: Path, *, top: Path, root: Path) -> _Listing:
    listing = _Listing()
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not _is_folder(entry):
            ending = entry.name.rpartition(".")[2].lower()
            listing.has_rows |= ending in PICTURE_ENDINGS or entry.name in METADATA_NAMES
            continue
        path = folder / entry.name
        problem = _link_problem(path, root) if entry.is_symlink() else _access_problem(path)
        if problem is not None:
            listing.blocked.append(problem)
        elif not (entry.is_symlink() and path.resolve().is_relative_to(top.resolve())):
            listing.folders.append(path)
    return listing


def _link_problem(path: Path, root: Path) -> BlockedFolder | None:
    """Return the problem of a link to a folder; None if it has none."""
    if not path.resolve().is_relative_to(root.resolve()):
        detail = f"the link {path.name} leads to a folder outside the data folder"
        return BlockedFolder(path.name, "outside_data_folder", detail)
    return _access_problem(path)


def _access_problem(path: Path) -> BlockedFolder | None:
    try:
        os.scandir(path).close()
    except PermissionError:
        detail = f"the folder {path.name} cannot be read: permission denied"
        return BlockedFolder(path.name, "unreadable", detail)
    return None
