"""Graceful shutdown: accepted requests are answered, and a dead engine ends the process."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.serving import wait_until_ready
from unspoken.http.serve import DEAD_STATUS


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Run the service of draining_process.py until it is ready."""
    command = [sys.executable, "-m", "tests.unspoken.http.draining_process", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            url = f"http://127.0.0.1:{running.stdout.readline().strip()}"
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                wait_until_ready(client)
                yield running, client
        finally:
            running.kill()


def propose(client: httpx.Client, caption: str) -> int:
    try:
        return client.post("/propose", json={"captions": [caption]}).status_code
    except httpx.ConnectError:  # told to look elsewhere, before anything was sent
        return 0


def test_a_process_that_is_told_to_end_answers_all_that_it_has_taken_and_ends_well():
    with process() as (running, client), ThreadPoolExecutor(24) as pool:
        asking = [pool.submit(propose, client, f"caption {number}") for number in range(24)]
        while 'unspoken_queue_length{batcher="propose"} 0.0' in client.get("/metrics").text:
            time.sleep(0.01)
        time.sleep(0.3)  # all have been sent by now; most of them wait
        running.send_signal(signal.SIGTERM)
        later = pool.submit(propose, client, "too late")
        assert [each.result() for each in asking] == [200] * 24
        assert running.wait(timeout=60) == 0
        assert later.result() in (0, 200)


def test_a_process_that_is_told_to_end_is_not_ready_first_and_still_works_for_a_while():
    with process("2") as (running, client):
        running.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while client.get("/readyz").status_code != 503:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert propose(client, "a red car") == 200
        assert running.wait(timeout=60) == 0


def test_a_process_whose_engine_is_dead_ends_so_that_another_can_be_started():
    with process() as (running, client):
        reply = client.post("/propose", json={"captions": ["die"]})
        assert reply.status_code == 503 and "has failed" in reply.json()["message"]
        assert running.wait(timeout=60) == DEAD_STATUS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_end_while_its_model_warms_up_ends_soon_with_status_0(number):
    command = [sys.executable, "-m", "tests.unspoken.http.warming_process"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()  # the warm-up is running
        running.send_signal(number)
        try:
            assert running.wait(timeout=10) == 0
        finally:
            running.kill()
