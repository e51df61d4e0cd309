"""Records of tables, and the names that intake uses for their columns.

LAION's tables spell one column in many ways: URL and url, TEXT and caption, LANGUAGE and lang.
Case, spaces, '-' and '_' are ignored. If several columns mean the same, the first spelling below
that has a usable value is taken. Columns that intake does not use are not loaded.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from worker.sources.source_file import PictureFile

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "key": ("key",),
    "status": ("status",),
    "url": ("url", "imageurl"),
    "caption": (
        *("caption", "captions", "text", "alttext", "topcaption"),
        *("comment", "sentence", "sentences", "description"),
    ),
    "path": (
        *("imagepath", "path", "image", "filename", "file", "filepath"),
        *("imagename", "imagefile"),
    ),
    "language": ("language", "lang"),
    "punsafe": ("punsafe", "unsafeprobability"),
    "nsfw": ("nsfw",),
    "pwatermark": ("pwatermark", "watermark", "watermarkscore"),
    "similarity": (
        "similarity",
        "clipsimilarity",
        "clipsimilarityvitb32",
        "clipb32similarityscore",
    ),
}
"""Our name -> spellings in lower case, letters and digits only, the preferred one first."""

_NAMES = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}


class Record(NamedTuple):
    """A row of a table. If it cannot be read, `values` is None and `detail` gives line and reason.

    `picture`: the picture, if it is stored in the table itself instead of as a path.
    """

    values: dict[str, object] | None
    offset: int = 0
    detail: str | None = None
    picture: PictureFile | None = None


def known_column(spelling: str) -> str | None:
    """Return our name of a source's column; None if intake does not read it."""
    return _NAMES.get(_squeeze(spelling))


def pick_columns(row: Mapping[str, object]) -> dict[str, object]:
    """Return the known columns of a row that have a usable value, under our names."""
    squeezed: dict[str, object] = {}
    for spelling, value in row.items():
        if value is not None and value != "":
            squeezed.setdefault(_squeeze(spelling), value)
    picked: dict[str, object] = {}
    for name, spellings in SPELLINGS.items():
        values = [squeezed[each] for each in spellings if each in squeezed]
        value = next((value for value in values if _is_usable(name, value)), None)
        if value is not None:
            picked[name] = value
    return picked


def _is_usable(name: str, value: object) -> bool:
    """Return False for NaN, which pandas writes for a missing value, and for an empty caption."""
    if name == "caption":
        return bool(captions_of(value))
    return not (isinstance(value, float) and math.isnan(value))


def known_spellings(spellings: Iterable[str]) -> list[str]:
    """Return those of a table's columns that intake reads."""
    return [spelling for spelling in spellings if known_column(spelling)]


def text_of(value: object) -> str:
    """Return the value if it is text, else an empty string."""
    return value if isinstance(value, str) else ""


def key_of(value: object) -> str:
    """Return a text or a number as a key; an empty string for any other value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""


def captions_of(value: object) -> tuple[str, ...]:
    """Return the distinct, non-blank texts of a caption or a list of captions."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = (each for each in values if isinstance(each, str) and each.strip())
    return tuple(dict.fromkeys(texts))


def join_captions(captions: Sequence[str]) -> str:
    """Return a single caption unchanged; join several captions as sentences of one text."""
    return captions[0] if len(captions) == 1 else " ".join(map(_sentence, captions))


def _sentence(caption: str) -> str:
    text = caption.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


@lru_cache(maxsize=1024)
def _squeeze(spelling: str) -> str:
    return "".join(character for character in spelling.lower() if character.isalnum())
