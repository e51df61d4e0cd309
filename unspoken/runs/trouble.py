"""The last error that stopped a worker: an unavailable service or disk, or unplanned models.

The worker that meets the error replaces RUN_DIR/trouble.json. The dispatcher's circuit breaker
reads it, pauses the run and reports the reason. Losing a note only causes a short delay.
"""

import logging
from pathlib import Path

from pydantic import ValidationError

from unspoken.runs import storage
from unspoken.wire.base import FileModel

logger = logging.getLogger(__name__)

_FILE = "trouble.json"


class Trouble(FileModel):
    """The content of trouble.json."""

    token: str
    """A token that is different for each note."""
    code: str
    message: str
    retry_after_s: float = 0.0


def note_trouble(run_dir: Path, trouble: Trouble) -> None:
    """Write the note. If the disk itself fails, log a warning instead."""
    try:
        storage.replace(run_dir / _FILE, trouble.model_dump_json().encode())
    except OSError as error:
        logger.warning("the note about an error could not be written: %s", error)


def read_trouble(run_dir: Path) -> Trouble | None:
    """Return the last note; None if there is none or it cannot be parsed."""
    content = storage.read(run_dir / _FILE)
    try:
        return None if content is None else Trouble.read(content)
    except ValidationError:
        return None
