"""A JSON file that is read as a whole: COCO's captions, or a list of rows."""

import json
from functools import lru_cache
from pathlib import Path

from unspoken.errors import InvalidInput

MAX_BYTES = 256 * 1024 * 1024
"""COCO's own captions have 90 MB."""


def read_json(file: Path) -> object:
    """Return the content; the last file stays in memory. Raises InvalidInput."""
    about = file.stat()
    if about.st_size > MAX_BYTES:
        raise InvalidInput(
            f"{file.name} has over {MAX_BYTES} bytes: save it as JSONL, with a line for each row"
        )
    return _read(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=1)
def _read(file: Path, _mtime_ns: int, size: int) -> object:
    if not size:
        raise InvalidInput(f"{file.name} is empty")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file.name} is not JSON: {error}") from error
