"""`python -m tests.chaos.watcher FOLDER REPORT`: reads each final file as soon as it appears.

It uses inotify (Linux) to detect every new name in the folder. It reads the file at once and checks
that it is complete: parquet to its last row, JSON to its last bracket. Writing to a file under its
final name is a fault too, and so is a shard that has changed at the end. SIGTERM ends the watcher,
which then writes REPORT: {"seen": files, "faults": [...]}.
"""

import ctypes
import hashlib
import io
import json
import os
import select
import signal
import struct
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_Q_OVERFLOW = 0x2, 0x80, 0x100, 0x4000
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name


class Watcher:
    """Files and faults seen in one folder so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first_sha256: dict[str, str] = {}
        self.faults: list[str] = []

    def appeared(self, name: str) -> None:
        """Read and check a file that has its final name."""
        try:
            content = (self.folder / name).read_bytes()
            check_whole(name, content)
        except FileNotFoundError:
            self.faults.append(f"{name} vanished")
        except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError
            self.faults.append(f"{name} was torn: {error}"[:200])
        else:
            self.first_sha256.setdefault(name, hashlib.sha256(content).hexdigest())

    def notice(self, mask: int, name: str) -> None:
        """Process one inotify event."""
        if mask & IN_Q_OVERFLOW:
            self.faults.append("events were lost")
        elif name.startswith("."):
            return
        elif mask & (IN_CREATE | IN_MOVED_TO):
            self.appeared(name)
        else:
            self.faults.append(f"{name} was written to in place")

    def check_unchanged(self) -> None:
        """Check that shards have not changed since they appeared."""
        for name, sha256 in self.first_sha256.items():
            if not name.endswith(".parquet"):
                continue
            path = self.folder / name
            if not path.exists():
                self.faults.append(f"{name} is gone")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                self.faults.append(f"{name} has changed")


def check_whole(name: str, content: bytes) -> None:
    """Check that a file is complete. Raises ValueError or OSError if it is not."""
    if name.endswith(".parquet"):
        pq.read_table(pa.BufferReader(content))
    elif name.endswith(".json"):
        json.load(io.BytesIO(content))
    elif not content:
        raise ValueError("it is empty")


def watch(watcher: Watcher, ready: Path) -> None:
    """Watch the folder until SIGTERM; touch `ready` when watching has begun."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    added = libc.inotify_add_watch(
        descriptor, os.fsencode(watcher.folder), IN_CREATE | IN_MOVED_TO | IN_MODIFY
    )
    if descriptor < 0 or added < 0:
        raise OSError(ctypes.get_errno(), f"cannot watch {watcher.folder}")
    ended, end = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(end, b"x"))
    ready.touch()
    while True:
        readable, _, _ = select.select([descriptor, ended], [], [])
        if descriptor in readable:
            for mask, name in _events(os.read(descriptor, 1 << 20)):
                watcher.notice(mask, name)
        elif ended in readable:
            return


def _events(content: bytes) -> list[tuple[int, str]]:
    events, at = [], 0
    while at < len(content):
        _, mask, _, length = _EVENT.unpack_from(content, at)
        at += _EVENT.size
        events.append((mask, content[at : at + length].rstrip(b"\0").decode()))
        at += length
    return events


def main() -> None:
    folder, report = Path(sys.argv[1]), Path(sys.argv[2])
    watcher = Watcher(folder)
    watch(watcher, report.with_suffix(".ready"))
    watcher.check_unchanged()
    report.write_text(json.dumps({"seen": len(watcher.first_sha256), "faults": watcher.faults}))


if __name__ == "__main__":
    main()
