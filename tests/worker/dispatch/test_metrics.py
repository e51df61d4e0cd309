"""The dispatcher's /metrics over HTTP with a real Redis, and the alert rules that use it."""

import re
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml
from kombu import Consumer, Queue
from prometheus_client.parser import text_string_to_metric_families

from services.llm.app import create_app as llm_app
from tests.fakes import FakePrompter
from tests.serving import ready_client
from tests.worker.stage import Stage
from unspoken.wire.runs import RunStatus
from worker.dispatch.metrics import MAX_CONNECTIONS, MAX_RUNS, DispatcherMetrics, serve_metrics
from worker.process.broker import BrokerState, CeleryPublisher, read_broker
from worker.process.celery_app import create_celery
from worker.process.embedded_redis import EmbeddedRedis
from worker.process.heartbeat import (
    FOLDER,
    FORGOTTEN_S,
    SILENT_S,
    Heartbeat,
    Workers,
    count_workers,
)
from worker.process.message import BULK, INTERACTIVE
from worker.process.settings import WorkerSettings

ALERTS = Path(__file__).parents[3] / "docs/alerts.yaml"
IDLE = BrokerState(
    queued={BULK: 0, INTERACTIVE: 0}, unacked=0, oldest_s=0, memory=1, memory_limit=9
)


def scraped(metrics):
    """Return (name, labels) -> value, parsed as by Prometheus."""
    port = serve_metrics(metrics, host="127.0.0.1", port=0)
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def status(done, **changes):
    fields = {
        "run_id": "r", "state": "running", "total": 100, "done": done, "labelled": done,
        "dropped": {}, "failed": {}, "chunks_total": 25, "chunks_done": done // 4, "attempts": 0,
        "output": "", **changes,
    }  # fmt: skip
    return RunStatus.model_validate(fields)


def test_a_dispatcher_that_has_seen_nothing_counts_nothing(tmp_path):
    figures = scraped(DispatcherMetrics(tmp_path, lambda: IDLE))
    assert figures["unspoken_commits_total",] == 0
    assert figures["unspoken_runs", "running"] == 0
    assert figures["unspoken_dispatcher_last_look_timestamp_seconds",] == 0


def test_the_dispatchers_metrics_answer_no_page_of_a_foreign_name(tmp_path):
    metrics = DispatcherMetrics(tmp_path, lambda: IDLE)
    port = serve_metrics(metrics, host="127.0.0.1", port=0, allowed_hosts="metrics.example")
    for host, expected in (
        ("evil.example", 403),
        (f"localhost:{port}", 200),
        ("metrics.example", 200),
    ):
        reply = httpx.get(
            f"http://127.0.0.1:{port}/metrics", headers={"Host": host}, trust_env=False
        )
        assert (host, reply.status_code) == (host, expected)
        assert ("unspoken_" in reply.text) == (expected == 200)


def test_half_open_connections_to_the_dispatchers_metrics_are_few_and_closed(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.dispatch.metrics.REQUEST_TIMEOUT_S", 0.3)
    port = serve_metrics(DispatcherMetrics(tmp_path, lambda: IDLE), host="127.0.0.1", port=0)
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 8):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            half.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert half.recv(100) == b""
        deadline = time.monotonic() + 20
        while True:
            try:
                reply = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
            except httpx.TransportError:
                assert time.monotonic() < deadline
                continue
            assert reply.status_code == 200
            break


def test_counters_count_from_what_was_there_and_never_fall(tmp_path):
    metrics = DispatcherMetrics(tmp_path, lambda: IDLE)
    metrics.note_status(status(40, attempts=10, failed={"poison": 1}))
    metrics.note_status(status(48, attempts=13, failed={"poison": 2}, dropped={"duplicate": 3},
                       timings_ms={"detect": 1500, "total": 2000}, chunks_leased=2,
                       seconds_left=60, message="paused: a service is away"))  # fmt: skip
    figures = scraped(metrics)
    assert figures["unspoken_commits_total",] == 2
    assert figures["unspoken_attempts_total",] == 3
    assert figures["unspoken_rows_total", "labelled"] == 8
    assert figures["unspoken_rows_failed_total", "poison"] == 1
    assert figures["unspoken_rows_dropped_total", "duplicate"] == 3
    assert figures["unspoken_stage_seconds_total", "detect"] == 1.5
    assert ("unspoken_stage_seconds_total", "total") not in figures
    assert figures["unspoken_run_rows", "r"] == 100
    assert figures["unspoken_run_rows_done", "r"] == 48
    assert figures["unspoken_run_leases", "r"] == 2
    assert figures["unspoken_run_waits", "r"] == 1
    assert figures["unspoken_run_seconds_left", "r"] == 60
    metrics.note_status(status(40, attempts=12))  # a shard was spoilt, a try waited
    metrics.note_status(status(44, attempts=13))
    figures = scraped(metrics)
    assert figures["unspoken_commits_total",] == 3 and figures["unspoken_attempts_total",] == 3


def test_series_of_runs_end_with_them_and_are_never_many(tmp_path):
    metrics = DispatcherMetrics(tmp_path, lambda: IDLE)
    for number in range(MAX_RUNS + 30):
        metrics.note_status(status(0, run_id=f"r{number}"))
    metrics.note_status(status(100, run_id="r0", state="done"))
    figures = scraped(metrics)
    assert figures["unspoken_runs", "running"] == MAX_RUNS + 29
    assert sum(name == "unspoken_run_rows" for name, *_ in figures) == MAX_RUNS
    assert ("unspoken_run_rows", "r0") not in figures


def test_a_dispatcher_tells_its_figures_as_it_goes(tmp_path):
    stage = Stage(tmp_path)
    metrics = DispatcherMetrics(stage.runs_dir, lambda: IDLE)
    stage.dispatcher = stage.new_dispatcher(observer=metrics)
    stage.create()
    assert stage.tick(3).state == "done"
    figures = scraped(metrics)
    assert figures["unspoken_commits_total",] == 3
    assert figures["unspoken_rows_total", "labelled"] == 12
    assert figures["unspoken_stage_seconds_total", "read"] > 0
    looked_s = figures["unspoken_dispatcher_last_look_timestamp_seconds",]
    assert 0 <= time.time() - looked_s < 60


def test_the_broker_is_told_by_its_queues_and_its_memory_and_missed_when_it_is_gone(tmp_path):
    # A socket's path may have 107 characters: not below pytest's folders.
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder)) as redis:
        app = create_celery(redis.url)
        publisher = CeleryPublisher(app)
        publisher.publish("r", [1, 2], queue=BULK)
        publisher.publish("r", [3], queue=BULK)
        publisher.publish("s", [1], queue=INTERACTIVE)
        with app.connection_for_read() as connection:
            channel = connection.channel()
            taken = []
            consumer = Consumer(
                channel, [Queue(BULK)], on_message=taken.append, accept=["json"], no_ack=False
            )
            with consumer:
                channel.basic_qos(0, 1, False)
                while not taken:
                    connection.drain_events(timeout=20)
                time.sleep(0.3)
                state = read_broker(app)
                figures = scraped(DispatcherMetrics(tmp_path, lambda: read_broker(app)))
        assert state.queued[INTERACTIVE] == 1
        assert state.unacked == len(taken) and state.queued[BULK] == 2 - len(taken)
        assert 0.3 <= state.oldest_s < 60 and state.memory > 100_000
        assert figures["unspoken_queue_messages", "interactive"] == 1
        assert figures["unspoken_broker_up",] == 1
    figures = scraped(DispatcherMetrics(tmp_path, lambda: read_broker(app)))
    app.close()
    assert figures["unspoken_broker_up",] == 0
    assert ("unspoken_queue_messages", "bulk") not in figures


def wait_for_slots(folder, slots):
    deadline = time.monotonic() + 20
    while (workers := count_workers(folder)).slots != slots and time.monotonic() < deadline:
        time.sleep(0.02)
    return workers


def test_workers_are_counted_while_they_beat_and_not_when_they_ended_in_order(tmp_path):
    assert count_workers(tmp_path) == Workers(alive=0, silent=0, slots=0)
    heartbeat = Heartbeat(tmp_path, slots=3, beat_s=0.02)
    heartbeat.start()
    assert wait_for_slots(tmp_path, 3) == Workers(alive=1, silent=0, slots=3)
    heartbeat.end()
    assert count_workers(tmp_path).alive == 0


def test_a_worker_that_comes_back_under_its_old_name_says_how_many_hands_it_has_now(tmp_path):
    for slots in (3, 5):  # the first one is killed: it says no good-bye
        Heartbeat(tmp_path, slots=slots, beat_s=60).start()
        assert wait_for_slots(tmp_path, slots) == Workers(alive=1, silent=0, slots=slots)


def test_a_worker_that_died_is_silent_for_a_while_and_then_forgotten(tmp_path):
    import os

    (tmp_path / FOLDER).mkdir()
    sign = tmp_path / FOLDER / "host-7"
    for age_s, expected in (
        (0, Workers(1, 0, 2)),
        (SILENT_S + 5, Workers(0, 1, 0)),
        (FORGOTTEN_S + 5, Workers(0, 0, 0)),
    ):
        sign.write_text("2")
        os.utime(sign, (time.time() - age_s, time.time() - age_s))
        assert count_workers(tmp_path) == expected


def test_metrics_are_bound_to_the_loopback_unless_the_network_is_closed():
    with pytest.raises(Exception, match="not a loopback"):
        WorkerSettings(metrics_host="0.0.0.0")
    assert WorkerSettings(metrics_host="0.0.0.0", trusted_bind=True).metrics_port == 0


def test_alerts_are_made_of_metrics_that_exist(tmp_path):
    """Every metric in an alert rule is exported by a dispatcher or a service."""
    metrics = DispatcherMetrics(tmp_path, lambda: IDLE)
    metrics.note_status(status(0))
    metrics.note_status(status(4, failed={"poison": 1}, dropped={"duplicate": 1}, seconds_left=9,
                       timings_ms={"detect": 1}))  # fmt: skip
    known = {name for name, *_ in scraped(metrics)}
    with ready_client(llm_app(FakePrompter())) as client:
        client.post("/propose", json={"captions": ["a dog"]})
        families = text_string_to_metric_families(client.get("/metrics").text)
        known |= {sample.name for family in families for sample in family.samples}
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len({rule["alert"] for rule in rules}) > 5
    for rule in rules:
        named = set(re.findall(r"\bunspoken_\w+", rule["expr"]))
        assert named and named <= known, (rule["alert"], named - known)
        assert {"summary", "description"} <= set(rule["annotations"]), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
