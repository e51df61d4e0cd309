"""Convert an HTTP error reply, or a connection that fails, into an error of the tree."""

import math
import time
from email.utils import parsedate_to_datetime

import httpx

from unspoken.errors import (
    DeadlineExceeded,
    NotReady,
    Overloaded,
    ServiceUnavailable,
    Unreachable,
    UnspokenError,
)
from unspoken.safe_text import reason_of, redact
from unspoken.wire.error_table import error_class

MAX_RETRY_AFTER_S = 300.0


def error_of(response: httpx.Response, *, service: str = "") -> UnspokenError:
    """Return the error of a service's reply, whose body has been read. Secrets are redacted.

    `service` is the service's name, for the message.
    """
    try:
        body = response.json()
        code, message = str(body["error"]), str(body["message"])
        details = dict(body.get("details") or {})
    except (ValueError, KeyError, TypeError):
        code, message, details = "", response.text[:200], {}
    message = redact(f"{service} {response.request.url.path}: {message}".lstrip())
    kind = error_class(response.status_code, code)
    if issubclass(kind, Overloaded | NotReady):
        retry_after_s = parse_retry_after(response.headers.get("Retry-After"))
        return kind(message, retry_after_s=retry_after_s, details=details)
    return kind(message, details=details)


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
