"""The mask bank part of `python -m bench.overload`: 64 clients that send new pictures.

The server is a real process: the segmenter service with a fake engine. Its encoder sleeps 30 ms per
picture, and each bank has ten steps of 20 ms. Every request sends a new picture and asks for its
bank, with a deadline of 8 s. One client in four disconnects after one second, before its deadline.
4 clients without such disconnects are measured first, then 64.

`bank_goodput` (bar: at least .8): answers with status 200 per second with 64 clients, divided by
those with 4. `abandoned_work` (at most .05): share of bank steps done for disconnected clients.
"""

import asyncio
import base64
import io
import itertools
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from tests.fakes import FakeTextEncoder, StepwiseSegmenter

ENCODE_S = 0.03
STEP_S = 0.02
NUM_STEPS = 10
DEADLINE_S = 8.0
PATIENCE_S = 1.0
FEW_CLIENTS = 4
NUM_CLIENTS = 64
RAMP_S = 3.0
HOST = "127.0.0.1"


@dataclass
class BankCounts:
    """Statuses and latencies that the clients saw between the ramp and the end."""

    statuses: Counter[str] = field(default_factory=Counter)
    accepted_s: list[float] = field(default_factory=list)


class Pictures:
    """Request bodies with small pictures, each different."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def body(self) -> bytes:
        """Return a request for the bank of a new picture."""
        pixels = np.zeros((16, 16, 3), dtype=np.uint8)
        pixels[0, :4, 0] = list(next(self._numbers).to_bytes(4, "big"))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        image = {"base64": base64.b64encode(buffer.getvalue()).decode()}
        question = {"image": image, "queries": [{"text": "car"}], "method": "bank"}
        return json.dumps(question).encode()


def create_segmenter() -> StepwiseSegmenter:
    """Create the fake engine of the measured service."""
    return StepwiseSegmenter(
        num_steps=NUM_STEPS,
        before_step=lambda _held: time.sleep(STEP_S),
        before=lambda _picture: time.sleep(ENCODE_S),
    )


def create_text_encoder() -> FakeTextEncoder:
    """Create the fake text encoder of the measured service."""
    return FakeTextEncoder()


async def measure_banks(port: int, *, seconds: float, num_clients: int) -> dict[str, float]:
    """Measure a ready service; return both figures and the counts behind them."""
    pictures = Pictures()
    few = await _load(port, pictures, num_clients=FEW_CLIENTS, seconds=seconds)
    before = await _steps(port)
    many = await _load(port, pictures, num_clients=num_clients, seconds=seconds)
    after = await _steps(port)
    done = {kind: after[kind] - before[kind] for kind in after}
    good, reference = many.statuses["200"], few.statuses["200"]
    return {
        "bank_goodput": round(good / max(1, reference), 3),
        "abandoned_work": round(done["abandoned"] / max(1, sum(done.values())), 4),
        "banks_a_second": round(good / seconds, 2),
        "bank_accepted_p99_s": round(float(np.percentile(many.accepted_s or [0], 99)), 2),
        "bank_refused": many.statuses["429"],
        "bank_late": many.statuses["504"],
        "bank_left": many.statuses["left"],
        "bank_errors": sum(
            number
            for status, number in many.statuses.items()
            if status not in ("200", "429", "504", "left")
        ),
    }


async def _load(port: int, pictures: Pictures, *, num_clients: int, seconds: float) -> BankCounts:
    counts = BankCounts()
    begin_s = time.perf_counter() + RAMP_S
    end_s = begin_s + seconds
    clients = [
        _client(
            port,
            pictures,
            counts,
            begin_s=begin_s,
            end_s=end_s,
            is_patient=number % 4 != 3 or num_clients <= FEW_CLIENTS,
        )
        for number in range(num_clients)
    ]
    await asyncio.gather(*clients)
    return counts


async def _client(
    port: int,
    pictures: Pictures,
    counts: BankCounts,
    *,
    begin_s: float,
    end_s: float,
    is_patient: bool,
) -> None:
    """Request one bank after another until the end."""
    await asyncio.sleep(random.uniform(0, 0.2))
    while (sent_s := time.perf_counter()) < end_s:
        patience_s = DEADLINE_S + 5 if is_patient else PATIENCE_S
        status, retry_after_s = await _ask(port, pictures.body(), patience_s=patience_s)
        answered_s = time.perf_counter()
        if begin_s <= answered_s <= end_s:
            counts.statuses[status] += 1
            counts.accepted_s += [answered_s - sent_s] if status == "200" else []
        await asyncio.sleep(min(retry_after_s * random.uniform(1, 1.5), max(0, end_s - answered_s)))


async def _ask(port: int, body: bytes, *, patience_s: float) -> tuple[str, float]:
    """Send a request on a new connection; return its status or `left`, and Retry-After in s."""
    head = (
        f"POST /segment HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"X-Request-Timeout-Ms: {int(1000 * DEADLINE_S)}\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(head.encode() + body)
        async with asyncio.timeout(patience_s):
            answer = await reader.read()
    except TimeoutError:
        return "left", 0.0
    except OSError:
        return "broken", 0.1
    finally:
        writer.close()
    found = re.search(rb"retry-after: (\d+)", answer.lower())
    return answer[9:12].decode(), float(found.group(1)) if found else 0.0


async def _steps(port: int) -> dict[str, float]:
    """Return the number of bank steps done so far, by the state of their caller."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return {
        kind: float(number)
        for kind, number in re.findall(r'unspoken_bank_steps_total\{for="(\w+)"\} (\S+)', text)
    }
