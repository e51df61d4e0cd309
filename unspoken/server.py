"""The HTTP frame that every service shares: probes, metrics, errors, request ids.

A service builds its engine, then calls `create_service` and adds its routes. Handlers are
`async def`, decode in the decode pool and await a batcher; nothing blocks the event loop.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.exceptions import HTTPException

from unspoken import __version__
from unspoken.api_keys import KeyRing
from unspoken.batching import InferenceThread, MicroBatcher
from unspoken.error_replies import error_response
from unspoken.errors import InvalidInput, NotReady, UnspokenError
from unspoken.guards import BodyLimit, KeyGate, SafeHeaders, add_safe_headers
from unspoken.logs import (
    REQUEST_HEADER,
    carried,
    configure_logging,
    fields,
    incoming_ids,
    log_ids,
)
from unspoken.schemas import ErrorBody, ModelInfo
from unspoken.settings import ServiceSettings

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

HANG_S = 300.0
MAX_BODY_BYTES = 32 * 1024 * 1024
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (401, 404, 413, 415, 422, 429, 503, 504)
}

_SILENT_ROUTES = ("/livez", "/readyz", "/metrics")
_decode_pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode")


async def in_decode_pool(function: Callable[..., Result], *args: object) -> Result:
    """Run Pillow and base64 work off the event loop, two at a time."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_decode_pool, carried(function, *args))


class _Health:
    """What the probes ask: warmed up, draining, or dead."""

    def __init__(self, thread: InferenceThread) -> None:
        self.thread = thread
        self.warm = False
        self.draining = False
        self.failure: str | None = None

    def check_ready(self) -> None:
        """Raise NotReady until the warm-up has run, and again from the drain on."""
        if self.failure is not None:
            raise NotReady(f"the warm-up failed: {self.failure}")
        if self.draining:
            raise NotReady("draining")
        if not self.warm:
            raise NotReady("loading")

    def check_alive(self) -> None:
        """Raise NotReady when the inference thread hangs."""
        if self.thread.busy_s() > HANG_S:
            raise NotReady(f"the inference thread has been busy for {self.thread.busy_s():.0f} s")


class _QueueLengths:
    """Prometheus collector: how many items wait for each batcher."""

    def __init__(self, batchers: Sequence[MicroBatcher[Any, Any]]) -> None:
        self._batchers = batchers

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the queues at scrape time."""
        waiting = GaugeMetricFamily(
            "unspoken_queue_length", "Items that wait for a batch", labels=["batcher"]
        )
        for batcher in self._batchers:
            waiting.add_metric([batcher.name], batcher.queue_length)
        yield waiting


def create_service(
    name: str,
    *,
    description: str,
    models: Callable[[], list[ModelInfo]],
    batchers: Sequence[MicroBatcher[Any, Any]],
    thread: InferenceThread,
    warm_up: Callable[[], object],
    max_body_bytes: int = MAX_BODY_BYTES,
    on_close: Callable[[], Awaitable[None]] | None = None,
) -> FastAPI:
    """A FastAPI app with the common routes; the caller adds its own.

    warm_up: runs once on the inference thread; `/readyz` answers 503 until it has.
    on_close: awaited after the last request, before the batchers end.
    """
    health = _Health(thread)

    async def warm() -> None:
        try:
            await thread.run(warm_up)
        except Exception as error:
            health.failure = f"{type(error).__name__}: {error}"
            logger.exception("warm-up failed", extra=fields(service=name))
            raise
        health.warm = True
        logger.info("ready", extra=fields(service=name))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for batcher in batchers:
            await batcher.start()
        warming = asyncio.create_task(warm(), name=f"warm-up-{name}")
        yield
        health.draining = True
        warming.cancel()
        if on_close is not None:
            await on_close()
        for batcher in batchers:
            await batcher.close()

    app = FastAPI(
        title=f"Unspoken {name}",
        description=description,
        version=__version__,
        lifespan=lifespan,
        responses=ERROR_REPLIES,
    )
    _add_probes(app, health=health, models=models)
    _add_errors(app)
    # From the inside out: what is refused is counted and logged, too.
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    use_keys(app, None)
    app.add_middleware(KeyGate)
    _add_metrics(app, name=name, batchers=batchers)
    app.add_middleware(SafeHeaders)
    return app


def use_keys(app: FastAPI, keys: KeyRing | None) -> None:
    """Let in only who has a key of this ring; everybody where there is none."""
    app.state.keys = keys


def _add_probes(app: FastAPI, *, health: _Health, models: Callable[[], list[ModelInfo]]) -> None:
    @app.get("/livez", tags=["probes"])
    async def livez() -> dict[str, str]:
        """Alive: the event loop answers and the inference thread does not hang."""
        health.check_alive()
        return {"status": "alive"}

    @app.get("/readyz", tags=["probes"])
    async def readyz() -> dict[str, str]:
        """Ready: the models have answered a warm-up, and the process does not drain."""
        health.check_ready()
        return {"status": "ready"}

    @app.get("/v1/models", tags=["probes"])
    async def list_models() -> list[ModelInfo]:
        """Which weights answer here."""
        return models()


def _add_metrics(app: FastAPI, *, name: str, batchers: Sequence[MicroBatcher[Any, Any]]) -> None:
    registry = CollectorRegistry()
    registry.register(_QueueLengths(batchers))
    requests = Counter(
        "unspoken_requests", "Requests", ["service", "route", "status"], registry=registry
    )
    seconds = Histogram(
        "unspoken_request_seconds", "Time of a request", ["service", "route"], registry=registry
    )

    def note(request: Request, status: int, started: float) -> None:
        took_s = time.perf_counter() - started
        route = getattr(request.scope.get("route"), "path", "unknown")
        requests.labels(name, route, status).inc()
        seconds.labels(name, route).observe(took_s)
        if route in _SILENT_ROUTES:
            return
        about = {"service": name, "method": request.method, "route": route, "status": status}
        if (key := getattr(request.state, "api_key", None)) is not None:
            about["key"] = key
        with log_ids(run=request.path_params.get("run_id")):
            logger.info("answered", extra=fields(**about, took_ms=round(took_s * 1000, 1)))

    @app.middleware("http")
    async def observe(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        ids = incoming_ids(request.headers)
        request.state.request_id = ids["request"]
        started = time.perf_counter()
        with log_ids(**ids):
            try:
                response = await call_next(request)
            except Exception:  # a bug, on its way to its handler
                note(request, 500, started)
                raise
            note(request, response.status_code, started)
        response.headers[REQUEST_HEADER] = ids["request"]
        return response

    @app.get("/metrics", tags=["probes"], include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(UnspokenError)
    async def on_unspoken(_request: Request, error: UnspokenError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def on_validation(_request: Request, error: RequestValidationError) -> JSONResponse:
        # The input itself is left out: it may be a whole picture.
        problems = [
            {"where": ".".join(str(part) for part in problem["loc"]), "problem": problem["msg"]}
            for problem in error.errors()[:20]
        ]
        first = problems[0] if problems else {"where": "body", "problem": "invalid"}
        return error_response(
            InvalidInput(f"{first['where']}: {first['problem']}", details={"problems": problems})
        )

    @app.exception_handler(HTTPException)
    async def on_http(_request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(
            error.status_code, "invalid_input"
        )
        body = ErrorBody(error=code, message=str(error.detail))
        return JSONResponse(body.model_dump(), status_code=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        ids = {**incoming_ids(request.headers), "request": request.state.request_id}
        with log_ids(**ids):
            logger.error("unexpected error at %r", request.url.path, exc_info=error)
        body = ErrorBody(error="internal", message="an unexpected error; see the log")
        reply = JSONResponse(body.model_dump(), status_code=500)
        reply.headers[REQUEST_HEADER] = ids["request"]
        add_safe_headers(reply.headers, path=request.url.path)  # no middleware sees this reply
        return reply


def uvicorn_config(app: FastAPI, *, host: str, port: int, log_level: str) -> uvicorn.Config:
    """How every service listens: one process, our own access log, 30 s to drain."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http="h11",  # the strict one, also where httptools is installed
        log_level=log_level.lower(),
        log_config=None,  # its lines go the way of ours
        access_log=False,
        timeout_graceful_shutdown=30,
        server_header=False,
    )


def serve(app: FastAPI, settings: ServiceSettings) -> None:
    """Listen until SIGTERM, then drain."""
    configure_logging(settings.log_level, settings.log_format)
    use_keys(app, settings.key_ring())
    config = uvicorn_config(
        app, host=settings.host, port=settings.port, log_level=settings.log_level
    )
    uvicorn.Server(config).run()
