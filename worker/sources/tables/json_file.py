"""Reads a whole JSON file: COCO's captions, or a list of rows."""

import json
from pathlib import Path

from unspoken.errors import InvalidInput

MAX_BYTES = 256 * 1024 * 1024
"""Largest file size. COCO's own captions file has 90 MB."""
MAX_ELEMENTS = 16_000_000
"""Largest number of arrays, objects and values, each of which takes about a hundred bytes. COCO's
captions file has 4 million."""


def read_json(file: Path) -> object:
    """Return the parsed content. Raises InvalidInput."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise InvalidInput(
            f"{file.name} has over {MAX_BYTES} bytes: save it as JSONL, with a line for each row"
        )
    if not size:
        raise InvalidInput(f"{file.name} is empty")
    content = file.read_bytes()
    if sum(map(content.count, (b"[", b"{", b","))) > MAX_ELEMENTS:
        raise InvalidInput(
            f"{file.name} has over {MAX_ELEMENTS} elements: save it as JSONL, with a line for each "
            "row"
        )
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file.name} is not JSON: {error}") from error
