"""Reads COCO captions JSON: one row per picture, with all of its captions.

Karpathy's split files of COCO and Flickr (dataset_coco.json) have the captions inside `images`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from unspoken.errors import InvalidInput
from worker.sources.row import SourceRow, Span, numbered_key
from worker.sources.source_file import find_picture
from worker.sources.tables.columns import captions_of, join_captions, key_of, text_of
from worker.sources.tables.tables import check_table, table_rows
from worker.sources.tables.text import read_json


class _Entry(NamedTuple):
    """A picture of the file; `path` is empty if its entry has none."""

    key: str
    path: str
    captions: tuple[str, ...]
    url: str | None = None
    detail: str | None = None


def coco_rows(
    file: Path, *, name: str, root: Path, pictures: Path, span: Span
) -> Iterator[SourceRow]:
    """Yield rows in the order of `images`; file names are relative to the folder `pictures`.

    Captions of a picture that is missing from `images` form a row after these. A JSON list is read
    as a table. Raises InvalidInput for any other JSON.
    """
    about = file.stat()
    entries = _read(file, about.st_mtime_ns, about.st_size)
    if entries is None:
        if span.first_row == 0:
            check_table(file)
        yield from table_rows(file, name=name, root=root, pictures=pictures, span=span)
        return
    for row in range(span.first_row, len(entries)):
        entry = entries[row]
        read = row in span.pictures_of
        picture = find_picture(entry.path, folder=pictures, root=root, read=read)
        yield SourceRow(
            key=entry.key or numbered_key(picture.member, row),
            shard=name,
            member=picture.member,
            row=row,
            caption=join_captions(entry.captions),
            captions=entry.captions,
            picture=picture.content,
            columns={"url": entry.url} if entry.url else {},
            problem=picture.problem if entry.path else "bad_row",
            detail=entry.detail,
            size=picture.size,
        )


@lru_cache(maxsize=1)
def _read(file: Path, _mtime_ns: int, _size: int) -> list[_Entry] | None:
    """Return the pictures of a captions file; None for a list."""
    content = read_json(file)
    if isinstance(content, list):
        return None
    images = _objects(content, "images")
    if any("sentences" in image for image in images):
        return list(map(_split_entry, images))
    captions: dict[str, list[object]] = defaultdict(list)
    for annotation in _objects(content, "annotations"):
        # Some tools write the same id once as a number and once as text.
        captions[key_of(annotation.get("image_id"))].append(annotation.get("caption"))
    if images and not any(map(captions_of, captions.values())):
        raise InvalidInput(f"{file.name} has no captions: is it COCO's captions file?")
    entries = [_entry(image, captions) for image in images]
    known = {entry.key for entry in entries}
    return entries + [
        _Entry(key, "", captions_of(texts), detail=f"no entry of images has the id {key!r}")
        for key, texts in captions.items()
        if key and key not in known and captions_of(texts)
    ]


def _objects(content: object, name: str) -> list[dict[str, object]]:
    """Return the list called `name`; elements that are not objects become empty objects."""
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, list):
        raise InvalidInput(
            f"a JSON source is a list of rows or COCO's captions file: it has no list of {name}"
        )
    return _dicts(value)


def _entry(image: dict[str, object], captions: Mapping[str, Sequence[object]]) -> _Entry:
    key, url = key_of(image.get("id")), image.get("coco_url")
    return _Entry(
        key=key,
        path=text_of(image.get("file_name")),
        captions=captions_of(captions.get(key, ())) if key else (),
        url=url if isinstance(url, str) else None,
    )


def _split_entry(image: dict[str, object]) -> _Entry:
    """Return the entry of a picture in Karpathy's split files."""
    sentences = image.get("sentences")
    said = [each.get("raw") for each in _dicts(sentences if isinstance(sentences, list) else [])]
    folder, name = text_of(image.get("filepath")), text_of(image.get("filename"))
    return _Entry(
        key=key_of(image.get("cocoid", image.get("imgid"))),
        path=f"{folder}/{name}" if folder and name else name,
        captions=captions_of(said),
    )


def _dicts(values: Sequence[object]) -> list[dict[str, object]]:
    return [each if isinstance(each, dict) else {} for each in values]
