"""Attacks by web pages in a browser on the host against a loopback gateway without keys.

The gateway runs in its own process, configured as by `unspoken up`. Each vector is a request as a
browser would send it. Forbidden requests must get a 403 and must not create a run.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.security.attacks.raw_http import ask
from unspoken.config.settings import child_environment
from unspoken.process import free_port
from unspoken.runs.store import create_run, list_runs
from unspoken.wire.runs import RunRequest

START_S = 60.0
RUN_ID = "first"
FOREIGN_HOSTS = (
    *(
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "localhost.evil.example",
    ),
    *(
        "0.0.0.0:{port}",
        "192.168.0.10:{port}",
        "[fe80::1]:{port}",
        "169.254.169.254",
        "evil-localhost",
    ),
    *("localhost@evil.example", "localhost:{port}.evil.example", "2130706433:{port}", "0x7f.1"),
)
OWN_HOSTS = ("localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "LocalHost", "127.0.0.1")
FOREIGN_PAGES: tuple[Mapping[str, str], ...] = (
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:9", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost:9"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "file://"},
    {"Origin": "http://127.0.0.1:{port}.evil.example"},
    {"Origin": "http://evil.example/127.0.0.1:{port}"},
    {"Origin": "http://127.0.0.1:{port}@evil.example"},
)
OWN_PAGES: tuple[Mapping[str, str], ...] = (
    {},
    {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "http://127.0.0.1:{port}"},
    {"Sec-Fetch-Site": "none"},
)
# Types that a form or beacon may send without a CORS preflight ("simple requests").
SIMPLE_TYPES = (
    *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", ""),
)
CHANGES = (
    ("POST", "/runs"),
    ("POST", f"/runs/{RUN_ID}/fork"),
    ("POST", f"/runs/{RUN_ID}/retry-failed"),
    ("DELETE", f"/runs/{RUN_ID}"),
    ("POST", "/segment"),
    ("POST", "/images"),
    ("DELETE", "/images/x"),
    ("POST", "/text-embeddings"),
)
READS = ("/runs", f"/runs/{RUN_ID}", "/metrics", "/openapi.json", "/docs", "/v1/models", "/livez")


class Vector(NamedTuple):
    """A request, and True if the gateway should accept it."""

    method: str
    target: str
    headers: dict[str, str]
    passes: bool


def vectors(port: int) -> Iterator[Vector]:
    """Yield all requests for a gateway at `port`."""

    def at_port(headers: Mapping[str, str]) -> dict[str, str]:
        return {name: value.format(port=port) for name, value in headers.items()}

    for host in FOREIGN_HOSTS:
        for target in READS:
            yield Vector("GET", target, at_port({"Host": host}), passes=False)
        for method, target in CHANGES:
            rebound = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
            yield Vector(method, target, at_port(rebound), passes=False)
    for host in OWN_HOSTS:
        yield Vector("GET", "/runs", at_port({"Host": host}), passes=True)
    for method, target in CHANGES:
        for page in FOREIGN_PAGES:
            for kind in SIMPLE_TYPES:
                sent = {**page, **({"Content-Type": kind} if kind else {})}
                yield Vector(method, target, at_port(sent), passes=False)
    for page in OWN_PAGES:
        yield Vector("POST", f"/runs/{RUN_ID}/fork", at_port(page), passes=True)
        yield Vector("GET", "/runs", at_port(page), passes=True)


def judge() -> dict[str, Any]:
    """Send every vector; report those with an unexpected answer."""
    problems: list[str] = []
    num_asked = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data/in").mkdir(parents=True)
        create_run(folder / "data", folder / "runs", RunRequest(source="in", run_id=RUN_ID))
        with gateway_process(folder) as port:
            for vector in vectors(port):
                num_asked += 1
                status, reply = ask(
                    port, vector.target, method=vector.method, headers=vector.headers
                )
                if vector.passes != (status != 403) or status == 0:
                    problems.append(f"{vector.method} {vector.target} {vector.headers}: {status}")
                if b"access-control-" in reply.lower():
                    problems.append(f"{vector.target}: a CORS header")
        runs = len(list_runs(folder / "runs"))
        states = {run.state for run in list_runs(folder / "runs")}
    if runs != 1 + len(OWN_PAGES) or states != {"planned"}:
        problems.append(f"{runs} runs in the states {states}: a foreign page changed something")
    return {"vectors": num_asked, "problems": problems}


@contextmanager
def gateway_process(folder: Path) -> Iterator[int]:
    """Run a gateway on the loopback interface without keys; yield its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.gateway"],
        env=child_environment(
            GATEWAY_DATA_DIR=str(folder / "data"),
            GATEWAY_RUNS_DIR=str(folder / "runs"),
            GATEWAY_PORT=str(port),
            GATEWAY_SEGMENTER_URL="http://127.0.0.1:9",
        ),
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_ready(port)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if ask(port, "/readyz")[0] == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("the gateway is not ready")
        time.sleep(0.05)
