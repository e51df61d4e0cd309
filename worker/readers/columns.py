"""The columns that intake reads, whatever a source calls them.

LAION's tables spell one column in many ways: URL and url, TEXT and caption, LANGUAGE and lang.
Case, blanks, '-' and '_' do not count; of several columns that mean the same, the first one below
that has a value is taken. Columns that nobody here reads are not loaded.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "key": ("key",),
    "status": ("status",),
    "url": ("url", "imageurl"),
    "caption": ("caption", "text", "alttext", "topcaption"),
    "path": ("imagepath", "path", "image", "filename", "file", "filepath"),
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


def known_column(spelling: str) -> str | None:
    """Our name of a source's column; None where intake does not read it."""
    return _NAMES.get(_squeeze(spelling))


def pick_columns(row: Mapping[str, object]) -> dict[str, object]:
    """A source's row under our names: known columns that have a value."""
    squeezed: dict[str, object] = {}
    for spelling, value in row.items():
        if value is not None and value != "":
            squeezed.setdefault(_squeeze(spelling), value)
    picked: dict[str, object] = {}
    for name, spellings in SPELLINGS.items():
        value = next((squeezed[each] for each in spellings if each in squeezed), None)
        if value is not None:
            picked[name] = value
    return picked


def known_spellings(spellings: Iterable[str]) -> list[str]:
    """Those of a table's columns that are worth loading."""
    return [spelling for spelling in spellings if known_column(spelling)]


def text_of(value: object) -> str:
    """A column's text; empty for what is none, such as the NaN that pandas writes for a gap."""
    return value if isinstance(value, str) else ""


def parse_object(content: bytes | str) -> dict[str, object] | None:
    """The JSON object in `content`; None for what is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@lru_cache(maxsize=1024)
def _squeeze(spelling: str) -> str:
    return "".join(character for character in spelling.lower() if character.isalnum())
