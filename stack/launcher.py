"""Starts the whole stack as child processes, watches them, and ends them together.

Redis, one process with all services, the dispatcher and one worker. A child that dies is started
again after a pause that grows; a child that never became ready ends the launch with its log.
"""

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx

from unspoken.embedded_redis import EmbeddedRedis
from unspoken.errors import InvalidConfig
from unspoken.process import end_with_parent
from unspoken.settings import child_environment

READY_S = 300.0
STOP_S = 40.0
MAX_PAUSE_S = 30.0
SERVICES = ("llm", "detector", "segmenter", "gateway")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Where the stack keeps its files, and where it listens.

    folder: holds data/, runs/, redis/ and logs/. data_dir: of runs that the gateway creates; a run
    remembers its own. moved_data_dir: where the sources of all runs are now.
    ports: service -> port, 0 for any free one.
    broker_url: a Redis that runs already; the embedded one is started when absent.
    metrics_port: of the dispatcher's /metrics; 0 for none.
    """

    folder: Path
    data_dir: Path
    runs_dir: Path
    moved_data_dir: Path | None = None
    ports: Mapping[str, int] = field(
        default_factory=lambda: {"gateway": 8000, "llm": 8001, "detector": 8002, "segmenter": 8003}
    )
    broker_url: str | None = None
    worker_concurrency: int = 2
    metrics_port: int = 0


class Stack:
    """The running stack; use as a context manager. `urls` names each service's address."""

    def __init__(self, config: StackConfig) -> None:
        self.config = config
        ports = {name: config.ports[name] or free_port() for name in SERVICES}
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        self.logs_dir = config.folder / "logs"
        self._ports = ports
        self._children: list[_Child] = []
        self._exit = ExitStack()

    def __enter__(self) -> "Stack":
        for folder in (self.config.data_dir, self.config.runs_dir, self.logs_dir):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def wait_ready(self, *, on_wait: Callable[[list[str]], None] | None = None) -> None:
        """Wait until every service answers /readyz. Raises InvalidConfig with the log's end."""
        deadline = time.monotonic() + READY_S
        waiting = list(SERVICES)
        with httpx.Client(timeout=5, trust_env=False) as client:
            while waiting:
                waiting = [name for name in waiting if not self._is_ready(client, name)]
                if waiting and on_wait is not None:
                    on_wait(waiting)
                dead = next((child for child in self._children if child.ended()), None)
                if dead is not None or time.monotonic() > deadline:
                    child = dead or self._children[0]
                    raise InvalidConfig(
                        f"{child.name} did not become ready; the end of {child.log}:\n"
                        + child.log_tail()
                    )
                time.sleep(0.2)

    def watch(self) -> None:
        """Start dead children again, until interrupted."""
        while True:
            self.revive()
            time.sleep(1)

    def revive(self) -> None:
        """Start again, after its pause, every child that has ended."""
        for child in self._children:
            child.revive()

    def _start(self) -> None:
        broker_url = self.config.broker_url
        if broker_url is None:
            broker = self._exit.enter_context(EmbeddedRedis(self.config.folder / "redis"))
            broker_url = broker.url
        moved = self.config.moved_data_dir
        environment = child_environment(
            **{f"{name.upper()}_PORT": str(port) for name, port in self._ports.items()},
            GATEWAY_DATA_DIR=str(self.config.data_dir.resolve()),
            GATEWAY_RUNS_DIR=str(self.config.runs_dir.resolve()),
            # Empty is not set: then a run's own data folder counts, also over the user's variable.
            WORKER_DATA_DIR=str(moved.resolve()) if moved else "",
            WORKER_RUNS_DIR=str(self.config.runs_dir.resolve()),
            WORKER_BROKER_URL=broker_url,
            WORKER_CONCURRENCY=str(self.config.worker_concurrency),
            WORKER_METRICS_PORT=str(self.config.metrics_port),
            **{f"WORKER_{name.upper()}_URL": self.urls[name] for name in SERVICES[:3]},
            SEGMENTER_DETECTOR_URL=self.urls["detector"],
            GATEWAY_SEGMENTER_URL=self.urls["segmenter"],
        )
        for name, module in (
            ("services", "services.laptop"),
            ("dispatcher", "worker.dispatcher"),
            ("worker", "worker"),
        ):
            child = _Child(name, module, environment=environment, logs_dir=self.logs_dir)
            child.start()
            self._children.append(child)

    def _stop(self) -> None:
        """Worker first, so that it gives its chunk back while Redis and the services live."""
        for child in reversed(self._children):
            child.stop()
        self._children.clear()
        self._exit.close()

    def _is_ready(self, client: httpx.Client, name: str) -> bool:
        try:
            return client.get(f"{self.urls[name]}/readyz").status_code == 200
        except httpx.TransportError:
            return False


class _Child:
    """One Python process of the stack, with its log file."""

    def __init__(
        self, name: str, module: str, *, environment: Mapping[str, str], logs_dir: Path
    ) -> None:
        self.name = name
        self.log = logs_dir / f"{name}.log"
        self._module = module
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s = 1.0
        self._start_after = 0.0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def revive(self) -> None:
        """Start again after a pause, twice as long each time, when the process has ended."""
        if not self.ended():
            return
        now = time.monotonic()
        if not self._start_after:
            logger.warning("%s ended; again in %.0f s; log: %s", self.name, self._pause_s, self.log)
            self._start_after = now + self._pause_s
            self._pause_s = min(MAX_PAUSE_S, 2 * self._pause_s)
        elif now >= self._start_after:
            self._start_after = 0.0
            self.start()

    def stop(self) -> None:
        if self._process is None or self.ended():
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
