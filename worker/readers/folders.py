"""Folders of pictures with their caption beside: PICTURE.txt, or PICTURE.json with a caption.

img2dataset's folders (00000/KEY.jpg, KEY.txt, KEY.json, and 00000.parquet) are of this kind, and so
is any folder in which somebody put a text beside each picture, however deep.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from worker.readers.columns import parse_object, pick_columns, text_of
from worker.readers.columns_beside import columns_beside
from worker.readers.picture_file import MAX_SIDE_FILE_BYTES, PICTURE_ENDINGS, find_picture
from worker.readers.row import SourceRow, Span


def picture_folders(top: Path) -> Iterator[Path]:
    """`top` and the folders below it that hold pictures, in order; links are not followed."""
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if any(map(_is_picture, names)):
            yield Path(folder)


def folder_rows(folder: Path, *, name: str, root: Path, span: Span) -> Iterator[SourceRow]:
    """Rows of the pictures right in `folder`, by name, from the span's place on."""
    beside = columns_beside(folder.with_name(folder.name + ".parquet")) if name != "." else {}
    names = _picture_names(folder, folder.stat().st_mtime_ns)
    for row in range(span.first_row, len(names)):
        stem = names[row].rpartition(".")[0]
        picture = find_picture(names[row], folder=folder, root=root, read=row in span.pictures_of)
        text, problem = _read_side_file(folder / f"{stem}.txt", root)
        about, _ = _read_side_file(folder / f"{stem}.json", root)
        columns = {**beside.get(stem, {}), **pick_columns(parse_object(about or "") or {})}
        yield SourceRow(
            key=text_of(columns.get("key")) or _key(name, stem),
            shard=name,
            member=picture.member,
            row=row,
            caption=text_of(columns.get("caption")) if text is None else text,
            picture=picture.content,
            columns=columns,
            problem=picture.problem or problem,
            size=picture.size,
        )


def _key(name: str, stem: str) -> str:
    return stem if name == "." else f"{name}/{stem}"


@lru_cache(maxsize=4)
def _picture_names(folder: Path, _mtime_ns: int) -> list[str]:
    return sorted(filter(_is_picture, (path.name for path in folder.iterdir())))


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
