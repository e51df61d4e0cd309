"""Convert an HTTP error reply, or a connection that fails, into an error of the tree."""

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import httpx

from unspoken.errors import (
    Conflict,
    DeadlineExceeded,
    EngineFailure,
    Forbidden,
    InvalidInput,
    NotAnImage,
    NotFound,
    NotReady,
    Overloaded,
    ServiceUnavailable,
    TooLarge,
    Unauthorized,
    Unreachable,
    UnspokenError,
)
from unspoken.safe_text import reason_of, redact

MAX_RETRY_AFTER_S = 300.0

_BY_STATUS: Mapping[int, type[UnspokenError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: NotAnImage,
    422: InvalidInput,
    502: ServiceUnavailable,
    504: DeadlineExceeded,
}


def error_of(response: httpx.Response, *, service: str = "") -> UnspokenError:
    """Return the error of a service's reply, whose body has been read. Secrets are redacted.

    `service` is the service's name, for the message.
    """
    try:
        body = response.json()
        message, details = str(body["message"]), dict(body.get("details") or {})
    except (ValueError, KeyError, TypeError):
        message, details = response.text[:200], {}
    message = redact(f"{service} {response.request.url.path}: {message}".lstrip())
    if response.status_code in (429, 503):
        busy = Overloaded if response.status_code == 429 else NotReady
        retry_after_s = parse_retry_after(response.headers.get("Retry-After"))
        return busy(message, retry_after_s=retry_after_s, details=details)
    kind = _BY_STATUS.get(response.status_code)
    if kind is not None:
        return kind(message, details=details)
    if response.status_code < 500:
        return InvalidInput(message, details=details)
    return EngineFailure(message, details=details)


def broken_off(error: httpx.RequestError, *, url: str) -> UnspokenError:
    """Return the error of a request that got no complete reply, without secrets of `url`."""
    told, url = reason_of(error), redact(url)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unreachable(f"no gateway answers at {url}: {told}; `unspoken up` starts one")
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"{url} did not answer in time")
    return ServiceUnavailable(f"the connection to {url} was lost: {told}")


def parse_retry_after(header: str | None, *, default_s: float = 1.0) -> float:
    """Return the seconds of a Retry-After header, which may be a date; the default if invalid."""
    if header is None:
        return default_s
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return default_s
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else default_s
