"""The last error that stopped a worker: an unavailable service or disk, or unplanned models.

The worker that meets the error replaces RUN_DIR/worker-error.json. The dispatcher's circuit breaker
reads it, pauses the run and reports the reason. Losing a record only causes a short delay.
"""

import logging
from pathlib import Path

from pydantic import ValidationError

from unspoken.runs import storage
from unspoken.wire.base import FileModel

logger = logging.getLogger(__name__)

_FILE = "worker-error.json"

DISK = "disk"
"""The `code` of an error of the disk, which is not in the error tree."""


class WorkerErrorRecord(FileModel):
    """The content of worker-error.json."""

    token: str
    """A token that is different for each record, so that a repeated error is noticed."""
    code: str
    message: str
    retry_after_s: float = 0.0


def write_worker_error(run_dir: Path, record: WorkerErrorRecord) -> None:
    """Write the record. If the disk itself fails, log a warning instead."""
    try:
        storage.replace(run_dir / _FILE, record.model_dump_json().encode())
    except OSError as error:
        logger.warning("the record of an error could not be written: %s", error)


def read_worker_error(run_dir: Path) -> WorkerErrorRecord | None:
    """Return the last record; None if there is none or it cannot be parsed."""
    content = storage.read(run_dir / _FILE)
    try:
        return None if content is None else WorkerErrorRecord.model_validate_json(content)
    except ValidationError:
        return None
