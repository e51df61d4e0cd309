"""Atomic writes of files and folders: they are written under a draft name, then renamed."""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from unspoken.errors import InvalidInput
from unspoken.problem_words import first_problem
from unspoken.runs import storage

_LONG_TEXT_CHARS = 1024 * 1024


def unreadable(path: Path, error: ValidationError, model: type[BaseModel]) -> str:
    """Return the message about a run's file that does not parse, with advice."""
    return (
        f"{path} cannot be read: {first_problem(error, model)}. It is damaged, or another version "
        "of Unspoken wrote it: restore it from a backup, or start a run under another name"
    )


def write_json(path: Path, value: object) -> None:
    """Write `value` atomically as readable JSON with sorted keys."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    storage.replace(path, text.encode() + b"\n")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a draft folder, which is renamed to `out` at the end and removed if the block raises.

    Raises InvalidInput if `out` is not empty, or its parent is not a folder.
    """
    if not out.parent.is_dir() or (out.exists() and not out.is_dir()):
        raise InvalidInput(f"{out} must be a new folder in one that exists")
    if out.is_dir() and any(out.iterdir()):
        raise InvalidInput(f"{out} is not an empty folder; choose a new or an empty one")
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    draft.mkdir()
    try:
        yield draft
        if out.is_dir():
            out.rmdir()
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: Mapping[str, object] | list[object]) -> str:
    """Return the hex digest of the value's canonical JSON."""
    digest = hashlib.sha256()
    for piece in _canonical_pieces(value):
        digest.update(piece.encode())
    return digest.hexdigest()


def _canonical_pieces(value: object) -> Iterator[str]:
    """Yield canonical JSON in pieces.

    Encoding an inline picture in one call would hold Python's global interpreter lock.
    """
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    long_texts: dict[str, str] = {}
    for piece in encoder.iterencode(_without_long_texts(value, long_texts)):
        text = long_texts.get(piece)
        if text is None:
            yield piece
            continue
        yield '"'
        for start in range(0, len(text), _LONG_TEXT_CHARS):
            yield encoder.encode(text[start : start + _LONG_TEXT_CHARS])[1:-1]
        yield '"'


def _without_long_texts(value: object, taken: dict[str, str]) -> object:
    """Replace long texts by placeholders; fills `taken` with placeholder as JSON -> text."""
    if isinstance(value, str) and len(value) > _LONG_TEXT_CHARS:
        placeholder = secrets.token_hex(16)
        taken[f'"{placeholder}"'] = value
        return placeholder
    if isinstance(value, Mapping):
        return {key: _without_long_texts(each, taken) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_long_texts(each, taken) for each in value]
    return value
