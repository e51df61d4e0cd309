"""A process that serves apps: listens, drains on SIGTERM, and ends where an engine is dead."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from fastapi import FastAPI

from unspoken.connections import Connections, default_limits
from unspoken.logs import configure_logging
from unspoken.server import use_browser_rules, use_keys
from unspoken.settings import ServiceSettings

DEAD_STATUS = 70  # sysexits.h, EX_SOFTWARE
WATCH_S = 1.0
KERNEL_BACKLOG = 2048
THREAD_S = 0.5
"""How long the end of a process waits for a call on an inference thread."""

logger = logging.getLogger(__name__)


class _QuietServer(uvicorn.Server):
    """One of several in a process: signals are the process's business, not each server's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # asyncio accepts as many at a time as it lets wait: few, because of their descriptors.
        # The kernel may hold more, so that a burst of callers is not turned away.
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
    """How every service listens: one process, our own access log, 30 s to drain.

    connections: shared by the servers of a process; of this server alone where absent.
    """
    if connections is None:
        connections = Connections(default_limits())
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=connections.protocol(),  # on h11, the strict one, also where httptools is installed
        backlog=connections.backlog,
        log_level=log_level.lower(),
        log_config=None,  # its lines go the way of ours
        access_log=False,
        timeout_graceful_shutdown=30,
        server_header=False,
    )


def serve(
    app: FastAPI, settings: ServiceSettings, *, on_stop: Callable[[], None] | None = None
) -> None:
    """Listen until SIGTERM or Ctrl-C, then drain. See serve_all."""
    configure_logging(settings.log_level, settings.log_format)
    run_apps([(app, settings)], on_stop=on_stop)


def run_apps(
    apps: Sequence[tuple[FastAPI, ServiceSettings]], *, on_stop: Callable[[], None] | None = None
) -> None:
    """Run serve_all, then end the process with status 0 although a model may still be computing.

    A warm-up, or a batch that nobody waits for, cannot be interrupted. If the interpreter shut down
    beside it, torch would abort the process (SIGABRT).
    """
    asyncio.run(serve_all(apps, on_stop=on_stop))
    threads = {app.state.health.thread for app, _ in apps}
    if not all([thread.close(timeout_s=THREAD_S) for thread in threads]):
        logger.info("ends while a model is still computing")
        logging.shutdown()
        os._exit(0)


async def serve_all(
    apps: Sequence[tuple[FastAPI, ServiceSettings]], *, on_stop: Callable[[], None] | None = None
) -> None:
    """Listen on every port until SIGTERM or Ctrl-C, then drain all; a second signal waits no more.

    First `/readyz` says so, while requests are still taken for `drain_delay_s`: whoever sends them
    looks elsewhere by then. Then nothing new comes in, and what is inside is answered. An app may
    ask those before it in the list: the last one is drained first. on_stop: called before that.
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
    # A port that is taken ends its server alone: then all must go, so that somebody notices.
    await asyncio.wait((*running, telling), return_when=asyncio.FIRST_COMPLETED)
    if told.is_set() and (delay_s := max(settings.drain_delay_s for _, settings in apps)):
        for app, _ in apps:
            app.state.health.leaving = True
        await asyncio.sleep(delay_s)
    telling.cancel()
    if on_stop is not None:
        on_stop()
    for server, task in zip(reversed(servers), reversed(running), strict=True):
        server.should_exit = True
        await task


def _watch(apps: Sequence[FastAPI]) -> None:
    """End the process where an engine is dead: whoever started it starts it again.

    A thread of its own, which no event loop holds up. Nothing is drained: nothing more will be
    answered, but that.
    """
    while True:
        time.sleep(WATCH_S)
        for app in apps:
            if (failure := app.state.health.failure()) is not None:
                logger.critical("this process ends: %s", failure)
                time.sleep(WATCH_S)  # those who wait are told
                logging.shutdown()
                os._exit(DEAD_STATUS)
