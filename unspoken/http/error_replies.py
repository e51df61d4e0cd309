"""Build the replies of errors, and describe them for OpenAPI."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

from unspoken.errors import InvalidInput, NotReady, Overloaded, UnspokenError
from unspoken.problem_words import Problem
from unspoken.wire.base import ErrorBody
from unspoken.wire.error_table import describe_status, status_of


def error_replies(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of FastAPI for these error statuses."""
    return {
        status: {"model": ErrorBody, "description": describe_status(status)} for status in statuses
    }


ERROR_REPLIES = error_replies(401, 403, 404, 413, 415, 422, 429, 503, 504)
"""Error replies of every service."""


def invalid_request(problems: Sequence[Problem]) -> InvalidInput:
    """Return the error of a request: its message is the first problem, `details` has all."""
    first = problems[0]
    return InvalidInput(
        first.message if first.where else f"body: {first.message}",
        details={
            "problems": [
                {"where": each.where or "body", "problem": each.problem} for each in problems
            ]
        },
    )


def error_response(error: UnspokenError, *, status: int | None = None) -> JSONResponse:
    """Return the reply for an error, with Retry-After if a retry may succeed.

    status: instead of the status in the error table.
    """
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
