"""Signs of life of workers: a file each in RUNS_DIR/.workers, renewed while the process lives.

A worker that no longer consumes is ended by its watchdog, and then is silent here. Ages are taken
by the file system's own clock. The file says how many chunks at a time its worker has hands for.
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
# A silent worker was replaced, or never will be: nobody needs to hear of it for ever.
FORGOTTEN_S = 900.0


class Workers(NamedTuple):
    """Who is there: processes, not chunks at a time; `slots` are those of the living."""

    alive: int
    silent: int
    slots: int


class Heartbeat:
    """One worker's. Call `start` in the main process and `end` when it ends in order."""

    def __init__(self, runs_dir: Path, *, slots: int, beat_s: float = BEAT_S) -> None:
        self._path = runs_dir / FOLDER / f"{socket.gethostname()}-{os.getpid()}"
        self._slots = slots
        self._beat_s = beat_s
        self._ended = threading.Event()

    def start(self) -> None:
        """Beat from a thread until `end`, or until the process is gone."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def end(self) -> None:
        """Say good-bye: a worker that ended in order is not silent."""
        self._ended.set()
        storage.remove(self._path)

    def _run(self) -> None:
        beat = self._first_beat
        while True:
            try:
                beat()
                beat = self._beat
            except OSError as error:  # a disk in trouble; the worker itself says more of it
                logger.debug("no heartbeat: %s", error)
            if self._ended.wait(self._beat_s):
                return

    def _first_beat(self) -> None:
        # In a container that came back the process before us had our name, and maybe other hands.
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
    """Who beats in a runs folder, and who did until lately. Raises OSError."""
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
        except FileNotFoundError:  # it ended meanwhile
            continue
    return [(path, age_s) for path, age_s in ages if not path.name.startswith(".")]
