"""A client call as a generator of effects: send a request, pause, run blocking work.

The generator sends nothing itself. It yields effects, receives their results, and returns the
result of the call. `Client` and `AsyncClient` each have one small loop that performs the effects;
they share all other code.
"""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from unspoken.client.http_error import broken_off, error_of
from unspoken.config.api_keys import checked_key
from unspoken.errors import InvalidInput, ServiceUnavailable
from unspoken.logs import outgoing_headers
from unspoken.problem_words import first_problem
from unspoken.retries import Backoff, RetryPolicy, may_pass
from unspoken.safe_text import redact

Result = TypeVar("Result")
Request = TypeVar("Request", bound=BaseModel)

CONNECT_S = 5.0
DEFAULT_TIMEOUT_S = 180.0
DEFAULT_RETRIES = RetryPolicy()


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request that can be sent any number of times.

    `body` has httpx's arguments `json`, `files` and `data`. For `is_repeatable`, see `may_pass`.
    """

    method: str
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    is_repeatable: bool = True


@dataclass(frozen=True)
class Send:
    """Send a request; the result is its complete response, or httpx's error.

    `request` has the arguments of httpx's `request`.
    """

    request: Mapping[str, Any]


@dataclass(frozen=True)
class Pause:
    """Wait; there is no result."""

    seconds: float


@dataclass(frozen=True)
class RunBlocking:
    """Run a blocking function; the result is its return value."""

    function: Callable[[], Any]


Effect: TypeAlias = Send | Pause | RunBlocking
Effects: TypeAlias = Generator[Effect, Any, Result]


class Exchange:
    """The requests of one client call, which share its timeout and its retries."""

    def __init__(self, base_url: str, *, retries: RetryPolicy, timeout_s: float) -> None:
        self._base_url = base_url
        self._retries = retries
        self._ends_s = time.monotonic() + timeout_s
        self._headers = outgoing_headers()

    def send(self, call: Call) -> Effects[httpx.Response]:
        """Return a success response. Raises the gateway's error if a retry does not help."""
        backoff = Backoff(self._retries.within(self._left_s()))
        while True:
            answer: httpx.Response | httpx.RequestError = yield Send(self._request(call))
            broke = answer if isinstance(answer, httpx.RequestError) else None
            if isinstance(answer, httpx.RequestError):
                error = broken_off(answer, url=self._base_url)
            elif answer.is_success:
                return answer
            else:
                error = error_of(answer)
            pause_s = backoff.pause_s(error)
            if pause_s is None or not may_pass(error, is_repeatable=call.is_repeatable):
                raise error from broke
            yield Pause(pause_s)

    def _left_s(self) -> float:
        return max(self._ends_s - time.monotonic(), 0.001)

    def _request(self, call: Call) -> Mapping[str, Any]:
        left_s = self._left_s()
        return {
            "method": call.method,
            "url": call.path,
            "headers": self._headers,
            "timeout": httpx.Timeout(left_s, connect=min(CONNECT_S, left_s)),
            **call.body,
        }


def parsed(reply: TypeAdapter[Result], response: httpx.Response) -> Result:
    """Parse a reply. Unknown fields of a later gateway are ignored.

    Raises ServiceUnavailable for anything else.
    """
    try:
        return reply.validate_json(response.content)
    except ValidationError as error:
        path = response.request.url.path
        raise ServiceUnavailable(
            f"{path} did not answer with a valid reply of Unspoken: {first_problem(error)}"
        ) from error


def checked(model: type[Request], fields: Mapping[str, object]) -> Request:
    """Validate a caller's values as a request. Raises InvalidInput with the first problem."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise InvalidInput(first_problem(error, model)) from error


def checked_url(base_url: str) -> str:
    """Return a service's URL without a trailing slash. Raises InvalidInput."""
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not _is_host(url.host):
        raise InvalidInput(
            f"{redact(base_url)!r} is not the URL of a service. Write it like "
            "http://127.0.0.1:8000, with http:// or https:// before the host"
        )
    return base_url.strip().rstrip("/")


def _is_host(host: str) -> bool:
    """Return False for an empty host, and one with characters that httpx had to escape."""
    return bool(host) and "%" not in host


def checked_path(*segments: str) -> str:
    """Return the path of the segments, each percent-encoded completely.

    Raises InvalidInput for "." and "..", because an HTTP library would resolve them to another
    route.
    """
    for segment in segments:
        if segment in ("", ".", ".."):
            raise InvalidInput(f"{segment!r} is not a valid id or name")
    try:
        return "".join(f"/{quote(segment, safe='')}" for segment in segments)
    except UnicodeEncodeError as error:
        raise InvalidInput("an id or a name must not contain half of a surrogate pair") from error


def auth_headers(api_key: str | None) -> dict[str, str]:
    """Return the header with an API key; empty for None or "". Raises InvalidInput."""
    key = checked_key(api_key or "", name="the api_key")
    return {"Authorization": f"Bearer {key}"} if key else {}
