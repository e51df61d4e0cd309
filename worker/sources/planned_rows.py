"""Finds the planned rows of a chunk in a file that may have changed since.

A row is first looked up at its planned position. If another row is there, the file is listed once
and the row is found by its digest. A picture added to a folder, for example, moves later rows.
"""

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from unspoken.errors import InvalidInput
from unspoken.runs.chunks import NAME_DIGEST_CHARS, Chunk
from worker.sources.row import SOURCE_CHANGED, SourceRow, Span

Read = Callable[[Span], Iterator[SourceRow]]
"""A function that reads the rows of a file in a span."""


class Place(NamedTuple):
    """Current position of a row in its file, and the byte offset from which to read it."""

    row: int
    offset: int


class Places:
    """An index of a file's rows by digest; about 28 bytes per row."""

    def __init__(self, rows: Iterable[SourceRow]) -> None:
        contents, names, places, offsets = array("Q"), array("I"), array("q"), array("q")
        for row in rows:
            name, content = _split(row.digest)
            contents.append(content)
            names.append(name)
            places.append(row.row)
            offsets.append(row.offset)
        self._rows, self._offsets = np.array(places), np.array(offsets)  # (N,) each
        self._by_content = _Lookup(np.array(contents))
        self._by_name = _Lookup(np.array(names))

    def find(self, digest: str, *, near: int) -> Place | None:
        """Return the place nearest to `near` of a row with this digest; None if there is none."""
        return self._nearest(self._by_content.find(_split(digest)[1]), near)

    def find_picture(self, digest: str, *, near: int) -> Place | None:
        """Return the nearest place of a row whose picture has the same name, or None."""
        return self._nearest(self._by_name.find(_split(digest)[0]), near)

    def _nearest(self, found: np.ndarray, near: int) -> Place | None:
        if not len(found):
            return None
        index = found[np.argmin(np.abs(self._rows[found] - near))]
        return Place(int(self._rows[index]), int(self._offsets[index]))


class _Lookup:
    """Finds the positions of a value in an array of integers by binary search."""

    def __init__(self, values: np.ndarray) -> None:
        self._order = np.argsort(values, kind="stable")
        self._sorted = values[self._order]

    def find(self, value: int) -> np.ndarray:
        wanted = self._sorted.dtype.type(value)
        start, stop = (np.searchsorted(self._sorted, wanted, side) for side in ("left", "right"))
        found: np.ndarray = self._order[start:stop]
        return found


def planned_rows(chunk: Chunk, *, read: Read, find: Callable[[], Places]) -> list[SourceRow]:
    """Return a row for each planned row, in order, with pictures except for duplicates.

    find: lists the file; called only if a row is not at its planned position.
    """
    digests = chunk.digests
    wanted = frozenset(digests) - frozenset(chunk.duplicates)
    rows = {
        place: row
        for place, row in _read_at(read, digests, offset=chunk.offset, pictures_of=wanted).items()
        if row.digest == digests[place]
    }
    missing = {place: digest for place, digest in digests.items() if place not in rows}
    if missing:
        gone = {place: _gone(chunk.source, place) for place in missing}
        rows |= gone | _moved_rows(missing, wanted, read=read, find=find)
    for place in chunk.duplicates:
        if rows[place].problem != SOURCE_CHANGED:
            rows[place] = replace(rows[place], problem="duplicate")
    return [rows[place] for place in chunk.rows]


def _moved_rows(
    missing: Mapping[int, str], wanted: Collection[int], *, read: Read, find: Callable[[], Places]
) -> dict[int, SourceRow]:
    """Return planned place -> row for the rows that are still in the file, changed or not."""
    try:
        places = find()
    except (InvalidInput, FileNotFoundError, NotADirectoryError):
        return {}
    same = {place: places.find(digest, near=place) for place, digest in missing.items()}
    now = {
        place: found or places.find_picture(missing[place], near=place)
        for place, found in same.items()
    }
    at = [found for found in now.values() if found is not None]
    pictures_of = {found.row for place, found in same.items() if found and place in wanted}
    offset = min((found.offset for found in at), default=0)
    read_rows = _read_at(read, {found.row for found in at}, offset=offset, pictures_of=pictures_of)
    rows = {}
    for place, digest in missing.items():
        found = now[place]
        row = None if found is None else read_rows.get(found.row)
        if row is None:
            continue
        if row.digest == digest:
            rows[place] = row.moved_to(place)
        else:
            rows[place] = replace(row.moved_to(place), picture=None, problem=SOURCE_CHANGED)
    return rows


def _read_at(
    read: Read, places: Collection[int], *, offset: int, pictures_of: Collection[int]
) -> dict[int, SourceRow]:
    """Return place -> row for those of the places that the file still has."""
    found: dict[int, SourceRow] = {}
    if not places:
        return found
    last = max(places)
    try:
        for row in read(Span(first_row=min(places), offset=offset, pictures_of=pictures_of)):
            if row.row in places:
                found[row.row] = row
            if row.row >= last:
                break
    except (InvalidInput, FileNotFoundError, NotADirectoryError):
        # The file is gone or is another one. The caller compares the rows found with the plan.
        pass
    return found


def _gone(source: str, place: int) -> SourceRow:
    return SourceRow(
        key=f"row-{place}",
        shard=source,
        member="",
        row=place,
        caption="",
        picture=None,
        problem=SOURCE_CHANGED,
    )


def _split(digest: str) -> tuple[int, int]:
    return int(digest[:NAME_DIGEST_CHARS], 16), int(digest[NAME_DIGEST_CHARS:], 16)
