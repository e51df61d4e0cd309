"""The whole stack as real processes with fault injection.

Embedded Redis with AOF and three services run behind a fault proxy each. There are also dispatchers
and workers, each worker with a pool. Processes that end unexpectedly are restarted and counted, as
`unspoken up` and compose restart them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import redis

from cli.local.restarting import Restarter
from tests.chaos.disk import SmallDisk
from tests.chaos.fault_proxy import FaultProxy
from tests.chaos.service import KINDS
from unspoken.config.settings import child_environment
from unspoken.process import end_with_parent, free_port
from worker.process.embedded_redis import EmbeddedRedis

# At most a tenth of the defaults, because a chunk takes at most a tenth of a second here.
LEASE_S, REPUBLISH_S, TICK_S, MESSAGE_S = 2.0, 1.0, 0.2, 3.0


class Child:
    """One process in its own process group, with its children."""

    def __init__(self, name: str, words: Sequence[str], *, log: Path, env: dict[str, str]) -> None:
        self.name = name
        self.deaths = 0
        self._command = [sys.executable, "-m", *words]
        self._log, self._env = log, env
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill all processes of the group, also after the first one has ended."""
        for number in (signal.SIGCONT, signal.SIGKILL):
            try:
                self.signal(number)
            except ProcessLookupError:
                break
        self._process.wait()

    def revive(self) -> None:
        """Restart the process if it ended unexpectedly."""
        if self._process.poll() is not None:
            self.kill()
            self.deaths += 1
            self.start()


class Rig:
    """A context manager that runs the stack; `runs_dir` is on the small disk, `data_dir` is not."""

    def __init__(
        self,
        folder: Path,
        *,
        small_models: bool = False,
        num_workers: int = 2,
        concurrency: int = 2,
    ) -> None:
        self.folder = folder
        self.small_models = small_models
        self.data_dir, self.notes_dir = folder / "data", folder / "notes"
        self.num_workers, self.concurrency = num_workers, concurrency
        self.disk = SmallDisk(folder / "disk")
        self.runs_dir = self.disk.folder / "runs"
        self.services: dict[str, Child] = {}
        self.proxies: dict[str, FaultProxy] = {}
        self.dispatchers: list[Child] = []
        self.workers: list[Child] = []
        self.redis_back_s: list[float] = []
        """Times at which the launcher's code had restarted Redis."""
        self._redis = EmbeddedRedis(folder / "redis")
        self._redis_restarter = Restarter(self._redis)
        self._exit = ExitStack()

    @property
    def slots(self) -> int:
        """Number of chunks that are processed at the same time."""
        return self.num_workers * self.concurrency

    def __enter__(self) -> "Rig":
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def revive(self) -> None:
        """Restart processes that ended unexpectedly; Redis like the launcher, after a pause."""
        for child in self._children():
            child.revive()
        if self._redis_restarter.revive():
            self.redis_back_s.append(time.time())

    def deaths(self) -> dict[str, int]:
        """Return the number of unexpected ends of each child."""
        return {child.name: child.deaths for child in self._children() if child.deaths}

    def writers(self) -> list[int]:
        """Return the ids of the processes that write to the small disk."""
        return [child.pid for child in (*self.workers, *self.dispatchers)]

    # ---- Redis ---------------------------------------------------------------------------

    def redis(self) -> redis.Redis:
        """Return a client that connects directly, not through the proxy."""
        return redis.Redis(unix_socket_path=str(self._redis.socket))

    @property
    def redis_pid(self) -> int:
        """Process id of the server."""
        pid = self._redis.pid
        assert pid is not None, "it was started"
        return pid

    @property
    def redis_is_away(self) -> bool:
        """Return True while the server is dead."""
        return self._redis.ended()

    @property
    def aof(self) -> Path:
        """The append-only file: of Redis 6, or the increment of Redis 7 and Valkey."""
        folder = self.folder / "redis"
        (path,) = [*folder.glob("appendonly.aof"), *folder.glob("appendonlydir/*.incr.aof")]
        return path

    def start_redis(self) -> None:
        """Restart Redis at the same address with the same append-only file."""
        self._redis.start()

    def kill_redis(self) -> None:
        """Kill Redis without restarting it."""
        os.kill(self.redis_pid, signal.SIGKILL)
        while not self._redis.ended():
            time.sleep(0.01)

    # ---- start ---------------------------------------------------------------------------

    def start_service(self, kind: str) -> None:
        """Start a service behind its proxy, always on the same port."""
        port = str(self.proxies[kind].upstream[1])
        fake = ["tests.chaos.service", kind, port, str(self.notes_dir)]
        self.services[kind] = self._child(kind, [f"services.{kind}"] if self.small_models else fake)

    def wait_ready(self, kinds: Sequence[str] = KINDS) -> None:
        """Wait until each service is ready, asked directly and not through its proxy."""
        timeout_s = 300 if self.small_models else 60
        deadline = time.monotonic() + timeout_s
        with httpx.Client(timeout=2, trust_env=False) as client:
            for kind in kinds:
                url = f"http://127.0.0.1:{self.proxies[kind].upstream[1]}/readyz"
                while not _is_ready(client, url):
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{kind} is not ready; see {self.folder}/{kind}.log")
                    time.sleep(0.05)

    def start_worker(self, index: int) -> None:
        """Start a worker with its pool."""
        child = self._child(f"worker-{index}", ["tests.chaos.worker", str(self.notes_dir)])
        self.workers[index : index + 1] = [child]

    def _start(self) -> None:
        for folder in (self.data_dir, self.notes_dir):
            folder.mkdir(parents=True)
        self._exit.enter_context(self.disk)
        self.runs_dir.mkdir()
        self._exit.enter_context(self._redis)
        upstreams = {kind: ("127.0.0.1", free_port()) for kind in KINDS}
        for name, upstream in {"redis": self._redis.socket, **upstreams}.items():
            self.proxies[name] = self._exit.enter_context(FaultProxy(upstream))
        self._exit.callback(self._end_children)
        for kind in KINDS:
            self.start_service(kind)
        self.wait_ready()
        for index in range(2):
            self.dispatchers.append(
                self._child(f"dispatcher-{index}", ["worker.dispatch.dispatcher"])
            )
        for index in range(self.num_workers):
            self.start_worker(index)

    def _child(self, name: str, words: Sequence[str]) -> Child:
        settings = {
            "BROKER_URL": f"redis://127.0.0.1:{self.proxies['redis'].port}/0",
            **{f"{kind.upper()}_URL": self._url(kind) for kind in KINDS},
            "RUNS_DIR": str(self.runs_dir),
            "DATA_DIR": str(self.data_dir),
            "CONCURRENCY": str(self.concurrency),
            "LEASE_S": str(LEASE_S),
            "REPUBLISH_S": str(REPUBLISH_S),
            "TICK_S": str(TICK_S),
            "MESSAGE_S": str(MESSAGE_S),
        }
        env = {f"WORKER_{setting}": value for setting, value in settings.items()}
        env |= {f"{kind.upper()}_PORT": str(self.proxies[kind].upstream[1]) for kind in KINDS}
        env["LLM_MAX_NEW_TOKENS"] = "12"  # short answers of the small model suffice
        return Child(
            name,
            words,
            log=self.folder / f"{name}.log",
            env=child_environment(**env, OMP_NUM_THREADS="1"),
        )

    def _url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.proxies[kind].port}"

    def _children(self) -> list[Child]:
        return [*self.services.values(), *self.dispatchers, *self.workers]

    def _end_children(self) -> None:
        for child in reversed(self._children()):
            child.kill()


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False
