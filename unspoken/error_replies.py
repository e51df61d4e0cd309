"""The one table from the error tree to HTTP, and the shape of every reply that is no success."""

from typing import Any

from fastapi.responses import JSONResponse

from unspoken.errors import (
    Conflict,
    DeadlineExceeded,
    EngineFailure,
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
    NotFound: 404,
    Conflict: 409,
    Overloaded: 429,
    NotReady: 503,
    DeadlineExceeded: 504,
    ServiceUnavailable: 502,
    # Out of a handler it is a service behind this one that knows not our key; a caller of ours
    # who has none is told so at the gate, by 401.
    Unauthorized: 502,
    EngineFailure: 500,
}
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (401, 404, 413, 415, 422, 429, 503, 504)
}


def status_of(error: UnspokenError) -> int:
    """HTTP status of an error by the nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def error_response(error: UnspokenError, *, status: int | None = None) -> JSONResponse:
    """The reply for an error, with Retry-After where coming back helps."""
    status = status_of(error) if status is None else status
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded | NotReady):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = ErrorBody(error=error.code, message=error.message, details=error.details)
    return JSONResponse(body.model_dump(mode="json"), status_code=status, headers=headers)
