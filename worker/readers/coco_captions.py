"""COCO captions JSON: one row a picture, its captions after one another as one text."""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from unspoken.errors import InvalidInput
from worker.readers.picture_file import find_picture
from worker.readers.row import SourceRow, Span


class _Entry(NamedTuple):
    """A picture of the file; `path` is empty where its entry has none."""

    key: str
    path: str
    caption: str
    url: str | None


def coco_rows(
    file: Path, *, name: str, root: Path, pictures: Path, span: Span
) -> Iterator[SourceRow]:
    """Rows in the order of `images`; file names are seen from the folder `pictures`.

    Raises InvalidInput for what is no captions file.
    """
    entries = _read(file, file.stat().st_mtime_ns)
    for row in range(span.first_row, len(entries)):
        entry = entries[row]
        read = row in span.pictures_of
        picture = find_picture(entry.path, folder=pictures, root=root, read=read)
        yield SourceRow(
            key=entry.key or f"row-{row}",
            shard=name,
            member=picture.member,
            row=row,
            caption=entry.caption,
            picture=picture.content,
            columns={"url": entry.url} if entry.url else {},
            problem=picture.problem if entry.path else "bad_row",
            size=picture.size,
        )


@lru_cache(maxsize=1)
def _read(file: Path, _mtime_ns: int) -> list[_Entry]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file.name} is no JSON: {error}") from error
    images = _objects(content, "images")
    captions: dict[object, list[str]] = defaultdict(list)
    for annotation in _objects(content, "annotations"):
        caption, image_id = annotation.get("caption"), annotation.get("image_id")
        if isinstance(caption, str) and isinstance(image_id, int | str):
            captions[image_id].append(caption)
    if images and not captions:
        raise InvalidInput(f"{file.name} has no captions: is it COCO's captions file?")
    return [_entry(image, captions) for image in images]


def _objects(content: object, name: str) -> list[dict[str, object]]:
    """A list of the file; what is no object in it becomes an empty one."""
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, list):
        raise InvalidInput(f"a JSON source is COCO's captions file: it has no list of {name}")
    return [each if isinstance(each, dict) else {} for each in value]


def _entry(image: dict[str, object], captions: dict[object, list[str]]) -> _Entry:
    image_id, path, url = image.get("id"), image.get("file_name"), image.get("coco_url")
    known = isinstance(image_id, int | str)
    return _Entry(
        key=str(image_id) if known else "",
        path=path if isinstance(path, str) else "",
        caption=" ".join(map(_sentence, captions.get(image_id, []))) if known else "",
        url=url if isinstance(url, str) else None,
    )


def _sentence(caption: str) -> str:
    text = caption.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
