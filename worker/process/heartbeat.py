"""Worker heartbeats: each worker has a file in RUNS_DIR/.workers, renewed while it lives.

The file contains the worker's slots: the number of chunks that it works on at a time. Ages are
measured by the file system's own clock. The watchdog ends a worker that no longer takes messages,
and its heartbeat then stops.
"""

import logging
import os
import socket
import threading
from pathlib import Path
from typing import NamedTuple

from unspoken.runs import storage

logger = logging.getLogger(__name__)

FOLDER = ".workers"
BEAT_S = 10.0
SILENT_S = 60.0
# After this time a silent worker is no longer reported: it was replaced, or never will be.
FORGOTTEN_S = 900.0


class Workers(NamedTuple):
    """Number of worker processes, alive and silent, and the slots of those alive."""

    alive: int
    silent: int
    slots: int


class Heartbeat:
    """Heartbeat of one worker. Call `start` in the main process, and `end` at its shutdown."""

    def __init__(self, runs_dir: Path, *, slots: int, beat_s: float = BEAT_S) -> None:
        self._path = runs_dir / FOLDER / f"{socket.gethostname()}-{os.getpid()}"
        self._slots = slots
        self._beat_s = beat_s
        self._ended = threading.Event()
        self._beating = threading.Lock()

    def start(self) -> None:
        """Renew the file from a thread until `end`, or until the process exits."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def end(self) -> None:
        """Remove the file, so that a worker that has shut down is not reported as silent."""
        self._ended.set()
        with self._beating:  # else a beat under way would create the file again
            storage.remove(self._path)

    def _run(self) -> None:
        beat = self._first_beat
        while True:
            try:
                with self._beating:
                    if self._ended.is_set():
                        return
                    beat()
                beat = self._beat
            except OSError as error:  # the worker's own work reports disk errors in detail
                logger.debug("the heartbeat could not be written: %s", error)
            if self._ended.wait(self._beat_s):
                return

    def _first_beat(self) -> None:
        # In a restarted container an earlier worker had the same name, maybe with other slots.
        storage.remove(self._path)
        self._beat()

    def _beat(self) -> None:
        try:
            storage.renew(self._path)
        except FileNotFoundError:
            self._path.parent.mkdir(exist_ok=True)
            _sweep(self._path.parent)
            storage.create(self._path, str(self._slots).encode())


def count_workers(runs_dir: Path) -> Workers:
    """Count the workers of a runs folder by their heartbeat files. Raises OSError."""
    folder = runs_dir / FOLDER
    alive = silent = slots = 0
    for path, age_s in _ages(folder) if folder.is_dir() else ():
        if age_s < SILENT_S:
            alive += 1
            content = storage.read(path) or b""
            slots += int(content) if content.isdigit() else 0
        elif age_s < FORGOTTEN_S:
            silent += 1
    return Workers(alive, silent, slots)


def _sweep(folder: Path) -> None:
    for path, age_s in _ages(folder):
        if age_s > FORGOTTEN_S:
            storage.remove(path)


def _ages(folder: Path) -> list[tuple[Path, float]]:
    now_s = storage.now_s(folder)
    ages = []
    for name in list(storage.names(folder)):
        try:
            ages.append((folder / name, storage.age_s(folder / name, now_s=now_s)))
        except FileNotFoundError:  # the worker shut down meanwhile
            continue
    return [(path, age_s) for path, age_s in ages if not path.name.startswith(".")]
