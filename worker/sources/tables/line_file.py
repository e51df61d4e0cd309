"""Reads the lines of a text file one at a time, each with the byte offset where it begins.

Lines are read as bytes and decoded one by one, so that a reader may start at any of them. Files in
UTF-16 or UTF-32, and files whose lines end in CR alone, are first converted as a whole.
"""

import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from unspoken.errors import InvalidInput
from worker.sources.tables.text import decode_text, looks_latin, marked_encoding

MAX_LINE_BYTES = 1024 * 1024
MAX_CONVERTED_BYTES = 256 * 1024 * 1024
"""Largest file that is converted, because the conversion is done in memory."""

_BLOCK_BYTES = 1024 * 1024
_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"


class Line(NamedTuple):
    """A line with its line end. If it cannot be read, `text` is empty and `problem` says why."""

    text: str
    offset: int
    problem: str | None = None


class LineFile:
    """A text file that is open for reading. Raises InvalidInput if it cannot be converted."""

    def __init__(self, file: Path) -> None:
        found = file.stat()
        self._stream: BinaryIO
        converted = _converted(file, found.st_mtime_ns, found.st_size)
        if converted is not None:
            self._encoding = "utf-8"
            self._stream = io.BytesIO(converted)
        else:
            self._encoding = _byte_encoding(file, found.st_mtime_ns, found.st_size)
            self._stream = file.open("rb")
        self._offset = 0
        self._counted = (0, 0)  # an offset, and the number of lines before it

    def __enter__(self) -> "LineFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()

    @property
    def offset(self) -> int:
        """Byte offset of the next line."""
        return self._offset

    def seek(self, offset: int) -> None:
        """Continue with the line that begins at this byte offset."""
        self._offset = self._stream.seek(offset)

    def __iter__(self) -> Iterator[Line]:
        while (line := self.read()) is not None:
            yield line

    def read(self) -> Line | None:
        """Return the next line; None at the end."""
        start = self._offset
        raw = self._stream.readline(MAX_LINE_BYTES + 1)
        if not raw:
            return None
        self._offset += len(raw)
        if len(raw) > MAX_LINE_BYTES:
            self._skip_rest(raw)
            return Line("", start, f"is longer than {MAX_LINE_BYTES} bytes")
        try:
            text = raw.decode(self._encoding)
        except UnicodeDecodeError:
            return Line("", start, f"is not {self._encoding} text: save the file as UTF-8")
        return Line(text.removeprefix(_MARK) if start == 0 else text, start)

    def number_at(self, offset: int) -> int:
        """Return the number, from 1, of the line that begins at this byte offset."""
        place = self._stream.tell()
        start, number = self._counted
        if offset < start:
            start, number = 0, 0
        self._stream.seek(start)
        while start < offset:
            block = self._stream.read(min(_BLOCK_BYTES, offset - start))
            if not block:
                break
            start += len(block)
            number += block.count(b"\n")
        self._counted = (start, number)
        self._stream.seek(place)
        return number + 1

    def _skip_rest(self, part: bytes) -> None:
        while part and not part.endswith(b"\n"):
            part = self._stream.readline(_BLOCK_BYTES)
            self._offset += len(part)


@lru_cache(maxsize=1)
def _converted(file: Path, _mtime_ns: int, size: int) -> bytes | None:
    """Return the file as UTF-8 with LF; None if it needs no conversion."""
    with file.open("rb") as stream:
        head = stream.read(_BLOCK_BYTES)
        encoding = marked_encoding(head)
        wide = encoding is not None and encoding.startswith(("utf-16", "utf-32"))
        lone_cr = not wide and b"\r" in head and b"\n" not in head
        if not wide and not lone_cr:
            return None
        if size > MAX_CONVERTED_BYTES:
            what = encoding if wide else "a file whose lines end in CR alone"
            raise InvalidInput(
                f"{file.name} is {what} and has over {MAX_CONVERTED_BYTES} bytes: save it as "
                "UTF-8, for example with iconv"
            )
        content = head + stream.read(MAX_CONVERTED_BYTES)
    text = decode_text(content)
    return (text if "\n" in text else text.replace("\r", "\n")).encode("utf-8", "replace")


@lru_cache(maxsize=4)
def _byte_encoding(file: Path, _mtime_ns: int, _size: int) -> str:
    """Return 'utf-8', or 'cp1252' if no line with accents is UTF-8 and the text is Latin.

    If other lines with accents are UTF-8, a line that is not UTF-8 is damaged and becomes a bad
    row.
    """
    foreign: list[bytes] = []
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES) + stream.readline(MAX_LINE_BYTES):
            if block.isascii():
                continue
            for line in block.splitlines():
                if line.isascii():
                    continue
                if _is_utf8(line):
                    return "utf-8"
                if len(foreign) < 10_000:
                    foreign.append(line[:1024])
    return "cp1252" if looks_latin(foreign) else "utf-8"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
