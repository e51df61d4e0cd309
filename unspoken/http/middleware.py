"""Middleware of every service: API keys, Host and Origin checks, body limit, security headers."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unspoken.config.api_keys import KeyRing
from unspoken.config.browser_rules import BrowserRules
from unspoken.errors import Forbidden, InvalidInput, RateLimited, TooLarge, Unauthorized
from unspoken.http.error_replies import error_response
from unspoken.http.pages import PAGE_POLICY, STATIC_PREFIX, is_open_page

OPEN_ROUTES = ("/livez", "/readyz")
"""Routes that need no key, because orchestrators and load balancers call them."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOTHING_LOADS = "default-src 'none'; frame-ancestors 'none'"


class KeyGate:
    """Middleware that replies 401 to a missing or unknown API key, 429 above the rate limit.

    The keys are the app's `state.keys`; None disables the check.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        keys: KeyRing | None = scope["app"].state.keys if scope["type"] == "http" else None
        if keys is not None and not _is_open(scope["path"]):
            try:
                name = keys.admit(Headers(scope=scope).get("authorization"))
            except (Unauthorized, RateLimited) as error:
                await error_response(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["api_key"] = name
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in OPEN_ROUTES or is_open_page(path)


class BrowserGuard:
    """Middleware that replies 403 to an unknown Host, and to cross-site requests that change state.

    The rules are the app's `state.browser_rules`; None disables the check.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        rules: BrowserRules | None = (
            scope["app"].state.browser_rules if scope["type"] == "http" else None
        )
        if rules is not None:
            headers = Headers(scope=scope)
            try:
                rules.check(
                    method=scope["method"],
                    host=headers.get("host"),
                    origin=headers.get("origin"),
                    fetch_site=headers.get("sec-fetch-site"),
                )
            except Forbidden as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Middleware that replies 413 to a body over `max_bytes`, in our error format.

    Starlette's own limiter answers in plain text.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        received = 0

        async def count() -> Message:
            # A chunked body announces no length, so count it as it arrives and stop at the limit.
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large()
            return message

        async def forward(message: Message) -> None:
            if received <= self._max_bytes:
                await send(message)

        try:
            await self._app(scope, count, forward)
        except TooLarge:
            if received <= self._max_bytes:
                raise
        # Send 413 regardless of how the route handled the exception.
        if received > self._max_bytes:
            await error_response(self._too_large())(scope, receive, send)

    def _refusal(self, headers: Headers) -> Response | None:
        """Return the refusal for invalid headers; None if they are acceptable."""
        announced = headers.get("content-length", "0")
        if "content-length" in headers and "transfer-encoding" in headers:
            # Two conflicting lengths: a proxy in front of us may have used the other one.
            both = InvalidInput("send either Content-Length or Transfer-Encoding")
            refusal = error_response(both, status=400)
            refusal.headers["Connection"] = "close"
            return refusal
        if announced.isdecimal() and int(announced) > self._max_bytes:
            return error_response(self._too_large())
        return None

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._max_bytes} bytes")


class SafeHeaders:
    """Middleware that adds security headers to replies that do not set them.

    They disable content sniffing, frames, referrers, caching and loading of other content.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def forward(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_safe_headers(MutableHeaders(scope=message), path=scope["path"])
            await send(message)

        await self._app(scope, receive, forward)


def add_safe_headers(headers: MutableHeaders, *, path: str) -> None:
    """Set security headers that are not set yet. Pages may load this service's static files."""
    policy = PAGE_POLICY if is_open_page(path) else NOTHING_LOADS
    if path.startswith(STATIC_PREFIX):
        headers.setdefault("Cache-Control", "no-cache")  # the browser may keep it and ask by ETag
    for name, value in {**SECURITY_HEADERS, "Content-Security-Policy": policy}.items():
        headers.setdefault(name, value)
