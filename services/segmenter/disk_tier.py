"""Embeddings on a disk: they survive restarts, and replicas that see one folder share them.

A safetensors file for each picture, `aa/bb/ID.safetensors`, where the id is a hash of all that an
embedding depends on: what other weights made is never found. A file is written beside and renamed,
so it is whole or absent, whoever is killed; its header has a digest of the rest, and one that does
not fit is removed and counts as absent. It is read through a memory map and copied out of it, since
another replica may remove it at any time.

The least recently used go first; a file's time of change is when it was last used. The folder is
measured after each sixteenth of its bound that this process has written, and brought to seven
eighths: up to two replicas stay within the bound, each further one may exceed it by a sixteenth.
"""

import contextlib
import hashlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unspoken.errors import EngineFailure, InvalidConfig

SUFFIX = ".safetensors"
PART = ".part"
NAMES = "names"
MAX_NAMES = 16_384
ABANDONED_S = 3600.0
_ID = re.compile(r"[0-9a-f]{64}")
_DIGEST = "digest"

logger = logging.getLogger(__name__)


class Stored(NamedTuple):
    """What a file holds: arrays by name, and what is said about the picture."""

    id: str
    arrays: dict[str, np.ndarray]
    about: Mapping[str, str]


class _File(NamedTuple):
    used_s: float
    num_bytes: int
    path: Path


class DiskTier:
    """A folder of at most `capacity_mib`; shared by threads and processes.

    A disk that fails costs an entry and never a request. Raises InvalidConfig where the folder
    cannot be made.
    """

    def __init__(self, folder: Path, capacity_mib: float) -> None:
        self.num_bytes = 0
        """As last measured, with what this process has written since."""
        self.num_evicted = 0
        self._folder = folder
        self._capacity_bytes = int(capacity_mib * 1024 * 1024)
        self._written_bytes = 0
        self._measuring = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidConfig(f"no embeddings can be kept in {folder}: {error}") from error
        self._measure()

    def read(self, image_id: str) -> Stored | None:
        """A picture's entry, which is now the youngest; None where there is none that is whole."""
        path = self._path(image_id)
        if path is None:
            return None
        try:
            with safe_open(path, framework="np") as file:
                about = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            self._refuse(path, str(error))
            return None
        if about.get("id") != image_id or about.get(_DIGEST) != _digest(arrays):
            self._refuse(path, "it does not hold what its header says")
            return None
        with contextlib.suppress(OSError):  # another replica has removed it meanwhile
            os.utime(path)
        return Stored(image_id, arrays, about)

    def about(self, image_id: str) -> Mapping[str, str] | None:
        """What is said about a picture, by the header alone."""
        path = self._path(image_id)
        try:
            if path is None:
                return None
            with safe_open(path, framework="np") as file:
                return dict(file.metadata() or {})
        except (SafetensorError, OSError):
            return None

    def write(self, image_id: str, arrays: Mapping[str, np.ndarray], **about: str) -> None:
        """Keep a picture's entry, and let the oldest go where there is no room."""
        path = self._path(image_id)
        assert path is not None, f"not an id: {image_id!r}"
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        header = {**about, "id": image_id, _DIGEST: _digest(whole)}
        encoded = save(whole, metadata=header)
        beside = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("xb") as file:
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            logger.warning("image=%s is not kept on disk: %s", image_id[:16], error)
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            return
        self.num_bytes += len(encoded)
        self._written_bytes += len(encoded)
        if self._written_bytes >= self._capacity_bytes / 16:
            self._measure()

    def remove(self, image_id: str) -> bool:
        """Remove a picture's file; False where there was none. Raises EngineFailure."""
        path = self._path(image_id)
        if path is None:
            return False
        self._remove_names(image_id)
        try:
            num_bytes = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise EngineFailure(
                f"picture {image_id} could not be removed from the disk ({error.strerror}): "
                "delete it again"
            ) from error
        self.num_bytes -= num_bytes
        return True

    def write_name(self, name: str, image_id: str) -> None:
        """Let a name stand for a picture, also after a restart. A failed disk loses the name."""
        path = self._name_path(name)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}{PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(image_id, encoding="ascii")
            beside.replace(path)
        except OSError as error:
            logger.warning("the name of image=%s is not kept on disk: %s", image_id[:16], error)
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)

    def read_name(self, name: str) -> str | None:
        """Return the id of the picture that a name stands for; None where the name is unknown."""
        if _ID.fullmatch(name) is not None:
            return None
        try:
            image_id = self._name_path(name).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return None
        return image_id if _ID.fullmatch(image_id) is not None else None

    def _name_path(self, name: str) -> Path:
        """Return where a name is kept, by its hash: a name may have slashes."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self._folder / NAMES / digest[:2] / digest

    def _remove_names(self, image_id: str) -> None:
        for path in self._folder.glob(f"{NAMES}/??/*"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if path.read_text(encoding="ascii") == image_id:
                    path.unlink()

    def _prune_names(self) -> None:
        """Remove names whose picture is gone, and the oldest beyond the bound."""
        abandoned_s = time.time() - ABANDONED_S
        kept: list[tuple[float, Path]] = []
        for path in self._folder.glob(f"{NAMES}/??/*"):
            with contextlib.suppress(OSError, UnicodeDecodeError):  # another replica was quicker
                written_s = path.stat().st_mtime
                target = self._path(path.read_text(encoding="ascii"))
                is_dangling = target is None or not target.exists()
                if is_dangling and written_s < abandoned_s:
                    path.unlink()
                else:
                    kept.append((written_s, path))
        for _, path in sorted(kept)[: max(0, len(kept) - MAX_NAMES)]:
            path.unlink(missing_ok=True)

    def _path(self, image_id: str) -> Path | None:
        """None for what is no id: a name of a client's own, or an attempt at a path."""
        if _ID.fullmatch(image_id) is None:
            return None
        return self._folder / image_id[:2] / image_id[2:4] / f"{image_id}{SUFFIX}"

    def _refuse(self, path: Path, reason: str) -> None:
        logger.warning("%s is removed: %s", path.name, reason)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def _measure(self) -> None:
        """Add up the folder, and remove the oldest where it is over its bound."""
        if not self._measuring.acquire(blocking=False):
            return  # another thread is at it
        try:
            self._written_bytes = 0
            files = sorted(self._files())
            total = sum(file.num_bytes for file in files)
            if total > self._capacity_bytes:
                for file in files:
                    if total <= self._capacity_bytes * 7 / 8:
                        break
                    with contextlib.suppress(OSError):
                        file.path.unlink()
                    total -= file.num_bytes
                    self.num_evicted += 1
            self.num_bytes = total
            self._prune_names()
        finally:
            self._measuring.release()

    def _files(self) -> Iterator[_File]:
        """All entries; what a killed process has left half written is removed."""
        abandoned_s = time.time() - ABANDONED_S
        for path in self._folder.glob("??/??/*"):
            with contextlib.suppress(OSError):  # another replica was quicker
                state = path.stat()
                if path.suffix == SUFFIX:
                    yield _File(state.st_mtime, state.st_size, path)
                elif path.suffix == PART and state.st_mtime < abandoned_s:
                    path.unlink()


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of all arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
