"""Schemathesis on every service in this process: valid and invalid requests must never give a 5xx.

Half of an operation's cases fit its schema, half do not. The engines are fakes.
"""

import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.python.asgi import shutdown_lifespans

from services.detector import app as detector
from services.gateway import app as gateway
from services.gateway.proxy import Proxy
from services.gateway.settings import GatewaySettings
from services.llm import app as llm
from services.segmenter import app as segmenter
from tests.fakes import (
    FakeCropRanker,
    FakeDetector,
    FakePrompter,
    FakeSegmenter,
    FakeTextEncoder,
)
from unspoken.http.deadline import TIMEOUT_HEADER

READY_S = 30.0


def build_apps(folder: Path) -> dict[str, FastAPI]:
    """Create the four services over fakes; the gateway's segmenter has no pictures."""
    passing = Proxy("http://segmenter", timeout_s=5, transport=httpx.MockTransport(_know_nothing))
    folders = GatewaySettings(data_dir=folder / "data", runs_dir=folder / "runs")
    return {
        "llm": llm.create_app(FakePrompter()),
        "detector": detector.create_app(FakeDetector()),
        "segmenter": segmenter.create_app(
            FakeTextEncoder(), segmenter=FakeSegmenter(), ranker=FakeCropRanker()
        ),
        "gateway": gateway.create_app(folders, passing=passing),
    }


def _know_nothing(request: httpx.Request) -> httpx.Response:
    """Answer like a segmenter without pictures; the body is a stream, as over the network."""
    if request.url.path == "/v1/models":
        return httpx.Response(200, json=[FakeSegmenter.model.model_dump()])

    async def body() -> AsyncIterator[bytes]:
        yield b'{"error": "not_found", "message": "nobody knows it", "details": {}}'

    return httpx.Response(404, content=body(), headers={"Content-Type": "application/json"})


def fuzz(*, cases_each: int, number: int) -> dict[str, Any]:
    """Run `cases_each` cases of each mode for each operation, drawn by the seed `number`."""
    tally: dict[str, Any] = {"cases": 0, "operations": 0, "statuses": {}, "problems": []}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, app in build_apps(Path(folder)).items():
                schema = schemathesis.openapi.from_asgi("/openapi.json", app)
                operations = [result.ok() for result in schema.get_all_operations()]
                wait_ready(operations)
                for operation in operations:
                    tally["operations"] += 1
                    for mode in GenerationMode:
                        _fuzz_operation(name, operation, mode, cases_each, number, tally)
        finally:
            shutdown_lifespans()
    tally["statuses"] = dict(sorted(tally["statuses"].items()))
    return tally


def wait_ready(operations: list[Any]) -> None:
    """Wait until /readyz answers 200; a 503 before that is correct."""
    (ready,) = (operation for operation in operations if operation.path == "/readyz")
    deadline = time.monotonic() + READY_S
    while ready.Case().call().status_code != 200:
        if time.monotonic() > deadline:
            raise TimeoutError("a service of fakes is not ready")
        time.sleep(0.02)


def _fuzz_operation(
    name: str, operation: Any, mode: GenerationMode, count: int, number: int, tally: dict[str, Any]
) -> None:
    try:
        strategy = operation.as_strategy(generation_mode=mode)
    except Exception as error:  # noqa: BLE001 - schemathesis has many errors for "no case fits"
        tally["problems"].append(f"{name} {operation.label}: {error}")
        return

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def ask(case: Any) -> None:
        response = case.call()
        status = response.status_code
        tally["cases"] += 1
        tally["statuses"][str(status)] = tally["statuses"].get(str(status), 0) + 1
        # A case may send a deadline that has passed; then 504 is correct.
        if status >= 500 and not (status == 504 and TIMEOUT_HEADER in (case.headers or {})):
            problem = f"{name} {operation.label}: {status} for {case.as_curl_command()[:600]}"
            tally["problems"].append(problem)
        elif status >= 400 and set(response.json()) != {"error", "message", "details"}:
            tally["problems"].append(f"{name} {operation.label}: {status} is of another shape")

    try:
        ask()
    except Exception as error:  # noqa: BLE001 - also Unsatisfiable: no request violates the schema
        if type(error).__name__ not in ("Unsatisfiable", "NoTests"):
            tally["problems"].append(f"{name} {operation.label} {mode}: {error!r}"[:800])
