"""A worker whose connections to the broker break."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import redis
from redis.exceptions import RedisError

from tests.chaos.fault_proxy import FaultProxy
from unspoken.config.settings import child_environment
from worker.process.broker import CeleryPublisher
from worker.process.celery_app import LABEL_TASK, create_celery
from worker.process.embedded_redis import EmbeddedRedis
from worker.process.message import BULK

RESETS = 3
SOON_S = 60.0
"""Longest wait in seconds, less than the two minutes until the watchdog ends a lost worker."""


def test_a_connection_that_forgot_its_broker_is_closed_without_ending_the_worker(tmp_path):
    with EmbeddedRedis(tmp_path) as server, create_celery(server.url) as app:
        CeleryPublisher(app).publish("r", [1], queue=BULK)
        connection = app.connection_for_read()
        channel = connection.default_channel
        assert app.amqp.queues[BULK](channel).get(no_ack=False) is not None
        # State that Celery's consumer leaves when Redis is killed, as seen in the chaos suite.
        channel._disconnect_pools()
        connection.transport.client = None
        connection.release()
        assert connection._closed


def test_a_message_that_a_lost_broker_let_nobody_acknowledge_is_out_of_hand(tmp_path):
    server = EmbeddedRedis(tmp_path)
    with create_celery(server.url) as app:
        with server:
            CeleryPublisher(app).publish("r", [1], queue=BULK)
            channel = app.connection_for_read().default_channel
            channel.basic_qos(0, 1, False)
            message = app.amqp.queues[BULK](channel).get(no_ack=False)
            assert not channel.qos.can_consume()
        with pytest.raises((RedisError, OSError)):
            message.ack()
        # Otherwise a worker would request no more messages and never notice the lost broker.
        assert channel.qos.can_consume()


def test_messages_that_cannot_be_read_are_dropped_and_the_next_one_is_taken(tmp_path):
    taken = []

    def take(_body, message):
        message.ack()
        taken.append(message)

    with (
        EmbeddedRedis(tmp_path) as server,
        redis.Redis(unix_socket_path=str(server.socket)) as client,
        create_celery(server.url) as app,
        app.connection_for_read() as connection,
    ):
        key = app.conf.broker_transport_options["global_keyprefix"] + BULK
        CeleryPublisher(app).publish("r", [1], queue=BULK)
        whole = client.rpop(key)
        damaged = [b"", b"\xff\0", b"{}", b"[]", b"null", b"[1]", whole[:100]]
        damaged += [whole.replace(b"properties", b"xroperties")]
        client.lpush(key, *damaged, whole)
        consumer = app.amqp.TaskConsumer(
            connection.default_channel,
            queues=[app.amqp.queues[BULK]],
            callbacks=[take],
        )
        with consumer, suppress(TimeoutError):
            while not taken:
                connection.drain_events(timeout=5)
        assert [message.headers["task"] for message in taken] == [LABEL_TASK]
        assert not client.llen(key)


def test_a_message_that_a_lost_worker_left_damaged_is_dropped(tmp_path):
    with (
        EmbeddedRedis(tmp_path) as server,
        redis.Redis(unix_socket_path=str(server.socket)) as client,
        create_celery(server.url) as app,
        app.connection_for_read() as connection,
    ):
        qos = connection.default_channel.qos
        prefix = app.conf.broker_transport_options["global_keyprefix"]
        for tag, content in (("a", b"\xff"), ("b", b"[1]")):
            client.hset(prefix + qos.unacked_key, tag, content)
            client.zadd(prefix + qos.unacked_index_key, {tag: 1.0})
        qos.restore_visible(interval=1)
        assert not client.hlen(prefix + qos.unacked_key)
        assert not client.zcard(prefix + qos.unacked_index_key)


def test_a_worker_whose_connections_were_reset_takes_messages_again(tmp_path):
    log = tmp_path / "worker.log"
    with (
        EmbeddedRedis(tmp_path / "redis") as server,
        FaultProxy(server.socket) as proxy,
        create_celery(server.url) as app,
        log.open("ab") as output,
    ):
        publisher = CeleryPublisher(app)
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"],
            env=child_environment(
                WORKER_BROKER_URL=f"redis://127.0.0.1:{proxy.port}/0",
                WORKER_CONCURRENCY="1",
                WORKER_RUNS_DIR=str(tmp_path),
                WORKER_DATA_DIR=str(tmp_path),
            ),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            wait_for(log, " ready.")
            for _ in range(RESETS):
                proxy.reset()
                # Publish again, as the dispatcher does: a message can be lost with its connection.
                wait_for(log, " received", publisher=publisher)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(log, words, *, publisher=None):
    """Wait until the log contains the words once more; publish a message every two seconds."""
    before, started_s, published = log.read_text().count(words), time.monotonic(), 0
    while log.read_text().count(words) == before:
        waited_s = time.monotonic() - started_s
        assert waited_s < SOON_S, log.read_text()[-2000:]
        if publisher is not None and waited_s >= 2 * published:
            publisher.publish("no-such-run", [0], queue=BULK)
            published += 1
        time.sleep(0.05)
