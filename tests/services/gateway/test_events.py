"""Event streams: a disconnected caller resumes, even after the gateway was killed."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

from services.gateway.app import create_app
from services.gateway.events import event_id
from services.gateway.settings import GatewaySettings
from tests.worker.service import serve
from unspoken.client import Client, RetryPolicy
from unspoken.client.events import EventParser
from unspoken.config.settings import child_environment
from unspoken.process import free_port
from unspoken.runs.liveness import DISPATCHER_LEASE
from unspoken.runs.store import create_run, write_status
from unspoken.wire.runs import RunRequest, RunStatus


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data/in").mkdir(parents=True)
    create_run(tmp_path / "data", tmp_path / "runs", RunRequest(source="in", run_id="r"))
    (tmp_path / "runs" / DISPATCHER_LEASE).touch()  # one works
    return tmp_path


@pytest.fixture
def url(folder):
    settings = GatewaySettings(
        data_dir=folder / "data", runs_dir=folder / "runs", poll_s=0.01, heartbeat_s=0.05
    )
    with serve(create_app(settings)) as url:
        yield url


def tell(folder, done, **changes):
    """Write a run's status as a dispatcher does."""
    fields = {
        "run_id": "r", "state": "running", "total": 9, "done": done, "labelled": done,
        "dropped": {}, "failed": {}, "chunks_total": 9, "chunks_done": done, "attempts": done,
        "updated_s": time.time(), "output": "", **changes,
    }  # fmt: skip
    status = RunStatus.model_validate(fields)
    write_status(folder / "runs", status)
    return status


@contextmanager
def stream(url, *, last_id=None):
    """Yield (event, rows done, id) of one connection."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with httpx.stream("GET", f"{url}/runs/r/events", headers=headers, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield (
            (event.name, json.loads(event.data)["done"], event.id)
            for event in parse_events(response.iter_bytes())
        )


def parse_events(pieces):
    parser = EventParser()
    return (event for piece in pieces for event in parser.feed(piece))


def test_a_stream_tells_each_change_once_and_closes_with_the_end(folder, url):
    tell(folder, 1)
    with stream(url) as events:
        assert next(events)[:2] == ("status", 1)
        tell(folder, 2)
        assert next(events)[:2] == ("status", 2)
        tell(folder, 2)  # the dispatcher looked again, and nothing is new
        tell(folder, 9, state="done")
        assert [event[:2] for event in events] == [("status", 9), ("end", 9)]


def test_a_caller_that_was_cut_off_gets_only_what_is_new(folder, url):
    tell(folder, 1)
    with stream(url) as events:
        _, _, first_id = next(events)
    tell(folder, 4)
    with stream(url, last_id=first_id) as events:
        name, done, second_id = next(events)
    assert (name, done) == ("status", 4) and second_id != first_id
    last = tell(folder, 9, state="done")
    with stream(url, last_id=second_id) as events:
        assert [event[0] for event in events] == ["status", "end"]
    again = httpx.get(f"{url}/runs/r/events", headers={"Last-Event-ID": event_id(last)})
    assert (again.status_code, again.content) == (204, b"")
    with stream(url, last_id="of another run") as events:
        assert [event[0] for event in events] == ["status", "end"]


def test_a_stream_outlives_a_disk_that_fails_for_a_moment(folder, url):
    tell(folder, 1)
    file = folder / "runs/r/status.json"
    with stream(url) as events:
        assert next(events)[:2] == ("status", 1)
        file.unlink()
        file.mkdir()
        time.sleep(0.1)  # several looks fail
        file.rmdir()
        tell(folder, 9, state="done")
        assert list(events)[-1][:2] == ("end", 9)


def test_a_stream_without_news_says_that_it_lives(folder, url):
    tell(folder, 1)
    with httpx.stream("GET", f"{url}/runs/r/events", timeout=60) as response:
        body = b""
        for piece in response.iter_bytes():
            body += piece
            if body.count(b": heartbeat") >= 2:
                break
    assert body.count(b"event: status") == 1 and b"retry: 2000" in body


@contextmanager
def gateway_process(folder, port):
    changes = {"GATEWAY_DATA_DIR": str(folder / "data"), "GATEWAY_RUNS_DIR": str(folder / "runs")}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.gateway"],
        env=child_environment(**changes, GATEWAY_PORT=str(port)),
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz").is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_client_goes_on_over_a_gateway_that_is_stopped_and_started_again(folder):
    port = free_port()
    retries = RetryPolicy(first_pause_s=0.1)
    with Client(f"http://127.0.0.1:{port}", retries=retries) as client:
        told = client.runs.follow("r")
        tell(folder, 1)
        with gateway_process(folder, port) as process:
            assert next(told).done == 1
            asked_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            assert time.monotonic() - asked_s < 20, "an open stream holds up the drain of 30 s"
        tell(folder, 5)
        with gateway_process(folder, port):
            assert next(told).done == 5
            tell(folder, 9, state="done")
            assert [status.done for status in told] == [9]


def test_one_stream_more_than_may_be_open_is_refused_and_a_closed_one_makes_room(folder):
    settings = GatewaySettings(
        data_dir=folder / "data", runs_dir=folder / "runs", poll_s=0.01, max_streams=1
    )
    with serve(create_app(settings)) as url:
        with stream(url) as events:
            next(events)
            refused = httpx.get(f"{url}/runs/r/events", timeout=10)
            assert refused.status_code == 429 and refused.headers["Retry-After"]
        deadline = time.monotonic() + 20
        while True:
            with httpx.stream("GET", f"{url}/runs/r/events", timeout=10) as again:
                if again.status_code == 200:
                    return
            assert time.monotonic() < deadline
