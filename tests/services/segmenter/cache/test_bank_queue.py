"""Scheduling of mask banks: oldest first, none for disconnected callers or missed deadlines."""

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from services.segmenter.app import create_app
from tests.contracts import picture_bytes
from tests.fakes import FakeImage, FakeTextEncoder, StepwiseSegmenter
from tests.worker.service import serve

NUM_STEPS = 5
PICTURES = [picture_bytes(size=(20 + number, 20)) for number in range(8)]


class Gate:
    """Records every step, and blocks the first one until it is released."""

    def __init__(self, *, step_s: float = 0.0) -> None:
        self.open = threading.Event()
        self.steps: list[str] = []
        self._step_s = step_s

    def __call__(self, image: FakeImage) -> None:
        self.steps.append(image.id)
        self.open.wait(20)
        time.sleep(self._step_s)

    def wait_for_steps(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.steps) < count:
            assert time.monotonic() < deadline
            time.sleep(0.005)


class Service:
    """A segmenter on a real port, with concurrent requests."""

    def __init__(
        self, http: httpx.Client, segmenter: StepwiseSegmenter, pool: ThreadPoolExecutor
    ) -> None:
        self.segmenter = segmenter
        self._pool = pool
        self._http = http

    def id_of(self, number: int) -> str:
        return self.segmenter.image_id(hashlib.sha256(PICTURES[number]).hexdigest())

    def ask(self, number: int, *, deadline_ms: int = 30_000, patience_s: float = 30) -> Future:
        def send() -> httpx.Response:
            return self._http.post(
                "/segment",
                files={"image": PICTURES[number]},
                data={"queries": '[{"text": "car"}]', "method": "bank"},
                headers={"X-Request-Timeout-Ms": str(deadline_ms)},
                timeout=patience_s,
            )

        return self._pool.submit(send)

    def in_line(self, count: int) -> None:
        """Wait until the given number of pictures is queued."""
        self._wait_for(f"unspoken_bank_queue_length {count}.0")

    def metrics(self) -> str:
        return self._http.get("/metrics").text

    def _wait_for(self, line: str) -> None:
        deadline = time.monotonic() + 20
        while line not in self.metrics():
            assert time.monotonic() < deadline, line
            time.sleep(0.01)


@contextmanager
def served(gate: Gate, **limits: object) -> Iterator[Service]:
    segmenter = StepwiseSegmenter(num_steps=NUM_STEPS, before_step=gate)
    app = create_app(FakeTextEncoder(), segmenter=segmenter, **limits)
    with (
        serve(app) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as http,
        ThreadPoolExecutor(32) as pool,
    ):
        try:
            yield Service(http, segmenter, pool)
        finally:
            gate.open.set()


def test_banks_are_built_one_after_another_in_the_order_of_their_requests():
    gate = Gate()
    with served(gate) as service:
        asked = []
        for number in range(6):
            asked.append(service.ask(number))
            service.in_line(number + 1)
        gate.open.set()
        assert [each.result().status_code for each in asked] == [200] * 6
        assert gate.steps == [service.id_of(n) for n in range(6) for _ in range(NUM_STEPS)]


def test_all_who_ask_for_one_picture_share_a_bank():
    gate = Gate()
    with served(gate) as service:
        asked = [service.ask(0) for _ in range(5)]
        gate.wait_for_steps(1)
        service.in_line(1)
        gate.open.set()
        assert {each.result().status_code for each in asked} == {200}
        assert len(gate.steps) == NUM_STEPS


def test_a_bank_whose_callers_have_gone_costs_no_step_and_its_picture_is_not_encoded():
    gate = Gate()
    with served(gate) as service:
        first = service.ask(0)
        gate.wait_for_steps(1)
        gone = [service.ask(number, patience_s=0.3) for number in (1, 2, 3)]
        service.in_line(4)
        for each in gone:
            with pytest.raises(httpx.TimeoutException):
                each.result()
        service.in_line(1)
        last = service.ask(4)
        gate.open.set()
        assert first.result().status_code == last.result().status_code == 200
        assert set(gate.steps) == {service.id_of(0), service.id_of(4)}
        assert service.segmenter.num_embedded <= 3  # the next one in line was at hand
        assert 'unspoken_bank_steps_total{for="abandoned"} 0.0' in service.metrics()


def test_a_bank_that_takes_longer_than_its_deadline_goes_on_where_it_was_when_asked_again():
    gate = Gate(step_s=0.3)
    gate.open.set()
    with served(gate) as service:
        statuses = []
        while not statuses or statuses[-1] == 504:
            statuses.append(service.ask(0, deadline_ms=700).result().status_code)
        assert statuses[0] == 504 and statuses[-1] == 200
        assert len(gate.steps) == NUM_STEPS


def test_a_request_that_cannot_be_finished_before_its_deadline_is_refused_at_once():
    gate = Gate(step_s=0.05)
    gate.open.set()
    with served(gate) as service:
        assert service.ask(0).result().status_code == 200  # a bank takes a quarter of a second
        gate.open.clear()
        asked = []
        for number in range(1, 5):
            asked.append(service.ask(number))
            service.in_line(number)
        started = time.monotonic()
        refused = service.ask(5, deadline_ms=1000).result()
        assert refused.status_code == 429 and "wait for their banks" in refused.json()["message"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert time.monotonic() - started < 0.9
        asked.append(service.ask(6, deadline_ms=20_000))
        service.in_line(5)
        gate.open.set()
        assert [each.result().status_code for each in asked] == [200] * 5
