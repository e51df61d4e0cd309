"""Run apps in a process: listen, drain on SIGTERM, exit if an engine has failed."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import uvicorn
from fastapi import FastAPI

from unspoken.config.settings import EngineSettings, ServiceSettings, run_main, start_logging
from unspoken.http.app import use_browser_rules, use_keys
from unspoken.http.batching import InferenceThread
from unspoken.http.connections import Connections, default_limits

Engine = TypeVar("Engine", bound=EngineSettings)

DEAD_STATUS = 70  # sysexits.h, EX_SOFTWARE
WATCH_S = 1.0
KERNEL_BACKLOG = 2048
THREAD_S = 0.5
"""Seconds that the end of a process waits for a call on an inference thread."""

logger = logging.getLogger(__name__)


class _QuietServer(uvicorn.Server):
    """A server without signal handlers, because the process handles signals for all its servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # asyncio uses the backlog also as the number of connections accepted at a time, which is
        # small to save file descriptors. The kernel's backlog is larger, so that a burst of callers
        # is not refused.
        for listening in (each for server in self.servers for each in server.sockets):
            with socket.fromfd(listening.fileno(), listening.family, listening.type) as own:
                own.listen(KERNEL_BACKLOG)


def uvicorn_config(
    app: FastAPI,
    *,
    host: str,
    port: int,
    log_level: str,
    connections: Connections | None = None,
) -> uvicorn.Config:
    """Return the common uvicorn config: one process, our own access log, 30 s to drain.

    `connections` is shared by the servers of a process; by default this server has its own.
    """
    if connections is None:
        connections = Connections(default_limits())
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=connections.protocol(),  # the strict h11, even if httptools is installed
        backlog=connections.backlog,
        log_level=log_level.lower(),
        log_config=None,  # use our own log configuration
        access_log=False,
        timeout_graceful_shutdown=30,
        server_header=False,
    )


def run_service(
    name: str,
    settings_class: Callable[[], Engine],
    build_app: Callable[[Engine, InferenceThread], FastAPI],
    *,
    set_num_threads: Callable[[int], None],
) -> None:
    """Run the process of one service with a model, with its settings from the environment.

    The weights are loaded before it listens, so that a process that answers has its weights.

    set_num_threads: torch's function, which the inference thread calls. This module has no torch.
    """

    def main() -> None:
        settings = settings_class()
        start_logging(settings)
        settings.check_port()
        thread = InferenceThread(
            name=name,
            initializer=lambda: set_num_threads(settings.num_threads),
            hang_s=settings.hang_s,
        )
        run_apps([(build_app(settings, thread), settings)])

    run_main(main)


def serve(app: FastAPI, settings: ServiceSettings) -> None:
    """Listen until SIGTERM or Ctrl-C, then drain. See serve_all."""
    start_logging(settings)
    settings.check_port()
    run_apps([(app, settings)])


def run_apps(apps: Sequence[tuple[FastAPI, ServiceSettings]]) -> None:
    """Run serve_all, then exit with status 0 even if a model is still computing.

    A warm-up, or a batch whose callers have disconnected, cannot be interrupted. If the interpreter
    shut down during it, torch would abort the process (SIGABRT).
    """
    asyncio.run(serve_all(apps))
    threads = {app.state.health.thread for app, _ in apps}
    if not all([thread.close(timeout_s=THREAD_S) for thread in threads]):
        logger.info("the process ends while a model is still computing")
        logging.shutdown()
        os._exit(0)


async def serve_all(apps: Sequence[tuple[FastAPI, ServiceSettings]]) -> None:
    """Listen on every port until SIGTERM or Ctrl-C, then shut down gracefully.

    First `/readyz` replies 503 for `drain_delay_s` while requests are still accepted, so that load
    balancers stop sending new ones. Then new requests are refused and open ones are answered. A
    second signal ends the wait. An app may call those before it in the list, so the last app drains
    first. Each app's `on_stop` is called before the drain.
    """
    for app, settings in apps:
        use_keys(app, settings.key_ring())
        use_browser_rules(app, settings.browser_rules())
    numbers = [settings.max_connections for _, settings in apps if settings.max_connections]
    connections = Connections(default_limits(min(numbers, default=None)))
    servers = [
        _QuietServer(
            uvicorn_config(
                app,
                host=settings.host,
                port=settings.port,
                log_level=settings.log_level,
                connections=connections,
            )
        )
        for app, settings in apps
    ]
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server in servers:
            server.force_exit = told.is_set()
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    threading.Thread(
        target=_watch, args=[[app for app, _ in apps]], name="watch", daemon=True
    ).start()
    running = [asyncio.create_task(server.serve()) for server in servers]
    telling = asyncio.create_task(told.wait())
    # If a port is in use, only its server ends. Then stop all servers, so that the failure is
    # noticed.
    await asyncio.wait((*running, telling), return_when=asyncio.FIRST_COMPLETED)
    if told.is_set() and (delay_s := max(settings.drain_delay_s for _, settings in apps)):
        for app, _ in apps:
            app.state.health.leaving = True
        await asyncio.sleep(delay_s)
    telling.cancel()
    for app, _ in apps:
        app.state.on_stop()
    for server, task in zip(reversed(servers), reversed(running), strict=True):
        server.should_exit = True
        await task


def _watch(apps: Sequence[FastAPI]) -> None:
    """Exit the process if an engine has failed, so that its supervisor restarts it.

    Runs in its own thread, which the event loop cannot block. Nothing is drained, because no
    request would be answered.
    """
    while True:
        time.sleep(WATCH_S)
        for app in apps:
            if (failure := app.state.health.failure()) is not None:
                logger.critical("the process exits: %s", failure)
                time.sleep(WATCH_S)  # time to send error replies to waiting callers
                logging.shutdown()
                os._exit(DEAD_STATUS)
