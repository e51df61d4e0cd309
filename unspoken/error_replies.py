"""The one table from the error tree to HTTP, and the shape of every reply that is no success."""

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

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
    UnspokenError,
)
from unspoken.schemas import ErrorBody

# The nearest class counts, anything else is 500.
STATUS: dict[type[UnspokenError], int] = {
    InvalidInput: 422,
    NotAnImage: 415,
    TooLarge: 413,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Overloaded: 429,
    NotReady: 503,
    DeadlineExceeded: 504,
    ServiceUnavailable: 502,
    # Raised by a handler: a service behind this one rejected our key. KeyGate answers a caller
    # without a key itself, by 401.
    Unauthorized: 502,
    EngineFailure: 500,
}
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (401, 403, 404, 413, 415, 422, 429, 503, 504)
}


def status_of(error: UnspokenError) -> int:
    """HTTP status of an error by the nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def error_response(error: UnspokenError, *, status: int | None = None) -> JSONResponse:
    """Return the reply for an error, with Retry-After where coming back helps."""
    if isinstance(error, Unauthorized) and status is None:
        error = ServiceUnavailable(
            "a service behind this one rejected the API key of this one (UNSPOKEN_CLIENT_KEY); "
            f"its answer: {error.message}"
        )
    status = status_of(error) if status is None else status
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded | NotReady):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_error(error.code, error.message, error.details, status=status, headers=headers)


def json_error(
    code: str,
    message: str,
    details: Mapping[str, object] | None = None,
    *,
    status: int,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a reply in the shape of every error."""
    body = {"error": code, "message": message, "details": dict(details or {})}
    return _ErrorResponse(body, status_code=status, headers=headers)


class _ErrorResponse(JSONResponse):
    """JSON that may repeat any text of a caller: half of a surrogate pair is written as \\udxxx."""

    def render(self, content: object) -> bytes:
        written = json.dumps(
            content, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":")
        )
        return written.encode("utf-8", errors="backslashreplace")
