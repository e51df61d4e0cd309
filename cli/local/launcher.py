"""Starts the whole stack as child processes, restarts those that end, and stops them together.

The children are Redis, one process with all services, the dispatcher and one worker. A child that
ends is restarted with exponential backoff. If a child ends before the stack is ready, the launch
fails with the end of its log.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx

from cli.local.restarting import Restarter
from cli.settings_table import processes
from unspoken.config.services import SERVICES, urls_in_environment
from unspoken.config.settings import child_environment, warn_of_misspelt_variables
from unspoken.errors import InvalidConfig, InvalidInput
from unspoken.process import free_port, listens_on, port_problem, start_child
from worker.process.embedded_redis import EmbeddedRedis

READY_S = 300.0
GRACE_S = 3.0
"""Time for a worker to finish its chunks after Ctrl-C; then it releases them."""
WORKER_STOP_S, SERVICES_STOP_S = GRACE_S + 1.5, 2.5
"""Time after which a child that has not ended is killed; in total less than ten seconds."""
DRAIN_S = 40.0
"""Time for services to drain: to answer accepted requests, if other clients may use them."""
MODULES = {
    "services": "services.laptop",
    "dispatcher": "worker.dispatch.dispatcher",
    "worker": "worker",
}
"""Child process -> the module that it runs, in the order in which they are started."""


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Folders of the stack, and the port of each service.

    folder: contains data/, runs/, redis/ and logs/.
    data_dir: data folder of new runs; each run stores its own.
    moved_data_dir: folder that the sources of all runs were moved to; None if they were not moved.
    port_by_service: 0 stands for any free port.
    broker_url: address of a running Redis; if None, an embedded Redis is started.
    metrics_port: port of the dispatcher's /metrics; 0 disables it.
    profile: profile of models.yaml; None for the user's UNSPOKEN_PROFILE.
    services_stop_s: time after which services that have not ended are killed at the end.
    """

    folder: Path
    data_dir: Path
    runs_dir: Path
    moved_data_dir: Path | None = None
    port_by_service: Mapping[str, int] = field(
        default_factory=lambda: {service.name: 0 for service in SERVICES}
    )
    broker_url: str | None = None
    worker_concurrency: int = 2
    metrics_port: int = 0
    profile: str | None = None
    services_stop_s: float = SERVICES_STOP_S


class Stack:
    """The running stack, as a context manager. `urls` has the address of each service."""

    def __init__(self, config: StackConfig) -> None:
        self.config = config
        self._port_by_service = {
            name: port or free_port() for name, port in config.port_by_service.items()
        }
        self.urls = {
            name: f"http://127.0.0.1:{port}" for name, port in self._port_by_service.items()
        }
        self.logs_dir = config.folder / "logs"
        self._children: dict[str, _Child] = {}
        self._restarters: list[Restarter] = []
        self._exit = ExitStack()

    def __enter__(self) -> "Stack":
        warn_of_misspelt_variables([kind for _, kind in processes()])
        for name, port in self.config.port_by_service.items():
            _check_port(port, name=name)
        _check_port(self.config.metrics_port, name="metrics")
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
        """Wait until every service answers /readyz. Raises InvalidConfig with the last log lines.

        It is raised if a child ends, or after READY_S.
        """
        deadline = time.monotonic() + READY_S
        waiting = list(self.urls)
        with httpx.Client(timeout=5, trust_env=False) as client:
            while waiting:
                waiting = [name for name in waiting if not self._is_ready(client, name)]
                if waiting and on_wait is not None:
                    on_wait(waiting)
                ended = next((each for each in self._children.values() if each.ended()), None)
                if ended is not None or time.monotonic() > deadline:
                    child = ended or self._children["services"]
                    raise InvalidConfig(f"{child.name} did not become ready: {child.why()}")
                self.revive()
                time.sleep(0.2)

    def watch(self) -> None:
        """Restart children that end, until interrupted."""
        while True:
            self.revive()
            time.sleep(1)

    def revive(self) -> None:
        """Restart every child that has ended, including Redis, once its backoff pause is over."""
        for restarter in self._restarters:
            restarter.revive()

    def _start(self) -> None:
        broker_url = self.config.broker_url
        if broker_url is None:
            broker = self._exit.enter_context(EmbeddedRedis(self.config.folder / "redis"))
            self._restarters.append(Restarter(broker))
            broker_url = broker.url
        moved = self.config.moved_data_dir
        environment = child_environment(
            **{f"{name.upper()}_PORT": str(port) for name, port in self._port_by_service.items()},
            GATEWAY_DATA_DIR=str(self.config.data_dir.resolve()),
            GATEWAY_RUNS_DIR=str(self.config.runs_dir.resolve()),
            # Empty counts as not set and hides the user's variable, so that each run's own data
            # folder is used.
            WORKER_DATA_DIR=str(moved.resolve()) if moved else "",
            WORKER_RUNS_DIR=str(self.config.runs_dir.resolve()),
            WORKER_BROKER_URL=broker_url,
            WORKER_CONCURRENCY=str(self.config.worker_concurrency),
            WORKER_GRACE_S=str(GRACE_S),
            WORKER_METRICS_PORT=str(self.config.metrics_port),
            **urls_in_environment(self.urls),
            **({"UNSPOKEN_PROFILE": self.config.profile} if self.config.profile else {}),
        )
        for name, module in MODULES.items():
            child = _Child(name, module, environment=environment, logs_dir=self.logs_dir)
            self._children[name] = child
            child.start()
            self._restarters.append(Restarter(child))

    def _stop(self) -> None:
        """Stop everything, by default within ten seconds; at once if interrupted meanwhile.

        The worker is stopped first, so that it can finish or release its chunks while Redis and the
        services still answer.
        """
        self._restarters.clear()
        try:
            self._terminate(("dispatcher", "worker"), within_s=WORKER_STOP_S)
            self._terminate(("services",), within_s=self.config.services_stop_s)
        finally:
            for child in self._children.values():
                child.kill()
            self._children.clear()
            self._exit.close()

    def _terminate(self, names: tuple[str, ...], *, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        children = [self._children[name] for name in names if name in self._children]
        for child in children:
            child.terminate()
        for child in children:
            child.wait(deadline - time.monotonic())

    def _is_ready(self, client: httpx.Client, name: str) -> bool:
        """Return True if a service is ready and belongs to this stack."""
        try:
            if client.get(f"{self.urls[name]}/readyz").status_code != 200:
                return False
        except httpx.TransportError:
            return False
        return self._children["services"].listens_on(self._port_by_service[name])


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

    def start(self) -> None:
        """Start the process; its output is appended to the log."""
        with self.log.open("ab") as log:
            start_child(
                # -P: a worker.py or redis.py in the user's folder must not shadow the real one.
                [sys.executable, "-P", "-m", self._module],
                self._keep,
                env={**self._environment, "PYTHONSAFEPATH": "1"},
                stdout=log,
            )

    def _keep(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def ended(self) -> bool:
        """Return True if the process was started and has ended."""
        return self._process is not None and self._process.poll() is not None

    def listens_on(self, port: int) -> bool:
        """Return True if this process itself listens on the port."""
        return self._process is not None and listens_on(self._process.pid, port)

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._process is not None and not self.ended():
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait until the process has ended, at most for `timeout_s`."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=max(0.0, timeout_s))

    def kill(self) -> None:
        """Kill the process and all processes that it forked."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def why(self) -> str:
        """Return the error that ended the process, or else the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        if lines and lines[-1].startswith("error: "):
            return f"{lines[-1].removeprefix('error: ')} (log: {self.log})"
        return "\n".join([f"the end of {self.log}:", *lines])


def _check_port(port: int, *, name: str) -> None:
    """Raise InvalidInput if the port cannot be listened on. Port 0 stands for any free port."""
    if problem := port_problem("127.0.0.1", port):
        raise InvalidInput(
            f"port {port} for {name} {problem}. Stop the other program, or choose another port "
            "(`unspoken up --port`)"
        )
