"""`python -m bench.overload`: a service under far more load than its capacity.

The server is a real process: the language model's service with admission control and batcher
(batches of 8, a queue of 32). Its fake engine sleeps 50 ms per batch, so the ideal is 160 captions
per second. 200 clients send requests of one caption over real HTTP, the next as soon as one is
answered. A client that gets 429 waits for Retry-After, or up to 1.5 times as long. The sample
of 60 s begins when all clients have started.

accepted_p99_ms      limit 400: time from sending to the complete reply of requests with status 200
reject_p99_ms        limit 20: the same for requests with status 429
livez_p99_ms         limit 50: the same for `/livez`, which is requested twenty times per second
throughput_of_ideal  target .90: answered captions per second divided by 160
errors_5xx           limit 0: other statuses and broken connections
client_cpu, service_cpu   CPU of clients and service, in cores. If `client_cpu` is near 1, the
                     clients limit the figures, not the service. If the machine is busy with other
                     work, the figures describe neither.

`bank_goodput`, `abandoned_work` and the figures that begin with `bank_` belong to a second service;
see bench/overload/mask_bank.py.

The clients are coroutines of one process, without an HTTP library. Each writes the same bytes again
on its own connection and reads only status, length and Retry-After from the reply.
"""

import argparse
import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import psutil

from bench.overload import mask_bank as bank_overload
from services.llm.app import create_app
from services.llm.settings import LlmSettings
from services.segmenter.app import create_app as create_segmenter_app
from tests.fakes import FakePrompter
from unspoken.http.serve import serve

BATCH_S = 0.05
MAX_BATCH = 8
MAX_QUEUE = 32
NUM_CLIENTS = 200
SECONDS = 60.0
BANK_SECONDS = 45.0
RAMP_S = 2.0
PROBE_EVERY_S = 0.05
HOST = "127.0.0.1"


@dataclass
class ClientFigures:
    """Latencies and errors that the clients saw between the ramp and the end."""

    accepted_s: list[float] = field(default_factory=list)
    rejected_s: list[float] = field(default_factory=list)
    livez_s: list[float] = field(default_factory=list)
    num_errors: int = 0


class Connection:
    """A persistent HTTP/1.1 connection that repeats one request."""

    def __init__(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._request = request
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, method: str, path: str, body: bytes = b"") -> "Connection":
        """Open a connection. Raises OSError if nothing listens on the port."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(HOST, port)
        return cls(head.encode() + body, reader, writer)

    async def ask(self) -> tuple[int, float, float]:
        """Send the request; return status, seconds taken, and seconds of Retry-After."""
        started_s = time.perf_counter()
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        await self._reader.readexactly(int(_header(head, b"content-length")))
        took_s = time.perf_counter() - started_s
        return int(head[9:12]), took_s, float(_header(head, b"retry-after"))

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


def _header(head: bytes, name: bytes) -> bytes:
    _, found, rest = head.partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0] if found else b"0"


async def ask_again_and_again(
    port: int, sample: ClientFigures, *, begin_s: float, end_s: float
) -> None:
    """Run one client. Requests count if they are sent and answered between the two times."""
    body = json.dumps({"captions": ["a red car in front of a house"]}).encode()
    await asyncio.sleep(random.uniform(0, RAMP_S / 2))
    try:
        connection = await Connection.open(port, "POST", "/propose", body)
        while (sent_s := time.perf_counter()) < end_s:
            status, took_s, retry_after_s = await connection.ask()
            counts = sent_s >= begin_s and sent_s + took_s <= end_s
            if status == 200:
                sample.accepted_s += [took_s] if counts else []
                continue
            if status == 429 and retry_after_s > 0:
                sample.rejected_s += [took_s] if counts else []
            else:
                sample.num_errors += 1
            await asyncio.sleep(retry_after_s * random.uniform(1, 1.5))
        connection.close()
    except (OSError, EOFError, ValueError):
        sample.num_errors += 1


async def probe(port: int, sample: ClientFigures, *, begin_s: float, end_s: float) -> None:
    """Request /livez periodically."""
    connection = await Connection.open(port, "GET", "/livez")
    while (sent_s := time.perf_counter()) < end_s:
        status, took_s, _ = await connection.ask()
        sample.num_errors += status != 200
        sample.livez_s += [took_s] if sent_s >= begin_s else []
        await asyncio.sleep(PROBE_EVERY_S)
    connection.close()


async def overload(port: int, *, num_clients: int, seconds: float) -> ClientFigures:
    """Run all clients and the probe against a ready service."""
    sample = ClientFigures()
    begin_s = time.perf_counter() + RAMP_S
    times = {"begin_s": begin_s, "end_s": begin_s + seconds}
    clients = [ask_again_and_again(port, sample, **times) for _ in range(num_clients)]
    await asyncio.gather(*clients, probe(port, sample, **times))
    return sample


async def wait_ready(port: int) -> None:
    """Wait for readiness. Raises TimeoutError."""
    async with asyncio.timeout(300):
        while True:
            try:
                connection = await Connection.open(port, "GET", "/readyz")
                status, *_ = await connection.ask()
                connection.close()
                if status == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.1)


@contextmanager
def served(kind: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a service in its own process; yield it and its port; check its graceful shutdown."""
    command = [sys.executable, "-m", "bench.overload", "--serve", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            asyncio.run(wait_ready(port))
            yield server, port
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0, "the service drains"
        finally:
            server.kill()


def measure(*, num_clients: int, seconds: float) -> dict[str, float]:
    """Start the service, overload it and stop it."""
    with served("captions") as (server, port):
        before_s = [time.perf_counter(), time.process_time(), cpu_s(server.pid)]
        sample = asyncio.run(overload(port, num_clients=num_clients, seconds=seconds))
        after_s = [time.perf_counter(), time.process_time(), cpu_s(server.pid)]
        took_s, client_s, service_s = (b - a for a, b in zip(before_s, after_s, strict=True))
    ideal = seconds * MAX_BATCH / BATCH_S
    return {
        "accepted_p99_ms": p99_ms(sample.accepted_s),
        "reject_p99_ms": p99_ms(sample.rejected_s),
        "livez_p99_ms": p99_ms(sample.livez_s),
        "throughput_of_ideal": round(len(sample.accepted_s) / ideal, 3),
        "errors_5xx": sample.num_errors,
        "num_accepted": len(sample.accepted_s),
        "num_rejected": len(sample.rejected_s),
        "client_cpu": round(client_s / took_s, 2),
        "service_cpu": round(service_s / took_s, 2),
    }


def measure_bank_queue(*, num_clients: int, seconds: float) -> dict[str, float]:
    """Start the segmenter's service, overload it with bank requests and stop it."""
    with served("banks") as (_server, port):
        return asyncio.run(
            bank_overload.measure_banks(port, seconds=seconds, num_clients=num_clients)
        )


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def p99_ms(times_s: Sequence[float]) -> float:
    """Return the 99th percentile in milliseconds; 0 without times."""
    return round(1000 * float(np.percentile(times_s, 99)), 1) if times_s else 0.0


def run_service(kind: str) -> None:
    """Print a free port and serve on it."""
    with socket.socket() as probed:
        probed.bind((HOST, 0))
        port = int(probed.getsockname()[1])
    print(port, flush=True)
    if kind == "banks":
        app = create_segmenter_app(
            bank_overload.create_text_encoder(), segmenter=bank_overload.create_segmenter()
        )
    else:
        engine = FakePrompter(before=lambda captions: time.sleep(BATCH_S))
        app = create_app(engine, max_batch=MAX_BATCH, max_queue=MAX_QUEUE)
    serve(app, LlmSettings(host=HOST, port=port, log_level="WARNING"))


def main() -> None:
    """Measure; print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=NUM_CLIENTS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--bank-clients", type=int, default=bank_overload.NUM_CLIENTS)
    parser.add_argument("--bank-seconds", type=float, default=BANK_SECONDS)
    parser.add_argument(
        "--serve", choices=["captions", "banks"], help="be the service that is measured"
    )
    arguments = parser.parse_args()
    if arguments.serve:
        run_service(arguments.serve)
        return
    figures = measure(num_clients=arguments.clients, seconds=arguments.seconds)
    figures |= measure_bank_queue(
        num_clients=arguments.bank_clients, seconds=arguments.bank_seconds
    )
    print(json.dumps({"bench": "overload", "figures": figures}))


if __name__ == "__main__":
    main()
