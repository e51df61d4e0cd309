"""Build an HTTP service with what all services share: probes, metrics, errors, request ids.

A service builds its engine, calls `create_service` and adds its routes. Handlers are `async def`,
decode pictures in the decode pool and await a batcher, so that nothing blocks the event loop.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any, TypeAlias, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException

from unspoken import __version__
from unspoken.config.api_keys import KeyRing
from unspoken.config.browser_rules import BrowserRules
from unspoken.errors import (
    InvalidInput,
    NotReady,
    ServiceUnavailable,
    TooLarge,
    Unauthorized,
    UnspokenError,
)
from unspoken.http.admission import Admission, AdmissionMiddleware
from unspoken.http.batching import InferenceThread, MicroBatcher
from unspoken.http.error_replies import (
    ERROR_REPLIES,
    error_response,
    invalid_request,
    json_error,
)
from unspoken.http.middleware import BodyLimit, BrowserGuard, KeyGate, SafeHeaders, add_safe_headers
from unspoken.http.openapi import describe_middleware
from unspoken.http.pages import Section, Sections, add_pages
from unspoken.http.request_metrics import RequestMetrics
from unspoken.logs import REQUEST_HEADER, bind_context, fields, incoming_ids, log_ids
from unspoken.problem_words import MAX_PROBLEMS, plain_problem, unknown_names
from unspoken.wire.base import ModelInfo

Result = TypeVar("Result")
Models: TypeAlias = Callable[[], list[ModelInfo] | Awaitable[list[ModelInfo]]]
logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 * 1024 * 1024
_decode_pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode")


async def in_decode_pool(function: Callable[..., Result], *args: object) -> Result:
    """Run Pillow and base64 work outside the event loop, at most two calls at a time."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_decode_pool, bind_context(function, *args))


class Health:
    """State of a service for its probes: warmed up, draining or failed."""

    def __init__(self, thread: InferenceThread) -> None:
        self.thread = thread
        self.warm = False
        self.leaving = False
        """True while the process still answers, but load balancers should send no new requests."""
        self.draining = False
        self.warm_up_failure: str | None = None

    def check_ready(self) -> None:
        """Raise NotReady unless the service should receive new requests."""
        if self.leaving:
            raise NotReady("draining")
        self.check_open()

    def check_open(self) -> None:
        """Raise NotReady before the warm-up has finished, and while the service drains."""
        if (failure := self.failure()) is not None:
            raise NotReady(failure)
        if self.draining:
            raise NotReady("draining")
        if not self.warm:
            raise NotReady("loading")

    def state(self) -> str:
        """Return "ready", or the reason why the service should receive no new requests."""
        try:
            self.check_ready()
        except NotReady as error:
            return error.message
        return "ready"

    def check_alive(self) -> None:
        """Raise NotReady if the inference thread hangs or has failed."""
        if (failure := self.failure()) is not None:
            raise NotReady(failure)

    def failure(self) -> str | None:
        """Return the reason why this process cannot recover; None while it works.

        `unspoken.http.serve` then ends the process.
        """
        if self.warm_up_failure is not None:
            return f"the warm-up failed: {self.warm_up_failure}"
        return self.thread.failure()


def _nothing() -> None:
    """Do nothing: the default of `on_stop`."""


def _no_sections(_request: Request) -> Sequence[Section]:
    """The default of `sections`."""
    return ()


class _Queues(Collector):
    """Metrics of each batcher: queue length and bytes, batches and items done."""

    def __init__(self, batchers: Sequence[MicroBatcher[Any, Any]]) -> None:
        self._batchers = batchers

    def collect(self) -> Iterator[Metric]:
        """Read the queues at scrape time."""
        labels = ["batcher"]
        length = GaugeMetricFamily(
            "unspoken_queue_length", "Items waiting for a batch", labels=labels
        )
        size = GaugeMetricFamily(
            "unspoken_queue_bytes", "Bytes of items waiting for a batch", labels=labels
        )
        bound = GaugeMetricFamily(
            "unspoken_max_batch", "Maximum number of items in a batch", labels=labels
        )
        batches = CounterMetricFamily("unspoken_batches", "Batches processed", labels=labels)
        items = CounterMetricFamily(
            "unspoken_batch_items", "Items in processed batches", labels=labels
        )
        for batcher in self._batchers:
            name = [batcher.name]
            length.add_metric(name, batcher.queue_length)
            size.add_metric(name, batcher.queue_bytes)
            bound.add_metric(name, batcher.max_batch)
            batches.add_metric(name, batcher.num_batches)
            items.add_metric(name, batcher.num_items)
        yield from (length, size, bound, batches, items)


def create_service(
    name: str,
    *,
    description: str,
    models: Models,
    batchers: Sequence[MicroBatcher[Any, Any]],
    thread: InferenceThread,
    warm_up: Callable[[], object],
    admissions: Mapping[str, Admission] | None = None,
    request_timeout_s: float | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    collectors: Sequence[Collector] = (),
    on_stop: Callable[[], None] | None = None,
    on_close: Callable[[], Awaitable[None]] | None = None,
    sections: Sections = _no_sections,
) -> FastAPI:
    """Return a FastAPI app with the common routes; the caller adds its own.

    `app.state.health` and `app.state.on_stop` are for the code that serves the app.

    Args:
        name: The service's name.
        description: The text in OpenAPI and on the page at `/`.
        models: Returns the models that the service runs.
        batchers: Started and closed with the app.
        thread: The inference thread.
        warm_up: Runs once on the inference thread. Until it has finished, `/readyz` and all POST
            routes reply 503.
        admissions: Path -> admission control of that route.
        request_timeout_s: Deadline of a request that sets no deadline.
        max_body_bytes: Maximum size of a body.
        collectors: Additional collectors for `/metrics`.
        on_stop: Called when the process is told to stop, before open requests are drained.
        on_close: Awaited after the last request, before the batchers close.
        sections: Returns further sections of the page at `/`.
    """
    health = Health(thread)
    admissions = admissions or {}

    async def warm() -> None:
        try:
            await thread.run(warm_up)
        except Exception as error:
            health.warm_up_failure = f"{type(error).__name__}: {error}"
            logger.exception("warm-up failed", extra=fields(service=name))
            return
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
        dependencies=[Depends(_refuse_unknown_parameters)],
        responses=ERROR_REPLIES,
        docs_url=None,  # FastAPI's own pages load scripts from a CDN
        redoc_url=None,
    )
    app.state.health = health
    app.state.on_stop = on_stop or _nothing
    registry = CollectorRegistry()
    for collector in (_Queues(batchers), *collectors):
        registry.register(collector)
    _add_probes(app, health=health, models=models, registry=registry)
    add_pages(app, state=health.state, sections=sections)
    _add_errors(app)
    describe_middleware(app)
    # From the innermost to the outermost, so that refused requests are counted and logged, too.
    app.add_middleware(
        AdmissionMiddleware,
        check_open=health.check_open,
        admissions=admissions,
        timeout_s=request_timeout_s,
    )
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    use_keys(app, None)
    use_browser_rules(app, None)
    use_ports(app, {})
    app.add_middleware(KeyGate)
    app.add_middleware(BrowserGuard)
    app.add_middleware(RequestMetrics, service=name, registry=registry, paths=frozenset(admissions))
    app.add_middleware(SafeHeaders)
    return app


def use_keys(app: FastAPI, keys: KeyRing | None) -> None:
    """Accept only the API keys of this ring; None disables the check."""
    app.state.keys = keys


def use_browser_rules(app: FastAPI, rules: BrowserRules | None) -> None:
    """Accept only these Host and Origin headers; None disables the check."""
    app.state.browser_rules = rules


def use_ports(app: FastAPI, ports: Mapping[str, int]) -> None:
    """Tell an app the ports of the services that run in its process, for the links of its page."""
    app.state.ports = ports


def _add_probes(
    app: FastAPI,
    *,
    health: Health,
    models: Models,
    registry: CollectorRegistry,
) -> None:
    @app.get("/livez", tags=["probes"])
    async def livez() -> dict[str, str]:
        """Return 200 if the event loop answers and the inference thread does not hang."""
        health.check_alive()
        return {"status": "alive"}

    @app.get("/readyz", tags=["probes"])
    async def readyz() -> dict[str, str]:
        """Return 200 if the models have answered a warm-up and the process does not drain."""
        health.check_ready()
        return {"status": "ready"}

    @app.get("/v1/models", tags=["probes"])
    async def list_models() -> list[ModelInfo]:
        """List the models of this service."""
        answer = models()
        return await answer if isawaitable(answer) else answer

    @app.get("/metrics", tags=["probes"], include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")


async def _refuse_unknown_parameters(request: Request) -> None:
    """Raise InvalidInput for a query parameter that the route does not have.

    Probes and pages accept any parameter, because monitoring tools and links add their own.
    """
    route = request.scope["route"]
    if not request.query_params or not {"probes", "pages"}.isdisjoint(route.tags):
        return
    known = [each.alias for each in route.dependant.query_params]
    owner = f"{request.method} {route.path}"
    problems = unknown_names(request.query_params, known=known, what="query parameter", owner=owner)
    if problems:
        raise invalid_request(problems)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(UnspokenError)
    async def on_unspoken(_request: Request, error: UnspokenError) -> JSONResponse:
        # KeyGate answers callers without a valid key. So here another service refused our own key.
        if isinstance(error, Unauthorized):
            error = ServiceUnavailable(
                "an upstream service rejected this service's API key (UNSPOKEN_CLIENT_KEY): "
                f"{error.message}"
            )
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def on_validation(_request: Request, error: RequestValidationError) -> JSONResponse:
        # Only path parameters and headers: routes validate bodies themselves.
        problems = [plain_problem(problem) for problem in error.errors()[:MAX_PROBLEMS]]
        return error_response(invalid_request(problems))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        code, message = InvalidInput.code, str(error.detail)
        if error.status_code == 404:
            code, message = (
                "unknown_route",
                f"there is no route {request.url.path[:200]}; see /docs",
            )
        elif error.status_code == 405:
            code = "method_not_allowed"
        elif error.status_code == 413:
            code = TooLarge.code
        return json_error(code, message, status=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        ids = {**incoming_ids(request.headers), "request": request.state.request_id}
        with log_ids(**ids):
            logger.error("unexpected error at %r", request.url.path, exc_info=error)
        reply = json_error("internal", "an unexpected error; see the log", status=500)
        reply.headers[REQUEST_HEADER] = ids["request"]
        add_safe_headers(reply.headers, path=request.url.path)  # this reply bypasses the middleware
        return reply
