"""Folders of pictures with their caption beside: PICTURE.txt, or PICTURE.json with a caption.

img2dataset's folders (00000/KEY.jpg, KEY.txt, KEY.json, and 00000.parquet) are of this kind, and so
is any folder in which somebody put a text beside each picture, however deep.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from unspoken.errors import InvalidInput
from worker.readers.columns import parse_object, pick_columns, text_of
from worker.readers.columns_beside import Beside, columns_beside
from worker.readers.picture_file import (
    MAX_SIDE_FILE_BYTES,
    PICTURE_ENDINGS,
    PictureFile,
    find_picture,
)
from worker.readers.row import SourceRow, Span
from worker.readers.samples import sample_key, samples_of


def picture_folders(top: Path) -> Iterator[Path]:
    """`top` and the folders below it that hold pictures, in order; links are not followed."""
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if any(map(_is_picture, names)):
            yield Path(folder)


def folder_rows(folder: Path, *, name: str, root: Path, span: Span) -> Iterator[SourceRow]:
    """Rows of the files right in `folder`, by name, from the span's place on.

    They are those of a tar with the same files. Raises InvalidInput behind the last row where the
    parquet beside cannot be read.
    """
    is_top = name == "."
    beside = Beside() if is_top else columns_beside(folder.with_name(f"{folder.name}.parquet"))
    samples = _samples(folder, folder.stat().st_mtime_ns)
    for row in range(span.first_row, len(samples)):
        sample = samples[row]
        picture = _find_picture(sample, folder, root, read=row in span.pictures_of)
        text, problem = _read_side_file(folder / sample.caption, root) if sample.caption else _NONE
        about, _ = _read_side_file(folder / sample.about, root) if sample.about else _NONE
        known = beside.of(sample.key, shard=folder.name)
        columns = {**known.columns, **pick_columns(parse_object(about or "") or {})}
        caption = text_of(columns.get("caption")) if text is None else text
        faults = [
            (picture.problem, None),
            (sample.problem, sample.detail),
            (problem, None),
            ("bad_row" if known.problem and not caption else None, known.problem),
        ]
        problem, detail = next((fault for fault in faults if fault[0] is not None), (None, None))
        yield SourceRow(
            key=text_of(columns.get("key")) or (sample.key if is_top else f"{name}/{sample.key}"),
            shard=name,
            member=picture.member,
            row=row,
            caption=caption,
            picture=picture.content,
            columns=columns,
            problem=problem,
            detail=detail,
            size=picture.size,
        )
    if beside.problem is not None:
        raise InvalidInput(beside.problem)


class _FolderSample(NamedTuple):
    """The names of a sample's files; an empty one where there is none."""

    key: str
    picture: str
    caption: str
    about: str
    problem: str | None
    detail: str | None


_NONE = (None, None)


@lru_cache(maxsize=4)
def _samples(folder: Path, _mtime_ns: int) -> list[_FolderSample]:
    names = sorted(path.name for path in folder.iterdir() if sample_key(path.name))
    samples: list[_FolderSample] = []
    for key, group in groupby(names, key=sample_key):
        own = list(group)
        for sample in samples_of(key or "", own):
            picture, caption, about = (
                "" if place is None else own[place]
                for place in (sample.picture, sample.caption, sample.about)
            )
            if picture or caption or _has_caption(folder / about):
                samples.append(
                    _FolderSample(
                        sample.key, picture, caption, about, sample.problem, sample.detail
                    )
                )
    return samples


def _has_caption(about: Path) -> bool:
    """Tell JSON that stands for a sample from any other JSON in the folder."""
    text, _ = _read_side_file(about, about.parent)
    return bool(text_of(pick_columns(parse_object(text or "") or {}).get("caption")))


def _find_picture(sample: _FolderSample, folder: Path, root: Path, *, read: bool) -> PictureFile:
    if not sample.picture:
        return PictureFile("")
    return find_picture(sample.picture, folder=folder, root=root, read=read)


def _is_picture(name: str) -> bool:
    return name.rpartition(".")[2].lower() in PICTURE_ENDINGS and not name.startswith(".")


def _read_side_file(path: Path, root: Path) -> tuple[str | None, str | None]:
    """(text, problem) of a file beside a picture; (None, None) where there is none."""
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        return None, "outside_data_folder"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIDE_FILE_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        return None, None
    except PermissionError:
        return None, "unreadable"
    if len(content) > MAX_SIDE_FILE_BYTES:
        return None, "caption_too_long"
    return content.decode("utf-8-sig", errors="replace"), None
