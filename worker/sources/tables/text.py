"""Decodes text of unknown encoding (UTF-8, UTF-16, UTF-32 or Windows-1252), and parses JSON.

A byte order mark decides. Otherwise the text is UTF-8 if it is valid UTF-8, or Windows-1252 (which
includes Latin-1) if the text around the accents is Latin. Other encodings are not guessed, because
a wrong guess gives wrong text.
"""

import codecs
import json
from pathlib import Path

from unspoken.errors import InvalidInput

MAX_JSON_BYTES = 256 * 1024 * 1024
"""Largest file size. COCO's own captions file has 90 MB."""
MAX_JSON_ELEMENTS = 16_000_000
"""Largest number of arrays, objects and values, each of which takes about a hundred bytes. COCO's
captions file has 4 million."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # UTF-32 comes first, because its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HIGH = bytes(range(128, 256))
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_JUDGED_BYTES = 4096


def decode_text(content: bytes) -> str:
    """Decode a whole file; invalid bytes become U+FFFD."""
    encoding = marked_encoding(content)
    if encoding is None:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            encoding = "cp1252" if looks_latin([content]) else "utf-8"
    return content.decode(encoding, errors="replace")


def marked_encoding(head: bytes) -> str | None:
    """Return the encoding that a file's first bytes show; None if they show none.

    UTF-16 without a mark is recognised by the zero bytes of Latin letters, spaces and line ends.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    judged = head[:_JUDGED_BYTES]
    num_even, num_odd = judged[::2].count(0), judged[1::2].count(0)
    half = len(judged) // 2
    if num_odd > 0.4 * half and num_even == 0:
        return "utf-16-le"
    if num_even > 0.4 * half and num_odd == 0:
        return "utf-16-be"
    return None


def looks_latin(lines: list[bytes]) -> bool:
    """Return True if bytes over 127 are as rare, compared with letters, as accents in Latin."""
    num_high = sum(len(line) - len(line.translate(None, _HIGH)) for line in lines)
    num_letters = sum(len(line) - len(line.translate(None, _LETTERS)) for line in lines)
    return 0 < 2 * num_high <= num_letters


def parse_object(content: bytes | str) -> dict[str, object] | None:
    """Return the JSON object in `content`; None if it is not an object."""
    try:
        value = json.loads(decode_text(content) if isinstance(content, bytes) else content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_json(file: Path) -> object:
    """Return the parsed content of a JSON file: COCO's captions, or a list of rows.

    Raises InvalidInput.
    """
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise InvalidInput(
            f"{file.name} has over {MAX_JSON_BYTES} bytes: save it as JSONL, with a line for each "
            "row"
        )
    if not size:
        raise InvalidInput(f"{file.name} is empty")
    content = file.read_bytes()
    if sum(map(content.count, (b"[", b"{", b","))) > MAX_JSON_ELEMENTS:
        raise InvalidInput(
            f"{file.name} has over {MAX_JSON_ELEMENTS} elements: save it as JSONL, with a line for "
            "each row"
        )
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file.name} is not JSON: {error}") from error
