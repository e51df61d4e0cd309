"""Middleware that records every request: ids, a log line, Prometheus metrics."""

import logging
import time
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unspoken.logs import REQUEST_HEADER, fields, incoming_ids, log_ids

_SILENT_ROUTES = ("/livez", "/readyz", "/metrics")

logger = logging.getLogger(__name__)


class RequestMetrics:
    """ASGI middleware that sets the ids of a request, logs it and counts it.

    `paths` are routes that inner middleware may answer before routing; they keep their name in
    metrics.
    """

    def __init__(
        self, app: ASGIApp, *, service: str, registry: CollectorRegistry, paths: Collection[str]
    ) -> None:
        self._app = app
        self._service = service
        self._paths = paths
        self._requests = Counter(
            "unspoken_requests", "Requests", ["service", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "unspoken_request_seconds",
            "Duration of requests",
            ["service", "route"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ids = incoming_ids(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = ids["request"]
        started = time.perf_counter()
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_HEADER] = ids["request"]
                self._note(scope, status, started)
            await send(message)

        with log_ids(**ids):
            try:
                await self._app(scope, receive, answer)
            except Exception:  # a bug; the exception handler replies
                if status is None:
                    self._note(scope, 500, started)
                raise
            if status is None:  # the caller disconnected
                self._note(scope, 499, started)

    def _note(self, scope: Scope, status: int, started: float) -> None:
        took_s = time.perf_counter() - started
        path = scope["path"] if scope["path"] in self._paths else "unknown"
        route = getattr(scope.get("route"), "path", path)
        self._requests.labels(self._service, route, status).inc()
        self._seconds.labels(self._service, route).observe(took_s)
        if route in _SILENT_ROUTES:
            return
        about = {
            "service": self._service,
            "method": scope["method"],
            "route": route,
            "status": status,
            "took_ms": round(took_s * 1000, 1),
        }
        if (key := scope["state"].get("api_key")) is not None:
            about["key"] = key
        with log_ids(run=scope.get("path_params", {}).get("run_id")):
            logger.info("answered", extra=fields(**about))
