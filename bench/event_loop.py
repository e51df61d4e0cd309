"""`python -m bench.event_loop`: the longest time for which hostile bodies block an event loop.

The server is a real process with the four services over fake engines. Each body is sent alone,
three times. Meanwhile a task of the server measures how late it wakes up from a short sleep.
`longest_block_ms` (limit: 50) is the shortest of three measurements for the worst body, which
`worst` names. A block is the smaller of wall time and the process's CPU time, so that other load on
the machine does not count. `wall_ms` is the longest block by wall time alone. `blocks_ms` lists the
blocks of all bodies.
"""

import argparse
import asyncio
import base64
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI

from services.detector.app import create_app as create_detector
from services.detector.settings import DetectorSettings
from services.gateway.app import create_app as create_gateway
from services.gateway.settings import GatewaySettings
from services.llm.app import create_app as create_llm
from services.llm.settings import LlmSettings
from services.segmenter.app import create_app as create_segmenter
from services.segmenter.settings import SegmenterSettings
from tests.fakes import FakeDetector, FakePrompter, FakeSegmenter, FakeTextEncoder
from unspoken.http.serve import serve_all
from unspoken.imaging.images import ONE_WHITE_PIXEL

HOST = "127.0.0.1"
BEAT_S = 0.005
TRIES = 3
MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
_PIXEL = base64.b64encode(ONE_WHITE_PIXEL).decode()


class Body(NamedTuple):
    """A request to one service; its body is built only when it is sent."""

    service: str
    path: str
    make: Callable[[], bytes]
    headers: dict[str, str] = JSON


def many(element: str, mib: float) -> bytes:
    """Return a JSON body of `mib` MiB with many small elements, which are expensive to parse."""
    count = int(mib * MIB) // (len(element) + 1)
    return ('{"x":[' + ",".join([element] * count) + "]}").encode()


def form_field(name: str, value: str) -> str:
    """Return one part of a multipart form."""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'


def inline_items(number: int, mib: float) -> bytes:
    """Return the body of a run with `mib` MiB of base64 that decodes to no picture."""
    text = "A" * (int(mib * MIB) // number // 4 * 4)
    items = [{"caption": "a car", "image": {"base64": text}} for _ in range(number)]
    return json.dumps({"items": items}).encode()


def _segment(**changes: object) -> bytes:
    return json.dumps({"image": {"base64": _PIXEL}, "queries": [], **changes}).encode()


def _image(text: str) -> bytes:
    return json.dumps({"image": {"base64": text}}).encode()


def _form(*fields: str) -> bytes:
    return ("".join(fields) + "--b--\r\n").encode()


BODIES = {
    "arrays": Body("segmenter", "/segment", lambda: many("[]", 30)),
    "arrays-of-a-run": Body("gateway", "/runs", lambda: many("[]", 60)),
    "arrays-of-captions": Body("llm", "/propose", lambda: many("[]", 30)),
    "arrays-of-phrases": Body("segmenter", "/text-embeddings", lambda: many("[]", 30)),
    "objects": Body("detector", "/detect", lambda: many("{}", 30)),
    "strings": Body("segmenter", "/segment", lambda: many('""', 30)),
    "numbers": Body("segmenter", "/rank-crops", lambda: many("1", 30)),
    "escaped-quotes": Body("segmenter", "/segment", lambda: many('"\\""', 30)),
    "backslashes": Body("segmenter", "/segment", lambda: b'{"x":"' + b"\\\\" * 15 * MIB + b'"}'),
    "one-text": Body("segmenter", "/segment", lambda: b'{"x":"' + b"y" * 30 * MIB + b'"}'),
    "escaped-text": Body("segmenter", "/segment", lambda: b'{"x":"' + b"\\u0041" * MIB + b'"}'),
    "not-utf-8": Body("segmenter", "/segment", lambda: b'{"x":"' + b"\xff" * 7 * MIB + b'"}'),
    "digits": Body("segmenter", "/segment", lambda: b'{"x":' + b"1" * 7 * MIB + b"}"),
    "depth": Body("segmenter", "/segment", lambda: b"[" * 30 * MIB),
    "unknown-keys": Body(
        "segmenter", "/segment", lambda: _segment(**{f"key {n}": n for n in range(9900)})
    ),
    "empty-queries": Body("segmenter", "/segment", lambda: _segment(queries=[{}] * 9900)),
    "empty-boxes": Body(
        "segmenter", "/segment", lambda: _segment(queries=[{"boxes": [{}] * 9900}])
    ),
    "base64": Body("segmenter", "/images", lambda: _image("A" * 26 * MIB)),
    "escaped-base64": Body(
        "segmenter", "/images", lambda: b'{"image":{"base64":"' + b"\\/" * 13 * MIB + b'"}}'
    ),
    "base64-of-a-detection": Body(
        "detector",
        "/detect",
        lambda: json.dumps({"image": {"base64": "A" * 26 * MIB}, "phrases": ["car"]}).encode(),
    ),
    "items": Body("gateway", "/runs", lambda: inline_items(4, 60)),
    "many-items": Body("gateway", "/runs", lambda: inline_items(1000, 60)),
    "form-of-arrays": Body(
        "segmenter", "/segment", lambda: _form(form_field("queries", many("[]", 3).decode())), FORM
    ),
    "form-of-phrases": Body(
        "detector", "/detect", lambda: _form(form_field("phrases", "[" + "1," * MIB + "1]")), FORM
    ),
    "form-of-fields": Body(
        "detector",
        "/detect",
        lambda: _form(*(form_field("phrases", "x") for _ in range(1000))),
        FORM,
    ),
    "form-of-line-ends": Body("detector", "/detect", lambda: b"--b\r\n" + b"\r\n-" * 9 * MIB, FORM),
    "captions": Body(
        "llm",
        "/propose",
        lambda: json.dumps({"captions": ["a red car, " * 180] * 256}).encode(),
    ),
    "phrases": Body(
        "segmenter",
        "/text-embeddings",
        lambda: json.dumps({"phrases": [f"{n} " + "x" * 250 for n in range(1000)]}).encode(),
    ),
}


@dataclass
class Beat:
    """Measures the longest time for which the event loop was blocked."""

    block_s: float = 0.0
    wall_s: float = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            began = time.perf_counter(), time.process_time()
            await asyncio.sleep(BEAT_S)
            wall_s = time.perf_counter() - began[0] - BEAT_S
            cpu_s = time.process_time() - began[1]
            self.wall_s = max(self.wall_s, wall_s)
            self.block_s = max(self.block_s, min(wall_s, cpu_s))

    def take(self) -> dict[str, float]:
        """Return the longest block since the last call, and reset it."""
        noted = {"block_ms": 1000 * self.block_s, "wall_ms": 1000 * self.wall_s}
        self.block_s = self.wall_s = 0.0
        return noted


async def serve_services(port_numbers: list[int], folder: Path) -> None:
    """Serve all four services in one process, as `unspoken up` does.

    The gateway gets the additional path `/longest-block`.
    """
    beat = Beat()
    settings = GatewaySettings(
        host=HOST,
        port=port_numbers[0],
        data_dir=folder / "data",
        runs_dir=folder / "runs",
        segmenter_url=f"http://{HOST}:{port_numbers[1]}",
        log_level="ERROR",
    )
    gateway = create_gateway(settings)

    @gateway.get("/longest-block")
    async def longest_block() -> dict[str, float]:
        return beat.take()

    segmenter = create_segmenter(FakeTextEncoder(), segmenter=FakeSegmenter())
    engines: list[tuple[FastAPI, type[DetectorSettings | LlmSettings | SegmenterSettings]]] = [
        (segmenter, SegmenterSettings),
        (create_detector(FakeDetector()), DetectorSettings),
        (create_llm(FakePrompter()), LlmSettings),
    ]
    beating = asyncio.create_task(beat.run())
    await serve_all(
        [
            *(
                (app, kind(host=HOST, port=port, log_level="ERROR"))
                for (app, kind), port in zip(engines, port_numbers[1:], strict=True)
            ),
            (gateway, settings),
        ]
    )
    beating.cancel()


def send(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Send a request; return the reply's body, empty if the service closed during the upload."""
    connection = http.client.HTTPConnection(HOST, port, timeout=120)
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().read()
    except (BrokenPipeError, ConnectionResetError):
        return b""
    finally:
        connection.close()


@contextmanager
def served() -> Iterator[dict[str, int]]:
    """Run the services in a process; yield the port of each when all are ready."""
    with tempfile.TemporaryDirectory() as folder:
        port_numbers = _free_port_numbers(4)
        arguments = ["--serve", folder, *map(str, port_numbers)]
        command = [sys.executable, "-m", "bench.event_loop", *arguments]
        with subprocess.Popen(command) as process:
            try:
                for port in port_numbers:
                    _wait_ready(port)
                names = ("gateway", "segmenter", "detector", "llm")
                yield dict(zip(names, port_numbers, strict=True))
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=60) == 0, "the services drain"
            finally:
                process.kill()


def _free_port_numbers(count: int) -> list[int]:
    with ExitStack() as stack:
        probed = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in probed]


def _wait_ready(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if send(port, "GET", "/readyz", b"", {}).startswith(b'{"status"'):
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("a service is not ready")
        time.sleep(0.1)


def measure(names: list[str], *, tries: int = TRIES) -> dict[str, Any]:
    """Send every body and measure the block that it causes."""
    blocks_ms: dict[str, float] = {}
    wall_ms = 0.0
    with served() as port_by_service:
        gateway = port_by_service["gateway"]
        for name in names:
            body = BODIES[name]
            made, noted = body.make(), []
            for _ in range(tries):
                send(gateway, "GET", "/longest-block", b"", {})
                send(port_by_service[body.service], "POST", body.path, made, body.headers)
                told = send(gateway, "GET", "/longest-block", b"", {})
                noted.append(json.loads(told))
            blocks_ms[name] = round(min(each["block_ms"] for each in noted), 1)
            wall_ms = max(wall_ms, min(each["wall_ms"] for each in noted))
    worst = max(blocks_ms, key=lambda name: blocks_ms[name])
    return {
        "longest_block_ms": blocks_ms[worst],
        "worst": worst,
        "wall_ms": round(wall_ms, 1),
        "blocks_ms": blocks_ms,
    }


def main() -> None:
    """Measure; print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", nargs="*", choices=list(BODIES), default=list(BODIES))
    parser.add_argument("--serve", nargs=5, help="be the services that are measured")
    arguments = parser.parse_args()
    if arguments.serve:
        folder, *port_numbers = arguments.serve
        asyncio.run(serve_services([int(number) for number in port_numbers], Path(folder)))
        return
    print(json.dumps({"bench": "event_loop", "figures": measure(arguments.bodies)}))


if __name__ == "__main__":
    main()
