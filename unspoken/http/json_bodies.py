"""Check JSON bodies before they are parsed: limit elements and text, and take pictures out.

A JSON parser holds the GIL from the first byte to the last, so a malicious body would stop every
request of the process. Therefore elements are counted before anything is parsed, and the base64
text of a picture, which may have tens of megabytes, never reaches the parser.
"""

import secrets
from collections.abc import Iterator
from typing import NamedTuple

from unspoken.errors import TooLarge

MAX_ELEMENTS = 20_000
"""Maximum number of arrays, objects and values in them.

The largest useful request has some 12 000: a thousand boxes with a thousand texts and as many
negatives.
"""
MAX_STRINGS = 4 * MAX_ELEMENTS
MAX_TEXT_BYTES = 8 * 1024 * 1024
"""Maximum size of a body without its pictures: a thousand captions of 2000 characters fit."""
SMALL_BODY_BYTES = 16 * 1024
"""A body of at most this size is parsed without these checks, because that takes no time."""
_PICTURE_BYTES = 4 * 1024
_COUNTED_AT_ONCE = 1024 * 1024
_COPIED_AT_ONCE = 256 * 1024
_KEY = b'"base64"'
_LOOK_BACK_BYTES = 64


class Slim(NamedTuple):
    """A body with placeholders instead of pictures, and a map of placeholder to base64 text."""

    body: bytes
    pictures: dict[str, str]


def slim_body(body: bytes | bytearray) -> Slim:
    """Take pictures out of a JSON body. Raises TooLarge for too many elements or too much text.

    Only the value of a key `base64` is treated as a picture. A body that is not JSON is returned
    unchanged, and the parser then rejects it.
    """
    _check_strings(body)
    token = secrets.token_hex(16)
    pieces: list[bytes | bytearray] = []
    pictures: dict[str, str] = {}
    num_elements = kept_from = outside_from = 0
    for start, end in _strings(body):
        num_elements += _elements(body, outside_from, start)
        outside_from = end
        if end - start > _PICTURE_BYTES and _is_picture(body, start):
            placeholder = f"{token}:{len(pictures)}"
            pictures[placeholder] = _text(body, start + 1, end - 1)
            pieces += [body[kept_from:start], f'"{placeholder}"'.encode()]
            kept_from = end
    num_elements += _elements(body, outside_from, len(body))
    if num_elements > MAX_ELEMENTS:
        raise TooLarge(f"the JSON has {num_elements} elements, at most {MAX_ELEMENTS} are read")
    num_bytes = sum(map(len, pieces)) + len(body) - kept_from
    if num_bytes > MAX_TEXT_BYTES:
        raise TooLarge(
            f"the JSON has {num_bytes} bytes without its pictures, at most {MAX_TEXT_BYTES} "
            "are read"
        )
    return Slim(b"".join([*pieces, body[kept_from:]]), pictures)


def check_elements(text: str) -> None:
    """Raise TooLarge if the JSON text of a form field has too many elements."""
    slim_body(text.encode(errors="replace"))


def _check_strings(body: bytes | bytearray) -> None:
    """Raise TooLarge if there are so many strings that a scan of them would be slow."""
    num_strings = _count(body, b'"', 0, len(body)) // 2
    if num_strings > MAX_STRINGS:
        raise TooLarge(f"the JSON has {num_strings} strings, at most {MAX_STRINGS} are read")


def _strings(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield the start and end of every string, including its quotes.

    An unterminated string ends the search.
    """
    start = body.find(b'"')
    while start >= 0:
        low, end = start + 1, body.find(b'"', start + 1)
        while end >= 0 and _is_escaped(body, low, end):
            low, end = end + 1, body.find(b'"', end + 1)
        if end < 0:
            return
        yield start, end + 1
        start = body.find(b'"', end + 1)


def _is_escaped(body: bytes | bytearray, low: int, place: int) -> bool:
    """Return True if an odd number of backslashes, none before `low`, precedes the quote."""
    if place == low or body[place - 1] != ord("\\"):
        return False
    num_backslashes = 0
    while place > low:
        piece = body[max(low, place - _COPIED_AT_ONCE) : place]
        num_others = len(piece.rstrip(b"\\"))
        num_backslashes += len(piece) - num_others
        if num_others:
            break
        place -= len(piece)
    return num_backslashes % 2 == 1


def _text(body: bytes | bytearray, start: int, end: int) -> str:
    """Return the base64 string between two positions. Only its slashes may be escaped."""
    if body.find(b"\\", start, end) < 0:
        return str(memoryview(body)[start:end], "latin-1")
    pieces = []
    while start < end:
        after = min(start + _COPIED_AT_ONCE, end)
        if body[after - 1] == ord("\\"):
            after = min(after + 1, end)
        pieces.append(body[start:after].replace(b"\\/", b"/").decode("latin-1"))
        start = after
    return "".join(pieces)


def _is_picture(body: bytes | bytearray, start: int) -> bool:
    """Return True if the string is the value of a key `base64`."""
    before = body[max(0, start - _LOOK_BACK_BYTES) : start].rstrip()
    return before.endswith(b":") and before[:-1].rstrip().endswith(_KEY)


def _elements(body: bytes | bytearray, start: int, end: int) -> int:
    return sum(_count(body, mark, start, end) for mark in (b",", b"[", b"{"))


def _count(body: bytes | bytearray, mark: bytes, start: int, end: int) -> int:
    """Count a byte in pieces, so that other threads can run in between."""
    if end - start <= _COUNTED_AT_ONCE:
        return body.count(mark, start, end)
    return sum(
        body.count(mark, low, min(low + _COUNTED_AT_ONCE, end))
        for low in range(start, end, _COUNTED_AT_ONCE)
    )
