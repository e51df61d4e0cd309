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
    EngineFailure: 500,
}
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (404, 413, 415, 422, 429, 503, 504)
}


def status_of(error: UnspokenError) -> int:
    """HTTP status of an error by the nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def error_response(error: UnspokenError) -> JSONResponse:
    """The reply for an error, with Retry-After where coming back helps."""
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded | NotReady):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    body = ErrorBody(error=error.code, message=error.message, details=error.details)
    return JSONResponse(body.model_dump(mode="json"), status_code=status_of(error), headers=headers)
