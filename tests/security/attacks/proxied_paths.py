"""Request targets and headers that try to make the gateway proxy to another segmenter route.

The gateway adds its own API key to proxied requests.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.app import create_app as create_gateway
from services.gateway.settings import GatewaySettings
from services.segmenter.app import create_app as create_segmenter
from tests.fakes import FakeSegmenter, FakeTextEncoder
from tests.security.attacks.raw_http import ask
from tests.worker.service import serve
from unspoken.config.api_keys import ApiKey, KeyRing, key_sha256, new_key
from unspoken.http.app import use_keys

UP = ("..", "%2e%2e", "%2E%2e", ".%2e", "..;", "%252e%252e", "%c0%ae%c0%ae", "..%00", "..%20")
SLASHES = ("/", "%2f", "%2F", "%5c", "\\", "%252f", "//", "/./", "%2f%2f")
GOALS = ("metrics", "openapi.json", "docs", "text-embeddings", "livez")
ODD_TARGETS = (
    *("/images/%2fmetrics", "/images//metrics", "/images/?/../metrics", "/images/%3f/../metrics"),
    *("/images/x#/../../metrics", "/images/http://127.0.0.1/metrics", "/images/%0d%0aX-A:%201"),
    *("/images/@evil/metrics", "/images/x/../..", "/images/%", "/images/%zz", "/images/%ff"),
    *("/v1/models/../../metrics", "/segment/../metrics", "/segment%2f..%2fmetrics"),
)
HOSTILE_HEADERS = {
    "Authorization": "Bearer theirs",
    "Cookie": "session=1",
    "Expect": "100-continue",
    "X-Forwarded-Host": "evil.example",
    "X-Original-URL": "/metrics",
    "X-Rewrite-URL": "/metrics",
    "X-HTTP-Method-Override": "DELETE",
    "X-Admin": "1",
    "TE": "trailers",
}
FORWARDED = frozenset(
    {"accept", "accept-encoding", "authorization", "connection", "host", "user-agent"}
    | {"content-length", "content-type", "if-none-match", "transfer-encoding"}
    | {"x-request-id", "x-run-id", "x-chunk-id", "x-request-timeout-ms"}
)


class Recorder:
    """Records raw path, query and headers of each request that reaches an app."""

    def __init__(self, app: ASGIApp) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            target = scope["raw_path"].decode("latin-1")
            query = scope["query_string"].decode("latin-1")
            headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
            }
            self.seen.append((f"{target}?{query}" if query else target, headers))
        await self._app(scope, receive, send)


def targets() -> list[str]:
    """Return all combinations of parent path, slash and goal, at two depths, and odd targets."""
    ways = [
        f"/images/{start}{up}{slash}{goal}"
        for start in ("", "x/")
        for up in UP
        for slash in SLASHES
        for goal in GOALS
    ]
    deep = [f"/images/a{slash}{up}{slash}{up}{slash}metrics" for up in UP for slash in SLASHES]
    return [*ways, *deep, *ODD_TARGETS]


def judge() -> dict[str, Any]:
    """Send every target to a gateway whose segmenter requires a key; check proxied requests."""
    key = new_key()
    problems: list[str] = []
    num_forwarded = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        behind = create_segmenter(FakeTextEncoder(), segmenter=FakeSegmenter())
        entry = ApiKey(name="gateway", sha256=key_sha256(key), requests_per_minute=0)
        use_keys(behind, KeyRing([entry]))
        recorder = Recorder(behind)
        segmenter_url = stack.enter_context(serve(recorder))
        settings = GatewaySettings(
            data_dir=folder / "data",
            runs_dir=folder / "runs",
            segmenter_url=segmenter_url,
            client_key=SecretStr(key),
        )
        url = stack.enter_context(serve(create_gateway(settings)))
        port = int(url.rpartition(":")[2])
        for target in targets():
            recorder.seen.clear()
            status, reply = ask(port, target, headers=HOSTILE_HEADERS)
            num_forwarded += len(recorder.seen)
            if status >= 500 or status == 200:
                problems.append(f"{target}: {status}")
            if key.encode() in reply or b"unspoken_cache" in reply:
                problems.append(f"{target}: the reply holds what is the segmenter's own")
            problems += _of_forwarded(target, recorder.seen, key)
    return {"targets": len(targets()), "forwarded": num_forwarded, "problems": problems}


def _of_forwarded(target: str, seen: list[tuple[str, dict[str, str]]], key: str) -> list[str]:
    problems = []
    for path, headers in seen:
        head, _, name = path.rpartition("/")
        if head != "/images" or name in ("", ".", "..") or "?" in path:
            problems.append(f"{target} reached {path}")
        if not set(headers) <= FORWARDED:
            problems.append(f"{target} brought the headers {sorted(set(headers) - FORWARDED)}")
        if headers.get("authorization") != f"Bearer {key}":
            problems.append(f"{target} came with another key than the gateway's")
    return problems
