"""A small test disk that can be filled: a tmpfs if mounting is permitted, else a file size limit.

Without permission to mount, `fill` lowers the largest file size that the given processes may write
(RLIMIT_FSIZE). Their writes then also fail half-way, with EFBIG instead of ENOSPC.
"""

import errno
import resource
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import psutil

SIZE_MIB = 192
LIMIT_BYTES = 4096
_BALLAST = ".ballast"


class SmallDisk:
    """A context manager; inside it `folder` is on the disk. `kind` is `tmpfs` or `rlimit`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kind = "rlimit"
        self._limited: list[int] = []

    def __enter__(self) -> "SmallDisk":
        self.folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(self.folder)]
        try:
            mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            mounted = False
        if mounted:
            self.kind = "tmpfs"
        return self

    def __exit__(self, *_: object) -> None:
        if self.kind == "tmpfs":
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self, pids: Iterable[int]) -> None:
        """Fill the disk. `pids`: the writing processes; their children are included."""
        if self.kind == "tmpfs":
            with (self.folder / _BALLAST).open("wb", buffering=0) as ballast:
                for block in (1 << 20, 1 << 12):  # small blocks fill the last page too
                    _write_until_full(ballast, bytes(block))
            return
        self._limited = [each for pid in pids for each in _tree(pid)]
        for pid in self._limited:
            _limit(pid, LIMIT_BYTES)

    def free(self, pids: Iterable[int]) -> None:
        """Make the space available again."""
        if self.kind == "tmpfs":
            (self.folder / _BALLAST).unlink(missing_ok=True)
            return
        born_since = [each for pid in pids for each in _tree(pid)]
        for pid in {*self._limited, *born_since}:
            _limit(pid, resource.RLIM_INFINITY)


def _write_until_full(file: BinaryIO, block: bytes) -> None:
    try:
        while file.write(block) == len(block):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _tree(pid: int) -> list[int]:
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _limit(pid: int, size: int) -> None:
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    except ProcessLookupError:
        pass
