"""Add the headers that middleware reads to a service's OpenAPI.

FastAPI describes routes only; it does not know the middleware's API key and timeout header.
"""

from typing import Any

from fastapi import FastAPI

from unspoken.http.deadline import MAX_TIMEOUT_MS, TIMEOUT_HEADER
from unspoken.http.middleware import OPEN_ROUTES

_KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key of UNSPOKEN_API_KEYS; required if the service has API keys.",
}
_TIMEOUT_PARAMETER = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "description": "Timeout of the caller in milliseconds; after it the reply is 504.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
}


def describe_middleware(app: FastAPI) -> None:
    """Add the API key scheme and the timeout header to the OpenAPI of an app."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    schema.setdefault("components", {})["securitySchemes"] = {"ApiKey": _KEY_SCHEME}
    schema["security"] = [{"ApiKey": []}, {}]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if path in OPEN_ROUTES:
                operation["security"] = []
            if method == "post":
                operation.setdefault("parameters", []).append(_TIMEOUT_PARAMETER)
    return schema
