"""LRU cache of image embeddings on disk, which survives restarts and can be shared by replicas.

Each image has one safetensors file, `aa/bb/ID.safetensors`. The id is a hash of everything that an
embedding depends on, so an embedding of other weights is never found. Files are written atomically:
to a temporary file, which is then renamed. So a file is complete or absent even if a process is
killed. The header has a digest of the arrays. A file whose digest does not match is removed and
counts as absent. Files are read through a memory map and copied, because another replica may remove
them at any time.

The least recently used files are evicted first; a file's modification time is its last use. Each
process measures the folder whenever it has written a sixteenth of the capacity. If the folder is
above the capacity, files are evicted down to seven eighths. So up to two replicas stay within the
capacity, and each further replica may exceed it by a sixteenth.
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
    """Content of a file: arrays by name, and metadata of the image."""

    id: str
    arrays: dict[str, np.ndarray]
    about: Mapping[str, str]


class _File(NamedTuple):
    used_s: float
    num_bytes: int
    path: Path


class DiskTier:
    """LRU cache in a folder of at most `capacity_mib`. Safe to share by threads and processes.

    A disk error loses an entry but never fails a request that reads or writes one. Raises
    InvalidConfig if the folder cannot be created.
    """

    def __init__(self, folder: Path, capacity_mib: float) -> None:
        self.num_bytes = 0
        """Size of the folder at the last measurement, plus what this process has written since."""
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
        """Return an image's entry and mark it as used; None if no valid entry exists."""
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
            self._refuse(path, "its content does not match its header")
            return None
        with contextlib.suppress(OSError):  # another replica may have removed it
            os.utime(path)
        return Stored(image_id, arrays, about)

    def about(self, image_id: str) -> Mapping[str, str] | None:
        """Return an image's metadata from the file's header; None if no entry exists."""
        path = self._path(image_id)
        try:
            if path is None:
                return None
            with safe_open(path, framework="np") as file:
                about = dict(file.metadata() or {})
                return about if about.get("id") == image_id else None
        except (SafetensorError, OSError):
            return None

    def write(self, image_id: str, arrays: Mapping[str, np.ndarray], **about: str) -> None:
        """Write an image's entry, and evict the oldest entries when the folder is full."""
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
        """Remove an image's file and names; return False if it had none. Raises EngineFailure."""
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
        """Store a name as an alias of an image. A disk error loses the name."""
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
        """Return the id of the image with this name; None if the name is unknown."""
        if _ID.fullmatch(name) is not None:
            return None
        try:
            image_id = self._name_path(name).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return None
        return image_id if _ID.fullmatch(image_id) is not None else None

    def _name_path(self, name: str) -> Path:
        """Return the path of a name's file; it uses the name's hash, as a name may have slashes."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self._folder / NAMES / digest[:2] / digest

    def _remove_names(self, image_id: str) -> None:
        for path in self._folder.glob(f"{NAMES}/??/*"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if path.read_text(encoding="ascii") == image_id:
                    path.unlink()

    def _prune_names(self) -> None:
        """Remove old names whose image is gone, and the oldest names above MAX_NAMES."""
        abandoned_s = time.time() - ABANDONED_S
        kept: list[tuple[float, Path]] = []
        for path in self._folder.glob(f"{NAMES}/??/*"):
            # Ignore errors, because another replica may have removed the file.
            with contextlib.suppress(OSError, UnicodeDecodeError):
                written_s = path.stat().st_mtime
                target = self._path(path.read_text(encoding="ascii"))
                is_dangling = target is None or not target.exists()
                if is_dangling and written_s < abandoned_s:
                    path.unlink()
                else:
                    kept.append((written_s, path))
        for _, path in sorted(kept)[: max(0, len(kept) - MAX_NAMES)]:
            with contextlib.suppress(OSError):
                path.unlink()

    def _path(self, image_id: str) -> Path | None:
        """Return the path of an image's file; None for a name or a crafted path, which is no id."""
        if _ID.fullmatch(image_id) is None:
            return None
        return self._folder / image_id[:2] / image_id[2:4] / f"{image_id}{SUFFIX}"

    def _refuse(self, path: Path, reason: str) -> None:
        logger.warning("%s is removed: %s", path.name, reason)
        with contextlib.suppress(OSError), contextlib.suppress(OSError):
            path.unlink()

    def _measure(self) -> None:
        """Measure the folder, and evict the oldest files if it is above its capacity."""
        if not self._measuring.acquire(blocking=False):
            return  # another thread is measuring
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
        """Yield all entries; remove abandoned temporary files of killed processes."""
        abandoned_s = time.time() - ABANDONED_S
        for path in self._folder.glob("??/??/*"):
            with contextlib.suppress(OSError):  # another replica may have removed the file
                state = path.stat()
                if path.suffix == SUFFIX:
                    yield _File(state.st_mtime, state.st_size, path)
                elif path.suffix == PART and state.st_mtime < abandoned_s:
                    path.unlink()


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
