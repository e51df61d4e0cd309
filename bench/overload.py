"""`python -m bench.overload`: a service that is asked for far more than it can do.

A real server process: the language model's service with its door, its batcher (batches of 8, 32
places) and a fake engine that sleeps 50 ms a batch, so 160 captions a second are ideal. 200 clients
ask for one caption at a time over real HTTP, each again as soon as it is answered; one that gets
429 comes back after Retry-After and up to half as much again. A sample of 60 s is taken once all
have begun.

`accepted_p99_ms` (bar 400): from sending to the whole reply of a request that was answered 200;
`reject_p99_ms` (20) of one that got 429; `livez_p99_ms` (50) of `/livez` meanwhile, twenty times a
second. `throughput_of_ideal` (.90): answered captions a second over 160. `errors_5xx` (0): other
answers, and connections that broke. `client_cpu` and `service_cpu` are what clients and service
took of one core: where the first comes near 1, the figures are the clients' and not the service's;
where the machine had less to give, they are of neither.

`bank_goodput` and `abandoned_work`, and the figures that begin with `bank_`, are of a second
service: see bench/bank_overload.py.

The clients are one process: coroutines that write the same bytes again on a connection of their own
and look for a status, a length and Retry-After in what comes back, and no HTTP library.
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

from bench import bank_overload
from services.llm.app import create_app
from services.llm.settings import LlmSettings
from services.segmenter.app import create_app as create_segmenter_app
from tests.fakes import FakePrompter
from unspoken.serving import serve

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
class Sample:
    """What the clients saw between the ramp and the end."""

    accepted_s: list[float] = field(default_factory=list)
    rejected_s: list[float] = field(default_factory=list)
    livez_s: list[float] = field(default_factory=list)
    num_errors: int = 0


class Connection:
    """A kept HTTP/1.1 connection that sends one request again and again."""

    def __init__(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._request = request
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, method: str, path: str, body: bytes = b"") -> "Connection":
        """Raises OSError where nobody listens."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(HOST, port)
        return cls(head.encode() + body, reader, writer)

    async def ask(self) -> tuple[int, float, float]:
        """Status, seconds that it took, and seconds of Retry-After."""
        started_s = time.perf_counter()
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        await self._reader.readexactly(int(_header(head, b"content-length")))
        took_s = time.perf_counter() - started_s
        return int(head[9:12]), took_s, float(_header(head, b"retry-after"))

    def close(self) -> None:
        """End the connection."""
        self._writer.close()


def _header(head: bytes, name: bytes) -> bytes:
    _, found, rest = head.partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0] if found else b"0"


async def ask_again_and_again(port: int, sample: Sample, *, begin_s: float, end_s: float) -> None:
    """One client. A request counts that was sent and answered between the two times."""
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


async def probe(port: int, sample: Sample, *, begin_s: float, end_s: float) -> None:
    """Ask /livez now and then."""
    connection = await Connection.open(port, "GET", "/livez")
    while (sent_s := time.perf_counter()) < end_s:
        status, took_s, _ = await connection.ask()
        sample.num_errors += status != 200
        sample.livez_s += [took_s] if sent_s >= begin_s else []
        await asyncio.sleep(PROBE_EVERY_S)
    connection.close()


async def overload(port: int, *, num_clients: int, seconds: float) -> Sample:
    """All clients and the probe, at a service that is ready."""
    sample = Sample()
    begin_s = time.perf_counter() + RAMP_S
    times = {"begin_s": begin_s, "end_s": begin_s + seconds}
    clients = [ask_again_and_again(port, sample, **times) for _ in range(num_clients)]
    await asyncio.gather(*clients, probe(port, sample, **times))
    return sample


async def wait_ready(port: int) -> None:
    """Raises TimeoutError."""
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
    """A service in a process of its own, ready, and its port; it must end well."""
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
    """Start the service, overload it, and end it."""
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


def measure_bank_line(*, num_clients: int, seconds: float) -> dict[str, float]:
    """Start the segmenter's service, ask it for banks, and end it."""
    with served("banks") as (_server, port):
        return asyncio.run(
            bank_overload.measure_banks(port, seconds=seconds, num_clients=num_clients)
        )


def cpu_s(pid: int) -> float:
    """CPU seconds of a process."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def p99_ms(times_s: Sequence[float]) -> float:
    """The 99th percentile in milliseconds; 0 of nothing."""
    return round(1000 * float(np.percentile(times_s, 99)), 1) if times_s else 0.0


def run_service(kind: str) -> None:
    """Serve on a free port that is printed."""
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
    """Measure and print one line."""
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
    figures |= measure_bank_line(num_clients=arguments.bank_clients, seconds=arguments.bank_seconds)
    print(json.dumps({"bench": "overload", "figures": figures}))


if __name__ == "__main__":
    main()
