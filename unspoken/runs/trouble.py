"""What last kept a worker from its work: a service or a disk in trouble, or other models.

RUN_DIR/trouble.json is replaced by whoever meets trouble; the dispatcher reads it, pauses the run
and says why. It is a note and no truth: losing one costs a moment.
"""

import logging
from pathlib import Path

from pydantic import ValidationError

from unspoken.runs import storage
from unspoken.schemas import WireModel

logger = logging.getLogger(__name__)

_FILE = "trouble.json"


class Trouble(WireModel):
    """The content of trouble.json."""

    token: str
    """Another one each time."""
    code: str
    message: str
    retry_after_s: float = 0.0


def note_trouble(run_dir: Path, trouble: Trouble) -> None:
    """Leave the note; where the disk itself is in trouble, only the log has it."""
    try:
        storage.replace(run_dir / _FILE, trouble.model_dump_json().encode())
    except OSError as error:
        logger.warning("trouble could not be noted: %s", error)


def read_trouble(run_dir: Path) -> Trouble | None:
    """The last note; None where there is none."""
    content = storage.read(run_dir / _FILE)
    try:
        return None if content is None else Trouble.model_validate_json(content)
    except ValidationError:
        return None
