"""Map the error tree to HTTP statuses, and build the body of every error reply."""

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
from unspoken.wire.base import ErrorBody

# An error has the status of its nearest class here, or else 500.
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
    # Raised by a handler if a service behind this one rejected our key. KeyGate itself sends 401 to
    # callers without a valid key.
    Unauthorized: 502,
    EngineFailure: 500,
}
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (401, 403, 404, 413, 415, 422, 429, 503, 504)
}


def status_of(error: UnspokenError) -> int:
    """Return the HTTP status of an error, by its nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def error_response(error: UnspokenError, *, status: int | None = None) -> JSONResponse:
    """Return the reply for an error, with Retry-After if a retry may succeed."""
    if isinstance(error, Unauthorized) and status is None:
        error = ServiceUnavailable(
            "an upstream service rejected this service's API key (UNSPOKEN_CLIENT_KEY): "
            f"{error.message}"
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
    """Return an error reply in the common format."""
    body = {"error": code, "message": message, "details": dict(details or {})}
    return _ErrorResponse(body, status_code=status, headers=headers)


class _ErrorResponse(JSONResponse):
    """JSON that may contain any text of a caller; lone surrogates are written as \\udxxx."""

    def render(self, content: object) -> bytes:
        written = json.dumps(
            content, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":")
        )
        return written.encode("utf-8", errors="backslashreplace")
