"""Files and folders that are either whole or absent: written beside, then renamed."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from unspoken.errors import InvalidInput


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`; a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write `value` atomically as readable JSON with a stable order of keys."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(path, text.encode() + b"\n")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends, and vanishes where it raises.

    Raises InvalidInput where `out` holds something already, or its parent is no folder.
    """
    if not out.parent.is_dir() or (out.exists() and not out.is_dir()):
        raise InvalidInput(f"{out} must be a new folder in one that exists")
    if out.is_dir() and any(out.iterdir()):
        raise InvalidInput(f"{out} holds something already; name a new or empty folder")
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    draft.mkdir()
    try:
        yield draft
        if out.is_dir():
            out.rmdir()
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: Mapping[str, object] | list[object]) -> str:
    """Hex digest of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
